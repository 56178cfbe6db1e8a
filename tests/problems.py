"""Small tasks with random private batches on which many tests run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.zoo.models import lenet, mlp
from gradleak.zoo.models.building import seeded


@dataclass(frozen=True, eq=False)
class Problem:
    """A task, a private batch, and a client that may train it."""

    name: str
    task: gl.Task
    inputs: Tensor
    targets: Tensor
    client: gl.clients.Client


def images(count: int, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> Tensor:
    return torch.rand((count, *shape), generator=stage_generator(seed, "images"), dtype=torch.float64)


def labels(count: int, classes: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=stage_generator(seed, "labels"))


def small_lenet(dtype: torch.dtype = torch.float64, **settings: object) -> gl.Task:
    model = lenet(10, input_size=16, **settings).to(dtype)  # pyright: ignore[reportArgumentType]
    return gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)


def normed_net(norm: Callable[[int], nn.Module], dropout: float = 0.0) -> nn.Sequential:
    """A net with normalization and dropout, with values that are not their trivial defaults."""
    generator = stage_generator(1, "net")
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        norm(6),
        nn.Softplus(),
        nn.Dropout(dropout),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(96, 10),
    ).double()
    with torch.no_grad():
        for value in [*net.parameters(), *net.buffers()]:
            if value.is_floating_point():
                value.copy_(0.1 + 0.9 * torch.rand(value.shape, generator=generator, dtype=value.dtype))
    return net


class TinyTransformer(nn.Module):
    """Patches as tokens through an encoder layer, whose fused attention has no second derivative."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(dim=1))


class TiedRows(nn.Module):
    """One matrix on the way in and on the way out, as language models tie their embedding, and a bias of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.into = nn.Linear(48, 10)
        self.back = nn.Linear(10, 48)
        self.head = nn.Linear(48, 10)
        self.head.weight = self.into.weight

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(self.pool(pixels).flatten(1)))
        return self.head(torch.sigmoid(self.back(hidden)))


def task_of(model: nn.Module) -> gl.Task:
    """A model of color images of 16 pixels, in float64."""
    return gl.Task(model.double(), gl.ImageSpace((3, 16, 16)), num_classes=10)


def gradient_problems() -> list[Problem]:
    """One gradient of many kinds of models, in either mode."""
    space = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    batch, classes = images(3), labels(3)
    soft = torch.softmax(torch.randn((3, 10), generator=stage_generator(0, "soft"), dtype=torch.float64), dim=1)

    def task(model: nn.Module) -> gl.Task:
        return gl.Task(model.double(), space, num_classes=10)

    flat = gl.Task(mlp(48, (12,), 10, seed=0).double(), gl.TabularSpace(48), num_classes=10)
    gradient = gl.clients.Gradient
    return [
        Problem("lenet", small_lenet(), images(1), labels(1), gradient()),
        Problem("lenet-batch", small_lenet(), batch, classes, gradient()),
        Problem("lenet-soft-targets", small_lenet(), batch, soft, gradient()),
        Problem("rows", flat, images(3, (3, 4, 4)).flatten(1), classes, gradient()),
        Problem("batchnorm-eval", task(normed_net(nn.BatchNorm2d)), batch, classes, gradient(mode="eval")),
        Problem("batchnorm-train", task(normed_net(nn.BatchNorm2d)), batch, classes, gradient(mode="train")),
        Problem("dropout-off", task(normed_net(nn.BatchNorm2d, 0.3)), batch, classes, gradient(dropout="off")),
        Problem("dropout-mask", task(normed_net(nn.Identity, 0.3)), batch, classes, gradient(dropout="fixed_mask")),
        Problem("transformer", task(seeded(0, TinyTransformer)), batch, classes, gradient(mode="eval")),
    ]


def client_problems() -> list[Problem]:
    """Every other kind of client, each as it can be simulated without its private randomness."""
    batch, classes = images(5), labels(5)
    clients = gl.clients
    order = ((2, 0, 4, 1, 3), (1, 2, 3, 4, 0))
    normed = task_of(normed_net(nn.BatchNorm2d))
    frozen = small_lenet()
    for name, parameter in frozen.model.named_parameters():
        parameter.requires_grad_(name.startswith("linear"))
    some: list[tuple[str, gl.Task, gl.clients.Client]] = [
        ("frozen-trunk", frozen, clients.Gradient()),
        ("tied", task_of(seeded(0, TiedRows)), clients.Gradient()),
        ("head-only", small_lenet(), clients.Gradient(sent=("linear.*",))),
        ("head-not-sent", small_lenet(), clients.Gradient(sent=("conv*",))),
        ("buffers", normed, clients.Gradient(mode="train", send_buffers=True)),
        ("micro-batches", normed, clients.Gradient(mode="train", micro_batch=2, send_buffers=True)),
        ("bf16", small_lenet(torch.float32), clients.Gradient(autocast="bf16")),
        ("fp16", small_lenet(torch.float32), clients.Gradient(autocast="fp16", loss_scale=1024.0)),
        ("sgd-step", small_lenet(), clients.LocalSGD(lr=0.1)),
        ("sgd", small_lenet(), clients.LocalSGD(lr=0.1, epochs=2, batch_size=2, momentum=0.9, order=order)),
        ("sgd-frozen", frozen, clients.LocalSGD(lr=0.1, epochs=2, shuffle=False)),
        ("sgd-tied", task_of(seeded(0, TiedRows)), clients.LocalSGD(lr=0.1, epochs=2, shuffle=False)),
        ("sgd-head-not-sent", small_lenet(), clients.LocalSGD(lr=0.1, epochs=2, shuffle=False, sent=("conv*",))),
        (
            "sgd-buffers",
            normed,
            clients.LocalSGD(lr=0.1, epochs=2, batch_size=3, order=order, mode="train", send_buffers=True),
        ),
        (
            "sgd-dropout",
            task_of(normed_net(nn.BatchNorm2d, 0.3)),
            clients.LocalSGD(lr=0.1, epochs=2, shuffle=False, dropout="fixed_mask"),
        ),
        ("adam", small_lenet(), clients.LocalAdam(lr=0.01, epochs=2, batch_size=2, order=order)),
        ("aggregate", small_lenet(), clients.Aggregate([clients.Gradient()], count=3)),
        (
            "aggregate-sgd",
            normed,
            clients.Aggregate(
                [clients.LocalSGD(lr=0.1, epochs=2, shuffle=False, mode="train", send_buffers=True)],
                count=2,
                weighting="examples",
            ),
        ),
        ("dp-sgd", small_lenet(), clients.DPSGD(clip=0.05)),
        ("dp-sgd-head", small_lenet(), clients.DPSGD(clip=0.05, sent=("linear.*",), expected_batch_size=7)),
    ]
    return [Problem(name, task, batch, classes, client) for name, task, client in some]


def problems() -> list[Problem]:
    """Everything that a client may send of these models."""
    return gradient_problems() + client_problems()


def texts(count: int = 2, *, seed: int = 0) -> tuple[gl.Task, Tensor, Tensor]:
    """A classifier of padded texts of at most 5 tokens, through an embedding."""
    model = seeded(seed, lambda: nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 3)))
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(1, 11, (count, 5), generator=generator)
    inputs[0, 3:] = 0
    targets = torch.randint(0, 3, (count,), generator=generator)
    return gl.Task(model, gl.TokenSpace(11, 5, padding=0), num_classes=3), inputs, targets
