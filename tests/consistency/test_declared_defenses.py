"""Defenses that are declared explain the update, as far as they do, and no further."""

import pytest
from torch import Tensor, nn

import gradleak as gl
from gradleak.consistency import Consistency, check_consistency
from tests.consistency.planting import SPACE, X, Y, dropping, smooth

D = gl.defenses
SECONDS = 0.3


def checked(
    defenses: list[D.Defense],
    *,
    client: gl.clients.Client | None = None,
    model: nn.Module | None = None,
    inputs: Tensor = X,
    factor: float = 1.0,
    count: int = 3,
    seed: int = 0,
) -> Consistency:
    """The verdict on the update of the true batch, with other inputs or after a factor."""
    task = gl.Task(model if model is not None else smooth(), SPACE, 10)
    observation, _ = gl.capture(task, X[:count], Y[:count], client=client, defenses=defenses, seed=seed)
    update = gl.Update({name: factor * h for name, h in observation.update.tensors.items()}, observation.update.kind)
    return check_consistency(
        update, task, inputs[:count], Y[:count], client=client, defenses=defenses, max_seconds=SECONDS
    )


@pytest.mark.parametrize(
    "defenses",
    [
        [D.RandomK(keep=0.3)],
        [D.Quantize("int8", rounding="stochastic")],
        [D.QSGD(levels=15)],
        [D.RandomK(keep=0.3), D.Quantize("int8", rounding="stochastic")],
    ],
    ids=lambda defenses: "+".join(type(defense).__name__ for defense in defenses),
)
def test_random_draws_that_leave_intervals_are_checked_entry_by_entry(defenses: list[D.Defense]) -> None:
    found = checked(defenses)
    assert found.consistent
    assert found.relative_error <= 1e-6
    assert type(defenses[0]).__name__ in found.precision
    # These differ by far less than the draws do.
    assert not checked(defenses, inputs=X.flip(3)).consistent
    for factor, name in ((-1.0, "sign"), (3.0, "sum")):
        (cause,) = checked(defenses, factor=factor).causes
        assert (cause.name, cause.proven) == (name, True)


def test_wrong_labels_are_proven_behind_a_random_defense() -> None:
    task, rounded = gl.Task(smooth(), SPACE, 10), D.Quantize("int8", rounding="stochastic")
    observation, _ = gl.capture(task, X, Y.roll(1), defenses=[rounded])
    found = check_consistency(observation.update, task, X, Y, defenses=[rounded])
    assert [(cause.name, cause.proven) for cause in found.causes] == [("labels", True)]


@pytest.mark.parametrize("count", [1, 3])
def test_the_latent_noise_of_precode_is_read_from_the_update(count: int) -> None:
    found = checked([D.Precode(width=16)], count=count)
    assert found.consistent
    assert found.relative_error < 1e-5
    assert "latent noise of the bottleneck linear.bottleneck is the client's secret" in found.precision
    assert "missing" not in [cause.name for cause in found.causes]  # the bottleneck was built in
    assert not checked([D.Precode(width=16)], count=count, inputs=X.flip(3)).consistent
    causes = checked([D.Precode(width=16)], count=count, factor=-1.0).causes
    assert causes[0].name == "sign"
    assert causes[0].proven is (count == 1)


@pytest.mark.parametrize(
    ("defenses", "secret"),
    [
        ([D.MixUp()], "what MixUp draws for the batch"),
        ([D.InstaHide()], "what InstaHide draws for the batch"),
        ([D.Precode(width=16), D.Quantize("int8")], "the latent noise of the bottleneck linear.bottleneck"),
        ([D.GaussianNoise(1e-2), D.TopK(keep=0.1)], "the draws of GaussianNoise"),
    ],
    ids=["mixup", "instahide", "precode-rounded", "noise-pruned"],
)
def test_other_secrets_are_said_and_judged_by_their_law(defenses: list[D.Defense], secret: str) -> None:
    found = checked(defenses, seed=1000)
    assert found.consistent
    assert found.causes == ()
    assert f"{secret} cannot be known, so the update is not reproduced to rounding" in found.precision
    assert found.relative_error <= found.tolerance
    assert "other inputs with the same labels" in found.precision
    assert not checked(defenses, factor=-1.0, seed=1000).consistent


def test_the_law_of_mixtures_tells_inputs_and_factors() -> None:
    assert not checked([D.MixUp()], inputs=X.flip(3)).consistent
    found = checked([D.MixUp()], factor=3.0)
    assert [(cause.name, cause.proven) for cause in found.causes] == [("sum", False), ("draws", False)]
    assert "what MixUp draws for the batch cannot explain the update" in found.causes[1].explanation
    assert checked([D.MixUp()], count=1).relative_error == 0  # one example is not mixed


def test_random_dropout_that_is_declared_is_no_suspicion() -> None:
    client = gl.clients.Gradient(mode="train", dropout="random")
    found = checked([], client=client, model=dropping())
    assert found.consistent
    assert "the dropout masks cannot be known" in found.precision
    assert not checked([], client=client, model=dropping(), factor=-1.0).consistent


def test_an_unknown_order_before_a_random_rounding() -> None:
    client = gl.clients.LocalSGD(lr=0.01, epochs=2, batch_size=1)
    found = checked([D.Quantize("int8", rounding="stochastic")], client=client)
    assert found.consistent
