"""The tokens of a batch without their order, as an attack of its own."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.text.token_evidence import token_evidence
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation
from gradleak.tokens import IGNORED, NO_TOKEN, TokenSpace


@dataclass(frozen=True)
class TokenBag:
    """The attack of `token_bag`.

    Args:
        name: in tables.
    """

    name: str = "token_bag"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        task = observation.task
        if not isinstance(task.space, TokenSpace):
            return not_applicable(self.name, observation, "the inputs are no tokens")
        evidence = token_evidence(observation)
        if not len(evidence.bag):
            return not_applicable(self.name, observation, "; ".join(evidence.notes))
        count = observation.batch_size or evidence.batch_size or 1
        inputs = laid_out(evidence.bag, count, task.space.length)
        variable = task.encode(inputs.clamp(min=0)) * (inputs != NO_TOKEN)[..., None].to(task.device, task.dtype)
        if observation.targets is not None:
            targets = observation.targets
        else:
            targets = torch.full((count, *task.target_shape[:-1]), IGNORED if task.classified == "token" else -1)
        # Where nothing is known of the targets, all are alike.
        probabilities = torch.full((count, *task.target_shape), 1 / task.num_classes, dtype=task.dtype)
        certain = evidence.tokens_certain and (task.classified == "example" or evidence.targets_certain)
        return Reconstruction(
            inputs=inputs,
            targets=targets,
            targets_given=observation.targets is not None,
            objective=mismatch(observation, variable, probabilities),
            evaluations=1,
            seconds=time.perf_counter() - began,
            status="converged" if certain else "budget",
            attack=self.name,
            variable=variable,
            target_probabilities=probabilities,
            message=f"{len(evidence.bag)} different tokens, in no order; " + "; ".join(evidence.notes),
            trace=evidence.notes,
        )


def laid_out(bag: Tensor, count: int, length: int) -> Tensor:
    """Tokens in rows: all of them in every row where they fit, else dealt out evenly.

    Args:
        bag: ids `[K]`.
        count: rows N.
        length: positions T.

    Returns:
        `[N, T]`, `NO_TOKEN` where none is left; tokens that do not fit are left out.
    """
    rows = torch.full((count, length), NO_TOKEN)
    if len(bag) <= length:
        rows[:, : len(bag)] = bag
        return rows
    for number, part in enumerate(bag[: count * length].tensor_split(count)):
        rows[number, : len(part)] = part
    return rows


def token_bag(*, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None) -> TokenBag:
    """Which tokens a batch holds, without order and without search.

    Rows of the embedding's gradient that are not zero, or stand out of noise, of weight decay, or of what a last layer
    that shares the weight adds; and negative entries of the last layer's bias for words that had to be predicted. Every
    text of the result holds the whole bag where it fits into one, so that the score's `token_recall` of a single text
    says how much of it leaks; a larger bag is dealt out over the texts of the batch.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; one is used, for the objective.
        max_seconds: likewise.

    Returns:
        The attack; it ends `converged` where the evidence is certain.
    """
    del restarts, max_evaluations, max_seconds
    return TokenBag()
