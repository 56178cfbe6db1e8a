"""Augmentation operations against Pillow, which the released policies use, and their derivatives."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from gradleak.defenses.image_operations import OPERATIONS, operate, strength
from gradleak.seeds import stage_generator

SIDE = 16


def whole(seed: int = 0) -> tuple[torch.Tensor, Image.Image]:
    """The same random image as a tensor and in Pillow, with values that 8 bits hold."""
    smooth = torch.rand((1, 3, 4, 4), generator=stage_generator(seed, "image"), dtype=torch.float64)
    image = torch.nn.functional.interpolate(smooth, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    levels = (image * 255).round()
    return levels / 255, Image.fromarray(levels[0].permute(1, 2, 0).numpy().astype(np.uint8))


def difference(found: torch.Tensor, image: Image.Image) -> float:
    expected = torch.from_numpy(np.asarray(image).astype(np.float64)).permute(2, 0, 1)[None] / 255
    return float((found - expected).abs().max())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["color", "contrast", "sharpness", "brightness"])
def test_enhancements_are_those_of_pillow(name: str, sign: int) -> None:
    tensor, image = whole()
    amount = sign * strength(name, 7)
    enhancer = getattr(ImageEnhance, name.capitalize())(image)
    assert difference(operate(name, amount, tensor), enhancer.enhance(1 + amount)) < 3 / 255  # it rounds in between


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "invert", "posterize", "solarize"])
def test_tables_are_those_of_pillow(name: str) -> None:
    tensor, image = whole()
    amount = strength(name, 5)
    settings = {"posterize": (int(amount),), "solarize": (amount * 255,)}.get(name, ())
    assert difference(operate(name, amount, tensor), getattr(ImageOps, name)(image, *settings)) < 1.01 / 255


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("shearX", (0, 1, 0, 0, 0, 0)),
        ("shearY", (0, 0, 0, 1, 0, 0)),
        ("translateX", (0, 0, SIDE, 0, 0, 0)),
        ("translateY", (0, 0, 0, 0, 0, SIDE)),
    ],
)
def test_affine_maps_are_those_of_pillow_inside(name: str, matrix: tuple[int, ...]) -> None:
    tensor, image = whole()
    amount = strength(name, 5)
    rows = [still + amount * part for still, part in zip((1, 0, 0, 0, 1, 0), matrix, strict=True)]
    moved = image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    inside = torch.from_numpy(np.asarray(moved).astype(np.float64)).permute(2, 0, 1)[None, :, 2:-2, 2:-2] / 255
    ours = operate(name, amount, tensor)[..., 2:-2, 2:-2]
    shown = (inside > 0).all(dim=1, keepdim=True) & (ours > 0).all(dim=1, keepdim=True)
    close = ((ours - inside).abs() < 2 / 255) & shown
    assert float(shown.double().mean()) > 0.5
    # Next to the border that moved in, Pillow repeats the last pixel where black is mixed in here.
    assert float(close.double().mean()) > 0.85 * float(shown.double().mean())


def test_rotations_turn_as_pillow_does_and_fill_with_grey() -> None:
    tensor, image = whole()
    turned = operate("rotate", 20.0, tensor)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    expected = torch.from_numpy(np.asarray(image.rotate(20, Image.Resampling.BILINEAR)).astype(np.float64))
    assert float((turned[inner] - expected.permute(2, 0, 1)[None][inner] / 255).abs().max()) < 2 / 255
    assert float((turned[0, :, 0, 0] - 128 / 255).abs().max()) < 1e-9


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_stay_in_range_and_have_derivatives(name: str) -> None:
    tensor = whole()[0].requires_grad_()
    found = operate(name, strength(name, 6), tensor)
    assert found.shape == tensor.shape
    assert 0 <= float(found.detach().min()) <= float(found.detach().max()) <= 1
    (gradient,) = torch.autograd.grad(found.square().sum(), tensor)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.any())


@pytest.mark.parametrize("name", ["shearX", "translateY", "rotate", "color", "contrast", "sharpness", "brightness"])
def test_strength_zero_changes_nothing(name: str) -> None:
    tensor = whole()[0]
    assert torch.allclose(operate(name, strength(name, 0), tensor), tensor)


def test_strengths_are_the_published_ranges() -> None:
    assert strength("rotate", 9) == pytest.approx(30)
    assert strength("translateX", 9) == pytest.approx(150 / 331)
    assert [strength("posterize", level) for level in (0, 5, 9)] == [8, 6, 4]
    assert strength("solarize", 0) * 255 == pytest.approx(256)
