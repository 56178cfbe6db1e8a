"""Bounds of networks against dense Jacobians by plain PyTorch, and what must not change them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.defenses import (
    DGC,
    Augment,
    DropLayers,
    GaussianNoise,
    LaplaceNoise,
    MixUp,
    Precode,
    Quantize,
    RandomK,
    Sign,
    Soteria,
    TopK,
)
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import seeded

SHAPE = (2, 6, 6)
SPACE = gl.ImageSpace(SHAPE, mean=(0.4, 0.5), std=(0.2, 0.3))
NOISE = GaussianNoise(1e-3)


def small() -> gl.Task:
    return gl.Task(lenet(5, 2, input_size=6, width=3, seed=0).double(), SPACE, 5)


def batch(count: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64), torch.arange(count) % 5


def gradient(task: gl.Task, inputs: Tensor, probabilities: Tensor) -> Tensor:
    """The gradient as a training script makes it, normalization included."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (SPACE.mean, SPACE.std))
    logits = task.model((inputs - mean) / std)
    loss = -(probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()
    gradients = torch.autograd.grad(loss, list(task.model.parameters()), create_graph=True)
    return torch.cat([part.flatten() for part in gradients])


def dense(task: gl.Task, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobians by the inputs and by the probabilities."""
    one_hot = nn.functional.one_hot(targets, 5).double()

    def update(inputs: Tensor, probabilities: Tensor) -> Tensor:
        return gradient(task, inputs, probabilities)

    by_inputs, by_targets = torch.autograd.functional.jacobian(update, (inputs, one_hot), vectorize=True)
    return by_inputs.flatten(1), by_targets.flatten(1)


def ceiling(jacobian: Tensor, std: float) -> float:
    return -10 * math.log10(std**2 * float(torch.linalg.inv(jacobian.T @ jacobian).trace()) / jacobian.shape[1])


def bound(
    *, client: Client | None = None, defenses: Sequence[gl.defenses.Defense] = (NOISE,), count: int = 1, **more: object
) -> gl.LeakageBound:
    inputs, targets = batch(count)
    return gl.leakage_bound(
        small(),
        inputs,
        targets,
        client=client,
        defenses=defenses,
        **more,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("count", [1, 2])
def test_spectrum_floor_and_map_are_those_of_the_dense_jacobian(count: int) -> None:
    jacobian, _ = dense(small(), *batch(count))
    found = bound(count=count, keep_information=True)
    values = torch.linalg.svdvals(jacobian)
    assert float((found.singular_values - values).abs().max()) < 1e-8 * float(values[0])
    wanted = ceiling(jacobian, 1e-3)
    assert abs(10 ** ((found.psnr_ceiling - wanted) / 10) - 1) < 1e-6
    covariance = 1e-6 * torch.linalg.inv(jacobian.T @ jacobian)
    assert torch.allclose(found.pixel_std.flatten().square(), covariance.diagonal(), rtol=1e-6)
    assert math.isclose(found.fisher_trace, float(jacobian.square().sum()) * 1e6 / jacobian.shape[1], rel_tol=1e-9)
    assert found.information is not None
    assert torch.allclose(found.information.matrix(), 1e6 * jacobian.T @ jacobian, rtol=1e-8, atol=1e-3)


def test_a_task_in_float32_is_bounded_in_float64() -> None:
    inputs, targets = batch()
    single = gl.Task(small().model.float(), SPACE, 5)
    found = gl.leakage_bound(single, inputs, targets, defenses=[NOISE])
    assert abs(found.psnr_ceiling - bound().psnr_ceiling) < 1e-4
    assert next(single.model.parameters()).dtype == torch.float32


def test_unknown_probabilities_cost_the_schur_complement() -> None:
    by_inputs, by_targets = dense(small(), *batch(2))
    # Orthonormal rows whose entries sum to zero, for each of two examples.
    whole = torch.eye(5, dtype=torch.float64) - 0.2
    nuisance = by_targets @ torch.block_diag(whole, whole)
    left = by_inputs - nuisance @ torch.linalg.pinv(nuisance, rtol=1e-10) @ by_inputs
    found = bound(count=2, labels="probabilities")
    assert abs(found.psnr_ceiling - ceiling(left, 1e-3)) < 1e-5
    known = bound(count=2, threat=gl.ThreatModel(labels_known=True))
    assert found.psnr_ceiling < known.psnr_ceiling
    assert bound(count=2).psnr_ceiling == known.psnr_ceiling  # classes have no derivative
    assert any("classes" in said for said in bound().assumptions)


def test_the_order_of_the_batch_only_permutes_the_map() -> None:
    inputs, targets = batch(3)
    order = torch.tensor([2, 0, 1])
    first = gl.leakage_bound(small(), inputs, targets, defenses=[NOISE])
    second = gl.leakage_bound(small(), inputs[order], targets[order], defenses=[NOISE])
    assert torch.allclose(first.singular_values, second.singular_values, rtol=1e-7, atol=1e-10)
    assert torch.allclose(first.pixel_std[order], second.pixel_std, rtol=1e-5)


def test_dp_sgd_is_noise_on_the_mean_of_clipped_gradients() -> None:
    inputs, targets = batch(2)
    jacobians = []
    for n in range(2):
        one, _ = dense(small(), inputs[n : n + 1], targets[n : n + 1])
        alone = gradient(small(), inputs[n : n + 1], nn.functional.one_hot(targets[n : n + 1], 5).double()).detach()
        along = alone / alone.norm()
        jacobians.append(0.1 / alone.norm() * (one - along[:, None] * (along @ one)) / 2)
    found = bound(client=DPSGD(clip=0.1, noise_multiplier=0.02), defenses=(), count=2)
    # The slack of 1e-6 in the norm that opacus adds is far below.
    assert abs(found.psnr_ceiling - ceiling(torch.cat(jacobians, dim=1), 0.02 * 0.1 / 2)) < 1e-3


def test_noises_add_up_and_what_follows_them_adds_nothing() -> None:
    plain = bound(defenses=[GaussianNoise(5e-3)]).psnr_ceiling
    assert math.isclose(bound(defenses=[GaussianNoise(3e-3), GaussianNoise(4e-3)]).psnr_ceiling, plain)
    after = bound(defenses=[GaussianNoise(5e-3), Quantize("int8"), TopK(0.1)])
    assert after.psnr_ceiling == plain
    assert any("Quantize, TopK" in said for said in after.assumptions)
    assert math.isclose(bound(defenses=[LaplaceNoise(5e-3)]).psnr_ceiling, plain)  # 1/b^2, not 1/(2 b^2)
    # The strongest of noises that do not touch.
    assert bound(defenses=[GaussianNoise(1e-9), TopK(1.0), GaussianNoise(5e-3)]).psnr_ceiling == plain
    # Noise of all members of an aggregate, each with its share.
    members = Aggregate([DPSGD(clip=1e6, noise_multiplier=1e-8)], count=2)
    single = bound(count=2, client=Aggregate([Gradient()], count=2), defenses=[GaussianNoise(1e-2 / 2**0.5)])
    assert abs(bound(count=2, client=members, defenses=()).psnr_ceiling - single.psnr_ceiling) < 1e-3


def test_what_is_withheld_is_no_equation() -> None:
    jacobian, _ = dense(small(), *batch())
    sent = torch.cat([torch.full((p.numel(),), "conv1" not in name) for name, p in small().model.named_parameters()])
    wanted = torch.linalg.svdvals(jacobian[sent])
    drop = DropLayers(("conv1.*",))
    for defenses in ([drop, NOISE], [NOISE, drop]):
        found = bound(defenses=defenses)
        assert torch.allclose(found.singular_values[: len(wanted)], wanted, atol=1e-8)
    update = gradient(small(), batch()[0], nn.functional.one_hot(batch()[1], 5).double()).detach()
    kept = update.abs().argsort(descending=True)[: math.ceil(0.3 * len(update))]
    found = bound(defenses=[TopK(0.3), NOISE])
    assert torch.allclose(found.singular_values, torch.linalg.svdvals(jacobian[kept])[:72], atol=1e-8)
    half = [bound(defenses=defenses, seed=1).rank for defenses in ([RandomK(0.1), NOISE], [NOISE, RandomK(0.1)])]
    assert max(half) <= math.ceil(0.1 * len(update))


def test_without_noise_only_rounding_limits() -> None:
    exact = bound(defenses=())
    assert (exact.status, exact.mse_floor, exact.psnr_ceiling) == ("unbounded", 0.0, math.inf)
    inputs, targets = batch()
    single = gl.leakage_bound(gl.Task(small().model.float(), SPACE, 5), inputs, targets)
    # 2^-23 against 2^-52 in the same places.
    assert math.isclose(exact.precision_ceiling - single.precision_ceiling, 20 * math.log10(2) * 29, rel_tol=1e-3)
    ceilings = [bound(defenses=[Quantize(form)]).precision_ceiling for form in ("fp16", "bf16", "fp8_e4m3")]
    assert single.precision_ceiling > ceilings[0] > ceilings[1] > ceilings[2]
    jacobian, _ = dense(small(), inputs, targets)
    update = gradient(small(), inputs, nn.functional.one_hot(targets, 5).double()).detach()
    parts = update.split([p.numel() for p in small().model.parameters()])
    std = torch.cat([(part.abs().amax() / 127 / 12**0.5).expand(len(part)) for part in parts])
    wanted = ceiling(jacobian / std[:, None], 1.0)
    assert abs(bound(defenses=[Quantize("int8")]).precision_ceiling - wanted) < 1e-3


def test_signs_are_said_to_be_left_out() -> None:
    found = bound(defenses=[Sign(), NOISE])
    assert found.psnr_ceiling == math.inf
    assert any("Signs" in said for said in found.assumptions)


@pytest.mark.parametrize("labels", ["known", "probabilities"])
def test_a_large_problem_gets_a_ceiling_above_the_exact_one(labels: str) -> None:
    exact = bound(labels=labels)
    few = bound(labels=labels, exact_unknowns=0)
    assert (few.status, few.method) == ("partial", "lanczos")
    assert exact.psnr_ceiling <= few.psnr_ceiling < -10 * math.log10(1 / exact.fisher_trace)
    assert math.isclose(few.fisher_trace, exact.fisher_trace, rel_tol=0.05)
    assert bool((few.pixel_std < 1.5 * exact.pixel_std).all())
    assert any("would take about" in said for said in few.assumptions)
    assert bound(max_seconds=1e-9).status == "partial"


def test_directions_without_a_trace_are_counted() -> None:
    # Of the head alone: at most one direction for each feature and one for the residual.
    head = bound(client=Gradient(sent=("linear.*",)))
    assert head.status == "free_directions"
    assert head.free_directions == 72 - head.rank > 0
    assert head.mse_floor == math.inf
    assert head.identifiable_mse_floor < math.inf
    dead = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 5))).double()
    dead[1].bias.data.fill_(-1e3)  # pyright: ignore[reportCallIssue, reportArgumentType, reportAttributeAccessIssue]
    nothing = gl.leakage_bound(gl.Task(dead, SPACE, 5), *batch(), defenses=[NOISE])
    assert (nothing.status, nothing.rank, nothing.free_directions) == ("nothing", 0, 72)
    assert nothing.psnr_ceiling == -math.inf
    assert nothing.recoverable == 0


@pytest.mark.parametrize(
    ("client", "defenses"),
    [
        (LocalSGD(lr=0.1, epochs=2, batch_size=1), (NOISE,)),
        (LocalSGD(lr=0.1, epochs=2, batch_size=1), ()),
        (Gradient(), (MixUp(), NOISE)),
        (Gradient(), (Augment(), NOISE)),
        (Gradient(), (Soteria(percent=50), NOISE)),
        (Gradient(), (DGC(keep=0.9, clip=1.0), NOISE)),
        (Gradient(), (Precode(width=8), NOISE)),
        (Gradient(), (gl.defenses.QSGD(16),)),
    ],
)
def test_every_kind_of_client_and_defense_has_a_bound(client: Client, defenses: Sequence[gl.defenses.Defense]) -> None:
    found = bound(client=client, defenses=defenses, count=2)
    assert found.rank > 0
    assert found.precision_ceiling <= found.psnr_ceiling
    assert bool((found.singular_values >= 0).all())
    assert bool((found.singular_values.diff() <= 1e-12).all())


@dataclass(frozen=True)
class Tokens(gl.TabularSpace):
    """Rows that enter the model as something else."""

    @property
    def variable_shape(self) -> tuple[int, ...]:
        return (self.columns, 1)

    def encode(self, inputs: Tensor) -> Tensor:
        return inputs[..., None]

    def forward(self, module: nn.Module, state: object, variable: Tensor) -> Tensor:
        return torch.func.functional_call(module, state, (variable.squeeze(-1),))  # pyright: ignore[reportArgumentType]


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.tanh()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return NoForwardMode.apply(x)  # pyright: ignore[reportReturnType]


class Own(NoForwardMode):
    """A derivative, and a derivative of it, but no rules for `torch.func`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = x.tanh()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (found,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return g * (1 - found**2)


class Once(Own):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Own.backward(ctx, g)


class Applied(nn.Module):
    def __init__(self, function: type[NoForwardMode]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)  # pyright: ignore[reportReturnType]


def with_middle(middle: nn.Module) -> gl.Task:
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Identity(), nn.Linear(8, 5))).double()
    model[2] = middle
    return gl.Task(model, SPACE, 5)


@pytest.mark.parametrize("labels", ["known", "probabilities"])
def test_operations_without_forward_mode_have_the_same_bound(labels: Literal["known", "probabilities"]) -> None:
    inputs, targets = batch(2)
    own, usual = (
        gl.leakage_bound(with_middle(middle), inputs, targets, defenses=[NOISE], labels=labels)
        for middle in (Applied(Own), nn.Tanh())
    )
    assert own.rank == usual.rank
    assert torch.allclose(own.singular_values, usual.singular_values, rtol=1e-9, atol=1e-12)
    assert own.identifiable_mse_floor == pytest.approx(usual.identifiable_mse_floor, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "reason"), [(Once, "marked with @once_diff"), (NoForwardMode, "backward pass is")]
)
def test_operations_without_a_second_derivative_are_refused(function: type[NoForwardMode], reason: str) -> None:
    with pytest.raises(gl.BadInput, match=reason):
        gl.leakage_bound(with_middle(Applied(function)), *batch(), defenses=[NOISE])


def test_bad_input_is_refused_with_every_problem() -> None:
    inputs, targets = batch(2)
    with pytest.raises(gl.BadInput) as refused:
        gl.leakage_bound(
            small(),
            (255 * inputs).int(),
            targets[:1],
            defenses=[GaussianNoise(-1)],
            labels="soft",  # pyright: ignore[reportArgumentType]
            max_seconds=0,
            exact_unknowns=-1,
        )
    words = "inputs:", "targets:", "GaussianNoise.std", "labels:", "max_seconds:", "exact_unknowns:"
    assert all(any(line.startswith(word) for line in refused.value.problems) for word in words)
    rows = gl.Task(nn.Linear(4, 5).double(), Tokens(4), 5)
    with pytest.raises(gl.BadInput, match="tokens have no derivative"):
        gl.leakage_bound(rows, torch.rand(2, 4).double(), targets)
    odd = gl.Task(nn.Sequential(nn.Flatten(), nn.Linear(72, 5), Refusing()).double(), SPACE, 5)
    with pytest.raises(gl.BadInput, match="can be differentiated by its inputs"):
        gl.leakage_bound(odd, inputs, targets)
