"""What is wrong with a spec beyond its shape: names, settings, and parts that do not fit together.

Every part that can be looked at is, whatever is wrong with the others, so that all mistakes come in one go.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gradleak.attacks.protocol import ChecksTask
from gradleak.audits.by_name.components import attack_named, client_named, threat_named
from gradleak.audits.by_name.defenses import defense_named
from gradleak.audits.by_name.models import is_of_zoo, model_digest, model_named, model_setting_faults
from gradleak.audits.faults import Fault, about_setting, faults_of
from gradleak.audits.merits import TOKEN_ACCURACY
from gradleak.audits.plan import batch_sizes
from gradleak.audits.positions import Path
from gradleak.audits.preparing import (
    PreparedData,
    PreparedModel,
    outputs_of,
    prepare_data,
    prepare_model,
    redrawn,
)
from gradleak.audits.spec import BatchSize, Component, Composition, DataSpec, Limit, ModelSpec, PerClient
from gradleak.clients import ChecksBatch, Client
from gradleak.defenses import Defense
from gradleak.errors import BadInput
from gradleak.tensorfiles import read_safetensors

T = TypeVar("T")
P = TypeVar("P", bound=BaseModel)

DEFAULT_SEED = 0

_INDEPENDENT = frozenset({"stage", "mean", "std", "distinct_labels"})
"""Keys of models and data on which the check of the others does not depend."""

_BATCH_SIZE: TypeAdapter[int | PerClient] = TypeAdapter(BatchSize, config=ConfigDict(strict=True))
_COMPOSITION = TypeAdapter[tuple[Component, ...]](Composition)


def semantic_faults(raw: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with the parts of a spec whose shape is right.

    Args:
        raw: the spec as plain data; parts of a wrong shape are passed over.

    Returns:
        Faults with paths into the normalized spec.
    """
    return _Check(raw).faults()


class _Check:
    """One look at everything; what was loaded for one part serves the next."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        seed = raw.get("seed", DEFAULT_SEED)
        self.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 else DEFAULT_SEED
        self.found: list[Fault] = []
        self.models = list(self.entries("model", ModelSpec))
        self.clients: list[tuple[Path, Client]] = []
        self.attacks: list[tuple[Path, ChecksTask]] = []
        self.batch_sizes = list(_batch_sizes(raw))

    def faults(self) -> list[Fault]:
        """Look at every part, in the order of a spec."""
        good_models = [(path, entry) for path, entry in self.models if self.check_model(path, entry)]
        outputs = outputs_of([entry for _, entry in good_models], self.seed)
        data: list[tuple[Path, PreparedData]] = []
        for path, entry in self.entries("data", DataSpec):
            prepared = self.attempt(path, lambda entry=entry: prepare_data(entry, self.seed, outputs))
            if prepared is not None:
                data.append((path, prepared))
        self.check_components()
        self.check_batch_sizes(data)
        self.check_threats()
        for model_path, entry in good_models:
            for _, prepared in data:
                model = self.attempt(model_path, lambda entry=entry, own=prepared: prepare_model(entry, own, self.seed))
                if model is None:
                    break
                self.check_parts(model)
        self.check_limits()
        for axis in ("model", "data", "batch_size", "client", "defense", "attack", "threat", "threshold"):
            self.check_duplicates(axis)
        return list(dict.fromkeys(self.found))

    def entries(self, axis: str, part: type[P]) -> Iterator[tuple[Path, P]]:
        """The entries of an axis whose shape is right, with their paths."""
        for position, entry in enumerate(_listed(self.raw.get(axis, ()))):
            parsed = _parsed(part, entry)
            if parsed is not None:
                yield (axis, position), parsed

    def attempt(self, path: Path, make: Callable[[], T]) -> T | None:
        """What `make` returns; None if it fails, and then what is wrong is noted under the path."""
        try:
            return make()
        except BadInput as error:
            self.found += [_shortened(path, fault) for fault in faults_of(error)]
            return None

    def check_model(self, path: Path, entry: ModelSpec) -> bool:
        """Name, settings, weights and factory, as far as they can be judged without data."""
        before = len(self.found)
        faults = self.attempt(path, lambda: model_setting_faults(entry.name, entry.settings))
        self.found += [fault.under(*path, "settings") for fault in faults or ()]
        if entry.weights is not None:
            self.attempt((*path, "weights"), lambda: read_safetensors(FilePath(str(entry.weights))))
            if entry.redraw:
                text = (
                    "expected false with weights, since one file holds one network, got true; remove redraw or weights"
                )
                self.found.append(Fault((*path, "redraw"), text))
        if len(self.found) == before and not is_of_zoo(entry.name):
            self.attempt(path, lambda: self.check_factory(path, entry))
        return len(self.found) == before

    def check_factory(self, path: Path, entry: ModelSpec) -> None:
        """Call a factory of the user's own twice: every process must get the same model."""

        def digest() -> str:
            return model_digest(model_named(entry.name, entry.settings, shape=(), num_classes=0, seed=self.seed))

        if digest() != digest() and entry.weights is None and not redrawn(entry):
            text = (
                "expected the same weights at each call, got others (drawn by another generator than torch's); "
                "add weights: FILE.safetensors, or seed it inside"
            )
            self.found.append(Fault((*path, "name"), text))

    def check_components(self) -> None:
        """Attacks, clients and defenses."""
        for path, entry in self.entries("attack", Component):
            attack = self.attempt(path, lambda entry=entry: attack_named(entry.name, entry.settings))
            if isinstance(attack, ChecksTask):
                self.attacks.append((path, attack))
        for path, entry in self.entries("client", Component):
            client = self.attempt(path, lambda entry=entry: client_named(entry.name, entry.settings))
            if client is not None:
                self.clients.append((path, client))
        for position, entry in enumerate(_listed(self.raw.get("defense", "none"))):
            try:
                composition = _COMPOSITION.validate_python(entry)
            except ValidationError:
                continue
            for order, defense in enumerate(composition):
                path = ("defense", position, order)
                made = self.attempt(path, lambda own=defense: defense_named(own.name, own.settings))
                if made is not None:
                    self.check_defense(path, made)

    def check_defense(self, path: Path, defense: Defense) -> None:
        """Settings out of range."""
        self.found += [about_setting(path, problem) for problem in defense.problems()]

    def check_parts(self, model: PreparedModel) -> None:
        """Clients that cannot train a model, and attacks whose settings do not fit it."""
        for path, client in self.clients:
            problems = client.problems(model.task)
            if not problems and isinstance(client, ChecksBatch):
                sizes = batch_sizes([size for _, size in self.batch_sizes], client)
                problems = [problem for size in sizes for problem in client.batch_problems(size)]
            self.found += [about_setting(path, problem) for problem in problems]
        for path, attack in self.attacks:
            self.found += [about_setting(path, problem) for problem in attack.problems(model.task)]

    def check_threats(self) -> None:
        """Facts that do not exist, and facts that are neither true nor false."""
        for position, entry in enumerate(_listed(self.raw.get("threat", {}))):
            if isinstance(entry, Mapping):
                settings = cast("Mapping[str, object]", entry)
                self.attempt(("threat", position), lambda settings=settings: threat_named(settings))

    def check_batch_sizes(self, data: Sequence[tuple[Path, PreparedData]]) -> None:
        """Batches that the data cannot fill."""
        clients = [client for _, client in self.clients] or [None]
        for position, declared in self.batch_sizes:
            for size in dict.fromkeys(size for client in clients for size in batch_sizes([declared], client)):
                for _, prepared in data:
                    text = _unfilled(size, prepared)
                    if text:
                        self.found.append(Fault(("batch_size", position), text))

    def check_limits(self) -> None:
        """Limits at thresholds that were not declared."""
        declared = [
            value for value in _listed(self.raw.get("threshold", (20.0, 30.0))) if isinstance(value, int | float)
        ]
        if "threshold" not in self.raw:
            declared += [TOKEN_ACCURACY.recognizable, TOKEN_ACCURACY.close]
        for path, limit in self.entries("limit", Limit):
            # Reports show success rates of the figure of merit alone, so only its thresholds stand there as well.
            if limit.score is None and limit.success_rate_at not in declared:
                text = (
                    f"expected one of the thresholds {', '.join(f'{value:g}' for value in declared)}, got "
                    f"{limit.success_rate_at:g}; declare it under threshold too"
                )
                self.found.append(Fault((*path, "success_rate_at"), text))

    def check_duplicates(self, axis: str) -> None:
        """Entries that would run the same trials twice."""
        entries = [_comparable(axis, entry) for entry in _listed(self.raw.get(axis, ()))]
        for position, entry in enumerate(entries):
            if entry is not None and entry in entries[:position]:
                first = entries.index(entry)
                text = f"expected an entry that differs from the others, got that of {axis}.{first} again; remove one"
                self.found.append(Fault((axis, position), text))


