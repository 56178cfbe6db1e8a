"""Federated averaging against plain loops, and how data are split among clients."""

import copy

import pytest
import torch
from torch import nn

from gradleak.audits.interrupts import Interrupts
from gradleak.seeds import stage_generator
from gradleak.training.courses import SingleWorker
from gradleak.training.federated import Federated, weighted_mean
from gradleak.training.spec import Federation, TrainSpec
from gradleak.training.splitting import split_among_clients
from gradleak.training.steps import Examples, batches
from tests.training.tiny import FEDERATED, SINGLE, normalized

EXAMPLES = Examples(torch.rand(120, 64, generator=stage_generator(0, "inputs")), torch.arange(120) % 10)


def test_the_mean_of_equal_models_is_that_model_and_counters_stay_integers() -> None:
    """Traps: a running mean with fixed N, whose weights sum to 0.63; counters averaged as floats."""
    state = normalized().state_dict()
    state["2.num_batches_tracked"] = torch.tensor(7)
    mean = weighted_mean([state] * 9, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert list(mean) == list(state)
    for name, tensor in state.items():
        assert mean[name].dtype == tensor.dtype
        assert torch.equal(mean[name], tensor), name


def test_the_mean_is_weighted_by_examples() -> None:
    states = [
        {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(2)},
        {"w": torch.tensor([1.0, 8.0]), "n": torch.tensor(5)},
    ]
    mean = weighted_mean(states, [3, 1])
    assert mean["w"].tolist() == [0.25, 5.0]
    assert mean["n"].dtype == torch.int64
    assert int(mean["n"]) == 3  # 2.75


def test_a_round_is_the_mean_of_what_the_clients_get_alone() -> None:
    spec = TrainSpec.model_validate({**FEDERATED, "optimizer": {"lr": 0.1, "momentum": 0.5}})
    assert spec.federated is not None
    model = nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))
    course = Federated(spec, spec.federated, copy.deepcopy(model), EXAMPLES)
    chosen = course.participants(0)
    assert len(chosen) == 3
    states: list[dict[str, torch.Tensor]] = []
    for client in chosen:
        own = copy.deepcopy(model).train()
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.5)
        part = EXAMPLES.at(course.parts[client])
        for epoch in range(2):
            for positions in batches(len(part.targets), 32, spec.seed, f"training/round/0/{client}/{epoch}"):
                optimizer.zero_grad()
                nn.CrossEntropyLoss()(own(part.inputs[positions]), part.targets[positions]).backward()
                optimizer.step()
        states.append({name: tensor.clone() for name, tensor in own.state_dict().items()})
    loss = course.advance(Interrupts())
    assert 1 < loss < 4
    sizes = torch.tensor([float(len(course.parts[client])) for client in chosen], dtype=torch.float64)
    for name, found in course.model.state_dict().items():
        stacked = torch.stack([state[name].double() for state in states])
        expected = (stacked * (sizes / sizes.sum()).view(-1, *[1] * (stacked.dim() - 1))).sum(0)
        if found.is_floating_point():
            torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
        else:
            assert int(found) == round(float(expected))
    assert course.epochs() == pytest.approx(2 * float(sizes.sum()) / 120)


def test_one_client_with_all_data_trains_like_a_single_worker_without_momentum() -> None:
    federation = {"clients": 1, "local_epochs": 3}
    spec = TrainSpec.model_validate({**FEDERATED, "rounds": 1, "federated": federation, "optimizer": {"momentum": 0.0}})
    assert spec.federated is not None
    model = nn.Linear(64, 10)
    course = Federated(spec, spec.federated, copy.deepcopy(model), EXAMPLES)
    course.advance(Interrupts())
    plain = copy.deepcopy(model)
    part = EXAMPLES.at(course.parts[0])
    for epoch in range(3):
        for positions in batches(120, 32, spec.seed, f"training/round/0/0/{epoch}"):
            plain.zero_grad()
            nn.CrossEntropyLoss()(plain(part.inputs[positions]), part.targets[positions]).backward()
            with torch.no_grad():
                for parameter in plain.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.05 * parameter.grad
    torch.testing.assert_close(course.model.state_dict()["weight"], plain.weight.detach(), rtol=1e-6, atol=1e-7)


def test_an_interrupt_inside_a_round_leaves_the_model_of_the_round_before(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TrainSpec.model_validate(FEDERATED)
    assert spec.federated is not None
    course = Federated(spec, spec.federated, normalized(), EXAMPLES)
    before = course.tensors()
    calls: list[int] = []

    def interrupted(*_: object) -> float:
        calls.append(1)
        with torch.no_grad():
            next(course.model.parameters()).add_(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr("gradleak.training.federated.step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        course.advance(Interrupts())
    assert course.unit == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in course.tensors().items())


def test_a_worker_goes_on_from_its_tensors_with_the_same_bits() -> None:
    spec = TrainSpec.model_validate(SINGLE)
    whole = SingleWorker(spec, nn.Linear(64, 10), EXAMPLES)
    interrupts = Interrupts()
    for _ in range(3):
        whole.advance(interrupts)
    other = SingleWorker(spec, nn.Linear(64, 10), EXAMPLES)
    other.go_on(3, whole.tensors())
    assert "momentum/weight" in whole.tensors()
    assert whole.advance(interrupts) == other.advance(interrupts)
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in whole.tensors().items())


@pytest.mark.parametrize("split", ["iid", "dirichlet"])
def test_every_example_belongs_to_one_client(split: str) -> None:
    federation = Federation.model_validate({"clients": 40, "split": split, "alpha": 0.05})
    targets = torch.arange(120) % 10
    parts = split_among_clients(targets, federation, seed=0)
    assert len(parts) == 40
    assert min(map(len, parts)) >= 1
    assert sorted(torch.cat(parts).tolist()) == list(range(120))
    again = split_among_clients(targets, federation, seed=0)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))
    others = split_among_clients(targets, federation, seed=1)
    assert not all(torch.equal(one, other) for one, other in zip(parts, others, strict=True))


def test_a_small_alpha_gives_clients_few_classes_and_a_large_one_all() -> None:
    targets = torch.arange(2000) % 10

    def largest_shares(alpha: float) -> list[float]:
        federation = Federation(clients=5, split="dirichlet", alpha=alpha)
        parts = split_among_clients(targets, federation, seed=0)
        return [float(torch.bincount(targets[part], minlength=10).max() / len(part)) for part in parts]

    assert max(largest_shares(1000.0)) < 0.13
    assert sum(largest_shares(0.05)) / 5 > 0.4
