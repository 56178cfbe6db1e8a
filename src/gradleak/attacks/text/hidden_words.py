"""The words that a masked language model had to guess, from the gradient of its last layer, for known inputs."""

import torch
from torch import Tensor

from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.text.layer_inputs import layer_inputs
from gradleak.attacks.text.output_layer import OutputLayer, find_output_layer
from gradleak.threat import Observation
from gradleak.tokens import IGNORED, TokenSpace

# A position takes part in the loss if its residuals reach this share of the largest ones.
_TAKES_PART = 0.2
# Swaps of hidden words that are tried at most where a tied embedding leaves their order open.
_MOST_SWAPS = 60


def hidden_words(observation: Observation, tokens: Tensor) -> Tensor | str:
    """Targets of known inputs where every token may have one.

    The last layer's gradient is `sum_p r_p h_p^T` over positions p with known inputs h, so least squares gives the
    residuals `r = (softmax - target) / M`: near -1/M at the target, and zero where a position has none. Rows of a tied
    embedding that belong to tokens of the input hold the gradient of the way in as well; for targets among those the
    bias tells which there are, and the whole update in which order.

    Args:
        observation: what the attacker holds, of a task with `classified="token"`.
        tokens: the inputs `[N, T]`, padded.

    Returns:
        Ids `[N, T]`, `IGNORED` where there is no target; or why there are none.
    """
    task, state = observation.task, observation.state
    space = task.space
    assert isinstance(space, TokenSpace)
    layer = find_output_layer(task, state, space.embedding_of(task.model)[1])
    gradient = observation.update.in_gradient_direction()
    if layer is None or layer.weight not in gradient:
        return "the outputs do not come from a linear layer whose gradient was sent"
    kept = torch.ones_like(tokens, dtype=torch.bool) if space.padding is None else tokens != space.padding
    runner = layer_inputs(observation)
    entering = runner(tokens, [layer.module])[layer.module][kept].double()
    residuals = gradient[layer.weight].double() @ torch.linalg.pinv(entering, rtol=1e-7)  # [V, P]
    clean = torch.ones(task.num_classes, dtype=torch.bool)
    if layer.tied:
        clean[tokens[kept].unique()] = False
    strength = residuals[clean].abs().sum(dim=0)
    part = strength > _TAKES_PART * strength.max()
    places = part.nonzero()[:, 0]
    found = torch.full((int(kept.sum()),), IGNORED)
    rows = torch.where(clean[:, None], residuals, torch.inf)
    best = rows.min(dim=0)
    # A target's own residual is larger than all the others together, which share the rest of a softmax.
    sure = part & (best.values < 0) & (-best.values > 0.5 * residuals[clean].clamp(min=0).sum(dim=0))
    found[sure] = best.indices[sure]
    open_places = places[~sure[places]]
    targets = torch.full_like(tokens, IGNORED)
    if len(open_places):
        left = _left(observation, layer, runner.run(tokens), kept, part, found)
        order = _likely_order(residuals[:, open_places], left, clean)
        found[open_places] = order
    targets[kept] = found
    return _settled(observation, tokens, targets, kept, open_places) if len(open_places) > 1 else targets


def _left(
    observation: Observation, layer: OutputLayer, logits: Tensor | None, kept: Tensor, part: Tensor, found: Tensor
) -> Tensor:
    """How often each token is a target besides the found ones, `[V]`, by the bias; zeros where nothing tells."""
    classes = observation.task.num_classes
    gradient = observation.update.in_gradient_direction()
    if layer.bias is None or layer.bias not in gradient or logits is None:
        return torch.zeros(classes, dtype=torch.float64)
    probabilities = torch.softmax(logits[kept][part].double(), dim=-1).sum(dim=0)
    counts = probabilities - int(part.sum()) * gradient[layer.bias].double()
    known = found[found != IGNORED]
    return (counts - torch.bincount(known, minlength=classes)).clamp(min=0)


def _likely_order(residuals: Tensor, left: Tensor, clean: Tensor) -> Tensor:
    """One token for each open position, `[P]`, each as often as it is left, by the lowest sum of residuals."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    count = residuals.shape[1]
    options = torch.repeat_interleave(torch.arange(len(left)), left.round().long())
    if len(options) < count:
        unclear = torch.where(clean[:, None], torch.inf, residuals)
        return unclear.argmin(dim=0)
    rows, columns = linear_sum_assignment(residuals[options].T.cpu().numpy())
    order = torch.empty(count, dtype=torch.long)
    order[torch.from_numpy(rows)] = options[torch.from_numpy(columns)]
    return order


def _settled(observation: Observation, tokens: Tensor, targets: Tensor, kept: Tensor, open_places: Tensor) -> Tensor:
    """The targets after those swaps of open ones that bring the update nearer to the observed one."""
    task = observation.task
    variable = task.encode(tokens)
    flat = kept.flatten().nonzero()[:, 0][open_places]

    def misfit(candidate: Tensor) -> float:
        return mismatch(observation, variable, task.target_probabilities(candidate))

    best = misfit(targets)
    swaps = 0
    improved = True
    while improved and swaps < _MOST_SWAPS and best > 1e-9:
        improved = False
        for first in range(len(flat)):
            for second in range(first):
                swapped = targets.flatten().clone()
                swapped[flat[[first, second]]] = swapped[flat[[second, first]]]
                if bool((swapped == targets.flatten()).all()) or swaps >= _MOST_SWAPS:
                    continue
                swaps += 1
                value = misfit(swapped.view_as(targets))
                if value < best:
                    best, targets, improved = value, swapped.view_as(targets), True
    return targets
