"""The equations of a batch at its softmax head, as a least-squares problem in N x N unknowns; see `separation`."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.valley import follow_valley
from gradleak.linalg import BlockLowRankInverse, conjugate_gradients

# Rounding in the client's own computation adds up over features, softmax and batch: entries of an update are off by
# several times the rounding of its type.
_ROUNDING_FACTOR = 10.0
# Mean squared misfit, in units of rounding, up to which a separation is certified. Saturated outputs reach 70 at the
# true features.
_CERTIFIED = 300.0
# Times the share of equations beyond the unknowns, where that is less: N = C - 1 examples can be fitted by a wrong
# separation almost to rounding.
_SPARE_FACTOR = 3.0
LARGEST_DENSE = 20
_MOST_STEPS = 150
_MOST_PRODUCTS = 600
# Error of a step in energy. Further digits of a step that only linearizes bring nothing.
_STEP_ACCURACY = 1e-7
# What the examples' own blocks keep of the equations along the common feature, which couple all examples.
_KEPT = 1e-3
# Real inputs spread this many times as much as typical ones may.
_TYPICAL_FACTOR = 3.0


@dataclass(frozen=True, eq=False)
class HeadProblem:
    """The equations of one batch at one last layer.

    Attributes:
        weight_gradient: dW `[C, D]`, float64.
        bias_gradient: db `[C]`, float64.
        weight: `[C, D]`, float64.
        bias: `[C]`, float64.
        targets: what the loss pulls each example towards, `[N, C]`.
        scales: factor of each example's residual in the gradient, `[N]`: 1/N for a mean over the batch.
        precision: relative rounding of the update's entries.
        typical: features of typical inputs `[M, D]`, whose mean and spread decide what the equations leave open, as it
            happens among examples of one class; None for no such prior.
    """

    weight_gradient: Tensor
    bias_gradient: Tensor
    weight: Tensor
    bias: Tensor
    targets: Tensor
    scales: Tensor
    precision: float
    typical: Tensor | None = None

    def residuals(self, features: Tensor) -> Tensor:
        """Derivative of the loss with respect to the logits, `[N, C]`."""
        outputs = features @ self.weight.T + self.bias
        return self.scales[:, None] * (torch.softmax(outputs, dim=1) - self.targets)


class SeparationEquations:
    """The least-squares problem in the mixture K `[N, N]`, in units of rounding."""

    def __init__(self, problem: HeadProblem) -> None:
        count = len(problem.targets)
        self.problem = problem
        right = torch.linalg.svd(problem.weight_gradient, full_matrices=False)[2]
        self.basis = right[:count]
        self.observed = problem.weight_gradient @ self.basis.T
        self.logits = self.basis @ problem.weight.T
        rounding = problem.precision * _ROUNDING_FACTOR
        self.sigma_weight = rounding * float(problem.weight_gradient.square().mean().sqrt())
        self.sigma_bias = rounding * float(problem.bias_gradient.square().mean().sqrt())
        classes = problem.targets.shape[1]
        self.count = classes * (count + 1)
        spare = 1.0 - count**2 / ((classes - 1) * (count + 1))
        self.certified = _CERTIFIED * min(1.0, max(0.0, _SPARE_FACTOR * spare))
        self.center, self.prior = torch.zeros(count).double(), torch.zeros(count).double()
        if problem.typical is not None:
            coordinates = problem.typical @ self.basis.T
            self.center = coordinates.mean(dim=0)
            self.prior = (_TYPICAL_FACTOR * coordinates.std(dim=0)).clamp(min=1e-300) ** -2

    def start(self, jitter: Tensor) -> Tensor:
        """K for residuals in which every example has the mean softmax, with its logarithm jittered."""
        problem = self.problem
        weighted = problem.scales / problem.scales.sum()
        mean = (problem.bias_gradient / problem.scales.sum() + weighted @ problem.targets).clamp(min=1e-6)
        guesses = problem.scales[:, None] * (torch.softmax(mean.log() + jitter, dim=1) - problem.targets)
        return torch.linalg.pinv(guesses.T) @ self.observed

    def evaluate(self, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities `[N, C]`, and the misfits of dW `[C, N]` and db `[C]` in units of rounding."""
        probabilities = torch.softmax(mixture @ self.logits + self.problem.bias, dim=1)
        residuals = self.problem.scales[:, None] * (probabilities - self.problem.targets)
        weight = (residuals.T @ mixture - self.observed) / self.sigma_weight
        bias = (residuals.sum(dim=0) - self.problem.bias_gradient) / self.sigma_bias
        return probabilities, weight, bias

    def jacobian(self, mixture: Tensor, probabilities: Tensor) -> Tensor:
        """Derivative of the misfits with respect to K, `[C (N + 1), N N]`."""
        count, classes = probabilities.shape
        scales = self.problem.scales[:, None]
        residuals = scales * (probabilities - self.problem.targets)
        mean = probabilities @ self.logits.T
        moves = (scales * probabilities)[:, :, None] * (self.logits.T[None] - mean[:, None])  # [example, class, K]
        weight = torch.einsum("mc,ij->cjmi", residuals, torch.eye(count).double())
        weight = weight + torch.einsum("mci,mj->cjmi", moves, mixture)
        rows = weight.reshape(classes * count, -1) / self.sigma_weight
        return torch.cat([rows, moves.transpose(0, 1).reshape(classes, -1) / self.sigma_bias])

    def product(self, mixture: Tensor, probabilities: Tensor, step: Tensor) -> Tensor:
        """`J^T J step` without the matrix."""
        scales = self.problem.scales[:, None]
        residuals = scales * (probabilities - self.problem.targets)
        move = _softmax_derivative(probabilities, step @ self.logits) * scales
        weight = (move.T @ mixture + residuals.T @ step) / self.sigma_weight**2
        bias = move.sum(dim=0) / self.sigma_bias**2
        return self.gradient(mixture, probabilities, weight, bias)

    def gradient(self, mixture: Tensor, probabilities: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Adjoint of the derivative of `R^T K` and `R^T 1`."""
        scales = self.problem.scales[:, None]
        residuals = scales * (probabilities - self.problem.targets)
        back = _softmax_derivative(probabilities, scales * (mixture @ weight.T + bias))
        return back @ self.logits.T + residuals @ weight

    def solve(self, mixture: Tensor, patience: int | None, deadline: float) -> tuple[Tensor, float]:
        """Levenberg-Marquardt with Marquardt's scaling; returns K and the sum of squared misfits."""
        probabilities, weight, bias = self.evaluate(mixture)
        cost = self.cost(mixture, weight, bias)
        damping = 1e-2
        rejected = False
        costs: list[float] = []
        for _ in range(_MOST_STEPS):
            costs.append(cost)
            far = cost > _CERTIFIED * self.count
            given_up = patience is not None and far and len(costs) > patience and cost > 0.5 * costs[-patience - 1]
            if given_up or time.perf_counter() >= deadline:
                break
            step = self._step(mixture, probabilities, weight, bias, damping)
            trial = mixture - step
            found = self.evaluate(trial)
            trial_cost = self.cost(trial, found[1], found[2])
            if not trial_cost < cost:
                damping, rejected = damping * 4.0, True
                if damping > 1e8:
                    break
                continue
            gain, cost, mixture = (cost - trial_cost) / cost, trial_cost, trial
            probabilities, weight, bias = found
            # Right after a failure, shorter steps would fail again.
            damping, rejected = damping if rejected else max(damping / 5.0, 1e-14), False
            if gain < 1e-3 and cost < _CERTIFIED * self.count or gain < 1e-7:
                break
        return mixture, float(weight.square().sum() + bias.square().sum())

    def misfit(self, mixture: Tensor) -> float:
        """Sum of squared misfits of the equations."""
        _, weight, bias = self.evaluate(mixture)
        return float(weight.square().sum() + bias.square().sum())

    def follow(self, mixture: Tensor, deadline: float) -> tuple[Tensor, float]:
        """Minimize misfit and distance from typical along the valley in which examples of one class trade features."""
        shape, spread = mixture.shape, self.prior.sqrt()

        def residuals(point: Tensor) -> Tensor:
            _, weight, bias = self.evaluate(point.view(shape))
            return torch.cat([weight.reshape(-1), bias, ((point.view(shape) - self.center) * spread).reshape(-1)])

        def linearize(point: Tensor) -> tuple[Tensor, Tensor]:
            probabilities = self.evaluate(point.view(shape))[0]
            jacobian = self.jacobian(point.view(shape), probabilities)
            return residuals(point), torch.cat([jacobian, torch.diag(spread.repeat(len(mixture)))])

        point, cost = follow_valley(residuals, linearize, mixture.reshape(-1), deadline=deadline)
        return point.view(shape), cost

    def cost(self, mixture: Tensor, weight: Tensor, bias: Tensor) -> float:
        """Sum of squared misfits, and how far K is from typical."""
        prior = (mixture - self.center).square() * self.prior
        return float(weight.square().sum() + bias.square().sum() + prior.sum())

    def _step(self, mixture: Tensor, probabilities: Tensor, weight: Tensor, bias: Tensor, damping: float) -> Tensor:
        """The damped Gauss-Newton step."""
        count = len(mixture)
        if count <= LARGEST_DENSE:
            matrix = self.jacobian(mixture, probabilities)
            normal = matrix.T @ matrix
            misfits = torch.cat([weight.reshape(-1), bias])
            diagonal = normal.diagonal()
            diagonal.add_(self.prior.repeat(count))
            diagonal.add_(damping * (diagonal + 1e-14 * diagonal.max()))
            factor, failed = torch.linalg.cholesky_ex(normal)
            if int(failed):
                return torch.zeros_like(mixture)
            pull = ((mixture - self.center) * self.prior).reshape(-1)
            return torch.cholesky_solve((matrix.T @ misfits + pull)[:, None], factor).view(count, count)
        slope = (mixture - self.center) * self.prior + self.gradient(
            mixture, probabilities, weight / self.sigma_weight, bias / self.sigma_bias
        )
        inverse, ridge = self._preconditioner(mixture, probabilities, damping)
        if inverse is None:
            return torch.zeros_like(mixture)

        def damped(step: Tensor) -> Tensor:
            return self.product(mixture, probabilities, step) + ridge * step

        return conjugate_gradients(
            damped,
            slope,
            torch.zeros_like(slope),
            preconditioner=inverse,
            relative_energy=_STEP_ACCURACY,
            max_steps=_MOST_PRODUCTS,
        ).x

    def _preconditioner(
        self, mixture: Tensor, probabilities: Tensor, damping: float
    ) -> tuple[BlockLowRankInverse | None, Tensor]:
        """About the inverse of the damped `J^T J`.

        Features are nearly alike, so most of what couples examples is in few equations: those of db, and of dW along
        the common feature. These are taken in whole; of the others, each example's own block.

        Returns:
            The inverse, None if it fails, and what damping and prior add to the diagonal, `[N, N]`.
        """
        scales = self.problem.scales[:, None]
        residuals = scales * (probabilities - self.problem.targets)
        mean = probabilities @ self.logits.T
        moves = (scales * probabilities)[:, :, None] * (self.logits.T[None] - mean[:, None])
        cross = (residuals[:, None] @ moves).transpose(1, 2) * mixture[:, None] / self.sigma_weight**2
        factors = mixture.square().sum(dim=1) / self.sigma_weight**2 + self.sigma_bias**-2
        blocks = factors[:, None, None] * (moves.transpose(1, 2) @ moves) + cross + cross.transpose(1, 2)
        blocks.diagonal(dim1=1, dim2=2).add_(residuals.square().sum(dim=1)[:, None] / self.sigma_weight**2)
        ridge = damping * blocks.diagonal(dim1=1, dim2=2) + self.prior
        common = torch.linalg.svd(mixture)[2][0]
        along = moves * (mixture @ common)[:, None, None] + residuals[:, :, None] * common
        rows = torch.cat([moves / self.sigma_bias, along / self.sigma_weight], dim=1)
        blocks -= (1 - _KEPT) * (rows.transpose(1, 2) @ rows)
        blocks.diagonal(dim1=1, dim2=2).add_(ridge)
        return BlockLowRankInverse.of(blocks, rows.transpose(0, 1)), ridge

    def covariance(self, mixture: Tensor) -> Tensor:
        """Covariance between examples of the errors of one feature, from the curvature at the solution, `[N, N]`."""
        probabilities = self.evaluate(mixture)[0]
        if len(mixture) > LARGEST_DENSE:
            inverse, ridge = self._preconditioner(mixture, probabilities, 1e-14)
            variance = inverse.diagonal() if inverse is not None else ridge.reciprocal()
            return torch.diag(variance.sum(dim=1) / self.basis.shape[1])
        matrix = self.jacobian(mixture, probabilities)
        normal = matrix.T @ matrix
        normal.diagonal().add_(self.prior.repeat(len(mixture)) + 1e-14 * normal.diagonal().max())
        joint = torch.linalg.inv(normal).view((*mixture.shape, *mixture.shape))
        within = torch.einsum("minj,ij->mn", joint, torch.eye(len(mixture)).double()) / self.basis.shape[1]
        return within + self._covariance_of_basis(probabilities)

    def _covariance_of_basis(self, probabilities: Tensor) -> Tensor:
        """The share of the errors that lies outside the basis, which rounding turns, `[N, N]`."""
        residuals = self.problem.scales[:, None] * (probabilities - self.problem.targets)
        combinations, sizes, _ = torch.linalg.svd(residuals, full_matrices=False)
        precision = (sizes * _ROUNDING_FACTOR / self.sigma_weight).square()
        if self.problem.typical is not None:
            precision = precision + 1.0 / self.problem.typical.var(dim=0).mean().clamp(min=1e-300)
        return (combinations / precision.clamp(min=1e-300)) @ combinations.T


def _softmax_derivative(probabilities: Tensor, change: Tensor) -> Tensor:
    """Change of softmax rows for a change of their logits; the matrix is symmetric."""
    return probabilities * (change - (probabilities * change).sum(dim=1, keepdim=True))
