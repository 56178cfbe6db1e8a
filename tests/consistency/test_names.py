"""Wrong names are matched and named."""

import torch

from tests.consistency.planting import normed, proven, smooth, step, verdict


def test_wrapped_names() -> None:
    found = verdict({f"module.{name}": tensor for name, tensor in step(smooth()).items()})
    assert proven(found) == ["renamed"]
    assert "module.conv1.weight looks like conv1.weight" in found.causes[0].explanation
    assert found.relative_error < 1e-5


def test_numbered_tensors_are_found_by_shape_and_direction() -> None:
    # conv2 and conv3 have the same shapes here, so the shape alone cannot tell them apart.
    tensors = {str(9 - position): tensor for position, tensor in enumerate(step(smooth()).values())}
    found = verdict(tensors)
    assert proven(found) == ["renamed"]
    assert found.relative_error < 1e-5


def test_missing_extra_and_misshaped_tensors_are_all_named() -> None:
    tensors = step(smooth())
    del tensors["conv1.bias"]
    tensors["conv2.bias"] = torch.ones(5)
    tensors["head.scale"] = torch.ones(2)
    found = verdict(tensors)
    assert sorted(proven(found)) == ["extra", "missing", "shape"]
    assert found.relative_error < 1e-5  # of the tensors that remain


def test_a_whole_state_dict() -> None:
    model = normed()
    tensors = {**step(model), **{name: buffer.clone() for name, buffer in model.named_buffers()}}
    found = verdict(tensors, normed())
    assert proven(found) == ["buffers_sent"]


def test_a_transposed_matrix() -> None:
    tensors = step(smooth())
    tensors["linear.weight"] = tensors["linear.weight"].T.contiguous()
    assert proven(verdict(tensors)) == ["transposed"]
