"""What an attacker is taken to know of inputs: a prior that was given, or one by its name."""

from typing import Literal, get_args

from torch import Tensor

from gradleak.bounds.bayesian import size_problems
from gradleak.bounds.gaussian_prior import Prior, smoothness_prior
from gradleak.bounds.photograph_prior import photograph_prior, photograph_problems
from gradleak.tasks import ImageSpace, InputSpace

PriorName = Literal["smoothness", "photographs"]
"""Priors of images: `smoothness_prior`, or `photograph_prior` of the very batch."""


def chosen_prior(space: InputSpace, inputs: Tensor, prior: Prior | PriorName | None) -> Prior | None:
    """The prior itself.

    Args:
        space: of the inputs.
        inputs: the private ones `[N, ...]`, which the prior of photographs partly grants.
        prior: a name that `prior_problems` does not object to, or a prior.

    Returns:
        None for none, and where smooth images say nothing about such inputs.
    """
    if not isinstance(prior, str):
        return prior
    if prior == "photographs":
        return photograph_prior(space, inputs)
    return smoothness_prior(space) if isinstance(space, ImageSpace) and space.shape[0] in {1, 3} else None


def prior_problems(space: InputSpace, inputs: Tensor, prior: Prior | str | None) -> list[str]:
    """Whether the prior is one of such inputs, before anything is computed.

    Args:
        space: of the inputs.
        inputs: the private ones `[N, ...]`.
        prior: as it was given.

    Returns:
        A sentence for each mistake.
    """
    if isinstance(prior, str):
        if prior not in get_args(PriorName):
            return [f"prior: expected 'smoothness', 'photographs', a prior or None, got {prior!r}; choose one"]
        return photograph_problems(space, inputs) if prior == "photographs" else []
    if prior is None or not inputs.dim() or not len(inputs):
        return []
    # Of one input, or of a batch as a whole.
    one = inputs[0].numel()
    size = len(prior.variances)
    return size_problems(one if size <= one else inputs.numel(), prior)
