"""How well a multiset of labels explains the gradient of a softmax classifier.

The gradient of the last layer, multiplied by the layer's own weight, is a function of the logits z_n and labels alone:

    db       = mean_n r_n                      r_n = softmax(z_n) - y_n
    dW W^T   = mean_n r_n (W o_n)^T            z_n = W o_n + b

Dummy inputs say how logits are distributed; with that as a normal prior, Laplace's method gives the probability of
the observed gradient under each multiset, the unknown logits integrated out. What the dummies' features vary in besides
the logits is integrated out too: in those directions the gradient is normal with covariance `R^T R / N^2`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Standard deviation allowed for the equations, relative to the size of their features: rounding, and curvature.
_SLACK = 1e-3
# Dummy features are not quite normal; directions beside the logits count with this weight, and so many of them.
_SIDE_WEIGHT = 0.5
_SIDE_DIRECTIONS = 60
# If the dummies' variance in those directions is further off than this factor, they say nothing about these inputs.
_SIDE_VARIANCE = 2.5


@dataclass(frozen=True, eq=False)
class Normal:
    """A normal distribution `mean + factor w` with w ~ N(0, 1): `mean [V]`, `factor [V, q]`."""

    mean: Tensor
    factor: Tensor

    @staticmethod
    def fit(values: Tensor) -> "Normal":
        """The normal distribution with mean and covariance of values `[M, V]`."""
        eigenvalues, vectors = torch.linalg.eigh(torch.cov(values.T))
        kept = eigenvalues > 1e-9 * eigenvalues.max()
        return Normal(values.mean(dim=0), (vectors * eigenvalues.clamp_min(0).sqrt())[:, kept])


@dataclass(frozen=True, eq=False)
class HeadGradient:
    """A last layer with its gradient, of a loss averaged over the batch; all float64.

    Attributes:
        weight_gradient: `[C, D]`.
        bias_gradient: `[C]`, or None.
        weight: `[C, D]`.
        bias: `[C]`; zeros if there is none.
    """

    weight_gradient: Tensor
    bias_gradient: Tensor | None
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Side:
    """Directions of the features beside the logits: whitened gradient `[C, K]`, and how features depend on logits."""

    gradient: Tensor
    mean: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class Model:
    """The equations of one update: what to explain, and with which prior.

    Attributes:
        observed: gradient of all classes but the last, with respect to a constant and the prior's features, each
            divided by `scale`, `[(C - 1) A]`.
        scale: `[A]`.
        constant: whether the first feature is the bias's constant 1.
        prior: of the features `W o` (and one more where there is no bias).
        bias: `[C]`.
        weights: of the loss for each class `[C]`.
        targets: of the loss for each class `[C, C]`.
        side: further directions.
    """

    observed: Tensor
    scale: Tensor
    constant: bool
    prior: Normal
    bias: Tensor
    weights: Tensor
    targets: Tensor
    side: Side | None


def build_model(head: HeadGradient, features: Tensor, weights: Tensor, targets: Tensor) -> Model:
    """Set the equations up.

    Args:
        head: the last layer and its gradient.
        features: last-layer inputs of dummies, `[M, D]`.
        weights: of the loss, see `LossForm`.
        targets: of the loss.

    Returns:
        The model.
    """
    constant = head.bias_gradient is not None
    center = features.mean(dim=0)
    basis = head.weight.T
    if not constant:  # a direction in which all features are alike does what the bias would do
        basis = torch.cat([basis, (center / center.square().sum())[:, None]], dim=1)
    prior = Normal.fit(features @ basis)
    observed = head.weight_gradient @ basis
    scale = (prior.mean.square() + prior.factor.square().sum(dim=1)).sqrt()
    if head.bias_gradient is not None:
        observed = torch.cat([head.bias_gradient[:, None], observed], dim=1)
        scale = torch.cat([torch.ones(1, dtype=torch.float64), scale])
    scale = scale.clamp_min(1e-12 * float(scale.max()))
    side = _side(head.weight_gradient, features, basis)
    return Model((observed[:-1] / scale).flatten(), scale, constant, prior, head.bias, weights, targets, side)


def _side(weight_gradient: Tensor, features: Tensor, basis: Tensor) -> Side | None:
    """Principal directions of what remains of the dummies' features beyond a linear function of the logits."""
    center = features.mean(dim=0)
    values = features @ basis
    slope = torch.linalg.lstsq(values - values.mean(dim=0), features - center, driver="gelsd").solution
    rest = features - center - (values - values.mean(dim=0)) @ slope
    _, lengths, directions = torch.linalg.svd(rest / math.sqrt(len(rest)), full_matrices=False)
    kept = min(_SIDE_DIRECTIONS, int((lengths > 1e-6 * features.square().mean().sqrt()).sum()))
    if kept == 0:
        return None
    whiten = directions[:kept].T / lengths[:kept]
    return Side(weight_gradient @ whiten, center @ whiten, slope @ whiten)


@dataclass(frozen=True, eq=False)
class Explanation:
    """How label assignments explain an update.

    Attributes:
        latent: the whitened features of every example, `[S, N, q]`.
        log_evidence: `[S]`; the logits are integrated out.
        misfit: squared errors of the equations in units of their slack, `[S]`.
    """

    latent: Tensor
    log_evidence: Tensor
    misfit: Tensor


