"""Bundled data, against the loaders of the packages that ship it and against hand-made crops."""

import socket
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from gradleak.errors import BadInput
from gradleak.zoo.data import BUNDLED, DataCard, digits, faces, photographs
from gradleak.zoo.data.bundled import PHOTOGRAPHS

LOADERS: list[tuple[str, str]] = [
    ("astronaut", "astronaut"),
    ("cat", "chelsea"),
    ("coffee", "coffee"),
    ("galaxies", "hubble_deep_field"),
    ("retina", "retina"),
    ("rocket", "rocket"),
    ("tissue", "immunohistochemistry"),
]


def test_faces_are_those_of_scikit_image() -> None:
    data = faces()
    expected: Any = import_module("skimage.data").lfw_subset()
    assert np.array_equal(data.inputs[:, 0].numpy(), expected.astype(np.float32))
    assert data.targets.tolist() == [0] * 100 + [1] * 100
    assert data.class_names == ("face", "not a face")
    # The patches use the whole range, and a face is not a nearly constant patch.
    assert (float(data.inputs.min()), float(data.inputs.max())) == (0, 1)
    assert float(data.inputs[:100].flatten(1).std(1).min()) > 0.05


def test_digits_are_those_of_scikit_learn() -> None:
    data = digits()
    expected: Any = import_module("sklearn.datasets").load_digits()
    assert np.array_equal(data.inputs[:, 0].numpy() * 16, expected.images)
    assert np.array_equal(data.targets.numpy(), expected.target)
    assert data.class_names == tuple("0123456789")


def test_photographs_are_deterministic_balanced_and_nested() -> None:
    data, again, more = photographs(16, 25, 3), photographs(16, 25, 3), photographs(16, 40, 3)
    assert torch.equal(data.inputs, again.inputs)
    assert torch.equal(data.inputs, more.inputs[:25])
    assert not torch.equal(data.inputs, photographs(16, 25, 4).inputs)
    assert data.input_shape == (3, 16, 16)
    assert sorted(torch.bincount(data.targets).tolist()) == [2] * 5 + [3] * 5
    assert list(data.class_names) == sorted(data.class_names)


@pytest.mark.parametrize(("name", "loader"), LOADERS)
def test_crops_have_the_colors_of_their_photograph(name: str, loader: str) -> None:
    data = photographs(32, 100, 0)
    crops = data.inputs[data.targets == data.class_names.index(name)]
    original: Any = getattr(import_module("skimage.data"), loader)()[..., :3]
    channel_means = torch.as_tensor(original).float().div(255).mean((0, 1))
    # Windows of half to all of the short side together show most of a photograph.
    assert torch.allclose(crops.mean((0, 2, 3)), channel_means, atol=0.15)
    assert float(crops.std()) > 0.02


def test_crops_are_antialiased() -> None:
    # At 4 pixels a side every pixel averages over a large block, so the fine grain of the star field must vanish.
    data = photographs(4, 100, 0)
    galaxies = data.inputs[data.targets == data.class_names.index("galaxies")]
    original: Any = import_module("skimage.data").hubble_deep_field()
    assert float(galaxies.std((2, 3)).mean()) < 0.3 * float(torch.as_tensor(original).float().div(255).std())


@pytest.mark.parametrize(
    ("size", "count", "seed", "words"),
    [(0, 1, 0, ["size"]), (151, 1, 0, ["size"]), (8, 0, -1, ["count", "seed"])],
)
def test_bad_numbers_are_refused(size: int, count: int, seed: int, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        photographs(size, count, seed)
    assert [problem.split(":")[0] for problem in caught.value.problems] == words


@pytest.mark.parametrize("card", BUNDLED, ids=lambda card: card.name)
def test_cards_tell_the_truth_and_need_no_network(card: DataCard, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_connection(*_arguments: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse_connection)
    data = card.load(None)
    assert data.name == card.name
    assert data.input_shape == card.input_shape
    assert (len(data), data.num_classes) == (card.count, card.num_classes)
    assert len(torch.unique(data.targets)) == card.num_classes
    if data.tokens is None:
        assert card.load(20).input_shape == (card.input_shape[0], 20, 20)
    assert card.description
    assert card.source


def test_a_package_that_lacks_its_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHOTOGRAPHS, "astronaut", ("skimage", "data/no_such_file.png"))
    with pytest.raises(BadInput, match=r"data/no_such_file.png inside scikit-image.*reinstall"):
        photographs(8, 1)
