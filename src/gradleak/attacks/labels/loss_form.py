"""Which residual the loss sends into the logits, found by evaluating it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.tasks import Loss, Task

_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class LossForm:
    """A loss whose gradient at one example's logits is `weights[y] * (softmax(z) - targets[y])`, summed or averaged.

    Plain cross-entropy has weights 1 and one-hot targets; label smoothing moves the targets, class weights scale them.

    Attributes:
        weights: `[C]`, positive.
        targets: the probabilities that the loss pulls each class towards, rows sum to 1, `[C, C]`.
        averaged: whether the batch is averaged; otherwise it is summed.
    """

    weights: Tensor
    targets: Tensor
    averaged: bool

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross-entropy averaged over the batch, nothing else."""
        eye = torch.eye(len(self.weights), dtype=torch.float64)
        return self.averaged and bool(
            torch.allclose(self.targets, eye, atol=1e-3) and torch.allclose(self.weights, eye.diagonal(), rtol=1e-3)
        )


def find_loss_form(task: Task) -> LossForm | str:
    """Evaluate the loss's gradient at random logits for every class, and read its form off.

    Args:
        task: the public task.

    Returns:
        The form, or why none fits.
    """
    classes = task.num_classes
    generator = torch.Generator().manual_seed(0)
    eye = torch.eye(classes, dtype=torch.float64)
    logits = torch.randn((3, classes), generator=generator, dtype=torch.float64)
    fitted = [_weights_and_targets(_residuals(task.loss, point, eye), point) for point in logits]
    weights, targets = fitted[0]
    agree = all(
        torch.allclose(weights, other[0], rtol=_TOLERANCE) and torch.allclose(targets, other[1], atol=_TOLERANCE)
        for other in fitted[1:]
    )
    if not agree or not bool((weights > 0).all()):
        return (
            "the loss is not a cross-entropy of the softmax with fixed targets and weights, so labels leave no counts"
        )
    pair = _gradient(task.loss, logits[:2], eye[:2])
    single = torch.cat([_gradient(task.loss, logits[i : i + 1], eye[i : i + 1]) for i in range(2)])
    for averaged, factor in ((True, 0.5), (False, 1.0)):
        if torch.allclose(pair, factor * single, atol=_TOLERANCE * float(single.abs().max())):
            return LossForm(weights, targets, averaged)
    return "the loss mixes the examples of a batch by other than their mean or sum"


def _gradient(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss's gradient in its logits, `[N, C]`, float64."""
    point = logits.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(point, targets), point)
    return gradient.double()


def _residuals(loss: Loss, logits: Tensor, eye: Tensor) -> Tensor:
    """One row for each class as the target of a single example with these logits, `[C, C]`."""
    return torch.cat([_gradient(loss, logits[None], eye[label : label + 1]) for label in range(len(eye))])


def _weights_and_targets(residuals: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Solve `residual = w (softmax - t)` for w and t, where t is the same at all entries but its own class.

    Without smoothing the entries off the class are `w p_c`; with it `w (p_c - s)`. Two of them give w, all the rest t.

    Returns:
        Weights `[C]` and targets `[C, C]`.
    """
    probabilities = torch.softmax(logits, dim=0)
    classes = len(logits)
    weights = torch.empty(classes, dtype=torch.float64)
    for label in range(classes):
        others = [c for c in range(classes) if c != label]
        if len(others) == 1:  # two classes: a weight and a smoothing cannot be told apart, so none is assumed
            weights[label] = residuals[label, others[0]] / probabilities[others[0]]
            continue
        centered = probabilities[others] - probabilities[others].mean()
        weights[label] = (residuals[label, others] * centered).sum() / centered.square().sum()
    return weights, probabilities - residuals / weights[:, None]
