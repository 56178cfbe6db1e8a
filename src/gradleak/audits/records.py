"""What is kept of a trial, as one line of strict JSON that reads back exactly.

JSON has no NaN and no infinity. The rule: a number that is not finite is written as the string `"nan"`, `"inf"` or
`"-inf"`, and where a number is expected these strings are read as numbers again. Settings in `spec` are plain data
already, so there such a string stays a string.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gradleak.audits.merits import PSNR, TOKEN_ACCURACY, Merit
from gradleak.clients import CLIENTS
from gradleak.components import to_plain
from gradleak.defenses import DEFENSES
from gradleak.errors import BadInput

VERSION = 1
"""Format version of a record; it is part of every id."""

TrialStatus = Literal["converged", "budget", "nonfinite", "not_applicable", "error"]
"""A reconstruction's status, or `error` for an attack that raised an exception."""

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _as_number(value: object) -> object:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_as_number)]
"""A float that may be NaN or infinite."""

Cell = Annotated[bool | int | float | None, BeforeValidator(_as_number)]
"""One entry of a column of scores."""

Columns: TypeAlias = dict[str, tuple[Cell, ...]]
"""Column name to values in true order, as `Scores.to_dict` gives them."""


class Course(BaseModel):
    """How a trial went, thinned to a few hundred points.

    Attributes:
        evaluations: count at each kept point.
        objective: value at that point; not the best so far.
        snapshot_evaluations: count at each snapshot.
        psnr: dB, for each snapshot one value for each true example, in the pairing of the final result.
        token_accuracy: the same of texts, whose `psnr` is empty.
        layers: names of the update's tensors.
        layer_distances: for some snapshots, one number for each tensor: the distance between the candidate's and the
            shared one, relative to the norm of the latter; NaN for a tensor of zeros.
        layer_evaluations: count at each of those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluations: tuple[int, ...] = ()
    objective: tuple[Number, ...] = ()
    snapshot_evaluations: tuple[int, ...] = ()
    psnr: tuple[tuple[Number, ...], ...] = ()
    token_accuracy: tuple[tuple[Number, ...], ...] = ()
    layers: tuple[str, ...] = ()
    layer_distances: tuple[tuple[Number, ...], ...] = ()
    layer_evaluations: tuple[int, ...] = ()


class TrialRecord(BaseModel):
    """One attack on one observation, with its scores.

    Two records are equal when their JSON is, so that NaN equals NaN.

    Attributes:
        version: of this format.
        id: content hash of version and spec.
        status: how the attack ended; `error` if it raised an exception.
        spec: model, space, num_classes, data, examples, targets, client, defenses, threat, attack and seed, as
            plain data.
        threat: what was given and what withheld, in words.
        scores: columns of scores against the truth.
        targets_given: whether the threat model gave the targets, so that there are none to get right.
        baselines: columns of scores of answers without any attack, by name.
        objective: of the returned candidate.
        evaluations: objective values with gradient, over all restarts.
        seconds: wall time of the attack.
        step_seconds: wall time of one training step (forward and backward) on the same batch, model and machine.
        message: why it ended.
        traceback: of the exception, if there was one.
        course: how it went.
        environment: versions, device, precision, threads, revision and command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = VERSION
    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    status: TrialStatus
    spec: dict[str, Any]
    threat: str
    scores: Columns
    targets_given: bool
    baselines: dict[str, Columns] = {}
    objective: Number
    evaluations: int
    seconds: Number
    step_seconds: Number = math.nan
    message: str = ""
    traceback: str = ""
    course: Course = Course()
    environment: dict[str, str | int | None] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialRecord) and json.loads(self.to_line()) == json.loads(other.to_line())

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def attack(self) -> str:
        """The attack's name, and the layers that it sees if it sees some only."""
        return attack_words(mapping(self.spec.get("attack")))

    @property
    def merit(self) -> Merit:
        """By what its leakage is judged: a trial on texts has other scores than one on images."""
        texts = "token_accuracy" in self.scores or mapping(self.spec.get("space")).get("name") == "TokenSpace"
        return TOKEN_ACCURACY if texts else PSNR

    @property
    def leakage(self) -> tuple[float, ...]:
        """The figure of merit of each private example; NaN where nothing was scored."""
        return self.numbers(self.merit.score)

    @property
    def data(self) -> str:
        """The name of the data set."""
        return str(mapping(self.spec.get("data")).get("name", "?"))

    @property
    def examples(self) -> tuple[int, ...]:
        """Positions of the private examples in the data set; counted from 0 if the spec does not say."""
        named = self.spec.get("examples")
        positions = cast("list[object]", named) if isinstance(named, list) else []
        if len(positions) == self.batch_size and all(isinstance(position, int) for position in positions):
            return tuple(cast("list[int]", positions))
        return tuple(range(self.batch_size))

    @property
    def batch_size(self) -> int:
        """The number of private examples."""
        return max((len(column) for column in self.scores.values()), default=0)

    def numbers(self, column: str) -> tuple[float, ...]:
        """A column of scores `[N]` as floats, NaN where it is missing."""
        return column_numbers(self.scores, column, self.batch_size)

    def to_line(self) -> str:
        """The record as one line of JSON, without the line's end."""
        return json.dumps(plain(self.model_dump(), "record"), allow_nan=False)


