"""A batch through its softmax head: features of every example, then the layers below, then the pixels."""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.closed_form.layers import Activation, Affine, Chain, read_chain
from gradleak.attacks.closed_form.likely_separation import separate_likely
from gradleak.attacks.closed_form.peeling import Front, Peeled, peel
from gradleak.attacks.closed_form.pixels import PixelSearch, below_front, search_pixels
from gradleak.attacks.closed_form.separation import Separation, separate
from gradleak.attacks.closed_form.separation_equations import HeadProblem
from gradleak.attacks.closed_form.whitening import Whitening
from gradleak.attacks.labels.counts import LabelCounts, NoCounts, recover_counts
from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.attacks.labels.loss_form import LossForm, find_loss_form
from gradleak.attacks.mixed_targets import WHY_NOT, mixes_targets
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ImageSpace, Task
from gradleak.threat import Observation

_MOST_EXCHANGES = 40
_EXCHANGE_STARTS = 2
_TYPICAL_INPUTS = 256
# Of the seconds, what the features may take; without any left for the pixels they would be in vain.
_FEATURE_SHARE = 0.5
# Of the seconds: what may be gone when the search for the pixels begins, whose preparation looks at no clock.
_PIXEL_SHARE = 0.6
# Features whose error exceeds this share of their spread do not determine what lies below them.
_ROUGH = 3e-3


