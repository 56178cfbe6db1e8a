"""What an attacker knows about the batch statistics of BatchNorm in training mode, and terms that use it.

In training mode each layer normalizes with the mean and the biased variance of the private batch, and a client may
send the running statistics after its step. There are four ways of standing in for the batch's own, which results must
name, since they are worth very different images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gradleak.attacks.priors import Term
from gradleak.clients.passes import passes, values_per_channel
from gradleak.clients.settings import StepSettings, stateful_layers
from gradleak.clients.stateless import stateless_copy
from gradleak.errors import BadInput
from gradleak.tasks import ModelState, Task
from gradleak.threat import Observation

Policy = Literal["given", "running", "inferred", "estimated"]


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Statistics of what entered each BatchNorm layer, by layer name.

    Attributes:
        policy: `"given"`: the private batch's own, which no attacker has; `"running"`: the model's running ones;
            `"inferred"`: from the running ones before and after the client's step; `"estimated"`: of public data.
        means: `[C]` each.
        variances: biased, as BatchNorm divides by them, `[C]` each.
        batches: how many batches they mix: 1, or more where a layer saw several before the client sent its buffers.
    """

    policy: Policy
    means: Mapping[str, Tensor]
    variances: Mapping[str, Tensor]
    batches: int = 1

    @property
    def exact(self) -> bool:
        """Whether they are the private batch's own, up to the rounding of what was sent."""
        return self.policy == "given" or (self.policy == "inferred" and self.batches == 1)

    def describe(self) -> str:
        """One clause for messages."""
        if self.policy == "inferred" and not self.exact:
            return f"batch statistics: inferred, a geometric mixture of {self.batches} batches"
        return "batch statistics: " + {
            "given": "given (an oracle)",
            "running": "the running ones stand in",
            "inferred": "inferred from sent buffers, exact",
            "estimated": "estimated from other data",
        }.get(self.policy, self.policy)


Source = Callable[[Observation], BatchStatistics | str]
"""How an attack comes to its statistics; a string says why it has none."""


