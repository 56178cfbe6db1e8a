"""Starts: shapes, distributions, and reproducibility."""

import pytest
import torch

from gradleak.attacks.starts import Start, flat, given, grey, low_frequency, patterned, standard_normal, uniform
from gradleak.seeds import stage_generator

SHAPE = (2, 3, 18, 30)


@pytest.mark.parametrize(
    "start", [standard_normal, uniform, flat(1.0, 0.0, 0.5, spread=0.1), patterned(4), low_frequency(4)]
)
def test_shape_precision_and_seed(start: Start) -> None:
    def draw(seed: int) -> torch.Tensor:
        return start(SHAPE, stage_generator(seed, "start"))

    assert draw(0).shape == SHAPE
    assert draw(0).dtype == torch.float64
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert not torch.equal(draw(0)[0], draw(0)[1])


def test_uniform_fills_its_interval() -> None:
    drawn = uniform((100_000,), stage_generator(0, "start"))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1 / 12, rel=0.02)


def test_flat_and_grey() -> None:
    assert bool((grey(SHAPE, stage_generator(0, "start")) == 0.5).all())
    assert bool((grey((4, 7), stage_generator(0, "start")) == 0.5).all())
    red = flat(1.0, 0.0, 0.25)(SHAPE, stage_generator(0, "start"))
    assert [float(red[:, channel].unique()) for channel in range(3)] == [1.0, 0.0, 0.25]
    noisy = flat(0.5, spread=0.2)((1, 3, 200, 200), stage_generator(0, "start"))
    assert float(noisy.std()) == pytest.approx(0.2, rel=0.02)


def test_patterned_repeats_its_tile() -> None:
    drawn = patterned(4)(SHAPE, stage_generator(0, "start"))
    assert torch.equal(drawn[..., 4:, :], drawn[..., :-4, :])
    assert torch.equal(drawn[..., :, 4:], drawn[..., :, :-4])
    assert drawn[0, 0, :4, :4].unique().numel() == 16


def test_low_frequency_is_smooth_and_spread_as_stated() -> None:
    drawn = low_frequency(4, spread=0.25)((200, 3, 32, 32), stage_generator(0, "start"))
    assert float((drawn[..., 1:] - drawn[..., :-1]).abs().mean()) < 0.05
    # Interpolation averages, so the spread of the grid is an upper limit; the corners hold grid values.
    assert float(drawn[..., 0, 0].std()) == pytest.approx(0.25, rel=0.1)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)


def test_given_is_the_image_itself() -> None:
    image = torch.rand(SHAPE, generator=stage_generator(1, "image"))
    assert torch.equal(given(image)(SHAPE, stage_generator(0, "start")), image.double())
    with pytest.raises(RuntimeError, match="shape"):
        given(image)((1, 3, 5, 5), stage_generator(0, "start"))
