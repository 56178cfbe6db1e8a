"""Data sets: four that need no download, and readers for the usual files."""

from gradleak.zoo.data.array_files import mnist_idx, npz, safetensors_data
from gradleak.zoo.data.bundled import digits, faces, photographs
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.data.image_files import image_folder, image_tar
from gradleak.zoo.data.loading import BUNDLED, DataCard, load
from gradleak.zoo.data.objectives import with_objective
from gradleak.zoo.data.texts import (
    Texts,
    holds_texts,
    messages,
    read_texts,
    space_of_tokenizer,
    text_dataset,
    vocabulary_digest,
)
from gradleak.zoo.data.words import Tokenizer, WordTokenizer

__all__ = [
    "BUNDLED",
    "DataCard",
    "Dataset",
    "Texts",
    "Tokenizer",
    "WordTokenizer",
    "digits",
    "faces",
    "holds_texts",
    "image_folder",
    "image_tar",
    "load",
    "messages",
    "mnist_idx",
    "npz",
    "photographs",
    "read_texts",
    "safetensors_data",
    "space_of_tokenizer",
    "text_dataset",
    "vocabulary_digest",
    "with_objective",
]
