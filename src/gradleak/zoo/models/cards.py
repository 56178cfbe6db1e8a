"""The reference models by name, for listings and for specifications that name a model."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import nn

from gradleak.zoo.models.building import Activation
from gradleak.zoo.models.convnet import convnet
from gradleak.zoo.models.lenet import lenet
from gradleak.zoo.models.mlp import mlp
from gradleak.zoo.models.resnet import resnet

ModelFactory = Callable[[tuple[int, int, int], int, int], nn.Module]
"""Builds a model from an input shape `(channels, height, width)`, a number of classes and a seed."""

DLG = "Zhu, Liu, Han, Deep Leakage from Gradients, NeurIPS 2019"
HE = "He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2"


@dataclass(frozen=True)
class ModelCard:
    """A named model of the zoo.

    Attributes:
        name: how specifications and the command line call it.
        description: one line on what it is and what it is good for.
        source: the publication it comes from, or a remark that there is none.
        factory: builds it from `(channels, height, width)`, a number of classes and a seed.
    """

    name: str
    description: str
    source: str
    factory: ModelFactory


def _lenet_dlg(input_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    channels, height, columns = input_shape
    return lenet(num_classes, channels, input_size=(height, columns), initialization="uniform", seed=seed)


def _lenet_default(activation: Activation) -> ModelFactory:
    def factory(input_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
        channels, height, columns = input_shape
        return lenet(
            num_classes,
            channels,
            input_size=(height, columns),
            activation=activation,
            initialization="default",
            seed=seed,
        )

    return factory


def _mlp(input_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    return mlp(prod(input_shape), (400,), num_classes, seed=seed)


def _resnet(depth: int, activation: Activation = nn.ReLU, *, strides: bool = True) -> ModelFactory:
    def factory(input_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
        return resnet(depth, num_classes, input_shape[0], activation=activation, strides=strides, seed=seed)

    return factory


def _convnet(input_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    channels, height, columns = input_shape
    return convnet(num_classes, channels, input_size=(height, columns), seed=seed)


REFERENCE_MODELS: tuple[ModelCard, ...] = (
    ModelCard(
        "lenet-dlg",
        "LeNet with sigmoid and all weights U(-0.5, 0.5): the easiest network to attack, for comparison with papers",
        f"{DLG} (released code)",
        _lenet_dlg,
    ),
    ModelCard(
        "lenet-default",
        "the same LeNet with sigmoid and PyTorch's default initialization",
        f"{DLG} (architecture of the released code)",
        _lenet_default(nn.Sigmoid),
    ),
    ModelCard("lenet-relu", "the same LeNet with ReLU, default initialization", DLG, _lenet_default(nn.ReLU)),
    ModelCard("lenet-tanh", "the same LeNet with tanh, default initialization", DLG, _lenet_default(nn.Tanh)),
    ModelCard(
        "lenet-softplus", "the same LeNet with softplus, default initialization", DLG, _lenet_default(nn.Softplus)
    ),
    ModelCard("mlp-relu", "one hidden layer of 400 ReLU units, default initialization", "common practice", _mlp),
    *(
        ModelCard(f"resnet{depth}", f"CIFAR ResNet-{depth}, option-A shortcuts", HE, _resnet(depth))
        for depth in (20, 32, 44, 56)
    ),
    *(
        ModelCard(
            f"resnet{depth}-sigmoid-nostride",
            f"CIFAR ResNet-{depth} with sigmoid for ReLU and no strides: twice differentiable",
            f"{HE}; changed as in {DLG}, section 4.1",
            _resnet(depth, nn.Sigmoid, strides=False),
        )
        for depth in (20, 56)
    ),
    ModelCard(
        "convnet32",
        "five 3x3 convolutions of width 32 to 128 with ReLU, three 2x2 max-poolings; needs 8x8 pixels",
        "plain stack in the style of Simonyan, Zisserman, ICLR 2015",
        _convnet,
    ),
)
"""Every named model; names are unique."""
