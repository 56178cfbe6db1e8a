"""The folder of a training: its spec, its history, and the place from which it goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save
from torch import Tensor, nn

from gradleak.audits.files import clear_words, write_whole
from gradleak.audits.positions import read_yaml
from gradleak.errors import BadInput, refuse
from gradleak.tensorfiles import read_safetensors
from gradleak.training.spec import TrainSpec

SPEC, HISTORY, RESUME = "spec.yaml", "history.jsonl", "resume.safetensors"

MODEL, MOMENTUM = "model/", "momentum/"
"""Prefixes of the names of tensors to go on from."""

_FREE = frozenset({"name", "save_every", "checkpoints"})
"""Settings that change no weight."""


@dataclass(frozen=True)
class Place:
    """A moment to go on from.

    Attributes:
        unit: steps or rounds that were done.
        data: digest of the training data.
        tensors: of the course.
    """

    unit: int
    data: str
    tensors: Mapping[str, Tensor]


def keep_spec(folder: Path, spec: TrainSpec, comment: str) -> None:
    """Write the effective spec, or see that the folder was begun with the same one.

    Args:
        folder: of the training.
        spec: the effective spec.
        comment: the first line of its file.

    Raises:
        BadInput: when it was begun with another one, with every difference.
    """
    path = folder / SPEC
    if path.exists():
        with clear_words(path):
            before = read_yaml(path.read_text(encoding="utf-8"), str(path)).value
        own, old = _flat(spec.to_plain()), _flat(before)
        refuse(
            f"{folder}: expected the training that this folder was begun with, got {name} = {own.get(name)!r} in place "
            f"of {old.get(name)!r}; change it back, or choose another folder"
            for name in dict.fromkeys([*own, *old])
            if own.get(name) != old.get(name) and name.split(".")[0] not in _FREE
        )
    write_whole(path, spec.to_yaml(comment).encode())


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, entry in cast("dict[str, Any]", value).items():
        found |= _flat(entry, f"{path}.{key}" if path else key)
    return found


def write_place(folder: Path, place: Place) -> None:
    """Keep a place to go on from, in place of the one before.

    Raises:
        BadInput: when it cannot be written.
    """
    facts = json.dumps({"unit": place.unit, "data": place.data})
    write_whole(folder / RESUME, save(dict(place.tensors), metadata={"gradleak": facts}))


def read_place(folder: Path) -> Place | None:
    """The place to go on from; None if there is none.

    Returns:
        The place.

    Raises:
        BadInput: when it cannot be read.
    """
    path = folder / RESUME
    if not path.exists():
        return None
    tensors, metadata = read_safetensors(path)
    try:
        facts = json.loads(metadata["gradleak"])
        return Place(int(facts["unit"]), str(facts["data"]), tensors)
    except (KeyError, TypeError, ValueError):
        raise BadInput(
            [f"{path}: expected what gradleak train wrote, got other metadata; delete it to begin from the start"]
        ) from None


class History:
    """`history.jsonl`: train and test loss and accuracy, a line for each look; lines are only ever appended.

    Attributes:
        rows: by step or round.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / HISTORY
        self.rows: dict[int, dict[str, Any]] = {}
        if not self._path.exists():
            return
        with clear_words(self._path):
            whole, _, torn = self._path.read_bytes().rpartition(b"\n")
            if torn:  # a kill cut the last line off; the look that it was about is taken again
                write_whole(self._path, whole + b"\n" if whole else b"")
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self.rows[int(row["unit"])] = row
            except (ValueError, KeyError, TypeError):
                got = f"got {line[:60].decode('utf-8', 'replace')!r}"
                raise BadInput([f"{self._path}: expected lines of JSON with a unit, {got}; delete that line"]) from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            BadInput: when it cannot be written.
        """
        self.rows[int(row["unit"])] = dict(row)
        with clear_words(self._path), self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved parameters and buffers in place."""
    model.load_state_dict({name.removeprefix(MODEL): tensors[name] for name in tensors if name.startswith(MODEL)})
