"""Taking mixtures apart: exact on exact mixtures, with and without help from the labels."""

import pytest
import torch

import gradleak as gl
from gradleak.attacks.batch_defenses.mixed_head import different_partners, mixed_targets
from gradleak.attacks.batch_defenses.unaugmenting import unaugment
from gradleak.attacks.batch_defenses.unmixing import implausibility, smoothed, unmix
from gradleak.defenses.augment import transformed
from gradleak.defenses.mixup import mixed, mixing
from gradleak.zoo.data import photographs


def pictures(count: int) -> torch.Tensor:
    return photographs(size=16).inputs[:: 200 // count][:count].double()


def mixtures(images: torch.Tensor, partners: tuple[int, ...], share: float) -> torch.Tensor:
    return mixed(mixing(torch.tensor([share], dtype=torch.float64), torch.tensor(partners)), images)


@pytest.mark.parametrize("share", [0.97, 0.7, 0.52])
def test_labels_that_tell_partners_make_it_exact(share: float) -> None:
    images, partners = pictures(4), (1, 2, 0, 3)
    found = unmix(mixtures(images, partners, share), (0, 4, 5, 9), partners, share)
    assert found.choices == 1
    assert torch.allclose(found.images, images, atol=1e-9)


def test_images_choose_among_partners_of_equal_labels() -> None:
    images, true, other = pictures(4), (2, 3, 0, 1), (3, 2, 1, 0)
    labels = (0, 0, 7, 7)  # 0 with the first 7 or with the second
    found = unmix(mixtures(images, true, 0.7), labels, other, 0.7)
    assert found.choices > 1
    assert torch.allclose(found.images, images, atol=1e-9)


def test_a_share_that_labels_do_not_tell_is_searched() -> None:
    images = pictures(2)
    found = unmix(mixtures(images, (1, 0), 0.7), (3, 3), (0, 1), 1.0)
    before = float((mixtures(images, (1, 0), 0.7) - images).square().mean())
    assert float((found.images - images).square().mean()) < before / 10
    apart = unmix(images, (3, 3), (0, 1), 1.0)
    assert torch.equal(apart.images, images)  # nothing is made of images that were not mixed


def test_even_shares_cannot_be_undone_but_stay_within_bounds() -> None:
    images = pictures(2)
    even = mixtures(images, (1, 0), 0.5)
    assert implausibility(even, mixing(torch.tensor([0.5]).double(), torch.tensor([1, 0]))) == float("inf")
    found = unmix(even, (0, 1), (1, 0), 0.5)
    assert torch.allclose(found.images, even)


def test_smoothing_holds_enlarged_errors_down() -> None:
    images = pictures(2)
    noisy = mixtures(images, (1, 0), 0.52) + 0.01 * torch.randn(
        images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    found = unmix(noisy, (0, 1), (1, 0), 0.52)
    held = smoothed(noisy, found, (0.0, 1.0), error=0.01)
    assert float((held - images).square().mean()) < 0.8 * float((found.images - images).square().mean())
    clear = unmix(mixtures(images, (1, 0), 0.9), (0, 1), (1, 0), 0.9)
    assert smoothed(mixtures(images, (1, 0), 0.9), clear, (0.0, 1.0)) is clear.images


def test_partners_that_the_head_cannot_tell_apart_are_tried_once() -> None:
    assert len(list(different_partners((0, 1, 2)))) == 6
    assert len(list(different_partners((0, 0, 0)))) == 1
    assert next(different_partners((0, 1))) == (0, 1)
    targets = mixed_targets(torch.eye(3), (1, 2, 0), 0.75)
    assert targets[0].tolist() == [0.75, 0.25, 0.0]


@pytest.mark.parametrize("policy", ["0-38", "13", "7", "6-4"])
def test_augmentations_are_undone_and_directions_found(policy: str) -> None:
    space, images = gl.ImageSpace((3, 16, 16)), 0.2 + 0.5 * pictures(2)  # nothing is cut off at the bounds
    possible = gl.defenses.Augment(policy).possible_steps()
    for steps in possible:
        found, undone = unaugment(transformed(steps, images[:1], space), possible, space)
        if policy in {"7", "6-4"}:  # rows that left the image are not known again
            assert undone[0][0] == steps[0]
            assert float((found - images[:1]).square().mean()) < 0.01
        elif policy == "0-38" and undone == (steps,):
            assert float((found - images[:1]).square().mean()) < 1e-4
