"""From a spec to its trials: the grid, the captured batches, the seeds and the ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import gradleak
from gradleak.audits.building import examples_digest
from gradleak.audits.by_name.components import attack_factory, client_named, threat_named
from gradleak.audits.by_name.defenses import defense_named
from gradleak.audits.by_name.references import code_digest
from gradleak.audits.drawing import Draw, drawn_seed
from gradleak.audits.preparing import (
    PreparedData,
    PreparedModel,
    client_description,
    network_stage,
    outputs_of,
    prepare_data,
    prepare_model,
)
from gradleak.audits.records import plain, record_id
from gradleak.audits.spec import AuditSpec, Component, PerClient
from gradleak.clients import Aggregate


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that is to be run.

    Attributes:
        id: the content hash of the spec, 16 hexadecimal digits.
        spec: everything that changes the outcome, as plain data.
    """

    id: str
    spec: dict[str, Any]


def plan(spec: AuditSpec) -> tuple[PlannedTrial, ...]:
    """Every trial of an audit, batch by batch, so that a run that is cut short has looked at every cell.

    The same spec gives the same trials in every process. Settings of the run, thresholds and limits change no id, and
    more trials only add some.

    Args:
        spec: as `read_spec` returns it.

    Returns:
        The trials.

    Raises:
        BadInput: when something that the spec names cannot be loaded; `read_spec` says where it stands.
    """
    return tuple(_planned(spec))


@dataclass(frozen=True)
class _Cell:
    """The parts of a trial that do not depend on the batch, the data or the model.

    Attributes:
        parts: of its spec.
        code: digests of the source of foreign parts.
        sizes: numbers of private examples.
    """

    parts: dict[str, Any]
    code: dict[str, str]
    sizes: tuple[int, ...]


def _planned(spec: AuditSpec) -> Iterator[PlannedTrial]:
    outputs = outputs_of(spec.model, spec.seed)
    data = [prepare_data(entry, spec.seed, outputs) for entry in spec.data]
    models = [[prepare_model(entry, prepared, spec.seed) for entry in spec.model] for prepared in data]
    cells = list(_cells(spec))
    sizes = dict.fromkeys(size for cell in cells for size in cell.sizes)
    draws = [
        [Draw(own.dataset.name, own.dataset.targets, size, own.distinct, spec.seed) for size in sizes] for own in data
    ]
    for batch in range(spec.trials):
        for own, own_models, own_draws in zip(data, models, draws, strict=True):
            for draw in own_draws:
                captured = _captured(own, draw, batch, spec.seed)
                for model, cell in product(own_models, cells):
                    if draw.size in cell.sizes:
                        yield _trial(captured, own, model, cell, spec.seed)


def _cells(spec: AuditSpec) -> Iterator[_Cell]:
    """Every combination of client, defenses, threat model and attack."""
    made = [(entry, client_named(entry.name, entry.settings)) for entry in spec.client]
    clients = [(*_component(entry, client), batch_sizes(spec.batch_size, client)) for entry, client in made]
    defenses = [
        [_component(entry, defense_named(entry.name, entry.settings)) for entry in composition]
        for composition in spec.defense
    ]
    threats = [plain(threat_named(settings), "threat") for settings in spec.threat]
    attacks = [(plain(entry.plain(), "attack"), code_digest([attack_factory(entry.name)])) for entry in spec.attack]
    for client, composition, threat, attack in product(clients, defenses, threats, attacks):
        parts = {
            "client": client[0],
            "defenses": [defense[0] for defense in composition],
            "threat": threat,
            "attack": attack[0],
        }
        code = {"client": client[1], "attack": attack[1]}
        code.update((f"defense.{position}", defense[1]) for position, defense in enumerate(composition))
        yield _Cell(parts, {name: digest for name, digest in code.items() if digest is not None}, client[2])


def batch_sizes(declared: Sequence[int | PerClient], client: object) -> tuple[int, ...]:
    """The numbers of private examples that a client's trials have.

    Args:
        declared: the axis of the spec.
        client: one client, or an aggregate of several.

    Returns:
        Distinct numbers in the order of the axis.
    """
    count = len(client.members) if isinstance(client, Aggregate) else 1
    sizes = (count * entry.per_client if isinstance(entry, PerClient) else entry for entry in declared)
    return tuple(dict.fromkeys(sizes))


def _component(entry: Component, made: object) -> tuple[dict[str, Any], str | None]:
    """A client or a defense as plain data with every setting, and the digest of its source."""
    return client_description(entry.name, made), code_digest([type(made)])


def _captured(data: PreparedData, draw: Draw, batch: int, seed: int) -> dict[str, Any]:
    """The parts of a trial that all attacks on one captured batch share."""
    examples = draw.examples(batch)
    targets = data.dataset.targets[examples]
    return {
        "data": {**data.description, "digest": examples_digest(data.dataset.inputs[examples], targets)},
        "examples": examples,
        "targets": targets.tolist(),
        "seed": drawn_seed(seed, f"trial/{draw.name}/{draw.size}/{batch}"),
        "batch": batch,
        "gradleak": gradleak.__version__,
    }


def _trial(captured: dict[str, Any], data: PreparedData, model: PreparedModel, cell: _Cell, seed: int) -> PlannedTrial:
    description = model.description
    if model.redraw:
        description = {**description, "seed": drawn_seed(seed, network_stage(captured["batch"]))}
    code = {"model": model.code, "data": data.code, **cell.code}
    spec = {
        "model": description,
        "space": model.space,
        "num_classes": model.task.num_classes,
        **captured,
        **cell.parts,
        "stage": model.stage,
        "code": {name: digest for name, digest in code.items() if digest is not None},
    }
    return PlannedTrial(record_id(spec), spec)
