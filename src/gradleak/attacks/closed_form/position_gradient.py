"""Exact images from a vision transformer's patch embedding, by the gradient of its trained position embedding."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.linear_layer import singular_values_above_rounding
from gradleak.attacks.closed_form.patch_embedding import PatchEmbedding, find_patch_embedding
from gradleak.attacks.labels import targets_of
from gradleak.attacks.precision import in_precision
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import InputSpace
from gradleak.threat import Observation


@dataclass(frozen=True)
class PositionGradient:
    """The attack of `position_gradient`."""

    name: str = "position_gradient"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        if observation.batch_size not in {None, 1}:
            return not_applicable(
                self.name, observation, f"the equations hold for 1 example, not for a batch of {observation.batch_size}"
            )
        found = find_patch_embedding(in_precision(observation, torch.float64))
        if isinstance(found, str):
            return not_applicable(self.name, observation, found)
        gradient = observation.update.in_gradient_direction()
        sent = found.position_gradient(gradient)
        rank = singular_values_above_rounding(sent)
        if rank < len(sent):
            return not_applicable(self.name, observation, _deficient(found, sent, rank))
        variable = solved_variable(found, sent, gradient[found.weight], observation.task.space)
        result = answer(
            self.name,
            observation,
            variable,
            targets_of(observation, variable),
            began=began,
            evaluations=found.evaluations,
            message=_describe(found, rank, variable.numel()),
        )
        if observation.batch_size is None and result.status != "converged":
            return not_applicable(self.name, observation, f"no single example fits: {result.message}")
        return result


def solved_variable(
    embedding: PatchEmbedding, position_gradient: Tensor, weight_gradient: Tensor, space: InputSpace
) -> Tensor:
    """Solve `A^T X = dL/dW` for the patches X, with A the gradient of the position embedding.

    Both sides have what the loss sends to the embedded patches as their only other factor, so that a common factor, as
    of a weight delta, cancels.

    Args:
        embedding: which entries of the input the layer receives.
        position_gradient: A, `[T, d]` of rank T.
        weight_gradient: of the patch embedding, `[d, entries, ...]`.
        space: what an input is; entries in no patch are put in the middle of its bounds.

    Returns:
        The variable `[1, *variable_shape]`, float64; entries in several patches are averaged.
    """
    sent, scale = position_gradient.double(), embedding.scale
    middle = 0.0 if space.bounds is None else sum(space.bounds) / 2
    # Solving for the distance from gray, instead of the patches, lets rounding in A weigh less.
    known = sent.T @ (embedding.offset + scale * middle)
    # By singular values, since A may be nearly singular; only the CPU has that.
    equations, right = sent.T.cpu(), (weight_gradient.double().flatten(1) - known).cpu()
    rows = torch.linalg.lstsq(equations, right, driver="gelsd").solution.to(sent.device)
    used = scale != 0
    order, values = embedding.order[used], rows[used] / scale[used]
    size = int(torch.Size(space.variable_shape).numel())
    total = values.new_zeros(size).index_add_(0, order, values)
    count = values.new_zeros(size).index_add_(0, order, torch.ones_like(values))
    return (middle + total / count.clamp(min=1.0)).reshape(1, *space.variable_shape)


def _deficient(embedding: PatchEmbedding, sent: Tensor, rank: int) -> str:
    """What a rank below the number of patches leaves open."""
    count, width = sent.shape
    basis = torch.linalg.svd(sent.double(), full_matrices=False).U[:, :rank]
    # A patch is determined if no combination of patches that the equations leave open contains it.
    determined = int((basis.square().sum(dim=1) > 1 - 1e-6).sum())
    wide = f" and {count} patches are more than the width {width} of a token," if count > width else ""
    return (
        f"the gradient of the position embedding {embedding.positions} has rank {rank},{wide} but {count} patches need "
        f"rank {count}; it gives {rank} of their {count} combinations, and {determined} of them singly"
    )


def _describe(embedding: PatchEmbedding, rank: int, entries: int) -> str:
    """One phrase on what was solved, and how many entries of the input no patch holds."""
    held = len(embedding.order[embedding.scale != 0].unique())
    text = f"{len(embedding.places)} patches solved from {embedding.weight} and {embedding.positions} of rank {rank}"
    return text if held == entries else f"{text}, which hold {held} of {entries} entries of the input"


def position_gradient(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> PositionGradient:
    """Exact image of a single example from a vision transformer with a trained position embedding, without labels.

    The position embedding's gradient is what the loss sends to each embedded patch, `A` of shape `[T, d]`. The patch
    embedding's gradient is the same times the patches, `A^T X`, as for any linear layer with the example's patches as
    a batch, and one linear solve gives them. Nothing else of the model matters: LayerNorm, skip connections and a class
    token are allowed. Needs a patch embedding and positions that are both trained, positions added directly to the
    embedded patches, and `A` of rank T. So patches may be at most as many as a token is wide, and one fewer if
    everything passes a LayerNorm, which sends back rows of sum zero.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; two are used, one to check the model's structure and one to check the result.
        max_seconds: likewise; the work is four forward passes, a backward pass, and the solve.

    Returns:
        The attack.
    """
    del restarts, max_evaluations, max_seconds
    return PositionGradient()
