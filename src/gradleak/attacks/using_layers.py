"""Any attack, given only some layers of the update: which layers leak, and does it help to send fewer?

What is left out still took part in the client's step: its values count as public constants, as they do for a client
that does not send them.
"""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.auto import auto
from gradleak.attacks.protocol import Attack, Progress
from gradleak.clients import Aggregate, Client, Gradient, Simulate
from gradleak.clients.local_training import LocalTraining
from gradleak.errors import refuse
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ModelState, Task
from gradleak.threat import Observation, simulator
from gradleak.updates import Update, UpdateKind

WORDS = ("all", "first", "last")


@dataclass(frozen=True)
class UsingLayers:
    """The attack of `using_layers`.

    Args:
        attack: is given the narrower observation.
        layers: see `chosen_tensors`.
        name: the attack's name in tables.
    """

    attack: Attack
    layers: str | tuple[str, ...] = "all"
    name: str = "using_layers"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. A pattern that fits no tensor of the update is refused as bad input."""
        names = list(observation.update.tensors)
        refuse(self._problems(names))
        kept = chosen_tensors(names, self.layers)
        found = self.attack(narrowed(observation, kept), seed=seed, progress=progress)
        return replace(found, attack=self.name, message=f"{len(kept)} of {len(names)} tensors, {found.message}")

    def problems(self, task: Task) -> list[str]:
        """Patterns that fit no trained parameter of a task, one line each."""
        return self._problems([name for name, parameter in task.model.named_parameters() if parameter.requires_grad])

    def _problems(self, names: Sequence[str]) -> list[str]:
        patterns = (self.layers,) if isinstance(self.layers, str) else self.layers
        missing = [pattern for pattern in patterns if not chosen_tensors(names, (pattern,))]
        found = [
            f"using_layers.layers: expected all, first, last or patterns of trained parameters "
            f"({', '.join(names[:3])}, ...), got {pattern!r}, which fits none; correct it"
            for pattern in missing
        ]
        return (
            found if patterns else ["using_layers.layers: expected at least one pattern, got none; all is everything"]
        )


def chosen_tensors(names: Sequence[str], layers: str | Sequence[str]) -> list[str]:
    """Those names that are looked at, in order.

    Args:
        names: of the update's tensors, in the order of the model's parameters.
        layers: `"all"`, `"first"` or `"last"` layer in that order (a layer is what shares a name up to the last dot,
            such as weight and bias), a shell pattern such as `"conv1.*"`, or several of these.

    Returns:
        The names that fit any of them.
    """
    wanted: set[str] = set()
    for layer in (layers,) if isinstance(layers, str) else layers:
        if layer == "all":
            wanted.update(names)
        elif layer in WORDS:
            owner = _owner(names[0] if layer == "first" else names[-1])
            wanted.update(name for name in names if _owner(name) == owner)
        else:
            wanted.update(fnmatch.filter(names, layer))
    return [name for name in names if name in wanted]


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def narrowed(observation: Observation, kept: Sequence[str]) -> Observation:
    """The observation with some of the update's tensors only; the client's step stays what it was.

    Args:
        observation: what the attacker holds; it is not changed.
        kept: names of the tensors.

    Returns:
        The observation itself if nothing is left out. Where layers cannot be simulated apart (clipping, defenses), a
        client that makes the whole step stands in for the client, and the defenses are part of it.
    """
    update, state = observation.update, observation.state
    if len(kept) == len(update.tensors):
        return observation
    left = {name: value for name, value in state.parameters.items() if name not in kept}
    part = replace(
        observation,
        state=ModelState({name: state.parameters[name] for name in kept}, {**left, **state.constants}),
        update=Update({name: update.tensors[name] for name in kept}, update.kind, _buffers_of(update, kept)),
    )
    if not observation.defenses and (observation.client is None or _separable(observation.client)):
        return part
    # Attacks take no defenses for a known and undefended update, and None for one that may be defended.
    return replace(
        part, client=PartOfStep(observation, tuple(kept)), defenses=None if observation.defenses != () else ()
    )


def _buffers_of(update: Update, kept: Sequence[str]) -> dict[str, Tensor]:
    """The buffers that stand in the layers of these tensors."""
    owners = {_owner(name) for name in kept}
    return {name: buffer for name, buffer in update.buffers.items() if _owner(name) in owners}


def _separable(client: Client) -> bool:
    """Whether what a client sends of one layer does not depend on which other layers are asked for."""
    if isinstance(client, Aggregate):
        return all(map(_separable, client.clients))
    return type(client) is Gradient or isinstance(client, LocalTraining)


@dataclass(frozen=True, eq=False)
class PartOfStep:
    """A client whose whole step, defenses and all, is simulated, and of which some tensors are looked at.

    Attributes:
        whole: what the attacker holds.
        kept: names of the tensors that are looked at.
    """

    whole: Observation
    kept: tuple[str, ...]

    @property
    def kind(self) -> UpdateKind:
        """That of the whole."""
        return self.whole.update.kind

    @property
    def mode(self) -> str:
        """How BatchNorm normalizes; see `StepSettings`."""
        return getattr(self.whole.client, "mode", "eval")

    def problems(self, task: Task) -> list[str]:
        """What keeps the client from training the task."""
        return [] if self.whole.client is None else self.whole.client.problems(task)

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """See `Client.bind`; the state holds what is not looked at among its constants. Nothing is drawn."""
        everything = {**state.constants, **state.parameters}
        trained = {name: everything.pop(name) for name in self.whole.state.parameters}
        simulate = simulator(replace(self.whole, task=task, state=ModelState(trained, everything)))

        def looked_at(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            sent = simulate(variable, target_probabilities)
            return {name: tensor for name, tensor in sent.items() if name in self.kept or name not in trained}

        return looked_at


def using_layers(
    *,
    attack: Callable[..., Attack] = auto,
    layers: str | tuple[str, ...] = "all",
    settings: dict[str, object] | None = None,
    restarts: int | None = None,
    max_evaluations: int | None = None,
    max_seconds: float | None = 60.0,
) -> UsingLayers:
    """An attack that sees only some layers of the update, whatever the client sent.

    Args:
        attack: factory of the attack; in a spec its name.
        layers: `"all"`, `"first"`, `"last"`, a shell pattern of parameter names such as `"conv1.*"`, or several.
        settings: further keyword arguments of the factory.
        restarts: of the attack; None for its own default.
        max_evaluations: of the attack; None for no limit.
        max_seconds: of the attack; None for no limit.

    Returns:
        The attack.
    """
    own = {**(settings or {}), **({} if restarts is None else {"restarts": restarts})}
    return UsingLayers(attack(**own, max_evaluations=max_evaluations, max_seconds=max_seconds), layers)
