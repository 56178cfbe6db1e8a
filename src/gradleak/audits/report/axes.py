"""Curves over whatever an audit varied: batch size, training stage, the level of a noise, local steps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.audits.report.words import accuracy
from gradleak.audits.store import Group

_TITLES = {"batch_size": "batch size", "stage": "training stage", "client.count": "clients in the aggregate"}
# Settings of a client that would be taken for those of the attack or of the whole.
_LOCAL = {"epochs": "local epochs", "batch_size": "local batch size", "lr": "local learning rate"}


@dataclass(frozen=True)
class AxisLine:
    """One attack in one setting over an axis.

    Attributes:
        attack: its name.
        setting: what else sets it apart, in words; empty if nothing does.
        places: values of the axis, ascending, or 0, 1, ... for words.
        groups: one for each place.
    """

    attack: str
    setting: str
    places: tuple[float, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Axis:
    """A setting that takes several values.

    Attributes:
        path: dotted, as in the settings.
        title: in words.
        words: the values in words where they are no numbers, one for each place.
        lines: at least one, each of at least two places.
    """

    path: str
    title: str
    words: tuple[str, ...]
    lines: tuple[AxisLine, ...]


def axes_of(groups: Sequence[Group]) -> list[Axis]:
    """Every setting along which at least one attack was run at two or more values, all else equal.

    Args:
        groups: of a summary.

    Returns:
        The axes, in the order in which the settings appear.
    """
    paths = dict.fromkeys(path for group in groups for path, value in group.settings.items() if _varies(path, value))
    found: list[Axis] = []
    for path in paths:
        with_it = [group for group in groups if _varies(path, group.settings.get(path))]
        if len({str(group.settings[path]) for group in with_it}) > 1:
            axis = _axis(path, with_it)
            if axis.lines:
                found.append(axis)
    return found


def _varies(path: str, value: object) -> bool:
    """Whether a setting can be an axis: a number, or the stage of training."""
    if path.startswith(("attack.", "code.")):
        return False
    return path == "stage" and value is not None or (isinstance(value, int | float) and not isinstance(value, bool))


def _axis(path: str, groups: Sequence[Group]) -> Axis:
    words: tuple[str, ...] = ()
    if path == "stage":
        words = tuple(dict.fromkeys(str(group.settings[path]) for group in groups))
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(json.dumps(_rest(group.settings, path), sort_keys=True), []).append(group)
    kept = [members for members in lines.values() if len({str(member.settings[path]) for member in members}) > 1]
    return Axis(
        path,
        _title(path),
        tuple(_with_accuracy(word, path, groups) for word in words),
        tuple(_line(members, path, words, [line[0] for line in kept]) for members in kept),
    )


def _title(path: str) -> str:
    name = path.rpartition(".")[2]
    local = _LOCAL.get(name) if path.startswith("client.") else None
    return _TITLES.get(path) or local or name.replace("_", " ")


def _with_accuracy(word: str, path: str, groups: Sequence[Group]) -> str:
    """A stage with the test accuracy that the model has there, if all models of that stage have the same."""
    found = {accuracy(group.settings, "test") for group in groups if str(group.settings[path]) == word}
    known = next(iter(found), "")
    return f"{word}\n(test accuracy {known})" if known and len(found) == 1 else word


def _line(members: Sequence[Group], path: str, words: tuple[str, ...], first_of_lines: Sequence[Group]) -> AxisLine:
    placed = sorted(
        ((words.index(str(value)) if words else float(str(value)), group) for group, value in _values(members, path)),
        key=lambda pair: pair[0],
    )
    return AxisLine(
        members[0].attack,
        _setting(members[0], path, first_of_lines),
        tuple(float(place) for place, _ in placed),
        tuple(group for _, group in placed),
    )


def _values(members: Sequence[Group], path: str) -> list[tuple[Group, object]]:
    return [(member, member.settings[path]) for member in members]


def _rest(settings: Mapping[str, object], path: str) -> dict[str, object]:
    # A trained stage has weights of its own, which come with it.
    own = {path, "model.weights", "model.digest"} if path == "stage" else {path}
    trained = "model.trained." if path == "stage" else None
    return {
        name: value
        for name, value in settings.items()
        if name not in own and not (trained and name.startswith(trained) and name != "model.trained.data")
    }


def _setting(group: Group, path: str, others: Sequence[Group]) -> str:
    """The settings in which this line differs from the other lines, attack and axis aside."""
    differing = [
        f"{name.rpartition('.')[2]} {value}"
        for name, value in _rest(group.settings, path).items()
        if not name.startswith(("attack.", "code.")) and any(other.settings.get(name) != value for other in others)
    ]
    return ", ".join(differing[:4])
