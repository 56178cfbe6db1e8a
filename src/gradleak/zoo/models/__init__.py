"""Reference models: factories, named cards, and loading of trained weights."""

from gradleak.zoo.models.cards import REFERENCE_MODELS, ModelCard, ModelFactory
from gradleak.zoo.models.convnet import convnet
from gradleak.zoo.models.decoder import Decoder, decoder
from gradleak.zoo.models.encoder import Encoder, encoder
from gradleak.zoo.models.lenet import lenet
from gradleak.zoo.models.mlp import mlp
from gradleak.zoo.models.resnet import CifarResNet, resnet, resnet20, resnet32, resnet44, resnet56
from gradleak.zoo.models.text_cards import TEXT_MODELS, TextModelCard
from gradleak.zoo.models.weights import load_weights
from gradleak.zoo.models.word_classifiers import EmbeddingBag, RecurrentClassifier, embedding_bag, lstm

__all__ = [
    "REFERENCE_MODELS",
    "TEXT_MODELS",
    "CifarResNet",
    "Decoder",
    "EmbeddingBag",
    "Encoder",
    "ModelCard",
    "ModelFactory",
    "RecurrentClassifier",
    "TextModelCard",
    "convnet",
    "decoder",
    "embedding_bag",
    "encoder",
    "lenet",
    "load_weights",
    "lstm",
    "mlp",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
]