def column_numbers(columns: Columns, name: str, count: int) -> tuple[float, ...]:
    """One column as `count` floats; NaN for what is missing or no number."""
    cells = columns.get(name, ())
    return tuple(
        math.nan if position >= len(cells) or cells[position] is None else float(cells[position] or 0)
        for position in range(count)
    )


def read_line(line: str) -> TrialRecord:
    """The record of one line of JSON.

    Returns:
        The record as it was written.

    Raises:
        BadInput: when the line is not JSON, or not a record of this version; every fault is listed.
    """
    try:
        return TrialRecord.model_validate(json.loads(line, parse_constant=_refuse_constant))
    except ValidationError as error:
        raise BadInput(
            f"{'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg'].lower()}, got "
            f"{str(fault['input'])[:60]!r}; was this file written by another version?"
            for fault in error.errors()
        ) from error
    except ValueError as error:
        raise BadInput([f"record: expected one JSON object, got {line[:40]!r} ({error}); remove the line"]) from error


def record_id(spec: Mapping[str, object]) -> str:
    """The content hash of a spec that is plain data: 16 hexadecimal digits of SHA-256."""
    text = json.dumps({"version": VERSION, "spec": spec}, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: object, where: str) -> Any:
    """Settings as strict JSON can hold them: configuration objects by name, tuples as lists, NaN as `"nan"`.

    Args:
        value: mappings, sequences, dataclasses, text, numbers, None.
        where: what it is, for the message.

    Returns:
        Nested dicts and lists.

    Raises:
        BadInput: when something in it is none of these.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else next(text for text in _NOT_FINITE if text == str(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(entry, f"{where}[{position}]") for position, entry in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(to_plain(value), where)
    raise BadInput([f"{where}: expected plain data, got {type(value).__name__}; describe it with numbers and text"])


def mapping(value: object) -> Mapping[str, object]:
    """A part of a spec as a mapping, empty if it is none: a spec is data from a file and may hold anything."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def attack_words(attack: Mapping[str, object]) -> str:
    """How an attack is called in tables: by its name, and one that is given some layers only by those too.

    Returns:
        The words.

    >>> attack_words({"name": "using_layers", "attack": "dlg", "layers": ["first", "last"]})
    'dlg, layers first + last'
    """
    name = str(attack.get("name", "?"))
    if name != "using_layers":
        return name
    layers = attack.get("layers", "all")
    chosen = " + ".join(map(str, cast("list[object]", layers))) if isinstance(layers, list) else str(layers)
    return f"{attack.get('attack', 'auto')}, layers {chosen}"


def bounds_of(record: TrialRecord) -> tuple[float, float]:
    """Smallest and largest pixel value of a trial's input space; 0 and 1 if the record does not say."""
    match mapping(record.spec.get("space")).get("bounds"):
        case [int() | float() as low, int() | float() as high] if low < high:
            return float(low), float(high)
        case _:
            return 0.0, 1.0


def settings_text(component: object) -> str:
    """A component of a spec in words, such as `GaussianNoise(std=0.001)`.

    Settings that are not made, or are the default of a client or a defense of the package, are left out; but for the
    mode, on which too much depends.
    """  # noqa: DOC201  # the first sentence says what comes back
    named = mapping(component)
    name = str(named.get("name", "?"))
    usual = _defaults().get(name, {})
    inside = ", ".join(
        f"{key}={_setting_text(value)}"
        for key, value in named.items()
        if key != "name" and value is not None and (key == "mode" or key not in usual or usual[key] != value)
    )
    return f"{name}({inside})"


def _setting_text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_setting_text, cast('list[object]', value)))}]"
    return settings_text(value) if isinstance(value, Mapping) and "name" in value else str(value)


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, object]]:
    """What each setting of a client or a defense is if nothing is said, by the names of class and setting."""
    return {
        kind.__name__: {
            one.name: plain(one.default, one.name)
            for one in fields(kind)  # pyright: ignore[reportArgumentType]  # they are dataclasses
            if one.default is not MISSING
        }
        for kind in (*CLIENTS, *DEFENSES)
    }


def component_list(components: object) -> list[object]:
    """A list in a spec, empty if it is none."""
    return cast("list[object]", components) if isinstance(components, list) else []


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")
