"""Exact images from the first attention of a vision transformer with a trained position embedding."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.patch_tokens import PatchTokens, find_patch_tokens
from gradleak.attacks.labels import targets_of
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.linalg import singular_values_above_rounding
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import InputSpace
from gradleak.threat import Observation


@dataclass(frozen=True)
class April:
    """The attack of `april`."""

    name: str = "april"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        if observation.batch_size not in {None, 1}:
            return not_applicable(
                self.name, observation, f"the equations hold for 1 example, not for a batch of {observation.batch_size}"
            )
        found = find_patch_tokens(in_precision(observation, torch.float64))
        if isinstance(found, str):
            return not_applicable(self.name, observation, found)
        embeddings = patch_embeddings(observation, found)
        if isinstance(embeddings, str):
            return not_applicable(self.name, observation, embeddings)
        variable = variable_behind(found, embeddings, observation.task.space)
        result = answer(
            self.name,
            observation,
            variable,
            targets_of(observation, variable),
            began=began,
            evaluations=found.evaluations,
            message=_describe(found, variable.numel()),
        )
        if observation.batch_size is None and result.status != "converged":
            return not_applicable(self.name, observation, f"no single example fits: {result.message}")
        return result


def patch_embeddings(observation: Observation, tokens: PatchTokens) -> Tensor | str:
    """What the patches add to their tokens, by `A^T z = sum W^T dL/dW` (Lu et al. 2022, section 4.1).

    `A` is the gradient of the position embedding, `z` are the tokens, and the sum is over the attention's query, key
    and value weights. Tokens without a patch, such as a class token, are known and go to the other side.

    Args:
        observation: what the attacker holds.
        tokens: how the input becomes tokens.

    Returns:
        `[patches, d]`, float64, without position embedding and bias; or why they are not determined.
    """
    gradient = observation.update.in_gradient_direction()
    positions = tokens.position_gradient(gradient)
    with_patch = [index for index, patch in enumerate(tokens.patches) if len(patch)]
    count, width = len(with_patch), positions.shape[1]
    if count > width:
        return f"{count} patches are more than the width {width} of a token, which bounds the equations for each"
    rank = singular_values_above_rounding(positions[with_patch])
    if rank < count:
        return f"the position embedding's gradient has rank {rank}, and {count} patches need rank {count}"
    values = {**observation.state.parameters, **observation.state.constants}
    sent = sum(
        (values[name].double().T @ gradient[name].double() for name in tokens.weights),
        start=torch.zeros((width, width), dtype=torch.float64, device=positions.device),
    )
    positions = positions.double()
    # Solving for what the patches add, instead of the tokens, spares the position embedding the rounding.
    sent = sent - positions.T @ tokens.offset
    return torch.linalg.lstsq(positions[with_patch].T, sent, driver="gelsd").solution


def variable_behind(tokens: PatchTokens, embeddings: Tensor, space: InputSpace) -> Tensor:
    """Undo the patch embedding, `[1, *variable_shape]`, float64.

    Args:
        tokens: how the input becomes tokens.
        embeddings: what each patch adds to its token, `[patches, d]`.
        space: what an input is; entries that are not determined stay near the middle of its bounds.

    Returns:
        The variable that is nearest to the middle among those that fit.
    """
    middle = 0.0 if space.bounds is None else sum(space.bounds) / 2
    flat = torch.full((int(torch.Size(space.variable_shape).numel()),), middle, dtype=torch.float64)
    flat = flat.to(embeddings.device)
    patches = [(patch, weights) for patch, weights in zip(tokens.patches, tokens.maps, strict=True) if len(patch)]
    for (patch, weights), embedding in zip(patches, embeddings, strict=True):
        rest = embedding - weights.sum(dim=1) * middle
        flat[patch] += torch.linalg.lstsq(weights, rest[:, None], driver="gelsd").solution[:, 0]
    return flat.reshape(1, *space.variable_shape)


def _describe(tokens: PatchTokens, entries: int) -> str:
    """One phrase on what was solved, and how many entries of the input the patches leave open."""
    patches = [weights for weights in tokens.maps if weights.shape[1]]
    determined = sum(min(weights.shape) for weights in patches)
    text = f"{len(patches)} patches solved at {tokens.layer}"
    return text if determined == entries else f"{text}, which determine {determined} of {entries} entries of the input"


def april(*, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None) -> April:
    """Exact image of a single example from a vision transformer by two linear solves (Lu et al. 2022), without labels.

    Needs an attention that receives patch embedding plus trained position embedding directly, and is all that receives
    it: no LayerNorm before it and no skip connection around it. The usual transformers with both are refused.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; two are used, one to check the model's structure and one to check the result.
        max_seconds: likewise; the work is a forward pass up to the attention for each entry of a patch, and the solves.

    Returns:
        The attack.
    """
    del restarts, max_evaluations, max_seconds
    return April()
