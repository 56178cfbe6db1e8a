"""Searches of texts in embeddings: DLG, TAG and LAMP on the same sentences, labels withheld or given.

    python benchmarks/text_inversion.py --texts wikitext-2/test.txt --public wikitext-2/valid.txt --trials 5

Sentences of 16 to 25 tokens, drawn at random, with words of a vocabulary trained on the public text; models with random
weights: a 2-layer BERT with hidden size 128 as masked language model (15 % hidden) and as classifier of two classes, an
LSTM, and an `nn.Embedding` with a small network on all positions. Given are the lengths, and the tokens that begin and
end every sentence; LAMP's judge is a 3-gram model of the public text. An evaluation is one objective value, with or
without its gradient. The vocabulary's training breaks ties at random, so that two runs may draw other sentences; the
attacks of one run share theirs.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.text import LanguageModel, train_language_model
from gradleak.attacks.text.lamp import Variant
from gradleak.seeds import stage_generator
from gradleak.tokens import masked_tokens
from gradleak.zoo.models.building import seeded

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PADDING, BEGIN, END, MASK = 0, 2, 3, 4
SHORTEST, LONGEST = 16, 25


@dataclass(frozen=True)
class Row:
    """One attack on one batch; means over its sentences."""

    kind: str
    init: float
    batch_size: int
    labels_known: bool
    trial: int
    attack: str
    token_accuracy: float
    token_recall: float
    rouge1: float
    rouge2: float
    exact: float
    evaluations: int
    seconds: float
    status: str
    course: list[tuple[int, float]]


def lines(file: Path) -> list[str]:
    """Paragraphs without headings."""
    kept = [line.strip() for line in file.read_text().splitlines()]
    return [line for line in kept if len(line) > 20 and not line.startswith("=")]


class Words:
    """A vocabulary of word pieces, trained on a public text."""

    def __init__(self, public: Path, size: int) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        self.tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        self.tokenizer.normalizer = normalizers.Lowercase()
        self.tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
        self.tokenizer.train_from_iterator(lines(public), trainer)
        self.size: int = self.tokenizer.get_vocab_size()

    def sentences(self, file: Path, shortest: int, longest: int) -> list[list[int]]:
        """Ids of all sentences of such lengths."""
        texts = [text for line in lines(file) for text in line.replace(" . ", " .\n").split("\n")]
        found = [[BEGIN, *self.tokenizer.encode(text).ids, END] for text in texts]
        return [ids for ids in found if shortest <= len(ids) <= longest]


def bert(kind: str, vocabulary: int, init: float, seed: int) -> nn.Module:
    """Two layers, hidden size 128, without dropout."""
    import transformers as hf

    config = hf.BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=init,
        pad_token_id=PADDING,
        tie_word_embeddings=False,
    )
    made = hf.BertForMaskedLM if kind == "mlm" else hf.BertForSequenceClassification
    return seeded(seed, lambda: made(config))


class Recurrent(nn.Module):
    """An LSTM whose last state is classified."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 64)
        self.lstm = nn.LSTM(64, 128, batch_first=True)
        self.head = nn.Linear(128, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[N, 2]` of ids `[N, T]`."""
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


def embedding_classifier(vocabulary: int) -> nn.Module:
    """All positions' rows side by side through one hidden layer."""
    return nn.Sequential(
        nn.Embedding(vocabulary, 32), nn.Flatten(), nn.Linear(LONGEST * 32, 64), nn.Tanh(), nn.Linear(64, 2)
    )


def capture(
    kind: str, init: float, known: bool, rows: Sequence[Sequence[int]], vocabulary: int, trial: int
) -> tuple[gl.Observation, gl.Truth]:
    """One client's gradient of a batch of sentences, by a model of its own."""
    inputs = torch.tensor([[*row, *[PADDING] * (LONGEST - len(row))] for row in rows])
    space = gl.TokenSpace(vocabulary, LONGEST, padding=PADDING, mask=MASK, special=tuple(range(len(SPECIAL))))
    threat = gl.ThreatModel(lengths_known=True, labels_known=known)
    if kind == "mlm":
        task = gl.Task(bert(kind, vocabulary, init, trial), space, vocabulary, classified="token")
        inputs, targets = masked_tokens(inputs, space, stage_generator(trial, "mask"))
        return gl.capture(task, inputs, targets, threat=threat)
    makers = {
        "classifier": lambda: bert(kind, vocabulary, init, trial),
        "lstm": lambda: seeded(trial, lambda: Recurrent(vocabulary)),
        "embedding": lambda: seeded(trial, lambda: embedding_classifier(vocabulary)),
    }
    targets = torch.randint(2, (len(rows),), generator=stage_generator(trial, "labels"))
    return gl.capture(gl.Task(makers[kind](), space, 2), inputs, targets, threat=threat)


def attacks(arguments: argparse.Namespace, judge: LanguageModel, size: int) -> dict[str, gl.attacks.Attack]:
    """By name, each with its paper's numbers but for the length of its course."""
    made: dict[str, gl.attacks.Attack] = {
        "dlg_text": gl.attacks.dlg_text(outer_steps=size * arguments.outer_steps, begin=BEGIN, end=END),
        "tag": gl.attacks.tag(steps=arguments.steps, begin=BEGIN, end=END),
    }
    variants: dict[str, Variant] = {"lamp": "cos", "lamp_l2_l1": "l2_l1"}
    for name, variant in variants.items():
        made[name] = gl.attacks.lamp(
            variant=variant,
            language_model=judge,
            steps=arguments.steps,
            candidates=arguments.candidates,
            permutations=arguments.candidates,
            proposals=arguments.proposals,
            begin=BEGIN,
            end=END,
        )
    return {name: made[name] for name in arguments.attacks}


def attacked(
    setting: tuple[str, float],
    name: str,
    attack: gl.attacks.Attack,
    captured: tuple[gl.Observation, gl.Truth],
    trial: int,
) -> Row:
    """One row, of a kind of model and its weights' spread."""
    observation, truth = captured
    found = attack(observation, seed=trial)
    scores = gl.score(found, truth).text
    assert scores is not None
    kept = truth.inputs != PADDING
    course = [
        (shot.evaluations, round(float((shot.inputs == truth.inputs)[kept].float().mean()), 3))
        for shot in found.history.snapshots
    ]

    def mean(column: Tensor) -> float:
        return round(float(column.mean()), 4)

    return Row(
        kind=setting[0],
        init=setting[1],
        batch_size=len(truth.inputs),
        labels_known=observation.targets is not None,
        trial=trial,
        attack=name,
        token_accuracy=mean(scores.token_accuracy),
        token_recall=mean(scores.token_recall),
        rouge1=mean(scores.rouge1),
        rouge2=mean(scores.rouge2),
        exact=mean(scores.exact),
        evaluations=found.evaluations,
        seconds=round(found.seconds, 1),
        status=found.status,
        course=course,
    )


def main() -> None:
    """Run, print a line an attack, and write all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="private sentences are drawn from this file")
    parser.add_argument("--public", type=Path, required=True, help="vocabulary and language model come from this one")
    parser.add_argument("--kinds", nargs="+", default=["mlm", "classifier"])
    parser.add_argument("--inits", nargs="+", type=float, default=[0.02, 0.05], help="std of BERT's random weights")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--labels-known", action="store_true")
    parser.add_argument("--attacks", nargs="+", default=["dlg_text", "tag", "lamp"])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--outer-steps", type=int, default=30, help="of DLG, for each sentence of a batch")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--proposals", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    words = Words(arguments.public, arguments.vocabulary)
    private = words.sentences(arguments.texts, SHORTEST, LONGEST)
    if len(private) < max(arguments.batch_sizes):
        parser.error(f"--texts: only {len(private)} sentences of {SHORTEST} to {LONGEST} tokens; give a longer text")
    judge = train_language_model(words.sentences(arguments.public, 4, 80), words.size, padding=PADDING)
    print(
        f"{len(private)} sentences, vocabulary {words.size}; {'labels given' * arguments.labels_known or 'no labels'}"
    )
    found: list[Row] = []
    for kind in arguments.kinds:
        for init in arguments.inits if kind in {"mlm", "classifier"} else [0.0]:
            for size in arguments.batch_sizes:
                for trial in range(arguments.seed, arguments.seed + arguments.trials):
                    order = torch.randperm(len(private), generator=stage_generator(trial, "sentences"))
                    rows = [private[int(place)] for place in order[:size]]
                    captured = capture(kind, init, arguments.labels_known, rows, words.size, trial)
                    for name, attack in attacks(arguments, judge, size).items():
                        found.append(attacked((kind, init), name, attack, captured, trial))
                        if arguments.json is not None:
                            arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
                report([row for row in found if (row.kind, row.init, row.batch_size) == (kind, init, size)])


def report(rows: Sequence[Row]) -> None:
    """Means over the trials, an attack a line."""
    for name in dict.fromkeys(row.attack for row in rows):
        own = [row for row in rows if row.attack == name]
        means = [
            f"{key} {statistics.mean(getattr(row, key) for row in own):.3f}"
            for key in ("token_accuracy", "token_recall", "rouge1", "rouge2", "exact")
        ]
        spread = f"from {min(row.token_accuracy for row in own):.2f} to {max(row.token_accuracy for row in own):.2f}"
        evaluations = statistics.mean(row.evaluations for row in own)
        print(
            f"{own[0].kind:10} std {own[0].init:<5} N={own[0].batch_size} {name:10} {', '.join(means)} ({spread}; "
            f"{len(own)} batches), {evaluations:.0f} evaluations, {statistics.mean(row.seconds for row in own):.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
