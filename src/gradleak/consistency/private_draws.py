"""Updates that depend on what the client drew in secret: judged by the law of the draws, not by one recomputation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.bottleneck import bottlenecks
from gradleak.captures import capture
from gradleak.clients import Client, DrawsOrder
from gradleak.consistency.comparison import Cause, Tensors
from gradleak.consistency.hypotheses import Setting
from gradleak.consistency.precision import Precision, adds_noise
from gradleak.consistency.scales import common_factors
from gradleak.defenses import ChangesBatch, ChangesTask, Defense
from gradleak.defenses.applying import defended
from gradleak.errors import BadInput
from gradleak.seeds import stage_generator
from gradleak.tasks import Task

_DRAWS, _TURNED = 8, 3
_SEEDS = 4
# An update may lie farther out than the farthest draw by this many ranges of the draws, but not more than twice as far.
_RANGES = 2.0
# Behind a defense that leaves few values, one entry may jump in a tensor in which none of the draws does.
_JUMPS = 0.05


@dataclass(frozen=True, eq=False)
class Believed:
    """How a client is believed to have made an update, so that it can be made again with other draws.

    Attributes:
        task: with every defense that is a part of the model.
        inputs: `[N, ...]` in the input space's own units.
        targets: class indices `[N]` or probabilities `[N, C]`.
        client: how the update is made.
        defenses: what is done to it.
    """

    task: Task
    inputs: Tensor
    targets: Tensor
    client: Client
    defenses: tuple[Defense, ...]

    def update(self, seed: int) -> dict[str, Tensor]:
        """The update with the draws of a seed, by the model's names."""
        observation, _ = capture(
            self.task, self.inputs, self.targets, client=self.client, defenses=self.defenses, seed=seed
        )
        return dict(observation.update.tensors)

    def turned(self) -> "Believed":
        """The same with other inputs, which have the same labels."""
        return replace(self, inputs=self.inputs.flip(tuple(range(1, self.inputs.dim()))))


def hidden_draws(believed: Believed, setting: Setting) -> list[str]:
    """What the client draws in secret for its step, in words; additive noise is not among it.

    Args:
        believed: how the update is made.
        setting: the same, bound.

    Returns:
        Names; empty where the update before its own defenses can be recomputed.
    """
    task, client = believed.task, believed.client
    latent = bottlenecks(task.model)
    words = [f"the latent noise of the bottleneck {', '.join(latent)}"] if latent else []
    if isinstance(client, DrawsOrder):  # an unknown order is judged for itself
        client = client.with_order(len(setting.variable), stage_generator(0, "order"))
    if not latent and not adds_noise(client):
        seeds = (stage_generator(seed, "client") for seed in range(2))
        one, other = (client.bind(task, setting.state, seed)(setting.variable, setting.probabilities) for seed in seeds)
        words += [] if all(torch.equal(one[name], other[name]) for name in one) else ["the dropout masks"]
    for defense in believed.defenses:
        if isinstance(defense, ChangesBatch):
            batches = [
                defense.change_batch(
                    setting.variable, setting.probabilities, task.space, stage_generator(seed, "defense/0")
                )
                for seed in range(_SEEDS)
            ]
            if any(not torch.equal(batch[0], batches[0][0]) for batch in batches):
                words.append(f"what {type(defense).__name__} draws for the batch")
    return words


def noisy_defenses(defenses: Sequence[Defense], computed: Tensors, client: Client) -> list[str]:
    """Declared defenses of the update that draw at random, in words."""
    found: list[str] = []
    for defense in defenses:
        one, other = (defended([defense], computed, client.kind, seed=seed) for seed in range(2))
        if any(not torch.equal(one[name], other[name]) for name in one):
            found.append(f"the draws of {type(defense).__name__}")
    return found


@dataclass(frozen=True)
class Judgement:
    """Whether an update is one that the client may have made with some draw.

    Attributes:
        within: whether it is.
        tolerance: the relative difference from the mean of the draws that is accepted.
        statement: one sentence for people, which says what agreement is worth.
        causes: why not; empty if it is.
    """

    within: bool
    tolerance: float
    statement: str
    causes: tuple[Cause, ...]


