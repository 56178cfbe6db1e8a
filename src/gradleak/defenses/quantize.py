"""Quantization: every entry of the update is rounded to a number format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gradleak.defenses.grids import GRIDS, Format, Grid
from gradleak.defenses.preimage import Preimage, outward
from gradleak.defenses.scope import Scope
from gradleak.defenses.spacing import largest_unit
from gradleak.updates import UpdateKind

Rounding = Literal["nearest", "stochastic"]


@dataclass(frozen=True)
class Quantize:
    """Round every entry of the update to what a number format can hold, and send it in the update's own units.

    Values beyond the largest of the format become the largest. fp16 and bf16 are used as they are. The others are used
    with one positive scale `max |g| / largest`, 127 being the largest of int8: the largest entry is sent exactly, and
    the scale follows from it. An update that is rounded stays in its own type, as one that was decoded again.

    Args:
        format: `"fp16"`, `"bf16"`, `"fp8_e4m3"`, `"fp8_e5m2"`, `"int8"` or `"int4"`.
        rounding: `"nearest"`, ties to even; `"stochastic"`: to either neighbor, so that the mean is exact.
        scope: whether each tensor has its own scale (`"layer"`), or the whole update one (`"global"`).
        scaled: False uses 8-bit floats as they are, without scale: gradients often vanish in them altogether.
    """

    format: Format
    rounding: Rounding = "nearest"
    scope: Scope = "layer"
    scaled: bool = True

    def problems(self) -> list[str]:
        """An unknown format, rounding or scope, or integers without scale."""
        found = [
            f"Quantize.{name}: expected {' or '.join(map(repr, known))}, got {value!r}; choose one"
            for name, value, known in (
                ("format", self.format, get_args(Format)),
                ("rounding", self.rounding, get_args(Rounding)),
                ("scope", self.scope, get_args(Scope)),
            )
            if value not in known
        ]
        if self.format in {"int8", "int4"} and not self.scaled:
            found.append(f"Quantize.scaled: expected True for {self.format}, got False; integers need a scale")
        return found

    @property
    def grid(self) -> Grid:
        """The values of the format, before the scale."""
        return GRIDS[self.format]

    @property
    def has_scale(self) -> bool:
        """Whether values are divided by a scale before they are rounded."""
        return self.scaled and self.format not in {"fp16", "bf16"}

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Rounded values, with the gradient of the entries themselves; without a generator, stochastic ones as is."""
        del kind
        if self.rounding == "stochastic" and generator is None:
            return dict(tensors)
        scales = self._scales({name: tensor.detach() for name, tensor in tensors.items()})
        sent: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            plain = tensor.detach().double() / scales[name]
            if generator is None or self.rounding == "nearest":
                rounded = self.grid.nearest(plain)
            else:
                draws = torch.rand(plain.shape, generator=generator, dtype=plain.dtype, device=generator.device)
                rounded = self.grid.stochastic(plain, draws.to(plain.device))
            sent[name] = (rounded * scales[name]).to(tensor.dtype) + (tensor - tensor.detach())
        return sent

    def preimage(self, after: Preimage) -> Preimage:
        """The cells of the grid: up to the midpoints for rounding to nearest, up to both neighbors otherwise."""
        if after.sizes is not None:  # what a step is, in a tensor of unknown scale, nobody knows
            return after.without_zeros()
        groups = [[name] for name in after.lower] if self.scope == "layer" else [list(after.lower)]
        cells: dict[str, tuple[Tensor, Tensor]] = {}
        for group in groups:
            lowers = torch.cat([after.lower[name].double().flatten() for name in group])
            uppers = torch.cat([after.upper[name].double().flatten() for name in group])
            scale = self._known_scale(lowers, uppers)
            for name in group:
                lower, upper = after.lower[name], after.upper[name]
                if scale is not None:
                    ends = self._cells(lower.double(), upper.double(), scale)
                else:
                    step = self._largest_step(lowers, uppers, torch.finfo(lower.dtype).eps)
                    ends = self._wide_cells(lower.double(), upper.double(), step)
                cells[name] = _with_slack(*ends, lower.dtype)
        return after.widened(lambda name, _lower, _upper: cells[name])

    def _scales(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scale of each tensor, float64."""
        largest = {
            name: tensor.double().abs().amax() if tensor.numel() else tensor.double().sum()
            for name, tensor in tensors.items()
        }
        if not self.has_scale:
            return {name: torch.ones_like(value) for name, value in largest.items()}
        if self.scope == "global":
            largest = dict.fromkeys(largest, torch.stack(list(largest.values())).amax())
        # A quotient that underflows would be no scale; such tensors are zero for all that matters.
        return {
            name: torch.where(value > 1e-300, value / self.grid.largest, 1 / self.grid.largest)
            for name, value in largest.items()
        }

    def _known_scale(self, lower: Tensor, upper: Tensor) -> float | None:
        """The scale that the client used, if it can be told from what is known of the largest entry."""
        if not self.has_scale:
            return 1.0
        if not lower.numel():
            return 1.0
        at_least = torch.maximum(lower, -upper).clamp(min=0).amax()
        at_most = torch.maximum(lower.abs(), upper.abs()).amax()
        return float(at_most) / self.grid.largest if bool(at_least == at_most) and bool(at_most < torch.inf) else None

    def _largest_step(self, lower: Tensor, upper: Tensor, rounding: float) -> float:
        """What the smallest step of the grid cannot exceed, where the scale is not known exactly."""
        at_most = float(torch.maximum(lower.abs(), upper.abs()).amax())
        if at_most < float("inf"):
            return at_most / self.grid.largest * self.grid.smallest
        return float(largest_unit(lower, upper, rounding))

    def _cells(self, lower: Tensor, upper: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The cells of the grid values that are possible; values between them count as the nearest."""
        if scale == 0:  # every entry was zero, or the largest would have been sent
            return lower, upper
        grid, most = self.grid, self.grid.largest
        first, last = (
            torch.where(end.isfinite(), grid.nearest(end.nan_to_num(0, 0, 0) / scale), end) for end in (lower, upper)
        )
        low, high = grid.below(first), grid.above(last)
        if self.rounding == "nearest":
            low, high = (first + low) / 2, (last + high) / 2
        if self.has_scale:  # nothing was larger than the largest
            low, high = low.clamp(min=-most), high.clamp(max=most)
        return (
            torch.where(lower.isfinite(), low * scale, lower),
            torch.where(upper.isfinite(), high * scale, upper),
        )

    def _wide_cells(self, lower: Tensor, upper: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Intervals that hold the cells of every grid whose smallest step is at most this."""
        share = 0.0 if self.grid.bits is None else 2.0**-self.grid.bits
        reach = 0.5 if self.rounding == "nearest" else 1.0

        def width(end: Tensor) -> Tensor:
            return reach * (torch.where(end.isfinite(), end.abs(), 0) * share).clamp(min=step)

        return outward(lower, upper, width(lower), width(upper))


def _with_slack(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ends moved outward by the rounding errors of the type in which the update was made, but not across zero."""
    if dtype == torch.float64:
        relative, absolute = 2.0**-50, 0.0
    else:
        relative, absolute = 4 * torch.finfo(dtype).eps, 4 * torch.finfo(dtype).tiny * torch.finfo(dtype).eps

    def slack(end: Tensor) -> Tensor:
        return torch.where(end == 0, 0, end.abs() * relative + absolute)

    return outward(lower, upper, slack(lower), slack(upper))
