"""The inspection of a model: is it twice differentiable, and what does that mean for an audit?"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradleak.clients.stateless import Mode
from gradleak.defenses import Defense
from gradleak.defenses.applying import changed_task, defense_problems
from gradleak.errors import BadInput, refuse
from gradleak.inspection.bound import Bound, Probe
from gradleak.inspection.conditions import read_conditions, read_parameters
from gradleak.inspection.derivatives import measure
from gradleak.inspection.findings import BENDING, findings
from gradleak.inspection.probing import first_line
from gradleak.inspection.recording import Record, record
from gradleak.inspection.result import Derivatives, Finding, Inspection, Kind, Verdict
from gradleak.inspection.routes import replacements, routes
from gradleak.seeds import stage_generator
from gradleak.tasks import InputSpace, Task
from gradleak.tokens import TokenSpace

_WRONG, _NOT_THE_DERIVATIVE = 1e-4, 1e-3
"""Relative differences between two ways to the same second, or first, derivative that rounding does not explain."""

_JITTER = 1e-3
"""Relative size of the noise that moves inputs off kinks."""


def inspect(
    task_or_model: Task | nn.Module,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    space: InputSpace | None = None,
    num_classes: int | None = None,
    defenses: Sequence[Defense] = (),
    seconds: float = 1.0,
    seed: int = 0,
) -> Inspection:
    """Which operations of a model are not twice differentiable, and what each attack does there.

    The model runs on a private copy, under a dispatch mode that sees every kernel; each kind of kernel is then measured
    along a line through what it got. The model handed in is never changed.

    Args:
        task_or_model: a task, or a model together with `space` and `num_classes`.
        inputs: real inputs `[N, *shape]`, at least 2 to see how examples are coupled; seeded noise if None.
        targets: their classes `[N]` or probabilities `[N, C]`; seeded random classes if None.
        space: what an input is, with a model.
        num_classes: number of classes, with a model.
        defenses: of the client, in order. Those that are a part of the model are built in, and closed forms are tried
            on an update that went through all of them, by an attacker who knows them.
        seconds: time for each closed form that is tried.
        seed: of the directions of all probes, and of inputs and targets that were not given.

    Returns:
        The inspection.

    Raises:
        BadInput: when a model comes without space or classes, inputs, targets or defenses do not fit, or it does not
            run.
    """
    task = _own_task(task_or_model, space, num_classes)
    refuse(defense_problems(defenses, task))
    task = changed_task(defenses, task)
    given = inputs is not None
    inputs = _inputs(task, seed) if inputs is None else inputs
    targets = _targets(task, len(inputs), seed) if targets is None else targets
    refuse([*task.space.problems(inputs), *task.target_problems(targets, len(inputs))])
    probe = Probe(task, task.encode(inputs), task.target_probabilities(targets))
    devices = [task.device] if task.device.type == "cuda" else []
    # Dropout draws from the global stream, which is left as it was.
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        words = f"{len(inputs)} {'given inputs' if given else 'random inputs'}"
        return _inspect(probe, words, tuple(defenses), seconds, seed)


def _inspect(probe: Probe, words: str, defenses: tuple[Defense, ...], seconds: float, seed: int) -> Inspection:
    records = _records(probe)
    parameters = read_parameters(probe)
    conditions = read_conditions(probe, records)
    found = findings(records, conditions.random, seed)
    derivatives = _measured(probe, found, seed)
    verdict, headline = judge(found, derivatives)
    return Inspection(
        verdict,
        headline,
        found,
        derivatives,
        parameters,
        conditions,
        routes(probe, found, derivatives, verdict, defenses, seconds, seed),
        replacements(probe, found, derivatives, conditions),
        words,
    )


def _measured(probe: Probe, found: Sequence[Finding], seed: int) -> Derivatives:
    """The derivatives at the inputs, or close to them where the inputs lie exactly on kinks."""
    derivatives = measure(probe, seed)
    if not any(finding.kind in BENDING for finding in found) or derivatives.best_error <= _WRONG:
        return derivatives
    generator = stage_generator(seed, "inspection/jitter")
    noise = torch.randn(probe.variable.shape, generator=generator, dtype=torch.float64).to(probe.variable)
    size = float(probe.variable.square().mean().sqrt())
    again = measure(replace(probe, variable=probe.variable + _JITTER * size * noise), seed)
    return replace(again, jittered=True) if again.best_error <= _WRONG else derivatives


def judge(found: Sequence[Finding], derivatives: Derivatives) -> tuple[Verdict, str]:
    """The verdict and its sentence.

    Args:
        found: the findings.
        derivatives: numerical checks.

    Returns:
        Both; the sentence names operations.
    """
    on_input = [finding for finding in found if not finding.on_weights]

    def named(*kinds: Kind) -> str:
        names = list(dict.fromkeys(finding.operation for finding in on_input if finding.kind in kinds))
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    estimated = [
        check.error
        for check in derivatives.double_backward
        if check.mode == "eval" and check.error and check.kernels != "own"
    ]
    if derivatives.sensitivity == 0:
        why = f": {named('step', 'choice')} pass no derivative" if named("step", "choice") else ""
        return "no gradient", f"the update does not move with the input{why}"
    bending = any(finding.kind in BENDING for finding in on_input)
    note = ""
    if derivatives.float64 and derivatives.first_error > _NOT_THE_DERIVATIVE:
        note = "; its backward pass is not the derivative of its forward pass (straight-through, or detached)"
    elif derivatives.float64 and derivatives.runs and derivatives.best_error > _WRONG and not bending:
        error = f"differs by {derivatives.best_error:.0e} from differences of the gradient at every step"
        return "no double backward", f"double backward runs, but is wrong: it {error}"
    if not derivatives.runs:
        return "no double backward", f"double backward does not run: {estimated[0] if estimated else 'no reason given'}"
    if jumps := named("step", "jump"):
        return "steps", f"values jump at {jumps}{note}"
    if bending:
        linear = "; between the kinks the outputs are linear in the input" if derivatives.curvature == 0 else ""
        return "kinks", f"kinks at {named(*BENDING)}{linear}{note}"
    fused = named("no double backward")
    own = f"; the engine's plain kernels replace {fused}, which has no second derivative" if fused else ""
    return "smooth", f"smooth everywhere{own}{note}"


def _records(probe: Probe) -> list[tuple[Mode, Record]]:
    """What runs in both modes; a model that refuses training mode at this batch is seen in evaluation mode alone."""
    records: list[tuple[Mode, Record]] = []
    modes: tuple[Mode, ...] = ("eval", "train")
    for mode in modes:
        bound = Bound.of(probe, mode, as_attacks_do=False)
        variable = probe.variable.detach().clone().requires_grad_()
        weights = bound.leaves()
        try:
            records.append(
                (mode, record(bound.module, variable, lambda x, b=bound, w=weights: b.outputs(w, x), weights))
            )
        # The model is foreign code; what it raises at the first, plain run is the user's to correct.
        except Exception as error:
            if mode == "eval":
                reason = f"got {type(error).__name__}: {first_line(error)}"
                raise BadInput(
                    [f"model: expected a forward pass that runs, {reason}; correct model or inputs"]
                ) from error
    return records


def _own_task(task_or_model: Task | nn.Module, space: InputSpace | None, num_classes: int | None) -> Task:
    """A task on a private copy of the model."""
    if isinstance(task_or_model, Task):
        return replace(task_or_model, model=copy.deepcopy(task_or_model.model))
    if space is None or num_classes is None:
        raise BadInput(["inspect: expected space and num_classes with a model, got none; or give a Task"])
    return Task(copy.deepcopy(task_or_model), space, num_classes)


def _inputs(task: Task, seed: int) -> Tensor:
    """Two random inputs in the bounds, or two texts of random words."""
    if isinstance(task.space, TokenSpace):
        hidden = {task.space.padding, task.space.mask, *task.space.special}
        words = torch.tensor([token for token in range(task.space.vocabulary) if token not in hidden])
        return words[
            torch.randint(len(words), (2, *task.space.shape), generator=stage_generator(seed, "inspection/inputs"))
        ]
    low, high = task.space.bounds or (-1.0, 1.0)
    drawn = torch.rand((2, *task.space.shape), generator=stage_generator(seed, "inspection/inputs"))
    return low + (high - low) * drawn


def _targets(task: Task, count: int, seed: int) -> Tensor:
    shape = (count,) if task.classified == "example" else (count, *task.space.shape)
    return torch.randint(task.num_classes, shape, generator=stage_generator(seed, "inspection/targets"))
