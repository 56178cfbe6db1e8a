"""Numerical checks of a whole model's first and second derivatives."""

import math
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from gradleak.clients.stateless import Mode
from gradleak.inspection.bound import Bound, Kernels, Probe, chosen_kernels
from gradleak.inspection.probing import first_line
from gradleak.inspection.recording import record
from gradleak.inspection.result import Derivatives, DoubleBackward
from gradleak.seeds import stage_generator

STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""On the unit direction in the weights."""


def measure(probe: Probe, seed: int) -> Derivatives:
    """Check the derivatives of a task at a batch.

    Args:
        probe: task and batch.
        seed: of the directions.

    Returns:
        What was measured.
    """
    checks = tuple(_double_backward_checks(probe))
    double, float64 = _in_float64(probe)
    bound = Bound.of(double, "eval")
    with chosen_kernels(_kernels_that_run(checks)):
        direction = _direction(bound, seed)
        # Where double backward does not run, autograd.grad may pass by what stops it and answer all the same.
        runs = any(check.runs for check in checks if check.mode == "eval" and check.kernels != "own")
        exact = _exact_product(bound, direction) if runs else None
        products = [_difference_product(bound, direction, step) for step in STEPS]
        update = bound.update(double.variable)
        size = _norm(update)
        smallest_change = _changes(products)
        estimate = exact if exact is not None else products[_index_of_least(smallest_change)]
        return Derivatives(
            checks,
            tuple((step, _relative(product, exact)) for step, product in zip(STEPS, products, strict=True)),
            tuple(zip(STEPS, smallest_change, strict=True)),
            _first_error(bound, update, seed),
            _curvature(bound, seed, by_autograd=exact is not None),
            float(estimate.norm()) / size if size > 0 else 0.0,
            float64,
        )


def _in_float64(probe: Probe) -> tuple[Probe, bool]:
    """The probe in float64 if the model runs there, and whether all that the input becomes then is float64."""
    try:
        double = probe.in_float64()
        bound = Bound.of(double, "eval")
        leaves = bound.leaves()
        ran = record(bound.module, double.variable, lambda x: bound.outputs(leaves, x), leaves)
    # Foreign code that insists on its own precision says so in many ways.
    except Exception:  # noqa: BLE001
        return probe, False
    return double, ran.dtypes == {torch.float64}


def _double_backward_checks(probe: Probe) -> Generator[DoubleBackward]:
    modes: tuple[Mode, ...] = ("eval", "train")
    cuda = probe.variable.device.type == "cuda"
    choices: tuple[Kernels, ...] = ("own", "math attention", "plain") if cuda else ("own", "math attention")
    for mode in modes:
        for kernels in choices:
            error = ""
            try:
                bound = Bound.of(probe, mode, as_attacks_do=kernels != "own")
                with chosen_kernels(kernels):
                    variable = probe.variable.detach().clone().requires_grad_()
                    gradients = bound.update(variable, create_graph=True)
                    # Not autograd.grad by the variable: that passes by Functions marked once_differentiable, which
                    # cut the graph, without a word.
                    product = _product(gradients, gradients)
                    if product.requires_grad:
                        product.backward()
            # Foreign code may raise anything in its backward pass, and what it says is the result.
            except Exception as raised:  # noqa: BLE001
                error = first_line(raised)
            yield DoubleBackward(mode, kernels, not error, error)
            if kernels == "math attention" and not error:
                break


def _kernels_that_run(checks: Sequence[DoubleBackward]) -> Kernels:
    running: list[Kernels] = [
        check.kernels for check in checks if check.mode == "eval" and check.runs and check.kernels != "own"
    ]
    return running[0] if running else "math attention"


def _direction(bound: Bound, seed: int) -> list[Tensor]:
    """A unit direction in the weights of the kind that an attack meets: the update's difference to another input's."""
    generator = stage_generator(seed, "inspection/other input")
    variable = bound.probe.variable
    noise = torch.rand(variable.shape, generator=generator, dtype=torch.float64).to(variable)
    difference = [a - b for a, b in zip(bound.update(variable), bound.update(noise), strict=True)]
    norm = _norm(difference)
    if not 0 < norm < math.inf:
        difference = [torch.ones_like(part) for part in difference]
        norm = _norm(difference)
    return [part / norm for part in difference]


def _exact_product(bound: Bound, direction: Sequence[Tensor]) -> Tensor | None:
    """`J^T u` by double backward, None if it does not run."""
    variable = bound.probe.variable.detach().clone().requires_grad_()
    try:
        value = _product(bound.update(variable, create_graph=True), direction)
        return torch.autograd.grad(value, variable, materialize_grads=True)[0]
    # As above: whatever the model's backward code raises means that this derivative is not to be had.
    except Exception:  # noqa: BLE001
        return None


def _difference_product(bound: Bound, direction: Sequence[Tensor], step: float) -> Tensor:
    """`J^T u` by central differences of the input gradient at `w + step u` and `w - step u`."""
    sides: list[Tensor] = []
    for sign in (1, -1):
        moved = {
            name: value + sign * step * part
            for (name, value), part in zip(bound.weights.items(), direction, strict=True)
        }
        variable = bound.probe.variable.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = bound.loss(moved, variable)
            sides.append(
                torch.autograd.grad(loss, variable, materialize_grads=True)[0]
                if loss.requires_grad
                else 0 * variable.detach()
            )
    return (sides[0] - sides[1]) / (2 * step)


def _changes(products: Sequence[Tensor]) -> list[float]:
    """Relative change of each product from the one before; NaN for the first."""
    return [math.nan, *(_relative(one, other) for other, one in zip(products, products[1:], strict=False))]


def _index_of_least(values: Sequence[float]) -> int:
    finite = [(value, index) for index, value in enumerate(values) if math.isfinite(value)]
    return min(finite)[1] if finite else len(values) - 1


def _first_error(bound: Bound, update: Sequence[Tensor], seed: int) -> float:
    """Differences of the loss along random directions in the weights against the gradient.

    Random directions, since along the gradient a wrong one still agrees in part. The step is small, so that in
    float64 no kink lies between; the median over directions survives where one does.

    Returns:
        The median relative difference.
    """
    errors: list[float] = []
    for number in range(5):
        generator = stage_generator(seed, f"inspection/weights/{number}")
        direction = [
            torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part)
            * (part.square().mean().sqrt() if float(part.abs().max()) > 0 else 1)
            for part in update
        ]
        norm = _norm(direction)
        step = 1e-5 if bound.probe.task.dtype == torch.float64 else 1e-2
        with torch.no_grad():
            ends = [
                bound.loss(
                    {
                        name: value + sign * step * part / norm
                        for (name, value), part in zip(bound.weights.items(), direction, strict=True)
                    },
                    bound.probe.variable,
                )
                for sign in (1, -1)
            ]
        claimed = float(_product(update, direction)) / norm
        measured = float(ends[0] - ends[1]) / (2 * step)
        largest = max(abs(claimed), abs(measured))
        errors.append(abs(claimed - measured) / largest if largest > 1e-9 else 0.0)
    return sorted(errors)[len(errors) // 2]


def _curvature(bound: Bound, seed: int, *, by_autograd: bool) -> float:
    """Second over first derivative of a random combination of the outputs by the input, along a random direction.

    Returns:
        The ratio of norms; by differences, where autograd has no second derivative, 0 for what may be rounding.
    """
    generator = stage_generator(seed, "inspection/curvature")
    x = bound.probe.variable.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            outputs = bound.outputs(bound.weights, x)
            weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
            (first,) = torch.autograd.grad((outputs * weights).sum(), x, create_graph=True, materialize_grads=True)
            along = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            if not by_autograd:
                return _bend(bound, first.detach(), weights, along / along.norm())
            slope = (first * along).sum() / along.norm()
            if not slope.requires_grad:
                return 0.0
            (second,) = torch.autograd.grad(slope, x, materialize_grads=True)
        size = float(first.detach().norm())
        return float(second.norm()) / size if size > 0 else 0.0
    # As above.
    except Exception:  # noqa: BLE001
        return math.nan


def _bend(bound: Bound, first: Tensor, weights: Tensor, along: Tensor) -> float:
    """The same by a difference of first derivatives."""
    step = 1e-4
    moved = (bound.probe.variable.detach() + step * along).requires_grad_()
    (after,) = torch.autograd.grad((bound.outputs(bound.weights, moved) * weights).sum(), moved)
    ratio = float((after - first).norm() / first.norm()) / step
    return ratio if ratio > 1e-6 else 0.0


def coupling(bound: Bound) -> float:
    """Largest derivative of the first example's outputs by another example, relative to that by itself."""
    x = bound.probe.variable.detach().clone().requires_grad_()
    with torch.enable_grad():
        # The square, since a plain sum of normalized outputs may not depend on anything.
        value = bound.outputs(bound.weights, x)[0].square().sum()
        if not value.requires_grad:
            return 0.0
        (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
    own = float(gradient[0].norm())
    return float(gradient[1:].norm()) / own if own > 0 else 0.0


def agree(run: Callable[[], Tensor]) -> bool:
    """Whether two runs give the same bits."""
    with torch.no_grad():
        return torch.equal(run().nan_to_num(), run().nan_to_num())


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Norm of the difference of two updates, relative to the second."""
    size = _norm(other)
    return _norm([a - b for a, b in zip(one, other, strict=True)]) / size if size > 0 else math.nan


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b.detach()).sum() for a, b in zip(one, other, strict=True)]).sum()


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def _relative(one: Tensor, other: Tensor | None) -> float:
    if other is None:
        return math.nan
    size = float(other.norm())
    return float((one - other).norm()) / size if size > 0 else (0.0 if float(one.norm()) == 0 else math.inf)
