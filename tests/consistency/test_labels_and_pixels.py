"""Wrong labels and wrong pixels are named."""

import pytest
import torch
from torch import nn

from tests.consistency.planting import MEAN, STD, X, Y, normed, proven, smooth, step, verdict


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 4, 7], "belong to other examples"),
        ([2, 8, 5], "shifted by one class"),
        ([1, 7, 9], "others for 1 of 3 examples"),
    ],
)
def test_labels_that_fit_are_found(labels: list[int], words: str) -> None:
    found = verdict(step(smooth(), targets=torch.tensor(labels)))
    assert proven(found) == ["labels"]
    assert words in found.causes[0].explanation
    assert ", ".join(map(str, labels)) in found.causes[0].explanation


def test_labels_and_mode_together() -> None:
    found = verdict(step(normed(), targets=torch.tensor([0, 0, 9]), train=True), normed())
    assert proven(found) == ["mode", "labels"]
    assert "0, 0, 9" in found.causes[1].explanation


def test_smoothed_labels() -> None:
    smoothed = 0.8 * nn.functional.one_hot(Y, 10) + 0.02
    found = verdict(step(smooth(), targets=smoothed))
    assert proven(found) == ["soft_labels"]
    assert "0.82 on the largest class" in found.causes[0].explanation


BYTES = (255 * X - MEAN) / STD
INPUTS = {
    "un-normalized": (X, "pixels", "without normalization"),
    "bytes": (BYTES, "pixels", "0..255 instead"),
    "bytes, un-normalized": (255 * X, "pixels", "0..255 pixels without"),
    "normalized twice": (((X - MEAN) / STD - MEAN) / STD, "pixels", "twice"),
    "divided twice": ((X / 255 - MEAN) / STD, "pixels", "divided by 255 twice"),
    "other normalization": (2 * X - 1, "pixels", "[-1, 1]"),
    "negatives": ((1 - X - MEAN) / STD, "pixels", "negatives"),
    "BGR": ((X.flip(1) - MEAN) / STD, "channels", "BGR"),
    "flipped": ((X.flip(3) - MEAN) / STD, "augmentation", "flipped all images left to right"),
    "one flipped": ((torch.stack([X[0], X[1].flip(2), X[2]]) - MEAN) / STD, "augmentation", "flipped images 1 left"),
    "transposed": ((X.transpose(2, 3) - MEAN) / STD, "augmentation", "height and width"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_prepared_otherwise(name: str) -> None:
    model_input, cause, words = INPUTS[name]
    found = verdict(step(smooth(), model_input))
    assert proven(found) == [cause]
    assert words in found.causes[0].explanation
