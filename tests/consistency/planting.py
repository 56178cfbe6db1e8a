"""Small models, a batch, and the client in plain autograd, in which causes are planted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.consistency import Consistency, check_consistency
from gradleak.seeds import stage_generator
from gradleak.updates import UpdateKind
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import seeded

N = 3
SPACE = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
MEAN = torch.tensor(SPACE.mean).view(-1, 1, 1)
STD = torch.tensor(SPACE.std).view(-1, 1, 1)
X = torch.rand((N, 3, 16, 16), generator=stage_generator(0, "inputs"))
Y = torch.tensor([1, 7, 4])

Tensors = dict[str, Tensor]


def smooth() -> nn.Module:
    return lenet(10, input_size=16, seed=1, initialization="default")


def normed() -> nn.Module:
    """BatchNorm whose running statistics are not the fresh ones."""
    generator = stage_generator(0, "statistics")
    net = seeded(
        0, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10))
    )
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator) * (2 if "var" in name else 1))
    return net


def dropping() -> nn.Module:
    layers = (nn.Linear(768, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    return seeded(0, lambda: nn.Sequential(nn.Flatten(), *layers))


def step(
    model: nn.Module,
    model_input: Tensor | None = None,
    targets: Tensor = Y,
    *,
    train: bool = False,
    total: bool = False,
) -> Tensors:
    """The client in plain PyTorch: `model_input` is what enters the model, normalized or not."""
    model.train(train)
    model_input = (X - MEAN) / STD if model_input is None else model_input
    loss = nn.functional.cross_entropy(model(model_input), targets, reduction="sum" if total else "mean")
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def verdict(
    tensors: Tensors, model: nn.Module | None = None, kind: UpdateKind = "gradient", **options: object
) -> Consistency:
    task = gl.Task(model if model is not None else smooth(), SPACE, 10)
    return check_consistency(gl.Update(tensors, kind), task, X, Y, **options)  # pyright: ignore[reportArgumentType]


def proven(found: Consistency) -> list[str]:
    assert not found.consistent
    assert all(cause.explanation for cause in found.causes)
    return [cause.name for cause in found.causes if cause.proven]


def perhaps(found: Consistency) -> list[str]:
    assert not found.consistent
    assert not any(cause.proven for cause in found.causes)
    return [cause.name for cause in found.causes]


def scaled(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: factor * tensor for name, tensor in tensors.items()}
