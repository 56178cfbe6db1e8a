"""How often each class occurs in a private batch: one front door to the rules."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradleak.attacks.disturbance import undisturbed
from gradleak.attacks.head import Head, find_head
from gradleak.attacks.labels.bounds import fewest_of_each
from gradleak.attacks.labels.dummies import Responses, dummy_variables, responses
from gradleak.attacks.labels.evidence import HeadGradient, build_model
from gradleak.attacks.labels.likely import likely_counts
from gradleak.attacks.labels.loss_form import LossForm, find_loss_form
from gradleak.attacks.labels.rules import round_counts
from gradleak.attacks.labels.scale import gradient_scale
from gradleak.attacks.labels.search import climb
from gradleak.attacks.labels.trained import blended_counts, is_trained
from gradleak.attacks.surrogate import Scale, middle, path_scale, surrogate_gradient
from gradleak.clients import Gradient
from gradleak.threat import Observation

_DUMMIES = 768
# Beyond this many classes the equations (C - 1)(C + 1) are too many to solve for every exchange of labels.
_EVIDENCE_CLASSES = 20
_ALTERNATIVES = 60
_CERTAIN = 0.99
# Above this strain the private inputs are unlike the dummies, as for trained networks, and nothing is certain.
_FOREIGN = 2.0

# Below this weight in a blend, dummies are too unlike the private inputs to build on.
_ALIKE = 0.5

CountMethod = Literal["given", "sign", "mean_softmax", "evidence", "blend", "proof"]


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each class occurs.

    Attributes:
        counts: `[C]`, int64; the sum is the batch size.
        method: `given` by the threat model; `sign` of one example's gradient; `mean_softmax`: from the mean softmax of
            dummy inputs (Geng et al. 2021); `evidence`: that, corrected by the whole gradient of the last layer;
            `blend`: at trained networks, of the mean softmax and equal shares; `proof`: every label is proved.
        certain: whether the attacker may rely on them: nothing known disturbs the rule, and no other multiset is
            nearly as likely; at trained networks only where every single label is proved.
        uncertainty: standard deviation of each count, `[C]`.
        at_least: how many of each class the gradient proves, `[C]`, int64; zeros if the update was defended or is not
            known to be one gradient.
        alternatives: other counts `[C]`, int64, likeliest first; none where every exchange of a label was tried.
    """

    counts: Tensor
    method: CountMethod
    certain: bool
    uncertainty: Tensor
    at_least: Tensor
    alternatives: tuple[Tensor, ...] = ()

    def labels(self) -> Tensor:
        """The class of every example in rising order, `[N]`; the order says nothing about positions."""
        return self.candidates()[0]

    def candidates(self) -> tuple[Tensor, ...]:
        """The class of every example `[N]` in rising order, by these counts and then by each alternative."""
        classes = torch.arange(len(self.counts))
        return tuple(torch.repeat_interleave(classes, counts) for counts in (self.counts, *self.alternatives))


@dataclass(frozen=True)
class NoCounts:
    """Why the labels cannot be recovered.

    Attributes:
        reason: one sentence for people.
    """

    reason: str


def recover_counts(
    observation: Observation, batch_size: int, *, dummies: int = _DUMMIES, seed: int = 0
) -> LabelCounts | NoCounts:
    """Recover how often each class occurs in the private batch; labels may repeat, also beyond the number of classes.

    Needs a linear last layer under a softmax cross-entropy; smoothing, class weights and a summed loss are read off the
    loss itself. Local steps of SGD are treated as one gradient at the middle of their path, see
    `surrogate.surrogate_gradient`, which needs the learning rate and the number of steps: without them a delta has no
    scale and its counts are refused. Which example was in which step the counts do not say.

    Args:
        observation: what the attacker holds; given labels are counted.
        batch_size: number of examples N, at least 1.
        dummies: number of random inputs that tell how the model responds to inputs.
        seed: decides those.

    Returns:
        The counts, or why there are none.
    """
    task = observation.task
    nothing = torch.zeros(task.num_classes, dtype=torch.float64)
    if observation.targets is not None:
        labels = task.target_probabilities(observation.targets).argmax(dim=1)
        counts = torch.bincount(labels, minlength=task.num_classes)
        return LabelCounts(counts, "given", True, nothing, counts)
    if observation.update.is_empty:
        return NoCounts("no evidence: every entry of the update is zero")
    head = find_head(task, observation.state)
    if head is None:
        return NoCounts("the model's outputs do not come from a linear layer with a trained weight")
    form = find_loss_form(task)
    if isinstance(form, str):
        return NoCounts(form)
    sent = observation
    observation, bent = _straightened(sent, batch_size)
    is_exact = undisturbed(sent) and not bent
    if batch_size == 1:
        label = _single(observation, head)
        if label is not None:
            counts = torch.nn.functional.one_hot(torch.tensor(label), task.num_classes)
            proved = is_exact and form.is_plain
            return LabelCounts(counts, "sign", proved, nothing, counts * int(proved))
    scale = gradient_scale(observation, batch_size)
    if isinstance(scale, str):
        return NoCounts(scale)
    if not form.averaged:
        scale = scale / batch_size
    found = responses(observation, head, dummy_variables(task.space, dummies, seed), batch_size)
    view = _head_gradient(observation, head, scale, found)
    return _from_dummies(observation, view, form, batch_size, found, is_exact)


