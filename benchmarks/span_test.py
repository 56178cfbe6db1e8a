"""How many texts the span test recovers exactly from a decoder's gradient: batches, adapters, noise, training.

    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 1 4 16 32 --jsonl rows.jsonl
    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 1 2 4 --lora 16 32 64
    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 4 --formats bf16 fp16
    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 4 --noise 1e-6 1e-5 1e-4
    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 4 --stages 0 100 1000
    python benchmarks/span_test.py --text valid.txt --private test.txt --batch-sizes 4 --local-steps 1 4 10

A GPT-2 with random weights (its own initialization), tied embedding, no dropout; a fresh one and a fresh batch for each
trial. The tokenizer (byte-level BPE) is trained on `--text`, on which models are trained too where `--stages` asks for
it; private sentences are drawn at random from `--private`, cut to `--length` tokens, or to what keeps the batch below
500 tokens. The loss is the mean over next tokens. The attacker knows the batch size unless `--blind`, which withholds
defenses as well. With `--lora` only the adapters at the attention's inputs are trained, B starting at zero, or drawn
with the standard deviation `--lora-start`. One line of JSON for each trial.
"""

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.clients import Client
from gradleak.seeds import stage_generator
from gradleak.tokens import next_tokens
from gradleak.zoo.models.building import seeded

PADDING = 0
MOST_TOKENS = 500
SHORTEST = 4


@dataclass(frozen=True)
class Setting:
    """What one row is about."""

    batch_size: int
    length: int
    lora: int = 0
    lora_start: float = 0.0
    format: str = "fp32"
    noise: float = 0.0
    stage: int = 0
    local_steps: int = 0
    blind: bool = False


@dataclass(frozen=True)
class Row(Setting):
    """One trial."""

    seed: int = 0
    width: int = 0
    tokens: int = 0
    noise_to_gradient: float = 0.0
    status: str = ""
    exact: float = 0.0
    token_accuracy: float = 0.0
    rouge1: float = 0.0
    rouge2: float = 0.0
    mismatch: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    message: str = ""
    trace: tuple[str, ...] = ()


class Texts:
    """Sentences as ids by a tokenizer trained on public text."""

    def __init__(self, public: Path, private: Path, vocabulary: int) -> None:
        from tokenizers import ByteLevelBPETokenizer

        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(
            sentences(public), vocab_size=vocabulary, min_frequency=1, special_tokens=["<pad>"], show_progress=False
        )
        self.vocabulary = tokenizer.get_vocab_size()
        self.decode = tokenizer.decode
        self.public, self.private = (
            [ids for one in sentences(file) if len(ids := tokenizer.encode(one).ids) >= SHORTEST]
            for file in (public, private)
        )

    def batch(self, of: Sequence[list[int]], count: int, length: int, generator: torch.Generator) -> Tensor:
        """Random different sentences, cut and padded `[N, T]`."""
        rows = [of[place][:length] for place in torch.randperm(len(of), generator=generator)[:count].tolist()]
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])


