"""Continuous steps on embeddings in turn with discrete reorderings of the tokens: the course of LAMP."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.layout import Layout
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.attacks.searched_targets import searched_layout
from gradleak.attacks.text.embedded import EmbeddedTokens, in_embeddings
from gradleak.attacks.text.language_model import LanguageModel
from gradleak.attacks.text.reordering import proposed_orders, random_orders
from gradleak.clients.stateless import recurrent
from gradleak.optim import Adam, Energy
from gradleak.reconstructions import Reconstruction
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from gradleak.tokens import NO_TOKEN

_CHUNK = 50
_FIRST_SHARE = 0.1


@dataclass(frozen=True)
class Alternation:
    """An `Inversion` by Adam on embeddings that now and then goes on from another order of its tokens.

    Args:
        search: objective, priors, labels, restarts and seconds; its optimizer is `adam`.
        adam: the continuous steps.
        language_model: judge of orders; None leaves only the update to judge.
        language_weight: of its mean log-loss beside the objective, in the choice among orders.
        candidates: random starts, of which the one with the lowest objective is kept.
        permutations: of that start, of which the best is kept.
        proposals: reorderings of each text at a time.
        swap_every: steps between them.
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        touched_only: see `in_embeddings`.
        rms: see `in_embeddings`.
        max_evaluations: over all restarts together; all numbers shrink alike to keep it; None for no limit.
    """

    search: Inversion
    adam: Adam
    language_model: LanguageModel | None
    language_weight: float
    candidates: int
    permutations: int
    proposals: int
    swap_every: int
    begin: int | None = None
    end: int | None = None
    touched_only: bool = False
    rms: float | None = None
    max_evaluations: int | None = None

    @property
    def name(self) -> str:
        """That of the search."""
        return self.search.name

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        embedded = in_embeddings(
            observation, begin=self.begin, end=self.end, touched_only=self.touched_only, rms=self.rms
        )
        if isinstance(embedded, str):
            return not_applicable(self.name, observation, embedded)
        count = len(embedded.space.frame.known)
        layout = searched_layout(embedded.observation, count, self.search.labels)
        if isinstance(layout, str):
            return not_applicable(self.name, observation, layout)
        plan = self.shrunk(count)
        objective, alone = self._objective(embedded.observation, layout), recurrent(observation.task.model)
        reorderings = Reorderings(plan, layout, embedded.space, objective, seed, began, alone)
        adam = replace(plan.adam, revise=reorderings)

        def optimizer(count: int) -> Adam:
            del count
            return adam

        search = replace(self.search, optimizer=optimizer)
        found = search(embedded.observation, seed=seed, progress=progress)
        return embedded.in_tokens(reorderings.counted(found), self.name)

    def _objective(self, observation: Observation, layout: Layout) -> Energy:
        """Without priors, which no order changes."""
        return replace(self.search, priors=()).energy(observation, layout)

    def evaluations(self, count: int) -> int:
        """How many evaluations a restart makes of `count` texts, one for each objective value."""
        times = sum(1 for step in range(self.adam.steps) if self.reorders(step))
        return self.adam.steps + 1 + self.candidates + self.permutations + times * count * self.proposals

    def reorders(self, step: int) -> bool:
        """Whether other orders are tried before a step."""
        return step > 0 and step >= _FIRST_SHARE * self.adam.steps and step % self.swap_every == 0

    def shrunk(self, count: int) -> "Alternation":
        """The same with all numbers in the share that the limit of evaluations leaves."""
        limit = None if self.max_evaluations is None else max(1, self.max_evaluations // self.search.restarts)
        share = 1.0 if limit is None else min(1.0, limit / self.evaluations(count))
        plan = self
        while share < 1.0:
            plan = replace(
                self,
                adam=replace(self.adam, steps=max(0, int(share * self.adam.steps))),
                candidates=int(share * self.candidates),
                permutations=int(share * self.permutations),
                proposals=int(share**0.5 * self.proposals),
                swap_every=max(1, int(share**0.5 * self.swap_every)),
            )
            if limit is None or plan.evaluations(count) <= limit or share < 1e-6:
                break
            share *= 0.9
        return plan


@dataclass
class Reorderings:
    """What Adam asks before each step: better starts first, other orders later.

    Attributes:
        plan: how many of each.
        layout: of the candidates.
        space: of the texts.
        objective: of one candidate, without priors.
        seed: of the draws.
        began: reading of `time.perf_counter` at the attack's beginning.
        alone: whether candidates pass one by one, as recurrent layers need it.
        spent: objective values of a restart before each step so far, beside those of the steps.
    """

    plan: Alternation
    layout: Layout
    space: EmbeddedTokens
    objective: Energy
    seed: int
    began: float
    alone: bool = False
    spent: list[int] = field(default_factory=list[int])

    def __call__(self, step: int, points: Tensor) -> Tensor:
        """See `Adam.revise`."""
        now = self.spent[-1] if self.spent else 0
        if step == 0:
            made = [self._start(restart, point) for restart, point in enumerate(points)]
            now += self.plan.candidates + self.plan.permutations
            points = torch.stack(made)
        elif self.plan.reorders(step) and self.plan.proposals and not self._late():
            points = torch.stack([self._reordered(step, restart, point) for restart, point in enumerate(points)])
            now += self.plan.proposals * len(self.space.frame.known)
        self.spent.append(now)
        return points

    def counted(self, found: Reconstruction) -> Reconstruction:
        """A search's result with the objective values of starts and reorderings among its evaluations."""
        if not self.spent:
            return found
        before = [*self.spent, *[self.spent[-1]] * (len(found.history.evaluations) - len(self.spent))]
        numbers = tuple(number + extra for number, extra in zip(found.history.evaluations, before, strict=False))
        snapshots = tuple(
            replace(shot, evaluations=shot.evaluations + before[shot.evaluations - 1])
            for shot in found.history.snapshots
        )
        return replace(
            found,
            evaluations=found.evaluations + self.plan.search.restarts * self.spent[-1],
            history=replace(found.history, evaluations=numbers, snapshots=snapshots),
        )

    def _late(self) -> bool:
        limit = self.plan.search.max_seconds
        return limit is not None and time.perf_counter() - self.began >= limit

    def _start(self, restart: int, point: Tensor) -> Tensor:
        """The best of random starts, and then of its permutations; vectors as long as the vocabulary's on average."""
        generator = stage_generator(self.seed, f"attack/candidates/{restart}")

        def fresh() -> Tensor:
            variable = torch.randn(self.layout.variable_shape, generator=generator, dtype=torch.float64)
            variable = variable * self.space.mean_norm / torch.linalg.vector_norm(variable, dim=-1, keepdim=True)
            return self.layout.pack(variable, self.layout.split(point)[1].double().cpu())

        point = self._best([fresh() for _ in range(max(1, self.plan.candidates))])
        for text in range(len(self.space.frame.known)):
            share = max(1, self.plan.permutations // len(self.space.frame.known))
            orders = random_orders(self._movable(text), share, generator)
            point = self._best([self._in_order(point, text, order) for order in orders])
        return point

    def _reordered(self, step: int, restart: int, point: Tensor) -> Tensor:
        """Each text in the best of its proposed orders."""
        generator = stage_generator(self.seed, f"attack/orders/{step}/{restart}")
        for text in range(len(self.space.frame.known)):
            orders = proposed_orders(self._movable(text), self.plan.proposals, generator)
            point = self._best([self._in_order(point, text, order) for order in orders], self._unlikely(text))
        return point

    def _unlikely(self, text: int) -> Callable[[list[Tensor]], Tensor] | None:
        """The weighted log-loss of one text of several candidates."""
        model = self.plan.language_model
        if model is None:
            return None

        def judged(points: list[Tensor]) -> Tensor:
            variables = torch.stack([self.layout.split(point)[0][text] for point in points])
            known = self.space.frame.known[text].to(variables.device)
            tokens = torch.where(known == NO_TOKEN, self.space.nearest(variables), known)
            return self.plan.language_weight * model(tokens)

        return judged

    def _best(self, points: list[Tensor], term: Callable[[list[Tensor]], Tensor] | None = None) -> Tensor:
        """The candidate with the lowest objective, plus a term."""
        if len(points) < 2 or self._late():
            return points[0]
        with torch.no_grad():
            if self.alone:
                values = torch.stack([self.objective(point) for point in points]).double().cpu()
            else:
                values = torch.vmap(self.objective, chunk_size=_CHUNK)(torch.stack(points)).double().cpu()
        if term is not None:
            values = values + term(points).double().cpu()
        return points[int(values.nan_to_num(nan=torch.inf).argmin())]

    def _movable(self, text: int) -> Tensor:
        return self.space.frame.known[text] == NO_TOKEN

    def _in_order(self, point: Tensor, text: int, order: Tensor) -> Tensor:
        """A candidate with one text in another order; where every token has a target, that moves along."""
        variable, logits = self.layout.split(point)
        variable = variable.clone()
        variable[text] = variable[text][order]
        if logits.numel() and len(self.layout.target_shape) > 1:
            logits = logits.clone()
            logits[text] = logits[text].view(len(order), -1)[order].flatten()
        return self.layout.pack(variable, logits)
