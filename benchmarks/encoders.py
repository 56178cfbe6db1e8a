"""Whole batches of sentences from the gradient of a BERT-style encoder with random weights.

    python benchmarks/encoders.py --text test.txt --tokenizer valid.txt --trials 10 --json encoders.json
    python benchmarks/encoders.py --text test.txt --tokenizer valid.txt --heads masked --hidden 512 --layers 4
    python benchmarks/encoders.py --text test.txt --tokenizer valid.txt --batches 4 --client bf16

A fresh model and fresh random sentences for each trial, drawn from the lines of a text file. The tokenizer (WordPiece)
is trained on another file. Begin and end marks are added, the rest of `--length` is padding, which the attention masks
out. Labels, lengths and hidden words are withheld. `all right` counts batches of which every token, label and hidden
word is right; scores are means over sentences.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: TID253  # needed in every run
from torch import Tensor, nn

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.tokens import masked_tokens
from gradleak.zoo.models.building import seeded

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PADDING, UNKNOWN, BEGIN, END, MASK = range(5)
CLASSES = 2
HEADS = ("class", "masked")
CLIENTS = {
    "float32": gl.clients.Gradient(),
    "bf16": gl.clients.Gradient(autocast="bf16"),
    "local step": gl.clients.LocalSGD(lr=0.1),
}


@dataclass(frozen=True)
class Row:
    """All trials of one setting."""

    head: str
    hidden: int
    layers: int
    batch: int
    trials: int
    all_right: int
    converged: int
    rouge1: float
    rouge2: float
    exact: float
    token_accuracy: float
    seconds: float
    slowest: float


def trained_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """A lower-case WordPiece tokenizer of one text file."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train(
        [str(path)], trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=MARKS, show_progress=False)
    )
    return tokenizer


def sentences_of(path: Path) -> list[str]:
    """The sentences of a text file, without headings."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [one for line in lines if line and not line.startswith("=") for one in re.split(r"(?<=[.!?]) ", line)]


def drawn(sentences: Sequence[str], tokenizer: Tokenizer, count: int, length: int, seed: int) -> Tensor:
    """Random sentences of 6 tokens up to what fits, as ids `[count, length]`."""
    generator = stage_generator(seed, "benchmark/sentences")
    rows = torch.full((count, length), PADDING)
    found = 0
    while found < count:
        ids = tokenizer.encode(sentences[int(torch.randint(len(sentences), (1,), generator=generator))]).ids
        if 6 <= len(ids) <= length - 2:
            rows[found, : len(ids) + 2] = torch.tensor([BEGIN, *ids, END])
            found += 1
    return rows


def model_of(head: str, hidden: int, layers: int, vocabulary: int, length: int, seed: int) -> nn.Module:
    """BERT with random weights and no dropout."""
    import transformers  # slow to import

    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden, max_position_embeddings=max(64, length), hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config.num_labels = CLASSES
    kind = transformers.BertForMaskedLM if head == "masked" else transformers.BertForSequenceClassification
    return seeded(seed, lambda: kind(config)).eval()


def measured(
    head: str, hidden: int, layers: int, batch: int, arguments: argparse.Namespace, tokenizer: Tokenizer
) -> Row:
    """Trials with seeds from the first on."""
    vocabulary = tokenizer.get_vocab_size()
    space = gl.TokenSpace(vocabulary, arguments.length, padding=PADDING, mask=MASK, special=(UNKNOWN, BEGIN, END))
    sentences = sentences_of(arguments.text)
    scores: list[list[float]] = []
    seconds: list[float] = []
    right = converged = 0
    for seed in range(arguments.seed, arguments.seed + arguments.trials):
        inputs = drawn(sentences, tokenizer, batch, arguments.length, seed)
        model = model_of(head, hidden, layers, vocabulary, arguments.length, seed)
        if head == "masked":
            inputs, targets = masked_tokens(inputs, space, stage_generator(seed, "benchmark/mask"))
            task = gl.Task(model, space, vocabulary, classified="token")
        else:
            targets = torch.randint(CLASSES, (batch,), generator=stage_generator(seed, "benchmark/labels"))
            task = gl.Task(model, space, CLASSES)
        observation, truth = gl.capture(task, inputs, targets, client=CLIENTS[arguments.client], seed=seed)
        began = time.perf_counter()
        found = gl.attacks.dager(max_seconds=arguments.seconds)(observation, seed=seed)
        seconds.append(time.perf_counter() - began)
        text = gl.score(found, truth).text
        assert text is not None
        columns = (text.rouge1, text.rouge2, text.exact, text.token_accuracy)
        # A sentence that was not found scores nothing.
        scores.extend(torch.stack(columns, dim=1).nan_to_num(0.0).tolist())
        whole = [[tuple(row.tolist()) for row in part.view(batch, -1)] for part in (inputs, targets)]
        answer = [
            [tuple(row.tolist()) for row in part.view(len(found.inputs), -1)] for part in (found.inputs, found.targets)
        ]
        right += sorted(zip(*whole, strict=True)) == sorted(zip(*answer, strict=True))
        converged += found.status == "converged"
        print(f"  seed {seed}: {found.status}, {seconds[-1]:.1f} s, {found.message}", flush=True)
    means = torch.tensor(scores).mean(dim=0).tolist()
    return Row(
        head, hidden, layers, batch, arguments.trials, right, converged, *means,
        seconds=sum(seconds) / len(seconds), slowest=max(seconds),
    )  # fmt: skip


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="text file from which sentences are drawn")
    parser.add_argument(
        "--tokenizer", type=Path, help="text file on which the tokenizer is trained; --text if not given"
    )
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--length", type=int, default=32, help="positions, marks included")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--client", choices=CLIENTS, default="float32")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for one batch")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tokenizer = trained_tokenizer(arguments.tokenizer or arguments.text, arguments.vocabulary)
    rows: list[Row] = []
    for head in arguments.heads:
        for hidden in arguments.hidden:
            for layers in arguments.layers:
                for batch in arguments.batches:
                    rows.append(measured(head, hidden, layers, batch, arguments, tokenizer))
                    row = rows[-1]
                    print(
                        f"{head} hidden {hidden} layers {layers} batch {batch}: all right {row.all_right} of "
                        f"{row.trials}, ROUGE-1 {row.rouge1:.3f}, ROUGE-2 {row.rouge2:.3f}, exact {row.exact:.3f}, "
                        f"{row.seconds:.1f} s (slowest {row.slowest:.1f} s)",
                        flush=True,
                    )
                    if arguments.json is not None:
                        arguments.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))


if __name__ == "__main__":
    main()