def _straightened(observation: Observation, batch_size: int) -> tuple[Observation, bool]:
    """One gradient in place of local steps of SGD, and whether there are several, so that it is not exact."""
    if observation.update.kind != "delta":
        return observation, False
    known = replace(observation, batch_size=batch_size)
    if not isinstance(path_scale(known), Scale):
        return observation, True
    # One step is taken at the weights before, and its gradient is exact but for rounding.
    return surrogate_gradient(known), middle(known) > 0


def _single(observation: Observation, head: Head) -> int | None:
    """The class of one example: the only row of `(p - t) o^T` whose factor has the sign of its own, if there is one."""
    gradient = observation.update.in_gradient_direction()
    if head.bias is not None:
        column = gradient[head.bias].double()
    else:
        weight = gradient[head.weight].double()
        column = torch.linalg.svd(weight, full_matrices=False)[0][:, 0]
        # The sign of a singular vector is free: a residual has one negative entry, and more than one other.
        column = column if int((column < 0).sum()) <= int((column > 0).sum()) else -column
    negative = (column < 0).nonzero()[:, 0]
    return int(negative[0]) if len(negative) == 1 else None


def _head_gradient(observation: Observation, head: Head, scale: float, found: Responses) -> HeadGradient:
    """The last layer with its gradient of the mean loss, in float64; an untrained bias is read off the outputs."""
    gradient = {name: tensor.double() * scale for name, tensor in observation.update.in_gradient_direction().items()}
    weight = observation.state.parameters[head.weight].double()
    bias = found.logits[0] - found.features[0] @ weight.T if head.bias else torch.zeros(len(weight)).double()
    return HeadGradient(gradient[head.weight], None if head.bias is None else gradient[head.bias], weight, bias)


def _from_dummies(
    observation: Observation,
    view: HeadGradient,
    form: LossForm,
    batch_size: int,
    found: Responses,
    is_exact: bool,
) -> LabelCounts:
    """Mean softmax of dummies first, then the evidence of the whole gradient; never below what is proved."""
    at_least = torch.zeros(len(view.bias), dtype=torch.long)
    if is_exact and isinstance(observation.client, Gradient):
        at_least = fewest_of_each(
            view,
            form,
            batch_size,
            rounding=observation.update.rounding,
            nonnegative_features=bool((found.features >= 0).all()),
        )
    estimates = _linear_estimates(view, form, found.features, found.logits, batch_size)
    trained, weight = is_trained(found.logits), 1.0
    if trained and view.bias_gradient is not None:
        estimates, weight = blended_counts(estimates, (-batch_size * view.bias_gradient).clamp_min(0), batch_size)
    counts = at_least + round_counts(estimates - at_least, batch_size - int(at_least.sum()))
    rough = (estimates - counts).abs()
    if torch.equal(counts, at_least):
        return LabelCounts(counts, "proof", True, torch.zeros_like(rough), at_least)
    if trained and (weight < _ALIKE or batch_size >= len(counts)):
        return LabelCounts(counts, "blend", False, rough, at_least)
    if len(counts) > _EVIDENCE_CLASSES:
        return _likeliest(estimates, found.logits, batch_size, at_least, is_exact and not trained)
    result = climb(build_model(view, found.features, form.weights, form.targets), counts, at_least)
    certain = is_exact and not trained and result.probability > _CERTAIN and result.strain < _FOREIGN
    return LabelCounts(result.counts, "evidence", certain, result.spread, at_least)


def _likeliest(estimates: Tensor, logits: Tensor, batch_size: int, at_least: Tensor, undisturbed: bool) -> LabelCounts:
    """Counts from estimates that are off as much as the sum of N softmax values varies among dummies."""
    deviations = torch.softmax(logits, dim=1).std(dim=0) * batch_size**0.5
    # What is proved is left out of the search.
    others = likely_counts(estimates - at_least, deviations, batch_size - int(at_least.sum()), 1 + _ALTERNATIVES)
    counts, *alternatives = others + at_least
    certain = undisturbed and float((estimates - counts).abs().max()) < 0.1
    return LabelCounts(counts, "mean_softmax", certain, deviations, at_least, tuple(alternatives))


def _linear_estimates(view: HeadGradient, form: LossForm, features: Tensor, logits: Tensor, batch_size: int) -> Tensor:
    """Real-valued counts `[C]` that solve `N db = sum_k n_k w_k (pbar - t_k)` with `sum_k n_k = N`.

    Without a bias, the direction in which the dummies' features are most alike serves as one.

    Returns:
        The estimates; they may be negative.
    """
    probabilities = torch.softmax(logits, dim=1)
    center = features.mean(dim=0)
    if view.bias_gradient is None:
        direction = center / center.square().sum()
        signal = view.weight_gradient @ direction
        mean_softmax = (probabilities * (features @ direction)[:, None]).mean(dim=0)
    else:
        signal, mean_softmax = view.bias_gradient, probabilities.mean(dim=0)
    system = (form.weights[:, None] * (mean_softmax - form.targets)).T
    system = torch.cat([system, torch.ones((1, len(signal)), dtype=torch.float64)])
    wanted = torch.cat([signal, torch.ones(1, dtype=torch.float64)]) * batch_size
    return torch.linalg.lstsq(system, wanted[:, None], driver="gelsd").solution[:, 0]