def _batch_sizes(raw: Mapping[str, Any]) -> Iterator[tuple[int, int | PerClient]]:
    """The batch sizes whose shape is right, with their positions."""
    for position, entry in enumerate(_listed(raw.get("batch_size", 1))):
        try:
            yield position, _BATCH_SIZE.validate_python(entry)
        except ValidationError:  # told by the check of the shape
            continue


def _unfilled(size: int, prepared: PreparedData) -> str:
    """Why the data cannot fill batches of a size; empty if they can."""
    dataset = prepared.dataset
    classes = len(dataset.targets.unique())
    if size >= len(dataset):
        return (
            f"expected at most {len(dataset) - 1} (one less than the examples of {dataset.name!r}, so that "
            f"the baselines have one), got {size}; use smaller batches or more data"
        )
    if prepared.distinct and size > classes:
        return (
            f"expected at most {classes} (classes with examples of {dataset.name!r}) with distinct_labels, "
            f"got {size}; use smaller batches, or let labels repeat"
        )
    return ""


def _parsed(part: type[P], entry: object) -> P | None:
    """An entry, without the keys that are wrong if the rest can be judged without them; None if it cannot."""
    try:
        return part.model_validate(entry)
    except ValidationError as error:  # told by the check of the shape
        wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
        known = set(part.model_fields) - _INDEPENDENT
        if not isinstance(entry, Mapping) or not wrong or wrong & known:
            return None
        rest = {key: value for key, value in cast("Mapping[str, object]", entry).items() if key not in wrong}
    try:
        return part.model_validate(rest)
    except ValidationError:
        return None


def _listed(value: object) -> Sequence[Any]:
    """An axis as a list, of which one entry is short for a list of one."""
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,)


def _comparable(axis: str, entry: object) -> object:
    """An entry in a form in which equal ones are equal; None if it has none."""
    parts: dict[str, type[BaseModel]] = {"model": ModelSpec, "data": DataSpec, "client": Component, "attack": Component}
    try:
        if axis == "defense":
            return _COMPOSITION.validate_python(entry)
        return parts[axis].model_validate(entry) if axis in parts else entry
    except ValidationError:
        return None


def _shortened(path: Path, fault: Fault) -> Fault:
    """A fault under its path, without saying again what the path says."""
    return Fault((*path, *fault.path), fault.text.removeprefix(f"{path[0]}: "))