def given_statistics(means: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Source:
    """Statistics from outside, by layer name `[C]`, variances biased. An oracle, which inflates results."""
    return lambda _observation: BatchStatistics("given", means, variances)


def running_statistics(observation: Observation) -> BatchStatistics | str:
    """The model's running statistics before the client's step, as a proxy (Yin et al. 2021, equation 9)."""
    layers = stateful_layers(observation.task.model)
    if not layers:
        return "the model has no BatchNorm with running statistics"
    before = observation.state.constants
    return BatchStatistics(
        "running",
        {name: before[_full(name, "running_mean")] for name in layers},
        {name: before[_full(name, "running_var")] for name in layers},
    )


def inferred_statistics(observation: Observation) -> BatchStatistics | str:
    """The batch's statistics from the running ones before and after the step.

    After one batch, `mean = (new - (1 - m) old) / m` with momentum m, and the variance likewise, times (n - 1) / n,
    since running variances are unbiased; n = N h w values a channel. After several batches this is their geometric
    mixture: batch s of S counts `m (1 - m)^(S - s)`, up to the sum of these. Without a momentum it is the plain mean.

    Returns:
        The statistics in float64, or one clause why there are none: nothing sent, no layers, unknown client.
    """
    observed, before = observation.update.buffers, observation.state.constants
    layers = stateful_layers(observation.task.model)
    if not layers:
        return "the model has no BatchNorm with running statistics"
    if not observed:
        return "the client sent no buffers"
    count = observation.batch_size
    sizes = None if count is None else passes(observation.client, count)
    if count is None or sizes is None:
        return "the client's steps or the batch size are withheld"
    if any(member != sizes[0] for member in sizes):
        return "the aggregated clients passed different numbers of examples"
    means: dict[str, Tensor] = {}
    variances: dict[str, Tensor] = {}
    positions = values_per_channel(observation.task)
    used = [name for name in layers if name in positions]
    for name in used:
        names = [_full(name, statistic) for statistic in ("running_mean", "running_var")]
        if any(full not in observed for full in names):
            return f"the client sent no running statistics of {name or 'the model'}"
        values = [float(size * place) for size in sizes[0] for place in positions[name]]
        counter = before.get(_full(name, "num_batches_tracked"))
        momentum = getattr(observation.task.model.get_submodule(name), "momentum", None)
        shares = _shares(momentum, 0 if counter is None else int(counter), len(values))
        kept = math.prod(1 - share for share in shares)
        if kept == 1:
            return f"the momentum of {name or 'the model'} is zero: its running statistics do not change"
        means[name], unbiased = (
            (observed[full].double() - kept * before[full].double()) / (1 - kept) for full in names
        )
        weights = [share * math.prod(1 - later for later in shares[i + 1 :]) for i, share in enumerate(shares)]
        bias = sum(weight * (n - 1) / n for weight, n in zip(weights, values, strict=True)) / (1 - kept)
        variances[name] = unbiased * bias
    mixed = len(sizes) * max(len(sizes[0]) * len(positions[name]) for name in used)
    return BatchStatistics("inferred", means, variances, mixed)


def estimated_statistics(inputs: Tensor) -> Source:
    """Statistics of other data, in the mode of the client, for instance of public images or of noise.

    Args:
        inputs: `[M, ...]` in the input space's own units; a batch of the private size stands in best.

    Returns:
        The source.
    """

    def source(observation: Observation) -> BatchStatistics | str:
        task = observation.task
        if not stateful_layers(task.model):
            return "the model has no BatchNorm with running statistics"
        with torch.no_grad():
            found = _entering(task, observation.state, observation.client)(task.encode(inputs))
        pairs = {name: _moments(uses) for name, uses in found.items()}
        means, variances = ({name: pair[place] for name, pair in pairs.items()} for place in (0, 1))
        return BatchStatistics("estimated", means, variances)

    return source


@dataclass(frozen=True)
class StatisticsPrior:
    """Distance of a candidate's batch statistics to those that the attacker has; a prior.

    Args:
        source: where the attacker has them from.
        distance: `"relative"`: squared differences in units of each channel's variance, averaged over channels and
            layers; `"plain"`: Euclidean norms, not squared, summed over layers (Yin et al. 2021, equation 9).
        first_weight: what the first layer counts; the others count 1.
    """

    source: Source = inferred_statistics
    distance: Literal["relative", "plain"] = "relative"
    first_weight: float = 1.0

    def __call__(self, observation: Observation) -> Term:
        """Prepare the term.

        Returns:
            The term.

        Raises:
            BadInput: where the source has no statistics.
        """
        statistics = self.source(observation)
        if isinstance(statistics, str):
            why = f"statistics: expected batch statistics for the prior, got none: {statistics}; leave it out"
            raise BadInput([why])
        task = observation.task
        entering = _entering(task, observation.state, observation.client)
        means = {name: mean.to(task.device, task.dtype) for name, mean in statistics.means.items()}
        variances = {name: one.to(task.device, task.dtype) for name, one in statistics.variances.items()}
        measure = _relative if self.distance == "relative" else _plain

        def term(variable: Tensor, targets: Tensor) -> Tensor:
            del targets
            terms: list[Tensor] = []
            for name, uses in entering(variable).items():
                weight = 1.0 if terms else self.first_weight
                terms.append(weight * measure(*_moments(uses), means[name], variances[name]))
            return torch.stack(terms).sum() / (len(terms) if self.distance == "relative" else 1)

        return term


def buffer_distance(observation: Observation) -> Callable[[Mapping[str, Tensor]], Tensor] | None:
    """Distance of a simulated step's buffers to the sent ones: zero at the true batch.

    Squared differences in units of what the observed ones moved by, averaged over entries and buffers, so that a
    candidate with the statistics of the model before the step has 1.

    Returns:
        A function of what a client's step gives, see `Client.bind`; None where no buffers were sent.
    """
    task, before = observation.task, observation.state.constants
    moved = {
        name: (value.to(task.dtype), value - before[name])
        for name, value in observation.update.buffers.items()
        if value.is_floating_point() and bool((value != before[name]).any())
    }
    if not moved:
        return None

    def distance(sent: Mapping[str, Tensor]) -> Tensor:
        terms = [(sent[name] - value).square().sum() / change.square().sum() for name, (value, change) in moved.items()]
        return torch.stack(terms).mean()

    return distance


def _shares(momentum: float | None, counter: int, count: int) -> list[float]:
    """What each of the next `count` batches is weighted with as it enters the running statistics."""
    return [1 / (counter + number) if momentum is None else momentum for number in range(1, count + 1)]


def _entering(task: Task, state: ModelState, client: object) -> Callable[[Tensor], dict[str, list[Tensor]]]:
    """From a variable to what enters each BatchNorm layer `[N, C, ...]` at each use, in the mode of the client."""
    mode = client.mode if isinstance(client, StepSettings) else "eval"
    module = stateless_copy(task.model, mode=mode, dropout="off").module
    entered: dict[str, list[Tensor]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _layer, inputs: entered.setdefault(name, []).append(inputs[0])

    for name in stateful_layers(task.model):
        module.get_submodule(name).register_forward_pre_hook(recorder(name))
    own = {name for name, _ in [*module.named_buffers(), *module.named_parameters()]}
    values = {name: value for name, value in {**state.constants, **state.parameters}.items() if name in own}

    def entering(variable: Tensor) -> dict[str, list[Tensor]]:
        entered.clear()
        task.space.forward(module, values, variable)
        return dict(entered)

    return entering


def _moments(uses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of maps `[N, C, ...]`, averaged over the uses of a layer."""
    channels = [maps.transpose(0, 1).flatten(1) for maps in uses]
    means = torch.stack([one.mean(dim=1) for one in channels])
    return means.mean(dim=0), torch.stack([one.var(dim=1, correction=0) for one in channels]).mean(dim=0)


def _relative(mean: Tensor, variance: Tensor, known_mean: Tensor, known_variance: Tensor) -> Tensor:
    # The small constant is BatchNorm's own; a dead channel would divide by zero.
    size = known_variance.clamp_min(0) + 1e-5
    return ((mean - known_mean).square() / size + ((variance - known_variance) / size).square()).mean()


def _plain(mean: Tensor, variance: Tensor, known_mean: Tensor, known_variance: Tensor) -> Tensor:
    return torch.linalg.vector_norm(mean - known_mean) + torch.linalg.vector_norm(variance - known_variance)


def _full(layer: str, statistic: str) -> str:
    return f"{layer}.{statistic}" if layer else statistic
