"""The trials of `gradleak demo --text`: bundled messages, sent through a decoder and an encoder.

The decoder is a causal language model whose updates hold whole batches; the encoder tells single messages apart. The
private messages are drawn by the seed among all that are bundled; none is picked by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from gradleak.attacks import Attack
from gradleak.attacks.text.dager import dager
from gradleak.attacks.text.dlg_text import dlg_text
from gradleak.attacks.text.lamp import lamp
from gradleak.attacks.text.tag import tag
from gradleak.audits.demonstration import trial_of, trial_seed
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.trial import Trial
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.tokens import TokenSpace
from gradleak.zoo.data import Dataset, load, with_objective
from gradleak.zoo.models.decoder import decoder
from gradleak.zoo.models.encoder import encoder

DATA = "messages"


@dataclass(frozen=True)
class TextDemonstration:
    """What `gradleak demo --text` runs.

    Attributes:
        seed: draws messages, weights and starts.
        batches: captured batches of the decoder.
        batch_size: messages in each.
        messages: single messages that the encoder is given.
        decoder_width: hidden size of the decoder; exact recovery needs fewer tokens in a batch than that.
        encoder_width: hidden size of the encoder.
        outer_steps: optimizer calls of DLG for each message, of up to 20 evaluations each.
        evaluations: most of TAG's and twice that of LAMP for each message.
    """

    seed: int = 0
    batches: int = 3
    batch_size: int = 4
    messages: int = 3
    decoder_width: int = 128
    encoder_width: int = 64
    outer_steps: int = 15
    evaluations: int = 300

    def trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order of the report.

        Returns:
            One for each batch and attack.
        """
        return _drawn_trials(self)

    def plan(self) -> tuple[PlannedTrial, ...]:
        """The same as plain data, for `run_audit`.

        Returns:
            One for each trial.
        """
        return tuple(PlannedTrial(trial.id, trial.spec) for trial in self.trials())

    def build(self, spec: dict[str, Any]) -> Trial:
        """The trial that a spec describes, in any process.

        Args:
            spec: of one of the planned trials.

        Returns:
            The trial.

        Raises:
            BadInput: when the demonstration has no such trial.
        """
        return trial_of(self.trials(), spec)


@lru_cache(maxsize=4)
def _drawn_trials(demonstration: TextDemonstration) -> tuple[Trial, ...]:
    classes = load(DATA)
    space = classes.tokens
    assert space is not None  # messages are texts
    order = torch.randperm(len(classes), generator=stage_generator(demonstration.seed, f"demo/{DATA}")).tolist()
    single = demonstration.messages
    size = demonstration.batch_size
    batches = [order[single + place * size : single + (place + 1) * size] for place in range(demonstration.batches)]
    return (
        *_decoder_trials(demonstration, with_objective(classes, "causal"), space, batches),
        *_encoder_trials(demonstration, classes, space, [[example] for example in order[:single]]),
    )


def _decoder_trials(
    demonstration: TextDemonstration, data: Dataset, space: TokenSpace, batches: list[list[int]]
) -> list[Trial]:
    seed, width = demonstration.seed, demonstration.decoder_width
    model = decoder(space.vocabulary, space.length, width=width, padding=space.padding, seed=seed)
    task = Task(model, space, data.num_classes, classified=data.classified)
    described = {"name": "decoder", "width": width, "layers": 2, "seed": seed}
    # Without a limit in seconds, so that the results do not depend on the machine.
    return _trials(seed, task, described, data, batches, [(dager(), {"name": "dager"})])


def _encoder_trials(
    demonstration: TextDemonstration, data: Dataset, space: TokenSpace, batches: list[list[int]]
) -> list[Trial]:
    seed, width = demonstration.seed, demonstration.encoder_width
    model = encoder(space.vocabulary, space.length, data.num_classes, width=width, padding=space.padding, seed=seed)
    described = {"name": "encoder", "width": width, "layers": 2, "seed": seed}
    steps, most = demonstration.outer_steps, demonstration.evaluations
    attacks: list[tuple[Attack, dict[str, object]]] = [
        (dlg_text(outer_steps=steps), {"name": "dlg_text", "outer_steps": steps}),
        (tag(steps=most), {"name": "tag", "steps": most}),
        (lamp(max_evaluations=2 * most), {"name": "lamp", "max_evaluations": 2 * most}),
        (dager(), {"name": "dager"}),
    ]
    return _trials(seed, Task(model, space, data.num_classes), described, data, batches, attacks)


def _trials(
    seed: int,
    task: Task,
    model: Mapping[str, object],
    data: Dataset,
    batches: list[list[int]],
    attacks: list[tuple[Attack, dict[str, object]]],
) -> list[Trial]:
    """Every attack on every batch; the reference holds none of its messages."""
    trials: list[Trial] = []
    for examples in batches:
        public = torch.ones(len(data), dtype=torch.bool)
        public[examples] = False
        for attack, settings in attacks:
            trials.append(
                Trial(
                    task=task,
                    model=model,
                    data={"name": DATA, "count": len(data), "objective": data.objective},
                    examples=examples,
                    inputs=data.inputs[examples],
                    targets=data.targets[examples],
                    reference=data.inputs[public],
                    attack=attack,
                    attack_settings=settings,
                    seed=trial_seed(seed, DATA, examples[0]),
                )
            )
    return trials
