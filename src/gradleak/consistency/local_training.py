"""Local training against what is believed of it: unknown orders, and settings that are often wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from gradleak.clients import Aggregate, Client, DrawsOrder, Gradient, LocalTraining
from gradleak.clients.settings import StepSettings
from gradleak.consistency.comparison import Cause, Fit, Tensors, compare
from gradleak.consistency.hypotheses import Hypothesis, Setting, with_option
from gradleak.consistency.precision import Precision, Recompute
from gradleak.seeds import stage_generator

# Orders that are drawn, to learn how much they matter, and how much more than that is accepted.
_ORDERS, _SLACK = 6, 1.5
# Orders that matter more than this share of what other inputs would change leave nothing to compare.
_TELLING = 0.5
_MOMENTA = (0.0, 0.9, 0.5, 0.99)
_DECAYS = (0.0, 1e-4, 5e-4, 1e-3, 1e-2)
_EPOCHS = (1, 2, 3, 5, 10)


def order_is_unknown(client: Client, count: int) -> bool:
    """Whether a client's update of `count` examples depends on an order that it drew and did not tell."""
    return isinstance(client, DrawsOrder) and client.with_order(count, stage_generator(0, "order")) != client


def order_spread(setting: Setting, recompute: Recompute, computed: Tensors) -> list[Fit]:
    """How updates under drawn orders compare with the one in the order given; empty if the order is known."""
    client, count = setting.client, len(setting.variable)
    if not order_is_unknown(client, count) or not isinstance(client, DrawsOrder):
        return []
    drawn = [client.with_order(count, stage_generator(seed, "order")) for seed in range(_ORDERS)]
    made = [recompute(replace(setting, client=one)) for one in drawn]
    return [compare({name: one[name] for name in computed}, computed) for one in made]


def judged_with_unknown_order(
    precision: Precision, client: Client, fit: Fit, spread: list[Fit], other: float
) -> tuple[Precision, bool, Cause | None]:
    """Whether an update agrees as far as it can where the order of the local batches is not known.

    Args:
        precision: what would be accepted if it were.
        client: what is believed.
        fit: of the update recomputed in the order given.
        spread: of updates in other orders to that one, not empty.
        other: relative error that other inputs would have.

    Returns:
        The widened precision, whether the update is within it, and what stands against that.
    """
    size = max(one.relative_error for one in spread)
    note = "the order of the local batches is not known, so the update cannot be recomputed exactly"
    widened = Precision(
        max(precision.tolerance, _SLACK * size),
        f"{precision.statement}; {note}: other orders differ by up to {size:.2g}, which is accepted {_SLACK:g} times",
    )
    if size > _TELLING * other:
        why = f"{note}, and other orders differ by up to {size:.2g}, nearly as much as other inputs ({other:.2g})"
        return widened, False, _unproven("unknown_order", f"{why}: nothing can be told; record the order")
    near = abs(fit.scale - 1) <= _SLACK * max(abs(one.scale - 1) for one in spread) + min(precision.tolerance, 1e-2)
    if fit.relative_error <= widened.tolerance and near:
        return widened, True, None
    if not near and fit.scale > 0 and isinstance(client, LocalTraining):
        why = f"the update is {fit.scale:.2g} times as long as believed: a learning rate of about"
        return widened, False, _unproven("learning_rate", f"{why} {client.lr * fit.scale:.2g}, or more or fewer steps?")
    return widened, False, None


def _unproven(name: str, explanation: str) -> Cause:
    return Cause(name, explanation, float("nan"), proven=False)


def local_hypotheses(setting: Setting, scale: float) -> Iterator[Hypothesis]:
    """Settings of local training that may be others than believed, the most frequent mistakes first.

    Args:
        setting: what is believed.
        scale: the best factor between the observed update and the believed one, from which a learning rate follows.

    Yields:
        Hypotheses; none for clients without local steps.
    """
    client = setting.client
    if isinstance(client, Aggregate) or not isinstance(client, LocalTraining):
        return
    if scale > 0:
        for lr in dict.fromkeys(float(f"{client.lr * scale:.{digits}g}") for digits in (1, 2, 6)):
            why = f"the client's learning rate is {lr:g}, not {client.lr:g}; use lr={lr:g}"
            yield from _option(client, "learning_rate", "lr", lr, why)
    for momentum in _MOMENTA:
        why = (
            f"the client's momentum is {momentum:g}, not {getattr(client, 'momentum', 0):g}; use momentum={momentum:g}"
        )
        yield from _option(client, "momentum", "momentum", momentum, why)
    for decay in _DECAYS:
        stated = getattr(client, "weight_decay", 0)
        why = f"the client's weight decay is {decay:g}, not {stated:g}; use weight_decay={decay:g}"
        yield from _option(client, "weight_decay", "weight_decay", decay, why)
    if client.order is None:
        for epochs in _EPOCHS:
            why = f"the client trained for {epochs} epochs, not {client.epochs}; use epochs={epochs}"
            yield from _option(client, "epochs", "epochs", epochs, why)
    why = "the tensors are one gradient of the whole batch, not the change of weights; use the client Gradient"
    yield Hypothesis("gradient_sent", why, "client", _as_gradient, alone=True)


def _option(client: LocalTraining, name: str, option: str, value: float, why: str) -> Iterator[Hypothesis]:
    if with_option(client, option, value) is not None:
        yield Hypothesis(name, why, name, _changed(option, value))


def _changed(option: str, value: object) -> Callable[[Setting], Setting]:
    def change(setting: Setting) -> Setting:
        client = with_option(setting.client, option, value)
        return setting if client is None else replace(setting, client=client)

    return change


def _as_gradient(setting: Setting) -> Setting:
    client = setting.client
    assert isinstance(client, StepSettings)  # only local training comes here
    same = {name: getattr(client, name) for name in ("mode", "dropout", "dropout_seed", "autocast", "sent")}
    return replace(setting, client=Gradient(**same))
