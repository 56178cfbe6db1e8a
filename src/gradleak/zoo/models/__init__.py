"""Reference models: factories, named cards, and loading of trained weights."""

from gradleak.zoo.models.cards import REFERENCE_MODELS, ModelCard, ModelFactory
from gradleak.zoo.models.convnet import convnet
from gradleak.zoo.models.lenet import lenet
from gradleak.zoo.models.mlp import mlp
from gradleak.zoo.models.resnet import CifarResNet, resnet, resnet20, resnet32, resnet44, resnet56
from gradleak.zoo.models.weights import load_weights

__all__ = [
    "REFERENCE_MODELS",
    "CifarResNet",
    "ModelCard",
    "ModelFactory",
    "convnet",
    "lenet",
    "load_weights",
    "mlp",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
]