def judged_by_draws(
    observed: Tensors, believed: Believed, secrets: Sequence[str], precision: Precision
) -> Judgement | None:
    """Hold an update against updates made with other draws.

    Every tensor, and the whole update, may stray from the draws' mean about as far as the draws themselves do.

    Args:
        observed: by the model's names, of the client's own kind.
        believed: how it is made.
        secrets: what is drawn, in words.
        precision: how exactly updates agree that draw the same.

    Returns:
        The judgement; None where the client's own step has no result with some draw.
    """
    try:
        draws = [believed.update(seed) for seed in range(_DRAWS)]
        others = [believed.turned().update(seed) for seed in range(_TURNED)]
    except BadInput:
        return None
    defended = not all(isinstance(defense, ChangesBatch | ChangesTask) for defense in believed.defenses)
    jumps = _JUMPS if defended else 0.0
    law = _Law.of({name: [draw[name] for draw in draws] for name in observed}, precision.tolerance, jumps)
    strayed, name = law.strays(observed)
    power = min(law.strays(other)[0] for other in others)
    what = " and ".join(secrets)
    note = f"{precision.statement}; {what} cannot be known, so the update is not reproduced to rounding"
    if strayed <= 1:
        worth = (
            f"other inputs with the same labels lie at {power:.2g} of it"
            if power > 1
            else f"other inputs with the same labels pass too (at {power:.2g} of it): it says nothing about the inputs"
        )
        statement = (
            f"{note}, but it lies among updates with other draws, at {strayed:.2g} of the distance that is accepted; "
            f"{worth}"
        )
        return Judgement(True, law.spread, statement, ())
    why = (
        f"{what} cannot explain the update: {name} lies {strayed:.2g} times as far from the mean of {_DRAWS} draws as "
        "is accepted; check settings, weights, batch and the declared defenses"
    )
    causes = (*_factors(observed, law, len(believed.inputs)), Cause("draws", why, float("nan"), proven=False))
    return Judgement(False, law.spread, note, causes)


@dataclass(frozen=True, eq=False)
class _Law:
    """Of each tensor, the mean of the draws and how far draws lie from it.

    Attributes:
        mean: by name, flat, in float64.
        reach: by name, the distance from it that is accepted.
        far: the same of the whole update.
        spread: that relative to the mean.
    """

    mean: dict[str, Tensor]
    reach: dict[str, float]
    far: float
    spread: float

    @staticmethod
    def of(draws: dict[str, list[Tensor]], tolerance: float, jumps: float) -> "_Law":
        mean: dict[str, Tensor] = {}
        reach: dict[str, float] = {}
        squares, size = torch.zeros(_DRAWS, dtype=torch.float64), 1e-300
        for name, tensors in draws.items():
            stacked = torch.stack([tensor.double().flatten().cpu() for tensor in tensors])
            mean[name] = stacked.mean(dim=0)
            # Without the draw itself, the mean of the others is as far as this factor says.
            away = (stacked - mean[name]).norm(dim=1) * _DRAWS / (_DRAWS - 1)
            squares, size = squares + away.square(), size + float(mean[name].square().sum())
            reach[name] = max(_accepted(away), tolerance * float(mean[name].norm()))
        far = max(_accepted(squares.sqrt()), tolerance * size**0.5)
        reach = {name: max(distance, jumps * far) for name, distance in reach.items()}
        return _Law(mean, reach, far, far / size**0.5)

    def strays(self, observed: Tensors) -> tuple[float, str]:
        """How far out an update lies, in units of what is accepted, and what of it lies so."""
        away = {
            name: float((observed[name].double().flatten().cpu() - mean).norm()) for name, mean in self.mean.items()
        }
        far = {name: _ratio(distance, self.reach[name]) for name, distance in away.items()}
        far["the whole"] = _ratio(math.hypot(*away.values()), self.far)
        worst = max(far, key=far.__getitem__)
        return far[worst], worst


def _accepted(distances: Tensor) -> float:
    """Of the draws' own distances, `[D]`."""
    farthest, nearest = float(distances.max()), float(distances.min())
    return farthest + min(farthest, _RANGES * (farthest - nearest))


def _ratio(distance: float, reach: float) -> float:
    return distance / reach if reach > 0 else (0.0 if distance == 0 else math.inf)


def _factors(observed: Tensors, law: _Law, count: int) -> list[Cause]:
    """Factors after which the update would lie among the draws."""
    return [
        Cause(name, f"without this the update lies among the draws: {why}", float("nan"), proven=False)
        for factor, name, why in common_factors(count)
        if law.strays({name: tensor / factor for name, tensor in observed.items()})[0] <= 1
    ]
