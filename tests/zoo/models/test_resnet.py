"""CIFAR ResNets: sizes of the paper, a plain transcription of the forward pass, and published weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradleak.errors import BadInput
from gradleak.zoo.data import load
from gradleak.zoo.models import CifarResNet, load_weights, resnet, resnet20, resnet32, resnet44, resnet56


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_those_of_the_paper() -> None:
    # Table 6 of He et al. 2016 gives 0.27M, 0.46M, 0.66M, 0.85M; the exact counts are by hand, for n blocks a stage:
    # 432+32 + n*(4608+64) + (13824+128+(n-1)*(18432+128)) + (55296+256+(n-1)*(73728+256)) + 650
    for model, blocks in ((resnet20(), 3), (resnet32(), 5), (resnet44(), 7), (resnet56(), 9)):
        stage2 = 13_824 + 128 + (blocks - 1) * 18_560
        stage3 = 55_296 + 256 + (blocks - 1) * 73_984
        assert parameters_of(model) == 464 + blocks * 4_672 + stage2 + stage3 + 650
    assert parameters_of(resnet20()) == 269_722
    assert parameters_of(resnet56()) == 853_018


def transcription(model: CifarResNet, inputs: Tensor, *, strides: bool) -> Tensor:
    """The forward pass in evaluation mode from the state alone: plain loops over names."""
    state = model.state_dict()

    def norm(features: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (features - mean) / torch.sqrt(var + 1e-5) * weight + bias

    features = norm(torch.conv2d(inputs, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(3):
            name = f"layer{stage}.{block}"
            stride = 2 if strides and stage > 1 and block == 0 else 1
            residual = torch.conv2d(features, state[f"{name}.conv1.weight"], padding=1, stride=stride)
            residual = norm(residual, f"{name}.bn1").clamp(min=0)
            residual = norm(torch.conv2d(residual, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            shortcut = torch.zeros_like(residual)
            side = (residual.shape[1] - features.shape[1]) // 2
            shortcut[:, side : residual.shape[1] - side] = features[:, :, ::stride, ::stride]
            features = (residual + shortcut).clamp(min=0)
    return features.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("strides", [True, False])
def test_forward_agrees_with_a_plain_transcription(strides: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    model = resnet20(strides=strides, seed=2).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    inputs = torch.rand(2, 3, 13, 12, generator=generator)
    with torch.no_grad():
        assert torch.allclose(model(inputs), transcription(model, inputs, strides=strides), atol=1e-4, rtol=1e-4)


def test_without_strides_nothing_is_subsampled() -> None:
    seen: list[torch.Size] = []

    def remember(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.shape)

    for strides in (True, False):
        model = resnet(8, strides=strides)
        model.layer3.register_forward_hook(remember)
        model(torch.zeros(2, 3, 16, 16))
    assert seen == [torch.Size((2, 64, 4, 4)), torch.Size((2, 64, 16, 16))]


def test_activation_replaces_every_relu_and_width_multiplies() -> None:
    model = resnet20(5, 1, activation=nn.Sigmoid, width_multiplier=2)
    assert sum(isinstance(layer, nn.Sigmoid) for layer in model.modules()) == 19
    assert not any(isinstance(layer, nn.ReLU) for layer in model.modules())
    assert model.linear.weight.shape == (5, 128)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


def test_per_example_gradients_by_functional_transforms() -> None:
    model = resnet(8, seed=1).eval()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, (weights, buffers), (image[None],)).logsumexp(1).sum()

    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batched = vmap(grad(loss), in_dims=(None, 0))(parameters, images)["conv1.weight"]
    single = grad(loss)(parameters, images[1])["conv1.weight"]
    assert single.abs().max() > 0
    assert torch.allclose(batched[1], single, atol=1e-5, rtol=1e-3)


def test_bad_arguments_are_reported_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        resnet(18, 0, 0, width_multiplier=0)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "num_classes",
        "in_channels",
        "width_multiplier",
        "depth",
    ]
    with pytest.raises(BadInput, match="depth"):
        resnet(2)
    with pytest.raises(BadInput, match="in-place"):
        resnet20(activation=lambda: nn.ReLU(inplace=True))


@pytest.mark.parametrize(("depth", "correct"), [(20, 817), (56, 836)])
def test_published_weights_reach_their_accuracy(depth: int, correct: int, data_folder: Path) -> None:
    model = load_weights(resnet(depth), data_folder / f"cifar10-resnet{depth}.safetensors").eval()
    images = load(data_folder / "cifar10-test.tar")
    mean = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    std = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    with torch.no_grad():
        predicted = torch.cat([model((inputs - mean) / std).argmax(1) for inputs in images.inputs.split(100)])
    # Other machines round differently, which can turn a near tie.
    assert abs(int((predicted == images.targets).sum()) - correct) <= 2