@dataclass(frozen=True)
class SoftmaxSeparation:
    """The attack of `softmax_separation`.

    Args:
        schedule: of the search for pixels that the equations leave open.
        rough_schedule: of the same where the features are too rough to peel below them, so that the exact ones among
            them are a smaller share of the equations.
        starts: how many starts the separation of a batch with repeated labels gets.
        max_seconds: wall time; None for no limit.
        max_evaluations: of the peeled objective; None for no limit.
        name: in tables.
    """

    schedule: PixelSearch = PixelSearch()
    rough_schedule: PixelSearch = PixelSearch(weights=(0.1, 0.01, 0.001, 1e-4, 2e-5), steps=(100, 100, 150, 200, 200))
    starts: int = 12
    max_seconds: float | None = None
    max_evaluations: int | None = None
    name: str = "softmax_separation"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`."""
        del progress
        began = time.perf_counter()
        prepared = _prepare(observation)
        if isinstance(prepared, str):
            return not_applicable(self.name, observation, prepared)
        chain, head, form, counts = prepared
        seconds = math.inf if self.max_seconds is None else self.max_seconds
        deadline = began + _FEATURE_SHARE * seconds
        with torch.no_grad():
            labels, separation = _separate(observation, chain, head, form, counts, self.starts, seed, deadline)
        return self.below(observation, chain, head, separation, labels, began)

    def below(
        self,
        observation: Observation,
        chain: Chain,
        head: Affine,
        separation: Separation,
        targets: Tensor,
        began: float,
    ) -> Reconstruction:
        """Peel the layers below the head, and search the pixels that are left.

        Args:
            observation: what the attacker holds.
            chain: the model's layers.
            head: the last of them.
            separation: what enters the head, example by example.
            targets: class indices `[N]`, or probabilities `[N, C]`, in the same order.
            began: `time.perf_counter()` at the attack's start, from which its seconds count.

        Returns:
            The inputs in that order.
        """
        seconds = math.inf if self.max_seconds is None else self.max_seconds
        with torch.no_grad():
            gradient = {name: tensor.double() for name, tensor in observation.update.tensors.items()}
            precision = _precision(observation)
            peeled = _peel(chain, head, separation, gradient, precision, began + seconds)
        message = _certificate(separation) + "".join(f"; {count}" for count in peeled.counts)
        if peeled.front.index == 0:
            variable = chain.denormalize(peeled.front.values)
            return answer(self.name, observation, variable, targets, began=began, message=message)
        space = observation.task.space
        if not isinstance(space, ImageSpace):
            return not_applicable(self.name, observation, f"{message}; {peeled.obstacle}, and rows have no prior")
        errors = peeled.front.std if peeled.front.covariance is None else peeled.front.covariance
        if not bool(torch.isfinite(errors).all()):
            return not_applicable(self.name, observation, f"{message}; nothing bounds the error of the features")
        if time.perf_counter() - began > _PIXEL_SHARE * seconds:
            return not_applicable(self.name, observation, f"{message}; too little time is left for the pixels")
        grey = torch.full((len(targets), *space.shape), sum(space.bounds) / 2)
        objectives = Whitening(chain, gradient, peeled.front, grey, precision=precision)
        spent = time.perf_counter() - began
        result = search_pixels(
            objectives,
            grey,
            space.bounds,
            schedule=self.schedule if peeled.counts else self.rough_schedule,
            max_seconds=None if self.max_seconds is None else self.max_seconds - spent,
            max_evaluations=self.max_evaluations,
        )
        message = f"{message}; {_pixel_count(chain, peeled, grey)}; peeled misfit {result.misfit:.1e}"
        return answer(
            self.name,
            observation,
            result.variable,
            targets,
            began=began,
            evaluations=result.evaluations,
            message=message,
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model whose head the equations can be set up for, and those.

    Attributes:
        chain: the model's layers.
        head: the last of them.
        classes: what the loss pulls each class towards, `[C, C]`.
        labels: likeliest private labels in rising order, `[N]`.
        problem: the equations with those labels.
    """

    chain: Chain
    head: Affine
    classes: Tensor
    labels: Tensor
    problem: HeadProblem


def head_problem(observation: Observation) -> Prepared | str:
    """The equations of a batch at its head, or why there are none.

    Args:
        observation: what the attacker holds.

    Returns:
        With the labels that are given, or recovered.
    """
    prepared = _prepare(observation)
    if isinstance(prepared, str):
        return prepared
    chain, head, form, counts = prepared
    with torch.no_grad():
        typical = _typical(observation.task, chain)
    labels = counts.labels()
    return Prepared(chain, head, form.targets, labels, _head_problem(observation, head, form, labels, typical))


def _head_problem(
    observation: Observation, head: Affine, form: LossForm, labels: Tensor, typical: Tensor
) -> HeadProblem:
    update = observation.update.tensors
    weight, bias = update[head.name].double(), update[head.bias_name or ""].double()
    scales = form.weights[labels] / (len(labels) if form.averaged else 1)
    return HeadProblem(
        weight, bias, head.weight, head.bias, form.targets[labels], scales, _precision(observation), typical
    )


def _prepare(observation: Observation) -> tuple[Chain, Affine, LossForm, LabelCounts] | str:
    """The chain, its head, the loss and the label counts, or why the attack does not apply."""
    count = observation.batch_size
    if mixes_targets(observation):
        return WHY_NOT
    if count is None:
        return "the batch size is withheld, and this attack needs it"
    if observation.update.kind != "gradient":
        return "a weight delta holds the gradient up to an unknown scale and number of steps"
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if count > observation.task.num_classes - 1:
        return f"{count} examples exceed the {observation.task.num_classes - 1} that a softmax of this width separates"
    chain = read_chain(observation.task, observation.state)
    if isinstance(chain, str):
        return f"the model is not a chain of layers: {chain}"
    if count == 1 and any(isinstance(layer, Activation) and layer.kind == "relu" for layer in chain.layers):
        # What layer_recursion leaves open, a search of the pixels alone answers worse than one that knows the masks.
        return "one example leaves nothing to separate, and ReLU leaves its pixels to a search that knows the masks"
    head = chain.layers[-1]
    if not isinstance(head, Affine) or head.is_convolution or head.bias_name is None:
        return "the outputs do not come from a linear layer with a trained bias"
    if count > head.weight.shape[1]:
        return f"{count} examples exceed the {head.weight.shape[1]} features of the last layer"
    form = find_loss_form(observation.task)
    if isinstance(form, str):
        return form
    counts = recover_counts(observation, count)
    if isinstance(counts, NoCounts):
        return counts.reason
    return chain, head, form, counts


def _precision(observation: Observation) -> float:
    """Relative rounding of the update's entries."""
    return observation.update.rounding / 2


def _typical(task: Task, chain: Chain) -> Tensor:
    """Features of random inputs, `[M, D]`."""
    values = chain.normalize(dummy_variables(task.space, _TYPICAL_INPUTS).double())
    for layer in chain.layers[:-1]:
        values = layer(values)
    return values


def _separate(
    observation: Observation,
    chain: Chain,
    head: Affine,
    form: LossForm,
    counts: LabelCounts,
    starts: int,
    seed: int,
    deadline: float,
) -> tuple[Tensor, Separation]:
    """Separate with the recovered labels, and if that is not certified with other likely ones."""
    typical = _typical(observation.task, chain)

    def problem(candidate: Tensor) -> HeadProblem:
        return _head_problem(observation, head, form, candidate, typical)

    def attempt(candidate: Tensor, starts: int) -> Separation:
        return separate(problem(candidate), starts=starts, seed=seed, deadline=deadline)

    if counts.alternatives:
        return separate_likely(problem, counts.candidates(), starts=starts, seed=seed, deadline=deadline)
    labels = counts.labels()
    best_labels, best = labels, attempt(labels, starts)
    if best.certified or observation.targets is not None:
        return best_labels, best
    bias = observation.update.tensors[head.bias_name or ""].double()
    for candidate in _exchanges(labels, bias, _MOST_EXCHANGES):
        found = attempt(candidate, _EXCHANGE_STARTS)
        if found.misfit < best.misfit:
            best_labels, best = candidate, found
        if best.certified or time.perf_counter() >= deadline:
            break
    return best_labels, best


def _exchanges(labels: Tensor, bias_gradient: Tensor, most: int) -> list[Tensor]:
    """Multisets with one label exchanged, those first that the bias gradient favors."""
    classes = len(bias_gradient)
    seen: dict[tuple[int, ...], float] = {}
    for place in range(len(labels)):
        for label in range(classes):
            if label != int(labels[place]):
                candidate = labels.clone()
                candidate[place] = label
                key = tuple(candidate.sort().values.tolist())
                seen[key] = float(bias_gradient[label] - bias_gradient[labels[place]])
    ordered = sorted(seen, key=lambda key: seen[key])[:most]
    return [torch.tensor(key) for key in ordered]


def _peel(
    chain: Chain, head: Affine, separation: Separation, gradient: dict[str, Tensor], precision: float, deadline: float
) -> Peeled:
    """Peel below the separated features, unless they are too rough for it."""
    features = separation.features
    rounding = precision * float(features.square().mean().sqrt())
    std = separation.std.clamp(min=rounding)
    residuals = separation.residuals
    front = Front(len(chain.layers) - 1, features, residuals @ head.weight, std)
    # An example tells as much of what its gradient weighs.
    share = residuals.square().sum(dim=1) / residuals.square().sum().clamp(min=1e-300)
    typical = float((share * std.square()).sum().sqrt())
    rough = len(features) > 1 and typical > max(_ROUGH * float(features.std(dim=0).mean()), 10 * rounding)
    if rough or not separation.certified:
        covariance = separation.covariance + torch.diag(torch.full_like(std, rounding**2))
        return Peeled(replace(front, covariance=covariance), (), "the features are too rough to peel below them")
    return peel(chain, gradient, front, precision=precision, deadline=deadline)


def _certificate(separation: Separation) -> str:
    """One clause on how well the head's equations are met."""
    verdict = "certified" if separation.certified else "not certified"
    return (
        f"features {verdict}: misfit {separation.misfit:.1e} of rounding, "
        f"feature std {float(separation.std.max()):.0e} against a spread of "
        f"{float(separation.features.std(dim=0).mean()) if len(separation.features) > 1 else 0.0:.0e}"
    )


def _pixel_count(chain: Chain, peeled: Peeled, images: Tensor) -> str:
    """Unknown pixels against the equations that are left."""
    with torch.no_grad():
        values, gradients = below_front(chain, peeled.front, images.double())
    equations = values.numel() + sum(tensor.numel() for tensor in gradients.values())
    return f"pixels: {images.numel()} unknowns, {equations} equations"


def softmax_separation(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> SoftmaxSeparation:
    """Separate a batch at its softmax head, peel the layers below, and search the pixels that are left.

    For sequential networks with a linear head under a softmax cross-entropy and at most C - 1 examples. Exact where
    the equations suffice; else total variation fills in, and the message counts unknowns and equations.

    Args:
        restarts: starts of the separation are twelve times this; the pixels have one start.
        max_evaluations: of the peeled objective.
        max_seconds: wall time.

    Returns:
        The attack.
    """
    return SoftmaxSeparation(starts=12 * restarts, max_seconds=max_seconds, max_evaluations=max_evaluations)
