"""How much of the tokens an update gives away without any search, for models with random weights.

    python benchmarks/token_evidence.py --text test.txt --tokenizer valid.txt --trials 5 --json evidence.json

A fresh model (hidden size 256, two layers) and fresh random sentences for each trial, as in `encoders.py`. `tokens` is
the share of the different tokens of the inputs that `token_evidence` names, `false` the mean number of tokens that it
names wrongly; `targets` and `counts` the share of batches whose predicted words, and how often each, are exactly right.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from encoders import BEGIN, END, MASK, PADDING, UNKNOWN, drawn, model_of, sentences_of, trained_tokenizer
from torch import nn

import gradleak as gl
from gradleak.attacks.text.token_evidence import token_evidence
from gradleak.seeds import stage_generator
from gradleak.tokens import masked_tokens, next_tokens
from gradleak.zoo.models.building import seeded

MODELS = ("BERT class", "BERT masked", "GPT-2 tied", "GPT-2 untied")
NOISES = {"BERT class": 1e-4, "GPT-2 untied": 1e-4}
"""Standard deviation of Gaussian noise, in a row of its own."""


@dataclass(frozen=True)
class Row:
    """All trials of one setting."""

    model: str
    batch: int
    noise: float
    trials: int
    tokens: float
    false: float
    certain: int
    targets: int
    counts: int
    longest: int


def gpt2(vocabulary: int, length: int, seed: int, *, tied: bool) -> nn.Module:
    """GPT-2 with random weights and no dropout."""
    import transformers  # slow to import

    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=max(64, length), n_embd=256, n_layer=2, n_head=4, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BEGIN, eos_token_id=END, tie_word_embeddings=tied,
    )  # fmt: skip
    return seeded(seed, lambda: transformers.GPT2LMHeadModel(config)).eval()


def measured(model: str, batch: int, noise: float, arguments: argparse.Namespace) -> Row:
    """Trials with seeds from the first on."""
    tokenizer = trained_tokenizer(arguments.tokenizer or arguments.text, arguments.vocabulary)
    vocabulary, length = tokenizer.get_vocab_size(), arguments.length
    space = gl.TokenSpace(vocabulary, length, padding=PADDING, mask=MASK, special=(UNKNOWN, BEGIN, END))
    sentences = sentences_of(arguments.text)
    share = false = 0.0
    certain = right = counted = long = 0
    for seed in range(arguments.seed, arguments.seed + arguments.trials):
        inputs = drawn(sentences, tokenizer, batch, length, seed)
        targets = next_tokens(inputs, PADDING)
        if model.startswith("GPT-2"):
            task = gl.Task(
                gpt2(vocabulary, length, seed, tied="untied" not in model), space, vocabulary, classified="token"
            )
        elif model == "BERT masked":
            inputs, targets = masked_tokens(inputs, space, stage_generator(seed, "benchmark/mask"))
            task = gl.Task(model_of("masked", 256, 2, vocabulary, length, seed), space, vocabulary, classified="token")
        else:
            targets = torch.randint(2, (batch,), generator=stage_generator(seed, "benchmark/labels"))
            task = gl.Task(model_of("class", 256, 2, vocabulary, length, seed), space, 2)
        defenses = [gl.defenses.GaussianNoise(std=noise)] if noise else []
        observation, _ = gl.capture(task, inputs, targets, defenses=defenses, seed=seed)
        found = token_evidence(observation)
        true = set(inputs[inputs != PADDING].tolist())
        # The last token of a text enters no loss of a causal model, and is found as a target.
        named = (
            set(found.bag.tolist())
            if model.startswith("GPT-2")
            else set([] if found.tokens is None else found.tokens.tolist())
        )
        share += len(named & true) / len(true) / arguments.trials
        false += len(named - true) / arguments.trials
        certain += found.tokens_certain
        if task.classified == "token":
            words, counts = targets[targets >= 0].unique(return_counts=True)
            right += found.targets is not None and found.targets.tolist() == words.tolist()
            counted += found.target_counts is not None and found.target_counts.tolist() == counts.tolist()
        long += found.longest == int((inputs != PADDING).sum(dim=1).max())
    return Row(model, batch, noise, arguments.trials, share, false, certain, right, counted, long)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="text file from which sentences are drawn")
    parser.add_argument(
        "--tokenizer", type=Path, help="text file on which the tokenizer is trained; --text if not given"
    )
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--length", type=int, default=32, help="positions, marks included")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for model in arguments.models:
        for batch in arguments.batches:
            for noise in (0.0, NOISES[model]) if model in NOISES else (0.0,):
                row = measured(model, batch, noise, arguments)
                rows.append(row)
                print(
                    f"{model} batch {batch} noise {noise:g}: tokens {row.tokens:.3f}, false {row.false:.1f}, certain "
                    f"{row.certain}, targets {row.targets}, counts {row.counts}, longest {row.longest} of {row.trials}",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))


if __name__ == "__main__":
    main()
