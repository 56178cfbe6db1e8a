"""A factor between the observed and the recomputed update, in words; and whole weights in place of their change."""

import torch

from gradleak.clients import Client, LocalTraining
from gradleak.consistency.comparison import Cause, Fit, Tensors, compare, flat, relative
from gradleak.tasks import ModelState
from gradleak.updates import Update

# Weights after a client's step are still close to those before it.
_SAME_WEIGHTS = 0.5


def scale_cause(fit: Fit, count: int, update: Update, client: Client, tolerance: float) -> Cause | None:
    """What the best factor between observed and recomputed update means.

    Args:
        fit: a comparison that is exact up to the factor.
        count: number of examples N.
        update: the observed one.
        client: how it is believed to be made.
        tolerance: relative error that counts as equal.

    Returns:
        The cause, or None if the factor is 1, or if it is a learning rate that nobody knows.
    """
    scale, client_kind = fit.scale, client.kind
    lr = client.lr if isinstance(client, LocalTraining) else None
    steps = client.steps(count) if isinstance(client, LocalTraining) else 1

    def near(value: float) -> bool:
        return abs(scale - value) <= tolerance * abs(value)

    if near(1) or (client_kind != update.kind and scale > 0):
        return None
    if client_kind != update.kind:
        name, why = (
            "kind",
            f"the sign is not that of a {update.kind} (factor {-scale:.4g}); correct the kind or the sign",
        )
    elif near(-1):
        name, why = "sign", "the sign is wrong (factor -1); multiply by -1"
    elif count > 1 and near(count):
        name, why = "sum", f"the loss is summed over the {count} examples, not averaged; divide by {count}"
    elif count > 1 and near(-count):
        name, why = "sum", f"the loss is summed over the {count} examples, and the sign is wrong; divide by -{count}"
    elif count > 1 and near(1 / count):
        name, why = "averaged_twice", f"divided by the batch size twice (1/{count}); multiply by {count}"
    elif lr is not None and (near(-1 / lr) or near(-1 / (lr * steps))):
        name = "gradient_as_delta"
        divisor = "lr" if near(-1 / lr) else f"(lr * {steps} steps)"
        why = f"the change of the weights was divided by -{divisor}, as if to make a gradient; multiply by -{divisor}"
    elif lr is not None and scale < 0:
        name, why = "sign", f"the sign is wrong (factor {scale:.4g}); multiply by -1 and check the learning rate"
    elif scale < 0:
        name = "delta_as_gradient"
        fits = f"it fits one plain SGD step of learning rate {-scale:.4g}"
        why = f"a delta that is called a gradient: {fits}; use the kind 'delta'"
    else:
        norm = float(flat(update.tensors, update.tensors).norm())
        name = "scale"
        why = (
            f"a factor of {scale:.4g} (its norm is now {norm:.4g}): clipped, weighted or averaged over clients? undo it"
        )
    return Cause(name, why, fit.scaled_error, proven=True)


def common_factors(count: int) -> list[tuple[float, str, str]]:
    """Factors of frequent mistakes, each with the cause's name and words.

    Args:
        count: number of examples N.

    Returns:
        What an update was multiplied by, the name, and what it is and what to do.
    """
    factors = [(-1.0, "sign", "the sign is wrong (factor -1); multiply by -1")]
    if count > 1:
        summed = f"the loss is summed over the {count} examples, not averaged; divide by {count}"
        twice = f"divided by the batch size twice (1/{count}); multiply by {count}"
        factors += [(float(count), "sum", summed), (1.0 / count, "averaged_twice", twice)]
    return factors


def weights_sent(observed: Tensors, state: ModelState, computed: Tensors, tolerance: float) -> Cause | None:
    """Whether the tensors are the weights after the step instead of their change.

    Args:
        observed: the update under the model's names.
        state: the model's values before the step.
        computed: the recomputed update, of either sign.
        tolerance: relative error that counts as equal.

    Returns:
        The cause, or None.
    """
    h, w = flat(observed, observed), flat(state.parameters, observed)
    if relative(h - w, w) > _SAME_WEIGHTS or relative(h, w) == 0:
        return None
    change = {name: tensor.double() - state.parameters[name].double() for name, tensor in observed.items()}
    # The difference of two rounded numbers of nearly the same size keeps few digits.
    eps = max(torch.finfo(tensor.dtype).eps for tensor in observed.values())
    size = float(flat(change, observed).norm())
    allowed = max(tolerance, 4 * eps * float(w.norm()) / size) if size > 0 else 0.0
    fit = compare(change, computed)
    proven = size > 0 and fit.scaled_error <= min(allowed, 0.5)
    why = "the tensors are weights, not their change"
    if size == 0:
        why += ": exactly those of this model"
    elif proven:
        why += f"; the change fits one plain SGD step of learning rate {abs(fit.scale):.4g}"
    return Cause(
        "weights_sent",
        f"{why}; subtract the weights from before the step",
        fit.scaled_error if size > 0 else float("nan"),
        proven,
    )