def explain(model: Model, labels: Tensor, latent: Tensor, steps: int) -> Explanation:
    """Laplace's approximation of the evidence of label assignments, by damped Gauss-Newton steps.

    Args:
        model: the equations.
        labels: classes of the examples, one assignment a row, `[S, N]`.
        latent: where to start, `[S, N, q]`.
        steps: number of Gauss-Newton steps.

    Returns:
        The explanation; `log_evidence` includes the number of orders of each multiset.
    """
    rows = len(labels)
    factor = torch.empty(0)
    for _ in range(steps):
        equations, jacobian = _linearize(model, labels, latent)
        gram = jacobian @ jacobian.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).add_(_SLACK**2)
        factor = torch.linalg.cholesky(gram)
        wanted = model.observed - equations + (jacobian @ latent.reshape(rows, -1, 1))[..., 0]
        dual = torch.cholesky_solve(wanted[..., None], factor)
        step = (jacobian.transpose(1, 2) @ dual).reshape(latent.shape) - latent
        longest = step.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        latent = latent + step * (2.0 / longest).clamp_max(1.0)
    features = model.prior.mean + latent @ model.prior.factor.T
    residuals = _residuals(model, labels, features)
    misfit = (model.observed - _equations(model, residuals, features)).square().sum(dim=1) / _SLACK**2
    volume = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    evidence = -0.5 * (latent.square().sum(dim=(1, 2)) + misfit + volume)
    if model.side is not None:
        evidence = evidence + _SIDE_WEIGHT * _side_evidence(model.side, model.prior.mean, residuals, features)[0]
    counts = torch.nn.functional.one_hot(labels, len(model.bias)).sum(dim=1)
    return Explanation(latent, evidence - torch.lgamma(counts.double() + 1).sum(dim=1), misfit)


def without_foreign_side(model: Model, labels: Tensor, latent: Tensor) -> Model:
    """The model, less its side directions where they vary on another scale for private inputs than for dummies.

    Args:
        model: the equations.
        labels: a plausible assignment, `[N]`.
        latent: its explanation, `[N, q]`.

    Returns:
        The same model, or one without `side`.
    """
    if model.side is None:
        return model
    features = model.prior.mean + latent[None] @ model.prior.factor.T
    residuals = _residuals(model, labels[None], features)
    variance = float(_side_evidence(model.side, model.prior.mean, residuals, features)[1])
    return model if 1 / _SIDE_VARIANCE < variance < _SIDE_VARIANCE else replace(model, side=None)


def _residuals(model: Model, labels: Tensor, features: Tensor) -> Tensor:
    """`weight (softmax(z) - target)` of every example, `[S, N, C]`."""
    probabilities = torch.softmax(features[..., : len(model.bias)] + model.bias, dim=-1)
    return model.weights[labels][..., None] * (probabilities - model.targets[labels])


def _with_constant(model: Model, features: Tensor) -> Tensor:
    """Features `[..., V]` with a leading 1 where there is a bias, `[..., A]`."""
    return torch.cat([torch.ones_like(features[..., :1]), features], dim=-1) if model.constant else features


def _equations(model: Model, residuals: Tensor, features: Tensor) -> Tensor:
    """What the gradient would be, in the units of `observed`, `[S, (C - 1) A]`."""
    entered = _with_constant(model, features) / model.scale
    return (residuals[..., :-1].transpose(1, 2) @ entered / residuals.shape[1]).flatten(1)


def _linearize(model: Model, labels: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """The equations `[S, E]` and their Jacobian `[S, E, N q]` with respect to the latents."""
    rows, count, width = latent.shape
    classes, factor = len(model.bias), model.prior.factor
    features = model.prior.mean + latent @ factor.T
    residuals = _residuals(model, labels, features)
    probabilities = torch.softmax(features[..., :classes] + model.bias, dim=-1)
    response = probabilities[..., None] * (factor[:classes] - (probabilities @ factor[:classes])[..., None, :])
    response = model.weights[labels][..., None, None] * response
    entered = _with_constant(model, features) / model.scale
    moved = torch.cat([torch.zeros((1, width), dtype=torch.float64), factor]) if model.constant else factor
    jacobian = response[:, :, :-1, None, :] * entered[:, :, None, :, None]
    jacobian += residuals[:, :, :-1, None, None] * (moved / model.scale[:, None])
    jacobian = (jacobian / count).flatten(2, 3).transpose(1, 2).reshape(rows, -1, count * width)
    return _equations(model, residuals, features), jacobian


def _side_evidence(side: Side, center: Tensor, residuals: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood `[S]` of the gradient in the side directions, and their common variance `[S]`, fitted."""
    count = residuals.shape[1]
    rows = residuals[..., :-1].transpose(1, 2)
    error = side.gradient[:-1] - rows @ (side.mean + (features - center) @ side.slope) / count
    gram = rows @ rows.transpose(1, 2) / count**2
    gram.diagonal(dim1=1, dim2=2).add_(1e-9)
    factor = torch.linalg.cholesky(gram)
    entries = error.shape[1] * error.shape[2]
    scale = torch.linalg.solve_triangular(factor, error, upper=False).square().sum(dim=(1, 2)) / entries
    volume = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return -0.5 * (error.shape[2] * volume + entries * scale.log()), scale
