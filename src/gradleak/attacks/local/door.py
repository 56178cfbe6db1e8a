"""What an attack that simulates local steps needs to know, and why it cannot where something is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gradleak.attacks.labels import NoCounts, recover_counts
from gradleak.attacks.local.adjoint import bind_checkpointed
from gradleak.attacks.local.memory import (
    GIGABYTE,
    available_bytes,
    choose_way,
    needed_bytes,
    step_bytes,
    steps_that_fit,
)
from gradleak.clients.local_training import Batch, LocalTraining
from gradleak.threat import Observation, responder

SimulateSteps = Callable[[Sequence[Batch]], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known about the client's local training.

    Attributes:
        simulate: from the batch of every step to the update.
        targets: of the private examples, as probabilities `[N, C]`; sorted where recovered, which is no order.
        count: N.
        epochs: passes over them.
        slices: first and last position of each batch of one epoch.
        steps: number of local steps.
        step_size: examples of a full step.
        lr: of the client.
        trace: how labels and memory were decided, one line each.
    """

    simulate: SimulateSteps
    targets: Tensor
    count: int
    epochs: int
    slices: tuple[tuple[int, int], ...]
    steps: int
    step_size: int
    lr: float
    trace: tuple[str, ...]


def facts_for_simulation(observation: Observation, max_memory_gb: float | None) -> Facts | str:
    """What is needed to simulate the client's steps.

    Args:
        observation: what the attacker holds.
        max_memory_gb: gigabytes that a simulation may take; None for half of what the machine has free.

    Returns:
        The facts, or why there are none, in one sentence.
    """
    problem = missing_fact(observation)
    if problem is not None:
        return problem
    client, count = observation.client, observation.batch_size
    assert isinstance(client, LocalTraining)  # else a fact is missing
    assert count is not None
    trace: list[str] = []
    targets = known_targets(observation, trace)
    if isinstance(targets, str):
        return targets
    simulate = simulation(observation, client, count, max_memory_gb, trace)
    if isinstance(simulate, str):
        return simulate
    size = client.batch_size or count
    slices = tuple((first, min(first + size, count)) for first in range(0, count, size))
    steps, size = client.steps(count), min(size, count)
    return Facts(simulate, targets, count, client.epochs, slices, steps, size, client.lr, tuple(trace))


def missing_fact(observation: Observation) -> str | None:
    """Why the client's local steps cannot be simulated, or None."""
    if observation.update.is_empty:
        return "no evidence: every entry of the update is zero"
    if observation.client is None:
        return "simulating local steps needs the client's settings, which are withheld"
    if not isinstance(observation.client, LocalTraining):
        return "the update was not made by one client's local steps"
    if observation.batch_size is None:
        return "the batch size is withheld, and the local steps depend on it"
    return None


def known_targets(observation: Observation, trace: list[str]) -> Tensor | str:
    """Target probabilities `[N, C]`, given or from label counts, or why there are none; appends to the trace."""
    if observation.targets is not None:
        return observation.task.target_probabilities(observation.targets)
    assert observation.batch_size is not None
    counts = recover_counts(observation, observation.batch_size)
    if isinstance(counts, NoCounts):
        return f"labels are unknown, and {counts.reason}"
    trace.append(f"label counts by {counts.method}{'' if counts.certain else ', uncertain'}")
    return observation.task.target_probabilities(counts.labels())


def simulation(
    observation: Observation, client: LocalTraining, count: int, max_memory_gb: float | None, trace: list[str]
) -> SimulateSteps | str:
    """The fastest simulation of all steps that memory allows, or what would fit; appends to the trace."""
    task, state = observation.task, observation.state
    steps, size = client.steps(count), min(client.batch_size or count, count)
    one, available = step_bytes(client, task, state, size), available_bytes(max_memory_gb, task.device)
    needed = needed_bytes(one, steps)
    way = choose_way(one, steps, available)
    if way == "none":
        return (
            f"the derivative of {steps} local steps takes {needed['checkpoints'] / GIGABYTE:.2g} GB even if it keeps "
            f"the weights of each step alone, and {available / GIGABYTE:.2g} GB may be used, which is enough for "
            f"{steps_that_fit(one, available)} steps"
        )
    if way == "checkpoints":
        trace.append(
            f"memory: the graph of {steps} steps takes {needed['graph'] / GIGABYTE:.2g} GB of "
            f"{available / GIGABYTE:.2g} GB, so the weights of each step are kept alone "
            f"({needed['checkpoints'] / GIGABYTE:.2g} GB) and steps are computed twice"
        )
    client = replace(client, dropout="off" if client.dropout == "random" else client.dropout)
    run = client.bind_steps(task, state) if way == "graph" else bind_checkpointed(client, task, state)
    return _defended(observation, run)


def _defended(observation: Observation, run: SimulateSteps) -> SimulateSteps:
    """The simulation with the known defenses taken into account."""
    if not observation.defenses:
        return run
    respond = responder(observation)

    def simulate(batches: Sequence[Batch]) -> dict[str, Tensor]:
        return respond(run(batches))

    return simulate
