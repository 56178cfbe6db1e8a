"""Separate a batch at the ReLU layer below a linear classifier, by algebra instead of sampling.

The gradient of a hidden layer with N examples is `G = D X^T` with `D = mask * (V R)`: V `[m, k]` are the known weights
out of each unit and column r_j of R what the loss sends into the logits for example j. A rank-N factorization gives
`D = L Q` with Q `[N, N]` unknown. For a column q of Q and its r, every unit i is either inactive or active:

    (L_i q) (L_i q - V_i r) = 0.

Units that are active for all examples satisfy `L_i = V_i M` with one matrix M `[k, N]`, found by robust regression
among the units that dummy inputs activate most; then `r = M q`, and the equations are linear in the symmetric matrix
`q q^T`:

    (L_i q) ((L_i - V_i M) q) = 0.

Their solutions are the N matrices `q_j q_j^T` and the combinations of those, so any two combinations are diagonalized
by Q. This takes N(N+1)/2 unknowns and as many mixed units, no sampling, and no sparsity; compare SPEAR (Dimitrov et al.
2024), whose expected number of samples doubles with every example.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_POOLS = (4, 20, 40, 80)
_DRAWS = 64
"""Regressions tried in each pool of likely active units; the pools are this many units larger than the fit needs."""

# A diagonalization is believed if its eigenvalues are real to this share.
_LARGEST_IMAGINARY = 1e-3


@dataclass(frozen=True, eq=False)
class Factors:
    """A gradient of rank N as `left @ right`: `left [m, N]` with orthonormal columns, `right [N, n]`."""

    left: Tensor
    right: Tensor


def factorize(weight_gradient: Tensor, count: int) -> Factors:
    """The truncated singular value decomposition of `[m, n]`, in float64."""
    left, values, right = torch.linalg.svd(weight_gradient.double(), full_matrices=False)
    return Factors(left[:, :count], values[:count, None] * right[:count])


def mixing_by_algebra(
    left: Tensor, outgoing: Tensor, likely_active: Tensor, tolerance: float, generator: torch.Generator
) -> Tensor | str:
    """The directions Q of the columns of `D = left Q`, each up to its scale.

    Args:
        left: of the live units, `[m, N]`, float64.
        outgoing: the weights V out of those units, `[m, k]`, float64.
        likely_active: the units ordered from most to least likely to be active for every example, `[m]`.
        tolerance: relative error up to which an equation counts as met.
        generator: draws the regressions.

    Returns:
        Q `[N, N]`, or why it cannot be had.
    """
    count = left.shape[1]
    if count == 1:
        return torch.ones((1, 1), dtype=torch.float64)
    unknowns = count * (count + 1) // 2
    found = _common_map(left, outgoing, likely_active, tolerance, generator)
    if found is None:
        return "no set of units is active for every example"
    common, always = found
    first, second = left[~always], (left - outgoing @ common)[~always]
    if len(first) < unknowns - count:
        return f"{len(first)} units are active for some examples only, and {unknowns - count} are needed"
    first = first / first.norm(dim=1, keepdim=True)
    second = second / second.norm(dim=1, keepdim=True)
    row, column = torch.triu_indices(count, count)
    share = torch.where(row == column, 0.5, 1.0).double()
    system = (first[:, row] * second[:, column] + first[:, column] * second[:, row]) * share
    values, vectors = torch.linalg.eigh(system.T @ system)
    if not bool(values[count - 1] < 1e-2 * values[count]):
        return f"the {unknowns} unknowns have more than {count} solutions in the equations of {len(first)} units"
    solutions = torch.zeros((count, count, count), dtype=torch.float64)
    solutions[:, row, column] = vectors[:, :count].T
    solutions[:, column, row] = vectors[:, :count].T
    weights = torch.randn((2, count), generator=generator, dtype=torch.float64)
    above, below = torch.einsum("ck,kij->cij", weights, solutions)
    eigenvalues, mixing = torch.linalg.eig(above @ torch.linalg.pinv(below))
    if float(eigenvalues.imag.abs().max()) > _LARGEST_IMAGINARY * float(eigenvalues.abs().max()):
        return "the solutions have no common real directions"
    return mixing.real / mixing.real.norm(dim=0)


def _common_map(
    left: Tensor, outgoing: Tensor, likely_active: Tensor, tolerance: float, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """M `[k, N]` with `left_i = outgoing_i M` for as many units as possible, and which those are `[m]`."""
    needed = outgoing.shape[1]
    lengths = left.norm(dim=1)
    best, most = None, needed + 1  # the units of the fit meet it anyway; one more could be chance
    for extra in _POOLS:
        pool = likely_active[: needed + extra]
        if len(pool) < needed:
            break
        draws = torch.rand((_DRAWS, len(pool)), generator=generator).argsort(dim=1)[:, :needed]
        rows = pool[draws]
        maps, singular = torch.linalg.solve_ex(outgoing[rows], left[rows])
        errors = (left - outgoing @ maps).norm(dim=2) / lengths
        met = (errors < tolerance) & (singular == 0)[:, None]
        top = int(met.sum(dim=1).argmax())
        if int(met[top].sum()) > most:
            best, most = met[top], int(met[top].sum())
    if best is None:
        return None
    common = torch.linalg.lstsq(outgoing[best], left[best], driver="gelsd").solution
    always = (left - outgoing @ common).norm(dim=1) / lengths < tolerance
    return common, always
