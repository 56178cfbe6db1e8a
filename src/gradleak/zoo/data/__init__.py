"""Data sets: three that need no download, and readers for the usual files."""

from gradleak.zoo.data.array_files import mnist_idx, npz, safetensors_data
from gradleak.zoo.data.bundled import digits, faces, photographs
from gradleak.zoo.data.dataset import Dataset
from gradleak.zoo.data.image_files import image_folder, image_tar
from gradleak.zoo.data.loading import BUNDLED, DataCard, load

__all__ = [
    "BUNDLED",
    "DataCard",
    "Dataset",
    "digits",
    "faces",
    "image_folder",
    "image_tar",
    "load",
    "mnist_idx",
    "npz",
    "photographs",
    "safetensors_data",
]
