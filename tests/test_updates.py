"""Updates: one sign convention, and every fault found."""

import torch

from gradleak.updates import Update, update_problems


def test_a_delta_has_the_opposite_sign_of_a_gradient() -> None:
    gradient = {"w": torch.tensor([1.0, -2.0])}
    delta = {"w": -0.1 * gradient["w"]}
    direction = Update(delta, "delta").in_gradient_direction()["w"]
    assert torch.equal(direction, 0.1 * gradient["w"])
    assert torch.equal(Update(gradient, "gradient").in_gradient_direction()["w"], gradient["w"])


def test_norm_and_emptiness() -> None:
    assert Update({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}).squared_norm() == 25.0
    assert Update({"w": torch.zeros(3)}).is_empty
    assert not Update({"w": torch.tensor([0.0, 1e-30])}).is_empty


def test_every_fault_is_listed() -> None:
    parameters = {name: torch.zeros(2) for name in ("a", "b", "c", "d", "e")}
    tensors = {
        "b": torch.zeros(3),
        "c": torch.tensor([1.0, torch.nan]),
        "d": torch.zeros(2, dtype=torch.int64),
        "e": torch.zeros(2, dtype=torch.complex64),
        "f": torch.zeros(2),
    }
    problems = update_problems(tensors, parameters)
    assert [problem.split(":")[0] for problem in problems] == [f"update[{name}]" for name in "abcdef"]
    assert "got 1 NaN or infinite of 2" in problems[2]
    assert all("expected" in problem and "got" in problem and ";" in problem for problem in problems)


def test_fitting_tensors_have_no_fault() -> None:
    assert update_problems({"a": torch.zeros(2, dtype=torch.bfloat16)}, {"a": torch.zeros(2)}) == []
