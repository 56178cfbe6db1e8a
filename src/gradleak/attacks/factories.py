"""How a portfolio makes an attack with what is left of its budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gradleak.attacks.protocol import Attack, Progress
from gradleak.reconstructions import Reconstruction
from gradleak.threat import Observation


class Factory(Protocol):
    """How the portfolio makes an attack with what is left of its budget."""

    def __call__(self, *, max_evaluations: int | None, max_seconds: float | None) -> Attack:
        """The attack."""
        ...


def with_share(factory: Callable[..., Attack], share: float) -> Factory:
    """The factory with a share of what is left of the budget."""

    def make(*, max_evaluations: int | None, max_seconds: float | None) -> Attack:
        evaluations = None if max_evaluations is None else max(1, int(share * max_evaluations))
        return factory(max_evaluations=evaluations, max_seconds=None if max_seconds is None else share * max_seconds)

    return make


def on_another(observation: Observation, factory: Callable[..., Attack]) -> Factory:
    """The factory's attack, given another observation than that of the portfolio."""

    def make(*, max_evaluations: int | None, max_seconds: float | None) -> Attack:
        return _Elsewhere(factory(max_evaluations=max_evaluations, max_seconds=max_seconds), observation)

    return make


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    """An attack on a fixed observation."""

    attack: Attack
    observation: Observation

    @property
    def name(self) -> str:
        return self.attack.name

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        del observation
        return self.attack(self.observation, seed=seed, progress=progress)
