"""Every kind of operation is recognized by what it does, however it is called, and at the place where it ran."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.inspection.models import Attend, StraightThrough, around, inspected, on_tokens
from tests.problems import TinyTransformer

Activation = Callable[[Tensor], Tensor]

SMOOTH: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "softmax": lambda z: z.softmax(dim=1),
    "layer norm": lambda z: functional.layer_norm(z, z.shape[1:]),
    "root": lambda z: (z * z + 1e-3).sqrt(),
    "norm": functional.normalize,
    "identity": lambda z: 2 * z,
    "average": lambda z: functional.avg_pool2d(z, 2),
}

PIECEWISE_LINEAR: dict[str, Activation] = {
    "relu": functional.relu,
    "relu.": lambda z: z.relu(),
    "relu module": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "max_pool2d": lambda z: functional.max_pool2d(z, 2),
    "hardtanh": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "_prelu_kernel": nn.PReLU(),
    "abs": torch.abs,
    "clamp": lambda z: z.clamp(-0.5, 0.5),
    "sort": lambda z: z.sort(dim=1)[0],
    "topk": lambda z: z.topk(3, dim=1)[0],
    "max": lambda z: z - z.max(dim=1, keepdim=True)[0],
    "maximum": lambda z: torch.maximum(z, -2 * z),
}


def selected(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, 0.1 * z)


def largest_channel(z: Tensor) -> Tensor:
    return z * functional.one_hot(z.argmax(dim=1), 6).movedim(-1, 1)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_operations_are_not_found_fault_with(name: str) -> None:
    found = inspected(around(SMOOTH[name]))
    assert found.verdict == "smooth"
    assert found.findings == ()
    assert found.derivatives.best_error < 1e-7


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_kinks_are_found_however_they_are_called(name: str) -> None:
    found = inspected(around(PIECEWISE_LINEAR[name]))
    assert found.verdict == "kinks"
    (finding,) = found.findings
    assert finding.operation == name.split()[0].rstrip(".")
    assert finding.kind == "piecewise linear"
    assert finding.modes == ("eval", "train")
    assert found.derivatives.curvature == 0
    assert "linear in the input" in found.headline


@pytest.mark.parametrize(
    ("activation", "operation", "kind", "verdict"),
    [
        (functional.hardswish, "hardswish", "kink", "kinks"),
        (functional.selu, "elu", "kink", "kinks"),
        (functional.elu, "elu", "curvature jump", "smooth"),
        (functional.softsign, "softsign", "curvature jump", "smooth"),  # made of abs, and smoother than that
        (functional.hardshrink, "hardshrink", "jump", "steps"),
        (torch.round, "round", "step", "no gradient"),
        (torch.sign, "sign", "step", "no gradient"),
        (selected, "gt", "choice", "kinks"),
        (largest_channel, "argmax", "choice", "kinks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_kinds_are_told_apart(activation: Activation, operation: str, kind: str, verdict: str) -> None:
    found = inspected(around(activation))
    assert [(finding.operation, finding.kind) for finding in found.findings] == [(operation, kind)]
    assert found.verdict == verdict


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_smooth(layer: type[nn.RNNBase]) -> None:
    found = inspected(on_tokens(lambda: layer(16, 12, batch_first=True)))  # pyright: ignore[reportCallIssue]
    assert found.verdict == "smooth"
    assert found.conditions.in_place == ()  # what they overwrite inside is their own


def test_a_recurrent_layer_with_relu_has_kinks_inside_its_module() -> None:
    found = inspected(on_tokens(lambda: nn.RNN(16, 12, batch_first=True, nonlinearity="relu")))
    assert found.verdict == "kinks"
    assert found.findings[0].places == ("layer (RNN)",)


@pytest.mark.parametrize(
    "layer", [Attend, lambda: nn.MultiheadAttention(16, 2, batch_first=True)], ids=["functional", "module"]
)
def test_fused_attention_has_no_second_derivative_and_the_plain_kernel_has(layer: Callable[[], nn.Module]) -> None:
    found = inspected(on_tokens(layer))
    assert found.findings[0].kind == "no double backward"
    assert "attention" in found.findings[0].operation
    checks = {(check.mode, check.kernels): check.runs for check in found.derivatives.double_backward}
    assert checks["eval", "own"] is False
    assert checks["eval", "math attention"] is True
    assert found.verdict == "smooth"
    assert any(one.faithful and "attention" in one.what for one in found.replacements)


def test_dropout_hides_the_fused_kernel_in_training_mode_only() -> None:
    found = inspected(on_tokens(lambda: nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)))
    checks = {(check.mode, check.kernels): check.runs for check in found.derivatives.double_backward}
    assert checks["train", "own"] is True
    assert checks["eval", "own"] is False
    assert found.conditions.random == ("train",)
    assert found.conditions.dropout == ("layer",)


def test_kinks_and_fused_attention_of_one_model_are_both_found() -> None:
    found = inspected(TinyTransformer())
    assert [finding.kind for finding in found.findings] == ["no double backward", "piecewise linear"]
    assert found.findings[1].places == ("encoder (TransformerEncoderLayer)",)
    assert found.verdict == "kinks"


def test_quantized_activations_with_a_straight_through_derivative() -> None:
    found = inspected(around(StraightThrough.apply))
    kinds = {finding.operation: finding.kind for finding in found.findings}
    assert kinds == {"round": "step", "StraightThrough": "custom backward"}
    assert found.derivatives.first_error > 0.1
    assert "not the derivative of its forward pass" in found.headline
    assert next(route for route in found.routes if route.attack == "finite_differences").works is False
    assert any("dequantized" in one.what and not one.faithful for one in found.replacements)


def test_quantized_weights_are_told_from_quantized_activations() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-0.05, 0.05, 7680).view(10, 768))

        def forward(self, pixels: Tensor) -> Tensor:
            fine = self.weight + (torch.round(99 * self.weight) / 99 - self.weight).detach()
            return functional.linear(pixels.flatten(1), fine).tanh()

    found = inspected(Rounded())
    (finding,) = found.findings
    assert (finding.operation, finding.kind, finding.on_weights) == ("round", "step", True)
    assert found.verdict == "smooth"  # in the input, that is
    assert "straight-through" in found.headline


def test_a_hard_sigmoid_has_no_second_derivative_at_all() -> None:
    found = inspected(around(functional.hardsigmoid))
    assert found.verdict == "no double backward"
    assert "hardsigmoid_backward is not implemented" in found.headline
    assert not found.derivatives.runs
    assert found.derivatives.best_error < 1e-6  # differences settle all the same
