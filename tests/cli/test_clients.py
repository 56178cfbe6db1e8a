"""Any client on the command line: from the file, by name, with settings in place of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradleak as gl
from gradleak.clients import Aggregate, Client, Gradient, LocalSGD
from gradleak.evidence import save_update
from tests.cli.factories import CLASSES, batch, net, task, write_update
from tests.cli.running import Done, run

MODEL = ("--model", "tests.cli.factories:net")
FOREIGN = ("--input-shape", "1,6,6", "--num-classes", CLASSES)
LOCAL = LocalSGD(lr=0.1, epochs=2, batch_size=2, momentum=0.9)


def written(folder: Path, client: Client, count: int = 4, *, order_known: bool = True) -> Path:
    threat = gl.ThreatModel(order_known=order_known)
    write_update(folder / "update.safetensors", count, client=client, threat=threat)
    inputs, targets = batch(count)
    np.savez(folder / "batch.npz", inputs=inputs.numpy(), targets=targets.numpy())
    return folder / "update.safetensors"


def raw(folder: Path, client: Client, count: int = 4) -> Path:
    """Tensors that another program wrote, without any fact."""
    observation = write_update(folder / "update.safetensors", count, client=client)
    inputs, targets = batch(count)
    np.savez(folder / "batch.npz", inputs=inputs.numpy(), targets=targets.numpy())
    save_file(dict(observation.update.tensors), folder / "raw.safetensors")
    return folder / "raw.safetensors"


def attacked(path: Path, *options: object) -> dict[str, Any]:
    done = run("attack", path, *MODEL, "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def checked(path: Path, *options: object) -> tuple[Done, dict[str, Any]]:
    done = run("check", path, *MODEL, "--data", path.parent / "batch.npz", "--json", *options)
    assert not done.err, done.err
    return done, json.loads(done.out)


@pytest.mark.parametrize(
    "client",
    [LOCAL, Aggregate([LocalSGD(lr=0.1)], count=2), gl.clients.LocalAdam(lr=0.01), gl.clients.DPSGD(clip=0.1)],
    ids=lambda client: type(client).__name__,
)
def test_the_client_comes_with_the_file(tmp_path: Path, client: Client) -> None:
    path = written(tmp_path, client)
    found = attacked(path, "--attack", "dlg", "--max-evaluations", 3)
    assert found["status"] == "budget"
    done, verdict = checked(path)
    assert done.code == 0
    assert verdict["consistent"] is True
    assert verdict["relative_error"] < 1e-6


def test_a_raw_delta_is_attacked_with_the_client_that_is_named(tmp_path: Path) -> None:
    path = raw(tmp_path, LocalSGD(lr=0.1), 1)
    words = ("--client", "LocalSGD", "--client-set", "lr=0.1", "--batch-size", 1, *FOREIGN)
    found = attacked(path, *words, "--max-seconds", 5)
    assert found["status"] == "converged"
    assert found["targets"] == batch(1)[1].tolist()
    assert "client" in found["threat"].partition(";")[0]


def test_settings_are_values_in_yaml(tmp_path: Path) -> None:
    order = [[2, 0, 3, 1], [0, 1, 2, 3]]
    path = raw(
        tmp_path, LocalSGD(lr=0.1, epochs=2, batch_size=2, order=tuple(map(tuple, order)), nesterov=True, momentum=0.5)
    )
    words = ("lr=0.1", "epochs=2", "batch_size=2", f"order={order}", "nesterov=true", "momentum=5e-1")
    settings = [word for setting in words for word in ("--client-set", setting)]
    done, verdict = checked(path, "--client", "LocalSGD", *settings, "--batch-size", 4, *FOREIGN)
    assert done.code == 0
    assert verdict["consistent"] is True


def test_aggregates_nest_in_yaml(tmp_path: Path) -> None:
    path = raw(tmp_path, Aggregate([LocalSGD(lr=0.1, epochs=2)], count=2))
    words = ("--client", "Aggregate", "--client-set", "clients=[{name: LocalSGD, lr: 0.1, epochs: 2}]")
    done, _ = checked(path, *words, "--client-set", "count=2", "--batch-size", 4, *FOREIGN)
    assert done.code == 0


def test_settings_replace_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, LocalSGD(lr=0.1, epochs=2, shuffle=False))
    done, verdict = checked(path, "--client-set", "lr=0.2")
    assert done.code == 2
    assert [(cause["name"], cause["proven"]) for cause in verdict["causes"]] == [("learning_rate", True)]
    assert "use lr=0.1" in verdict["causes"][0]["explanation"]
    assert checked(path, "--client-set", "lr=0.1")[0].code == 0


def test_an_unknown_order_is_said(tmp_path: Path) -> None:
    _, verdict = checked(written(tmp_path, LOCAL, order_known=False))
    assert "the order of the local batches is not known" in json.dumps(verdict)
    assert checked(written(tmp_path, LOCAL, order_known=True))[1]["relative_error"] < 1e-5


def test_mode_and_dropout_are_settings_of_any_client(tmp_path: Path) -> None:
    path = written(tmp_path, LOCAL)
    assert checked(path, "--mode", "train", "--dropout", "off")[0].code == 0  # the net has neither
    assert checked(path, "--client-set", "dropout=off")[0].code == 0
    path = written(tmp_path, Aggregate([Gradient()], count=2))
    done = run("check", path, *MODEL, "--data", tmp_path / "batch.npz", "--mode", "train")
    assert done.code == 2
    assert "--client-set mode: expected one of clients, count" in done.problems[0]


def test_sent_parameters_and_buffers_that_are_not_there_are_no_error(tmp_path: Path) -> None:
    path = written(tmp_path, Gradient(sent=("linear.*",)))
    assert checked(path)[0].code == 0
    assert attacked(path, "--max-seconds", 1)["status"] in {"budget", "converged", "not_applicable"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--client", "LocalSDG"), ["--client: expected one of Gradient, LocalSGD", "did you mean 'LocalSGD'?"]),
        (("--client", "LocalSGD"), ["--client LocalSGD lr: expected a value, got none; add it by --client-set"]),
        (
            ("--client", "LocalSGD", "--client-set", "lr=fast", "--client-set", "epoch=2", "--batch-size", 0),
            ["lr: expected a number, got 'fast'", "epoch: expected one of", "--batch-size"],
        ),
        (("--client-set", "lr"), ["--client-set: expected key=value, got 'lr'"]),
        (("--client-set", "lr=[1"), ["--client-set lr: expected a value in YAML, got '[1'"]),
        (("--client-set", "mode=train", "--mode", "eval"), ["--client-set mode: expected one value"]),
        (("--client-set", "epochs=3"), ["--client-set epochs: expected one of mode, dropout"]),
        (
            (
                "--client",
                "LocalSGD",
                "--client-set",
                "lr=0.1",
                "--client-set",
                "momentum=1",
                "--client-set",
                "epochs=0",
            ),
            ["client.momentum: expected a number in [0, 1), got 1", "client.epochs", "update kind: expected 'delta'"],
        ),
    ],
)
def test_bad_words_are_all_named(tmp_path: Path, words: tuple[object, ...], expected: list[str]) -> None:
    done = run("attack", written(tmp_path, Gradient()), *MODEL, *words)
    assert done.code == 2
    assert done.out == ""
    for part in expected:
        assert any(part in problem for problem in done.problems), done.err


def test_the_stated_kind_is_never_turned_silently(tmp_path: Path) -> None:
    path = written(tmp_path, Gradient())
    done, verdict = checked(path, "--client", "LocalSGD", "--client-set", "lr=0.1")
    assert done.code == 0
    assert "0.1" not in verdict["precision"]
    assert verdict["scale"] == pytest.approx(10, rel=1e-3)


def test_listing_names_every_client_with_its_settings() -> None:
    entries = {entry["name"]: entry for entry in json.loads(run("list", "clients", "--json").out)}
    assert list(entries)[:5] == ["Gradient", "LocalSGD", "LocalAdam", "Aggregate", "DPSGD"]
    settings = {option["name"]: option for option in entries["LocalSGD"]["options"]}
    assert settings["lr"]["required"] is True
    assert settings["momentum"]["default"] == 0.0
    assert "opacus' PRV accountant" in entries["DPSGD"]["summary"]
    for entry in entries.values():
        assert all(option["summary"].strip() for option in entry["options"]), entry


def test_an_update_without_facts_needs_a_kind_or_a_client(tmp_path: Path) -> None:
    path = raw(tmp_path, LocalSGD(lr=0.1))
    done = run("attack", path, *MODEL, "--batch-size", 4, *FOREIGN)
    assert done.code == 2
    assert "add --kind gradient or delta" in done.problems[0]


def test_a_saved_client_that_is_changed_is_the_attackers(tmp_path: Path) -> None:
    observation, _ = gl.capture(
        task(net()), *batch(2), client=LocalSGD(lr=0.1), threat=gl.ThreatModel(client_known=False)
    )
    save_update(tmp_path / "update.safetensors", observation)
    words = ("--client", "LocalSGD", "--client-set", "lr=0.1", "--attack", "dlg", "--max-evaluations", 2)
    assert "given: batch size, client" in attacked(tmp_path / "update.safetensors", *words)["threat"]
    assert attacked(tmp_path / "update.safetensors", "--attack", "dlg")["status"] == "not_applicable"
    assert torch.is_tensor(observation.update.tensors["linear.weight"])
