"""Separate a batch at a ReLU layer by sampling, as in SPEAR."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 8192
# A column may have few zeros more than the N - 1 that any direction gets from the rows it was made from.
_SURPLUS = 3


def mixing_by_sampling(
    left: Tensor,
    tolerance: float,
    generator: torch.Generator,
    *,
    zero_fraction: float,
    max_samples: int,
    seconds: float,
    certify: Callable[[Tensor], bool],
) -> tuple[Tensor | str, int]:
    """The directions Q of the columns of `D = left Q` from kernels of random rows (Dimitrov et al. 2024, algorithm 1).

    If some column of D is zero at all of N - 1 sampled rows, the kernel of those rows of `left` is that column of Q.
    Sparser directions are taken first: a mixture of columns is zero only where all of them are, so of the candidates
    the sparsest N independent ones are the columns, once all of those have been drawn.

    Args:
        left: of the live units, `[m, N]`, float64.
        tolerance: an entry below this share of its column's largest counts as zero.
        generator: draws the rows.
        zero_fraction: smallest share of zeros of a direction worth keeping, among live units; in (0, 1).
        max_samples: number of draws after which to stop.
        seconds: time after which to stop.
        certify: from Q to whether it is certainly right, so that the search may end.

    Returns:
        Q `[N, N]`, or why it was not found, and the number of draws.
    """
    units, count = left.shape
    began = time.perf_counter()
    needed = max(count - 1 + _SURPLUS, int(zero_fraction * units))
    kept = torch.empty((0, count), dtype=torch.float64)
    zeros = torch.empty(0, dtype=torch.long)
    rows = left / left.norm(dim=1, keepdim=True)
    drawn = 0
    tried: list[int] = []
    while drawn < max_samples and time.perf_counter() - began < seconds:
        candidates = _kernels(rows, generator)
        drawn += _BLOCK
        values = (candidates @ left.T).abs()
        empty = (values < tolerance * values.amax(dim=1, keepdim=True)).sum(dim=1)
        good = empty >= needed
        if bool(good.any()):
            kept, zeros = _distinct(torch.cat([kept, candidates[good]]), torch.cat([zeros, empty[good]]))
            chosen = _sparsest_basis(kept, zeros)
            # Directions mixed from two columns turn up before the last column does: a full set is not yet enough.
            if len(chosen) == count and zeros[chosen].tolist() != tried:
                tried = zeros[chosen].tolist()
                if certify(kept[chosen].T):
                    return kept[chosen].T, drawn
    chosen = _sparsest_basis(kept, zeros)
    if len(chosen) == count:
        return kept[chosen].T, drawn
    return f"{len(chosen)} of {count} sparse directions after {drawn} draws", drawn


def _kernels(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors `[block, N]` orthogonal to N - 1 random rows each."""
    units, count = rows.shape
    if count == 1:
        return torch.ones((1, 1), dtype=torch.float64)
    picked = rows[torch.randint(units, (_BLOCK, count - 1), generator=generator)]
    # The last coordinate is set to 1; a kernel without a last coordinate makes the system singular, and is skipped.
    solution, singular = torch.linalg.solve_ex(picked[..., :-1], -picked[..., -1:])
    kernels = torch.cat([solution[..., 0], torch.ones((_BLOCK, 1), dtype=torch.float64)], dim=1)
    usable = (singular == 0) & torch.isfinite(kernels).all(dim=1)
    kernels = kernels[usable]
    return kernels / kernels.norm(dim=1, keepdim=True)


def _distinct(candidates: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates without repeats, sparsest first."""
    order = zeros.argsort(descending=True, stable=True)
    candidates, zeros = candidates[order], zeros[order]
    parallel = (candidates @ candidates.T).abs() > 1 - 1e-8
    first = ~parallel.tril(diagonal=-1).any(dim=1)
    return candidates[first][:512], zeros[first][:512]


def _sparsest_basis(candidates: Tensor, zeros: Tensor) -> list[int]:
    """Indices of linearly independent candidates, taken greedily from the sparsest on."""
    chosen: list[int] = []
    basis = torch.empty((0, candidates.shape[1]), dtype=torch.float64)
    for index in zeros.argsort(descending=True, stable=True).tolist():
        rest = candidates[index] - basis.T @ (basis @ candidates[index])
        rest = rest - basis.T @ (basis @ rest)
        if float(rest.norm()) > 1e-4:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen.append(index)
            if len(chosen) == candidates.shape[1]:
                break
    return chosen
