"""What each attack does with a model of these findings, and what may be replaced in an audit of it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from gradleak.attacks import CLOSED_FORMS, Attack, precode_inversion, residual_peeling
from gradleak.bottleneck import bottlenecks
from gradleak.clients import Gradient
from gradleak.defenses import Defense, PrivateStep
from gradleak.defenses.applying import changed_batch, defended
from gradleak.errors import BadInput
from gradleak.inspection.bound import Probe
from gradleak.inspection.findings import BENDING
from gradleak.inspection.probing import first_line
from gradleak.inspection.result import Conditions, Derivatives, Finding, Replacement, Route, Verdict
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from gradleak.updates import Update

_MASKED = frozenset({"relu", "leaky_relu", "threshold", "clamp_min", "max_pool2d"})
"""Kernels for which `relu_inversion` has a derivative of the mask."""


def routes(
    probe: Probe,
    found: Sequence[Finding],
    derivatives: Derivatives,
    verdict: Verdict,
    defenses: tuple[Defense, ...],
    seconds: float,
    seed: int,
) -> tuple[Route, ...]:
    """What each attack does: closed forms are tried on a simulated update, searches follow from the findings.

    Args:
        probe: task and batch.
        found: the findings.
        derivatives: numerical checks.
        verdict: the model's verdict.
        defenses: of the client, in order.
        seconds: for each closed form.
        seed: of the private randomness of client and defenses.

    Returns:
        Searches, then closed forms.
    """
    searches = _searches(found, derivatives, verdict)
    if bottlenecks(probe.task.model):
        searches = [_without_the_noise(route) for route in searches]
    return (*searches, *_tried(probe, defenses, seconds, seed))


def _without_the_noise(route: Route) -> Route:
    """A search of a model with a latent variable, which simulates an update that nobody sent."""
    if route.works is False:
        return route
    why = f"{route.why}; but without the latent noise, which the client draws anew: use auto or precode_inversion"
    return replace(route, works=None, why=why)


def _searches(found: Sequence[Finding], derivatives: Derivatives, verdict: Verdict) -> list[Route]:
    bending = [finding for finding in found if finding.kind in BENDING and not finding.on_weights]
    names = list(dict.fromkeys(finding.operation for finding in bending))
    list_of_names = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    unmasked = [name for name in names if name not in _MASKED]
    step, error = derivatives.best_step, derivatives.best_error
    flat = any(finding.kind == "step" and not finding.on_weights for finding in found)
    differences = f"central differences of the input gradient, step {step:.0e} (relative error {error:.0e} here)"
    if derivatives.first_error > 1e-2:
        by_differences = Route(
            "finite_differences",
            False,
            "the backward pass is not the derivative of the forward pass, and then differences at shifted weights "
            "are not the derivative of the update",
        )
    elif verdict == "no gradient" or not error < 1e-1:
        by_differences = Route("finite_differences", False, "no step gives a derivative that settles")
    elif derivatives.jittered:
        why = "inputs such as these lie exactly on kinks, where no step is small enough; close to them "
        by_differences = Route("finite_differences", None, why + differences)
    elif flat:
        by_differences = Route("finite_differences", None, f"{differences}; no derivative passes the steps")
    else:
        by_differences = Route("finite_differences", True, differences)
    if verdict == "no gradient":
        why = "the update does not move with the input: nothing to follow"
        return [Route("staged, dlg, inverting_gradients, relu_inversion, ...", False, why), by_differences]
    if not derivatives.runs:
        why = "need double backward, which does not run"
        return [Route("staged, dlg, inverting_gradients, relu_inversion, ...", False, why), by_differences]
    if not bending:
        return [
            Route("staged, dlg, idlg, cpl, sapag", True, "search by curvature: the update is smooth in the input"),
            Route("inverting_gradients, gradinversion", True, "run, and are rarely the best on smooth models"),
            Route("relu_inversion", None, "nothing to smooth: the same search with another prior"),
            by_differences,
        ]
    smoothing = f"gives the masks of {list_of_names} a derivative, in the second backward pass only"
    if unmasked:
        covered = [name for name in names if name in _MASKED]
        smoothing = (
            f"smooths {', '.join(covered)}, but not " if covered else "smooths nothing here: not "
        ) + ", ".join(unmasked[:4])
    blind = ""
    if flat:
        own_rule = derivatives.first_error > 1e-2
        blind = "; behind steps they follow the model's own rule" if own_rule else "; steps pass no gradient at all"
    return [
        Route("staged, dlg, idlg, cpl, sapag", None, f"run, but L-BFGS stalls where {list_of_names} switch{blind}"),
        Route(
            "inverting_gradients, gradinversion",
            True if not flat else None,
            f"subgradient search by signed Adam: made for kinks, blind to how masks move{blind}",
        ),
        Route("relu_inversion", None if unmasked else True, smoothing),
        by_differences,
    ]


def _tried(probe: Probe, defenses: tuple[Defense, ...], seconds: float, seed: int) -> list[Route]:
    """Closed forms and peeling on the simulated update of the first example, or else on that of the whole batch."""
    single = _observation(probe, 1, defenses, seed)
    batch = _observation(probe, len(probe.variable), defenses, seed) if len(probe.variable) > 1 else None
    tried: list[Route] = []
    latent = (precode_inversion,) if bottlenecks(probe.task.model) else ()
    for factory in (*CLOSED_FORMS, residual_peeling, *latent):
        attack = factory(max_seconds=seconds)
        answer = _try(attack, single)
        size = "1 example"
        if answer[0] is False and batch is not None and (again := _try(attack, batch))[0] is not False:
            answer, size = again, f"{len(probe.variable)} examples"
        begins = {True: f"applies ({size}): ", None: f"applies ({size}), but misses the defended update: ", False: ""}
        why = begins[answer[0]] + answer[1]
        tried.append(Route(attack.name, answer[0], why))
    return sorted(tried, key=lambda route: (True, None, False).index(route.works))


def _try(attack: Attack, observation: Observation) -> tuple[bool | None, str]:
    """Whether an attack applies, None where it does but misses the update that defenses left; and its words."""
    try:
        found = attack(observation, seed=0)
    # From the model's own backward pass, or from a model that insists on its precision where an attack needs float64.
    except (RuntimeError, BadInput) as error:
        return False, f"ends with an error: {first_line(error)}"
    if observation.defenses and found.status in {"budget", "nonfinite"}:
        return None, found.message
    return found.status != "not_applicable", found.message


def _observation(probe: Probe, count: int, defenses: tuple[Defense, ...], seed: int) -> Observation:
    """The update of the first examples, as an attacker who knows the defenses sees it."""
    client = Gradient(dropout="off")
    task, state = probe.task, probe.task.state()
    step = client.bind(task, state, stage_generator(seed, "client"))  # with the noise of bottlenecks
    with torch.no_grad():
        batch = changed_batch(defenses, probe.variable[:count], probe.targets[:count], task.space, seed)
        tensors = step(*batch)
    private = PrivateStep(task, state, *batch)
    tensors = defended(defenses, tensors, client.kind, step=private, seed=seed)
    return Observation(task, state, Update(tensors, client.kind), client=client, defenses=defenses, batch_size=count)


def replacements(
    probe: Probe, found: Sequence[Finding], derivatives: Derivatives, conditions: Conditions
) -> tuple[Replacement, ...]:
    """What may be replaced in a faithful audit of the model, and what not; only what concerns this model.

    Args:
        probe: task and batch.
        found: the findings.
        derivatives: numerical checks.
        conditions: normalization, dropout and so on.

    Returns:
        Faithful replacements first.
    """
    names = {finding.operation for finding in found}
    kinds = {finding.kind for finding in found if not finding.on_weights}
    fused = sorted(name for name in names if "attention" in name)
    recurrent = sorted(name for name in names if any(word in name for word in ("rnn", "lstm", "gru")))
    rows: list[tuple[bool, str, bool, str]] = [
        (bool(fused), "fused attention -> plain (math) kernel", True, "the same function; every attack here does it"),
        (
            bool(recurrent) or _needs_plain(derivatives),
            "cuDNN or oneDNN kernels -> plain ones",
            True,
            "the same function; run the attack under torch.backends.cudnn.flags(enabled=False)",
        ),
        (bool(conditions.in_place), "in-place activation -> out of place", True, "the same values, written elsewhere"),
        (
            any(name != "float64" for name, _ in conditions.precision),
            "computing in float64",
            True,
            "the same function with less rounding; the update keeps the client's rounding, which the report states",
        ),
        (
            bool(kinds & {"piecewise linear", "kink", "choice"}),
            "ReLU and the like -> softplus, sigmoid, GELU",
            False,
            "another function with other weights' gradients: a different model is audited",
        ),
        (
            "max_pool2d" in names or any("max_pool" in name for name in names),
            "max-pooling -> average pooling",
            False,
            "a different model is audited",
        ),
        (
            _has_strides(probe.task.model),
            "removing strides",
            False,
            "changes every later layer's size: a different model is audited",
        ),
        (
            bool(conditions.batch_norm),
            "removing BatchNorm, or the other mode",
            False,
            "say the mode instead: clients.Gradient(mode='eval' or 'train')",
        ),
        (
            bool(bottlenecks(probe.task.model)),
            "latent noise -> none",
            False,
            "the client draws it anew at every step: it is an unknown of the attack, see precode_inversion",
        ),
        (
            bool(conditions.dropout) or (bool(conditions.random) and not bottlenecks(probe.task.model)),
            "switching dropout off",
            False,
            "unless the client trained without: clients.Gradient(dropout='off' or 'fixed_mask')",
        ),
        (
            "step" in {finding.kind for finding in found} or derivatives.first_error > 1e-2,
            "quantized -> dequantized function",
            False,
            "faithful only if the client's own step computed its gradient on the dequantized function",
        ),
    ]
    return tuple(Replacement(what, faithful, why) for applies, what, faithful, why in rows if applies)


def _has_strides(model: nn.Module) -> bool:
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    return any(max(convolution.stride) > 1 for convolution in convolutions)


def _needs_plain(derivatives: Derivatives) -> bool:
    running = {check.kernels for check in derivatives.double_backward if check.runs}
    return "plain" in running and "math attention" not in running
