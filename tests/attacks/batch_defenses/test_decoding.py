"""InstaHide's encodings decoded."""

import pytest
import torch

import gradleak as gl
from gradleak.attacks.batch_defenses.decoding import decode_encodings
from gradleak.seeds import stage_generator
from tests.problems import images


def encodings(space: gl.ImageSpace, inputs: torch.Tensor, k: int, updates: int) -> tuple[torch.Tensor, torch.Tensor]:
    defense, rows, shares = gl.defenses.InstaHide(k=k), list[torch.Tensor](), list[torch.Tensor]()
    for update in range(updates):
        made, soft = defense.change_batch(inputs, torch.eye(len(inputs)), space, stage_generator(update, "defense"))
        rows.append(made)
        shares.append(soft)
    return torch.cat(rows), torch.cat(shares).double()


def test_signs_of_pixels_that_are_not_negative_hide_nothing() -> None:
    space, inputs = gl.ImageSpace((3, 16, 16)), images(4)
    made, shares = encodings(space, inputs, k=2, updates=2)
    assert float(made.min()) < 0
    assert torch.allclose(decode_encodings(made, shares, space), inputs, atol=1e-5)


def test_centered_pixels_take_several_updates_and_are_found_up_to_their_sign() -> None:
    space, inputs = gl.ImageSpace((3, 8, 8), mean=(0.5,), std=(0.5,)), images(3, (3, 8, 8))
    made, shares = encodings(space, inputs, k=2, updates=4)
    found = decode_encodings(made, shares, space)
    away = (found - inputs).abs().minimum((1 - found - inputs).abs())
    assert float((away < 0.01).double().mean()) > 0.9


def test_shares_of_other_encodings_are_refused() -> None:
    with pytest.raises(gl.BadInput, match=r"expected shape \[2, N\]"):
        decode_encodings(images(2), torch.eye(3), gl.ImageSpace((3, 16, 16)))
