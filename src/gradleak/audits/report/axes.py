"""Curves over whatever an audit varied: batch size, training stage, the level of a noise, local steps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradleak.audits.report.words import accuracy
from gradleak.audits.store import Group, Merit, component_list

_TITLES = {
    "batch_size": "batch size",
    "stage": "training stage",
    "client.count": "clients in the aggregate",
    "attack.layers": "layers that the attack sees",
}
# Settings of a client that would be taken for those of the attack or of the whole.
_LOCAL = {"epochs": "local epochs", "batch_size": "local batch size", "lr": "local learning rate"}

_WORDS = ("stage", "attack.layers")
"""Settings that are axes although their values are words."""


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

    @property
    def title(self) -> str:
        """Attack and setting."""
        return ", ".join(filter(None, (self.attack, self.setting)))


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

    @property
    def merit(self) -> Merit:
        """By what the leakage of its lines is judged."""
        return self.lines[0].groups[0].merit

    @property
    def threshold(self) -> float:
        """The first at which success rates are given."""
        return self.lines[0].groups[0].leaks[0].threshold

    @property
    def ordered(self) -> bool:
        """Whether a line from one value to the next makes sense."""
        return self.path != "attack.layers"

    def word(self, place: float) -> str:
        """A value of the axis on one line."""
        return self.words[int(place)].replace("\n", " ") if self.words else f"{place:g}"


def axes_of(groups: Sequence[Group]) -> list[Axis]:
    """Every setting along which at least one attack was run at two or more values, all else equal.

    Args:
        groups: of a summary.

    Returns:
        The axes, in the order in which the settings appear.
    """
    # Images and texts have no figure in common.
    return [axis for score in dict.fromkeys(group.score for group in groups) for axis in _axes(groups, score)]


def _axes(groups: Sequence[Group], score: str) -> list[Axis]:
    """Those of the groups that are judged by one score."""
    own = [group for group in groups if group.score == score]
    paths = dict.fromkeys(path for group in own for path, value in group.settings.items() if _varies(path, value))
    found: list[Axis] = []
    for path in paths:
        with_it = [group for group in own if _varies(path, group.settings.get(path))]
        if len({str(group.settings[path]) for group in with_it}) > 1:
            axis = _axis(path, with_it)
            if axis.lines:
                found.append(axis)
    return found


def _varies(path: str, value: object) -> bool:
    """Whether a setting can be an axis: a number, the stage of training, or the layers that an attack sees."""
    if path in _WORDS:
        return value is not None
    if path.startswith(("attack.", "code.")):
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _axis(path: str, groups: Sequence[Group]) -> Axis:
    words: tuple[str, ...] = ()
    if path in _WORDS:
        words = tuple(dict.fromkeys(_word(group.settings[path]) for group in groups))
    kept, left = _lines(groups, path)
    if path == "client.count":
        # Clients that bring their own examples: the batch grows with them.
        kept += _lines(left, path, per_client=True)[0]
    return Axis(
        path,
        _title(path),
        tuple(_with_accuracy(word, path, groups) for word in words),
        tuple(_line(members, path, words, [line[0] for line in kept]) for members in kept),
    )


def _lines(groups: Sequence[Group], path: str, *, per_client: bool = False) -> tuple[list[list[Group]], list[Group]]:
    """Groups that are equal but for the axis, and those that have no partner."""
    lines: dict[str, list[Group]] = {}
    for group in groups:
        rest = _rest(group.settings, path)
        if per_client:
            rest["batch_size"] = group.batch_size / float(str(group.settings[path]))
        lines.setdefault(json.dumps(rest, sort_keys=True), []).append(group)
    alone = [len({str(member.settings[path]) for member in members}) == 1 for members in lines.values()]
    kept = [members for members, single in zip(lines.values(), alone, strict=True) if not single]
    left = [group for members, single in zip(lines.values(), alone, strict=True) if single for group in members]
    return kept, left


def _title(path: str) -> str:
    name = path.rpartition(".")[2]
    local = _LOCAL.get(name) if path.startswith("client.") else None
    return _TITLES.get(path) or local or name.replace("_", " ")


def _with_accuracy(word: str, path: str, groups: Sequence[Group]) -> str:
    """A stage with the test accuracy that the model has there, if all models of that stage have the same."""
    found = {accuracy(group.settings, "test") for group in groups if _word(group.settings[path]) == word}
    known = next(iter(found), "")
    return f"{word}\n(test accuracy {known})" if known and len(found) == 1 else word


def _line(members: Sequence[Group], path: str, words: tuple[str, ...], first_of_lines: Sequence[Group]) -> AxisLine:
    placed = sorted(
        ((words.index(_word(value)) if words else float(str(value)), group) for group, value in _values(members, path)),
        key=lambda pair: pair[0],
    )
    first = members[0]
    return AxisLine(
        str(first.settings.get("attack.attack", "auto")) if path == "attack.layers" else first.attack,
        _setting(first, path, first_of_lines),
        tuple(float(place) for place, _ in placed),
        tuple(group for _, group in placed),
    )


def _values(members: Sequence[Group], path: str) -> list[tuple[Group, object]]:
    return [(member, member.settings[path]) for member in members]


def _rest(settings: Mapping[str, object], path: str) -> dict[str, object]:
    """What has to be equal along the axis: all but the setting itself and what follows from it."""
    return {name: value for name, value in settings.items() if name != path and not _follows(name, path)}


def _follows(name: str, path: str) -> bool:
    """Whether a setting changes with the axis by itself: another network has other weights."""
    if path == "stage" and name.startswith("model.trained."):
        return name != "model.trained.data"
    return path.startswith(("stage", "model.")) and name in {"model.weights", "model.digest"}


def _word(value: object) -> str:
    """An entry of an axis without numbers."""
    return " + ".join(map(str, component_list(value))) if isinstance(value, list) else str(value)


def _setting(group: Group, path: str, others: Sequence[Group]) -> str:
    """The settings in which this line differs from the other lines, attack and axis aside."""

    def differs(name: str) -> bool:
        return any(other.settings.get(name) != group.settings.get(name) for other in others)

    # Weights follow from the stage of training and from the settings of the network, where these differ.
    told = next(
        (name for name in group.settings if name.startswith(("stage", "model.settings.")) and differs(name)), ""
    )
    differing = [
        f"{_title(name)} {value}"
        for name, value in _rest(group.settings, path).items()
        if not name.startswith(("attack.", "code.")) and differs(name) and not _follows(name, told)
    ]
    return ", ".join(differing[:4])
