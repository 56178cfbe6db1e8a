"""How implausible an image is as a photograph, in nats, so that it can be weighed against the likelihood of an update.

Photographs change little from pixel to pixel, their colors least of all. A Gibbs prior `exp(-U(x) / b) / Z(b)` whose
energy is homogeneous, `U(t x) = t U(x)`, has `Z(b)` proportional to `b^d` for d unknowns; the scale that makes public
images most likely is then `b = mean of U / d`. So

    -log p(x) = d U(x) / mean of U over public images,  up to a constant:

no weight is left to choose. Here U is made of the first and second differences of brightness and of two color
contrasts, each relative to its own public mean; without the contrasts' own scales a color image would be a third as
predictable as it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradleak.tasks import ImageSpace, InputSpace

Implausibility = Callable[[Tensor], Tensor]
"""`implausibility(variable [N, ...]) -> scalar`, minus the log of the prior in nats, up to a constant."""

# By side in pixels, the means over `zoo.data.photographs(side, 200)` of the lengths below: brightness and the two
# contrasts for color images (first differences, second ones), the same for grey images.
_PUBLIC = {
    8: ((0.2141, 0.0536, 0.0588), (0.358, 0.0863, 0.0957), (0.1237,), (0.2067,)),
    16: ((0.1878, 0.0431, 0.0488), (0.3215, 0.0712, 0.0814), (0.1084,), (0.1857,)),
    32: ((0.1587, 0.0337, 0.0398), (0.2753, 0.0565, 0.0677), (0.0916,), (0.1589,)),
    64: ((0.1301, 0.0262, 0.0317), (0.2228, 0.0438, 0.0529), (0.0752,), (0.1286,)),
    128: ((0.1041, 0.0202, 0.0242), (0.1769, 0.0333, 0.0391), (0.0602,), (0.1021,)),
}
# Keeps the root differentiable in flat regions, far below one grey level of 1/255.
FLAT = 1e-6
"""Square that is added to every squared length, for planes in units of the range."""


def contrasts(images: Tensor) -> Tensor:
    """Brightness, green against red, and blue against yellow: an orthonormal change of the three color channels.

    Args:
        images: `[N, C, H, W]`.

    Returns:
        Of the same shape; images with another number of channels than three as they are.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(dim=1)
    return torch.stack(
        [(red + green + blue) / 3**0.5, (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5], dim=1
    )


def difference_lengths(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean length of the gradient, and of the matrix of second differences, in each plane.

    Args:
        planes: `[N, K, H, W]`, H and W at least 2; nothing is assumed beyond the border.

    Returns:
        Two tensors `[K]` in the units of the planes.
    """
    across, down = _across(planes), _across(planes.mT).mT
    twice, mixed, twice_down = _across(across), _across(across.mT).mT, _across(down.mT).mT
    first = (across.square() + down.square() + FLAT).sqrt()
    second = (twice.square() + 2 * mixed.square() + twice_down.square() + FLAT).sqrt()
    return first.mean(dim=(0, 2, 3)), second.mean(dim=(0, 2, 3))


def usual_lengths(space: ImageSpace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What `difference_lengths` comes to on public photographs of the nearest side.

    Args:
        space: of images with any number of channels; other numbers than three count as grey ones.

    Returns:
        First and second differences, for each contrast or for grey, in units of the range.
    """
    side = sum(space.variable_shape[1:]) / 2
    color, second_color, grey, second_grey = _PUBLIC[min(_PUBLIC, key=lambda known: abs(known - side))]
    return (color, second_color) if space.variable_shape[0] == 3 else (grey, second_grey)


def natural_images(space: InputSpace) -> Implausibility | None:
    """The prior of photographs for an input space.

    Args:
        space: of the inputs.

    Returns:
        Minus the log of the prior, for a batch; None where inputs are not images of at least 2 x 2 pixels.
    """
    if not isinstance(space, ImageSpace) or len(space.variable_shape) != 3 or min(space.variable_shape[1:]) < 2:
        return None
    pair = usual_lengths(space)
    low, high = space.bounds or (0.0, 1.0)

    def implausibility(variable: Tensor) -> Tensor:
        planes = contrasts(variable) / (high - low)
        first, second = difference_lengths(planes)
        usual, second_usual = (torch.tensor(part, dtype=planes.dtype, device=planes.device) for part in pair)
        relative = 0.5 * (first / usual + second / second_usual)
        return relative.mean() * planes.numel()

    return implausibility


def _across(planes: Tensor) -> Tensor:
    """Differences of horizontal neighbors, zero at the border."""
    return pad(planes[..., 1:] - planes[..., :-1], (0, 1))
