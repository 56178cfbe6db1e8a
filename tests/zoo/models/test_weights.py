"""Loading weights: strict, complete in its complaints, never a pickle."""

import pickle  # noqa: TID251 (to see it refused)
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradleak.errors import BadInput
from gradleak.zoo.models import load_weights, mlp, resnet


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_everything_arrives_and_integers_keep_their_bits(tmp_path: Path) -> None:
    state = state_of(resnet(8, seed=1))
    state["bn1.num_batches_tracked"] = torch.tensor(2**53 + 1)
    state["bn1.running_var"] = torch.full((16,), 0.25)
    save_file(state, tmp_path / "model.safetensors")
    model = resnet(8, seed=2)
    assert load_weights(model, tmp_path / "model.safetensors") is model
    loaded = model.state_dict()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in state.items()
    )


def test_absent_counters_keep_their_value_and_half_precision_is_converted(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in state_of(resnet(8, seed=1)).items() if not name.endswith("tracked")}
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    model = resnet(8, seed=2)
    model.get_buffer("bn1.num_batches_tracked").fill_(7)
    load_weights(model, str(tmp_path / "model.safetensors"))
    assert model.get_buffer("bn1.num_batches_tracked") == 7
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, state["conv1.weight"].half().float())


def test_all_problems_at_once_and_nothing_loaded(tmp_path: Path) -> None:
    state = state_of(resnet(8, seed=1))
    del state["linear.bias"]
    state["extra"] = torch.zeros(2)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    state["bn1.weight"][3] = float("nan")
    state["bn1.bias"] = torch.full((16,), 1e300, dtype=torch.float64)
    state["bn1.running_mean"] = torch.zeros(16, dtype=torch.int64)
    state["bn1.num_batches_tracked"] = torch.tensor(3, dtype=torch.int32)
    save_file(state, tmp_path / "model.safetensors")
    model = resnet(8, seed=2)
    before = state_of(model)
    with pytest.raises(BadInput) as caught:
        load_weights(model, tmp_path / "model.safetensors")
    problems = caught.value.problems
    assert len(problems) == 7
    for name, word in (
        ("linear.bias", "got none"),
        ("extra", "expected no tensor"),
        ("conv1.weight", "[16, 3, 3, 3], got [16, 1, 3, 3]"),
        ("bn1.weight", "got 1 that are not"),
        ("bn1.bias", "got 16 that are not"),
        ("bn1.running_mean", "got torch.int64"),
        ("bn1.num_batches_tracked", "got torch.int32"),
    ):
        assert any(f"'{name}'" in problem and word in problem for problem in problems), name
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Bomb:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "model.safetensors", tmp_path / "mark"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"weight": Bomb(mark)}, path)  # noqa: TID251 (to see it refused)
    with pytest.raises(BadInput, match="pickle.*convert"):
        load_weights(mlp(2), path)
    assert not mark.exists()


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(BadInput, match="nothing there"):
        load_weights(mlp(2), path)
    with pytest.raises(BadInput, match="a folder"):
        load_weights(mlp(2), tmp_path)
    save_file(state_of(mlp(2)), path)
    whole = path.read_bytes()
    for length in (9, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="expected a whole safetensors file"):
            load_weights(mlp(2), path)
    for content, word in ((b"", "another format"), (b"\x89HDF\r\n\x1a\n\x00", "HDF5"), (b"hello world", "another")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=word):
            load_weights(mlp(2), path)


def test_a_header_length_that_begins_like_a_pickle_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = state_of(mlp(2, (3,), 2))
    for padding in range(600):
        save_file(state, path, metadata={"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    load_weights(mlp(2, (3,), 2, seed=5), path)