def sentences(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [f"{one} ." for line in lines if line and not line.startswith("=") for one in line.split(" . ") if one]


def build(setting: Setting, texts: Texts, arguments: argparse.Namespace, seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=texts.vocabulary, n_positions=64, n_embd=arguments.width, n_layer=arguments.layers, n_head=8,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=PADDING, eos_token_id=PADDING,
    )  # fmt: skip
    model = seeded(seed, lambda: GPT2LMHeadModel(config))
    trained(model, setting.stage, texts, seed)
    if setting.lora:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=setting.lora, lora_alpha=setting.lora, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True,
            task_type="CAUSAL_LM",
        )  # fmt: skip
        model = seeded(seed, lambda: get_peft_model(model, adapters))
        generator = stage_generator(seed, "adapters")
        for name, parameter in model.named_parameters():
            if "lora_B" in name and setting.lora_start:
                parameter.data = setting.lora_start * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def trained(model: nn.Module, steps: int, texts: Texts, seed: int) -> None:
    """AdamW with a learning rate of 5e-4 on 16 public sentences of up to 32 tokens a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    draws = stage_generator(seed, "public")
    for _ in range(steps):
        ids = texts.batch(texts.public, 16, 32, draws)
        logits = model(input_ids=ids, attention_mask=(ids != PADDING).long()).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), next_tokens(ids, PADDING).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trial(setting: Setting, texts: Texts, arguments: argparse.Namespace, seed: int) -> Row:
    ids = texts.batch(texts.private, setting.batch_size, setting.length, stage_generator(seed, "private"))
    space = gl.TokenSpace(texts.vocabulary, setting.length, padding=PADDING, to_text=texts.decode)
    task = gl.Task(build(setting, texts, arguments, seed), space, texts.vocabulary, classified="token")
    client: Client = gl.clients.Gradient()
    if setting.local_steps:
        client = gl.clients.LocalSGD(lr=arguments.lr, epochs=setting.local_steps, shuffle=False)
    defenses: list[gl.defenses.Defense] = []
    if setting.format != "fp32":
        defenses.append(gl.defenses.Quantize(setting.format))  # pyright: ignore[reportArgumentType]  # by argparse
    if setting.noise:
        defenses.append(gl.defenses.GaussianNoise(setting.noise))
    threat = gl.ThreatModel(batch_size_known=not setting.blind, defense_known=not setting.blind)
    observation, truth = gl.capture(
        task, ids, next_tokens(ids, PADDING), client=client, defenses=defenses, threat=threat, seed=seed
    )
    entries = sum(tensor.numel() for tensor in observation.update.tensors.values())
    began, cpu = time.perf_counter(), time.process_time()
    found = gl.attacks.dager(max_seconds=arguments.seconds)(observation)
    seconds = time.perf_counter() - began
    scores: Mapping[str, Sequence[float | None]] = gl.score(found, truth).to_dict()
    return Row(
        **asdict(setting),
        seed=seed,
        width=arguments.width,
        tokens=int((ids != PADDING).sum()),
        noise_to_gradient=setting.noise / (observation.update.squared_norm() / entries) ** 0.5,
        status=found.status,
        exact=mean(scores["exact"]),
        token_accuracy=mean(scores["token_accuracy"]),
        rouge1=mean(scores["rouge1"]),
        rouge2=mean(scores["rouge2"]),
        mismatch=found.objective,
        seconds=round(seconds, 2),
        cpu_seconds=round(time.process_time() - cpu, 2),
        message=found.message,
        trace=found.trace,
    )


def mean(values: Sequence[float | None]) -> float:
    return sum(float("nan") if value is None else value for value in values) / len(values)


def settings(arguments: argparse.Namespace) -> list[Setting]:
    grid = itertools.product(
        arguments.batch_sizes,
        arguments.lora,
        arguments.formats,
        arguments.noise,
        arguments.stages,
        arguments.local_steps,
    )
    return [
        Setting(
            batch_size=count,
            length=min(arguments.length, MOST_TOKENS // count),
            lora=rank,
            lora_start=arguments.lora_start,
            format=form,
            noise=noise,
            stage=stage,
            local_steps=steps,
            blind=arguments.blind,
        )
        for count, rank, form, noise, stage, steps in grid
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="public text, one paragraph a line")
    parser.add_argument("--private", type=Path, required=True, help="text of the private sentences")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(1, 4, 16, 32))
    parser.add_argument("--length", type=int, default=32, help="most tokens of a sentence")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--lora", nargs="+", type=int, default=(0,), help="ranks; 0 trains the whole model")
    parser.add_argument("--lora-start", type=float, default=0.0)
    parser.add_argument("--formats", nargs="+", default=("fp32",), choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--noise", nargs="+", type=float, default=(0.0,), help="standard deviations")
    parser.add_argument("--stages", nargs="+", type=int, default=(0,), help="steps of training before")
    parser.add_argument(
        "--local-steps", nargs="+", type=int, default=(0,), help="of full-batch SGD; 0 sends a gradient"
    )
    parser.add_argument("--lr", type=float, default=1e-2, help="of the local steps")
    parser.add_argument("--blind", action="store_true", help="withhold batch size and defenses")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit of each attack")
    parser.add_argument("--jsonl", type=Path, help="append every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = Texts(arguments.text, arguments.private, arguments.vocabulary)
    given = "nothing" if arguments.blind else "batch size, defense"
    print(f"vocabulary {texts.vocabulary}; given: {given}; withheld: labels, lengths")
    print("batch length tokens lora format    noise stage steps | status          exact rouge1 rouge2 seconds (CPU)")
    for setting in settings(arguments):
        for seed in range(arguments.seed, arguments.seed + arguments.trials):
            row = trial(setting, texts, arguments, seed)
            print(
                f"{row.batch_size:>5}{row.length:>7}{row.tokens:>7}{row.lora:>5} {row.format:<6}{row.noise:>9.1e}"
                f"{row.stage:>6}{row.local_steps:>6} | {row.status:<15}{row.exact:>6.3f}{row.rouge1:>7.3f}"
                f"{row.rouge2:>7.3f}{row.seconds:>8.1f} ({row.cpu_seconds:.1f})",
                flush=True,
            )
            if arguments.jsonl is not None:
                with arguments.jsonl.open("a", encoding="utf-8") as file:
                    values = {name: None if value != value else value for name, value in asdict(row).items()}
                    file.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
