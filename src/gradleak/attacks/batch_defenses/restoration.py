"""Clients that train on a changed batch: recover what they trained on, then undo the change.

The update is the exact gradient of the changed batch, so that every attack recovers that one; what is left is a problem
of images. Mixed targets are soft, which rules for labels do not expect: they are found from the head's equations first.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.batch_defenses.decoding import decode_encodings
from gradleak.attacks.batch_defenses.free_shares import Shares, separate_shares
from gradleak.attacks.batch_defenses.mixed_head import MixedHead, separate_mixed
from gradleak.attacks.batch_defenses.unaugmenting import unaugment
from gradleak.attacks.batch_defenses.unmixing import Unmixed, smoothed, solved, unmix
from gradleak.attacks.closed_form.pixels import PixelSearch
from gradleak.attacks.closed_form.softmax_separation import SoftmaxSeparation, head_problem
from gradleak.attacks.mixed_targets import mixes_targets
from gradleak.attacks.protocol import Attack, Progress, not_applicable
from gradleak.attacks.smooth import staged
from gradleak.defenses import Augment, ChangesBatch, Defense, InstaHide, MixesTargets, MixUp
from gradleak.defenses.insta_hide import received, unreceived
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation

# All choices of partners are tried, which are N!.
_MOST_MIXED = 6
# Of the seconds, what remains for undoing.
_LAST_SHARE = 0.15
_HEAD_SHARE = 0.3

# Neighbors tell nothing of each other's signs; where most are right, absolute values are as smooth as the mixtures.
_ENCODED = PixelSearch(coarse=(), weights=(1e-4, 1e-6, 0.003, 0.001, 1e-4, 1e-5, 1e-6), steps=(200,) * 7, unsigned=5)

Search = Callable[[float | None, int | None], Attack]
"""From seconds and evaluations to the attack on the changed batch."""


def changes_batch(observation: Observation) -> bool:
    """Whether a known defense trains on other examples than the private ones."""
    return any(isinstance(one, ChangesBatch) for one in observation.defenses or ())


@dataclass(frozen=True)
class BatchRestoration:
    """The attack of `batch_restoration`.

    Args:
        search: makes the attack on the changed batch.
        max_seconds: wall time; None for no limit.
        max_evaluations: of the search; None for no limit.
        name: in tables.
    """

    search: Search
    max_seconds: float | None = None
    max_evaluations: int | None = None
    name: str = "batch_restoration"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        began = time.perf_counter()
        count = observation.batch_size
        changing = [one for one in observation.defenses or () if isinstance(one, ChangesBatch)]
        if not changing:
            return not_applicable(self.name, observation, "no known defense changes the batch")
        if count is None:
            return not_applicable(self.name, observation, "the batch size is withheld, and this attack needs it")
        if observation.update.is_empty:
            return not_applicable(self.name, observation, "no evidence: every entry of the update is zero")
        others = tuple(one for one in observation.defenses or () if not isinstance(one, ChangesBatch))
        plain = replace(observation, defenses=others)
        seconds = None if self.max_seconds is None else (1 - _LAST_SHARE) * self.max_seconds
        head: MixedHead | Shares | None = None
        if mixes_targets(observation):
            changed, head = self._mixed(plain, changing, seed, progress, seconds, began)
        else:
            changed = self.search(seconds, self.max_evaluations)(plain, seed=seed, progress=progress)
        if changed.status in {"not_applicable", "nonfinite"}:
            return replace(changed, attack=self.name, seconds=time.perf_counter() - began)
        return self._undone(observation, changing, changed, head, began)

    def _mixed(
        self,
        plain: Observation,
        changing: Sequence[Defense],
        seed: int,
        progress: Progress | None,
        seconds: float | None,
        began: float,
    ) -> tuple[Reconstruction, MixedHead | Shares | None]:
        """The mixed batch by its head if one defense mixed it; else by a search for images and soft targets."""
        mixing = [one for one in changing if isinstance(one, MixesTargets) and one.mixes_targets]
        reason = "several defenses that mix targets are not solved for"
        if len(mixing) == 1:
            found = self._by_head(plain, mixing[0], seed, seconds, began)
            if not isinstance(found, str):
                return found
            reason = found
        # The private labels are not those of mixtures.
        blind = replace(plain, targets=None)
        changed = staged(max_seconds=seconds, max_evaluations=self.max_evaluations)(blind, seed=seed, progress=progress)
        given = plain.targets is not None
        return replace(changed, targets_given=given, message=f"{reason}; {changed.message}"), None

    def _by_head(
        self, plain: Observation, mixing: object, seed: int, seconds: float | None, began: float
    ) -> tuple[Reconstruction, MixedHead | Shares] | str:
        assert plain.batch_size is not None
        if plain.batch_size > _MOST_MIXED:
            return f"{plain.batch_size} examples have too many partners to try; {_MOST_MIXED} are the most"
        prepared = head_problem(plain)
        if isinstance(prepared, str):
            return prepared
        deadline = math.inf if seconds is None else began + _HEAD_SHARE * seconds
        attack = SoftmaxSeparation(name=self.name, max_seconds=seconds, max_evaluations=self.max_evaluations)
        head: MixedHead | Shares
        if isinstance(mixing, MixUp) and not mixing.each:
            with torch.no_grad():
                head = separate_mixed(prepared.problem, prepared.labels, prepared.classes, seed=seed, deadline=deadline)
        elif len(prepared.labels.unique()) < plain.batch_size:
            return "one share for each example can be told only where all labels differ"
        else:
            head = separate_shares(prepared.problem, prepared.labels, prepared.classes, seed=seed, deadline=deadline)
        if isinstance(mixing, InstaHide):
            attack = replace(attack, schedule=_ENCODED, rough_schedule=_ENCODED)
            plain = _with_room_for_signs(plain)
        targets = head.targets(prepared.classes).to(plain.task.dtype)
        changed = attack.below(plain, prepared.chain, prepared.head, head.separation, targets, began)
        return changed.message if changed.status == "not_applicable" else (changed, head)

    def _undone(
        self,
        observation: Observation,
        changing: Sequence[Defense],
        changed: Reconstruction,
        head: MixedHead | Shares | None,
        began: float,
    ) -> Reconstruction:
        """From the changed batch to the private one, the last change first."""
        space, variable, labels = observation.task.space, changed.variable, changed.targets
        notes: list[str] = []
        for defense in reversed(changing):
            if isinstance(defense, MixUp) and isinstance(head, MixedHead):
                unmixed = unmix(variable, tuple(head.labels.tolist()), head.partners, head.share)
                variable, labels = _smoothed(variable, unmixed, space), head.labels
                share = float(unmixed.coefficients.max(dim=1).values.min())
                notes.append(f"unmixed with share {share:.3f}, {unmixed.choices} choices left open by the labels")
            elif isinstance(defense, InstaHide) and isinstance(space, ImageSpace):
                known = isinstance(head, Shares)
                shares = head.shares if isinstance(head, Shares) else torch.eye(len(variable), dtype=torch.float64)
                variable = decode_encodings(variable, shares, space)
                labels = head.labels if isinstance(head, Shares) else labels
                notes.append("signs undone, " + ("and mixtures" if known else "mixtures left as they are"))
            elif isinstance(defense, MixUp) and isinstance(head, Shares):
                unmixed = Unmixed(solved(variable, head.shares), head.shares.to(variable), 1)
                variable, labels = _smoothed(variable, unmixed, space), head.labels
                notes.append("unmixed with one share for each example")
            elif isinstance(defense, Augment) and isinstance(space, ImageSpace):
                variable, undone = unaugment(variable, defense.possible_steps(), space)
                named = {" ".join(name for name, _ in steps) for steps in undone}
                notes.append(f"undone: {' or '.join(sorted(named))}")
            elif observation.batch_size != 1:
                notes.append(f"{type(defense).__name__} left as it is")
        soft = changed.target_probabilities
        given = observation.targets is not None
        if given and observation.targets is not None and head is None:
            labels = observation.task.target_probabilities(observation.targets).argmax(dim=1)
        return replace(
            changed,
            inputs=space.decode(variable),
            variable=variable,
            targets=labels,
            target_probabilities=soft if head is None else observation.task.target_probabilities(labels),
            targets_given=given,
            attack=self.name,
            seconds=time.perf_counter() - began,
            message=f"{changed.message}; {'; '.join(notes)}" if notes else changed.message,
        )


def _with_room_for_signs(observation: Observation) -> Observation:
    """The same with bounds within which images with flipped signs lie, too."""
    task, space = observation.task, observation.task.space
    if not isinstance(space, ImageSpace):
        return observation
    ends = torch.tensor(space.bounds).double().view(2, 1, 1, 1).expand(2, *space.shape)
    flipped = unreceived(-received(ends, space), space)
    bounds = float(torch.minimum(ends, flipped).min()), float(torch.maximum(ends, flipped).max())
    return replace(observation, task=replace(task, space=replace(space, bounds=bounds)))


def _smoothed(mixtures: Tensor, unmixed: Unmixed, space: object) -> Tensor:
    """Images held within bounds where shares are nearly even; anything else as it was solved for."""
    return smoothed(mixtures, unmixed, space.bounds) if isinstance(space, ImageSpace) else unmixed.images


def batch_restoration(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> BatchRestoration:
    """Behind `MixUp`, `InstaHide` or `Augment` that are known: recover the changed batch with `auto`, then undo them.

    One objective is reported, that of the changed batch, since the private one has no update of its own.

    Args:
        restarts: of the searches.
        max_evaluations: of the search; undoing an augmentation is not counted.
        max_seconds: wall time, of which the last part is for undoing.

    Returns:
        The attack.
    """

    def search(seconds: float | None, evaluations: int | None) -> Attack:
        # The portfolio tries this attack, and this attack the portfolio.
        from gradleak.attacks.auto import auto

        return auto(restarts=restarts, max_seconds=seconds, max_evaluations=evaluations)

    return BatchRestoration(search, max_seconds, max_evaluations)
