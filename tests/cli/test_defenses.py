"""Defenses on the command line: in place of the file's, in order, none, and withheld unless they are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradleak as gl
from gradleak.attacks.mismatch import mismatch
from gradleak.cli.loading import Words, load
from gradleak.evidence import save_update
from tests.cli.factories import CLASSES, batch, net, task
from tests.cli.running import Done, run

D = gl.defenses
MODEL = ("--model", "tests.cli.factories:net")
FACTS = ("--kind", "gradient", "--input-shape", "1,6,6", "--num-classes", CLASSES, "--batch-size", 2)
QUICK = ("--attack", "dlg", "--max-evaluations", 5)
PRUNED: list[D.Defense] = [D.TopK(keep=0.2), D.Quantize("int8")]
SAID = ("--defense", "TopK keep=0.2", "--defense", "Quantize format=int8")


def captured(folder: Path, defenses: list[D.Defense], *, known: bool = True) -> gl.Observation:
    """An update of two examples: with its facts, and as another program would write it."""
    inputs, targets = batch(2)
    threat = gl.ThreatModel(defense_known=known)
    observation, _ = gl.capture(task(), inputs, targets, defenses=defenses, threat=threat)
    save_update(folder / "update.safetensors", observation)
    save_file(dict(observation.update.tensors), folder / "raw.safetensors")
    np.savez(folder / "batch.npz", inputs=inputs.numpy(), targets=targets.numpy())
    return observation


def attacked(path: Path, *options: object) -> dict[str, Any]:
    done = run("attack", path, *MODEL, "--json", *QUICK, *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def checked(path: Path, *options: object) -> tuple[Done, dict[str, Any]]:
    done = run("check", path, "--data", path.parent / "batch.npz", "--json", "--max-seconds", 1, *options)
    assert not done.err, done.err
    return done, json.loads(done.out)


@pytest.mark.parametrize(
    ("defenses", "said"),
    [
        (PRUNED, ("TopK keep=0.2", "Quantize format=int8")),
        ([D.Sign()], ("Sign",)),
        ([D.Clip(0.01), D.Quantize("int4")], ("Clip norm=0.01", "Quantize format=int4")),
        ([D.DropLayers(("linear1.*", "linear.bias"))], ("DropLayers layers=[linear1.*, linear.bias]",)),
    ],
    ids=["pruned", "signs", "clipped", "dropped"],
)
def test_a_defense_that_is_named_equals_the_capture_with_it(
    tmp_path: Path, defenses: list[D.Defense], said: tuple[str, ...]
) -> None:
    expected = captured(tmp_path, defenses)
    words = [word for text in said for word in ("--defense", text)]
    found = attacked(tmp_path / "raw.safetensors", *FACTS, *words)
    own = attacked(tmp_path / "update.safetensors")
    assert found["objective"] == own["objective"] == gl.attacks.dlg(max_evaluations=5)(expected).objective
    assert found["threat"] == "given: batch size, defense; withheld: labels, client"

    evidence, loaded = load(
        Words(
            update=tmp_path / "raw.safetensors",
            model=MODEL[1],
            input_shape="1,6,6",
            num_classes=CLASSES,
            kind="gradient",
            batch_size=2,
            defenses=said,
        )
    )
    observation = evidence.observation(loaded)
    assert observation.defenses == tuple(defenses)
    inputs, targets = batch(2)
    truth = loaded.encode(inputs), loaded.target_probabilities(targets)
    assert mismatch(observation, *truth) < 1e-12
    assert mismatch(expected, *truth) == mismatch(observation, *truth)


def test_the_file_holds_unless_the_option_says_otherwise(tmp_path: Path) -> None:
    captured(tmp_path, PRUNED)
    path = tmp_path / "update.safetensors"
    assert attacked(path)["objective"] == attacked(path, *SAID)["objective"]
    turned = attacked(path, *SAID[2:], *SAID[:2])
    assert turned["objective"] != attacked(path)["objective"]
    without = attacked(path, "--defense", "none")
    assert without["threat"] == "given: batch size, client, defense; withheld: labels"
    plain = attacked(tmp_path / "raw.safetensors", *FACTS, "--client", "Gradient", "--defense", "none")
    assert without["objective"] == plain["objective"] != attacked(path)["objective"]


def test_a_withheld_defense_stays_withheld_unless_it_is_named(tmp_path: Path) -> None:
    captured(tmp_path, PRUNED, known=False)
    path = tmp_path / "update.safetensors"
    blind, knowing = attacked(path), attacked(path, *SAID)
    assert blind["threat"] == "given: batch size, client; withheld: labels, defense"
    assert knowing["threat"] == "given: batch size, client, defense; withheld: labels"
    assert blind["objective"] == attacked(path, "--defense", "none")["objective"] != knowing["objective"]


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    captured(tmp_path, [])
    words = ("--defense", "Topk keep=0.1", "--defense", "TopK keep=2", "--defense", "none", "--batch-size", 0)
    for command in (("attack",), ("check", "--data", tmp_path / "batch.npz")):
        done = run(*command, tmp_path / "update.safetensors", *MODEL, *words, "--client-set", "epochs")
        assert done.code == 2
        assert done.out == ""
        expected = ["--batch-size: ", "--client-set: ", "--defense none: expected it alone, got 'Topk keep=0.1'"]
        for part in [*expected, "--defense Topk: expected one of", "--defense TopK.keep: expected a share"]:
            assert any(part in problem for problem in done.problems), (part, done.err)


def test_a_defense_that_does_not_fit_the_model_is_told_with_the_rest(tmp_path: Path) -> None:
    captured(tmp_path, [])
    words = ("--defense", "DropLayers layers=[dense.*]", "--labels", "9,1")
    done = run("attack", tmp_path / "update.safetensors", *MODEL, *words)
    assert done.code == 2
    assert len(done.problems) == 2
    assert "DropLayers" in done.problems[0]
    assert "targets: expected classes" in done.problems[1]


def test_check_names_a_defense_and_is_content_when_it_is_declared(tmp_path: Path) -> None:
    captured(tmp_path, [D.TopK(keep=0.2)], known=False)
    path = tmp_path / "update.safetensors"
    done, verdict = checked(path, *MODEL)
    assert done.code == 2
    assert [cause["name"] for cause in verdict["causes"]] == ["sparsified"]
    assert checked(path, *MODEL, *SAID[:2])[0].code == 0
    captured(tmp_path, [D.TopK(keep=0.2)])
    assert checked(path, *MODEL)[0].code == 0
    assert checked(path, *MODEL, "--defense", "none")[0].code == 2


def test_a_defense_in_the_model_is_built_in(tmp_path: Path) -> None:
    built = D.Precode(width=3)
    observation = captured(tmp_path, [built])
    path, said = tmp_path / "raw.safetensors", ("--defense", "Precode width=3")
    done, verdict = checked(path, *MODEL, *FACTS, *said)
    assert done.code == 0
    assert "the client's secret" in verdict["precision"]
    assert checked(tmp_path / "update.safetensors", *MODEL)[0].code == 0  # from the file
    # Weights from before the bottleneck was put in, and from after.
    after = observation.task.model
    with torch.no_grad():
        for tensor in after.parameters():
            tensor.mul_(1.5)
    for name, model in (("before", net()), ("after", after)):
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    assert checked(path, *MODEL, "--weights", tmp_path / "before.safetensors", *FACTS, *said)[0].code == 0
    words = Words(tmp_path / "update.safetensors", model=MODEL[1], weights=tmp_path / "after.safetensors")
    loaded = load(words)[1].model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in after.state_dict().items())
    found = attacked(path, *FACTS, *said, "--attack", "precode_inversion")
    assert found["status"] in {"budget", "converged"}


def test_inspect_builds_defenses_in_and_tries_closed_forms_behind_them() -> None:
    words = ("--input-shape", "1,6,6", "--num-classes", CLASSES, "--json")
    plain = json.loads(run("inspect", *MODEL, *words).out)
    signs = json.loads(run("inspect", *MODEL, *words, "--defense", "Sign").out)
    precode = json.loads(run("inspect", *MODEL, *words, "--defense", "Precode width=3").out)

    def works(found: dict[str, Any], attack: str) -> bool | None:
        return next(route["works"] for route in found["routes"] if route["attack"].startswith(attack))

    assert works(plain, "linear_layer") is True
    assert works(signs, "linear_layer") is None  # it applies, and what it finds does not have these signs
    assert signs["defenses"] == ["Sign"]
    assert precode["conditions"]["random"] == ["eval", "train"]
    assert works(precode, "staged") is None
    replaced = [entry["what"] for entry in precode["replacements"] if not entry["faithful"]]
    assert "latent noise -> none" in replaced
    assert "switching dropout off" not in replaced
    done = run("inspect", *MODEL, *words, "--defense", "Precode width=0", "--mean", "x")
    assert done.code == 2
    assert len(done.problems) == 2
