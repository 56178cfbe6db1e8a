"""What is left between an observed and a recomputed update may itself tell the cause."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gradleak.consistency.comparison import Cause, Tensors, compare, flat, relative

NAN = float("nan")
# Too few entries say nothing about a distribution.
_ENOUGH = 32
_FEW_VALUES = 256
# Kurtosis is 3 for a normal distribution and 6 for Laplace's.
_BETWEEN_NORMAL_AND_LAPLACE = 4.2


def residual_causes(observed: Tensors, computed: Tensors, weights: Tensors, tolerance: float) -> Iterator[Cause]:
    """Causes that show in the entries themselves: pruning, scales per layer, weight decay, noise, single layers.

    Args:
        observed: the update under the model's names.
        computed: the recomputed one.
        weights: the model's parameters.
        tolerance: relative error that counts as equal.

    Yields:
        Proven causes first.
    """
    h, g = flat(observed, observed), flat(computed, observed)
    cut = (h == 0) & (g != 0)
    if bool(cut.any()) and relative((h - g)[~cut], h) <= tolerance:
        share = 100 * float(cut.double().mean())
        why = f"{share:.2g} % of the entries were set to zero and all others agree: pruned or sparsified"
        yield Cause("sparsified", f"{why}; name that defense", relative((h - g)[~cut], h), proven=True)
        return
    fits = {name: compare({name: tensor}, computed) for name, tensor in observed.items()}
    if len(fits) > 1 and all(fit.scaled_error <= tolerance for fit in fits.values()):
        scales = [fit.scale for fit in fits.values()]
        why = f"every layer fits with a scale of its own, from {min(scales):.3g} to {max(scales):.3g}"
        error = max(fit.scaled_error for fit in fits.values())
        yield Cause("layer_scales", f"{why}: clipped layer by layer, or learning rates that differ", error, proven=True)
        return
    decay = _weight_decay(h, g, flat(weights, observed), tolerance)
    if decay is not None:
        yield decay
        return
    agreeing = [name for name, fit in fits.items() if fit.relative_error <= tolerance]
    if agreeing and len(agreeing) < len(fits):
        rest = ", ".join([name for name in fits if name not in agreeing][:4])
        why = f"{len(agreeing)} of {len(fits)} tensors agree and these do not: {rest}"
        yield Cause(
            "layers", f"{why}; changed on purpose there (a defense of one layer?) or damaged", NAN, proven=False
        )
    yield from _noise(observed, computed)
    yield from _coarse(observed, h, g)


def _coarse(observed: Tensors, h: Tensor, g: Tensor) -> Iterator[Cause]:
    """Signs, or few different values, in place of the entries."""
    signs = float((h.sign() == g.sign()).double().mean())
    if signs > 0.99 and all(float(tensor.abs().max() - tensor.abs().min()) == 0 for tensor in observed.values()):
        why = f"only signs were sent, and {100 * signs:.4g} % of them agree; name that defense"
        yield Cause("signs", why, NAN, proven=False)
        return
    values = max(len(tensor.unique()) for tensor in observed.values())
    if len(h) >= 4 * _FEW_VALUES and values <= _FEW_VALUES:
        why = f"no tensor has more than {values} different values: quantized? name that defense"
        yield Cause("quantized", why, NAN, proven=False)


def _weight_decay(h: Tensor, g: Tensor, w: Tensor, tolerance: float) -> Cause | None:
    """The update as a combination of gradient and weights."""
    basis = torch.stack([g, w], dim=1)
    if int(torch.linalg.matrix_rank(basis)) < 2:
        return None
    factors = torch.linalg.lstsq(basis, h[:, None]).solution[:, 0]
    error = relative(h - basis @ factors, h)
    if error > tolerance:
        return None
    decay = float(factors[1] / factors[0])
    why = f"the update holds the weights times {decay:.3g} beside the gradient: weight decay on the client"
    return Cause("weight_decay", f"{why}; let it send the plain gradient", error, proven=True)


def _noise(observed: Tensors, computed: Tensors) -> Iterator[Cause]:
    """Noise of one size in all entries, whatever the size of the entries."""
    residuals = {
        name: (tensor.detach().double().cpu() - computed[name].detach().double().cpu()).flatten()
        for name, tensor in observed.items()
        if tensor.numel() >= _ENOUGH
    }
    if not residuals:
        return
    r = torch.cat(list(residuals.values()))
    g = flat(computed, list(residuals))
    sizes = torch.stack([part.square().mean().sqrt() for part in residuals.values()])
    # The root mean square of n entries is uncertain by about 1 / sqrt(2 n), so a small tensor may stray further.
    counts = torch.tensor([len(part) for part in residuals.values()])
    mean_size = float(r.square().mean().sqrt())
    even = bool(((sizes / mean_size - 1).abs() <= 6 * (2 * counts) ** -0.5 + 0.05).all())
    bound = 5 / len(r) ** 0.5 + 0.02
    if (
        mean_size == 0
        or not even
        or abs(_correlation(r, g)) > bound
        or abs(_correlation(r.abs(), g.abs())) > bound + 0.05
    ):
        return
    kurtosis = float((r - r.mean()).pow(4).mean() / r.var(correction=0).square())
    law = "Gaussian" if kurtosis < _BETWEEN_NORMAL_AND_LAPLACE else "Laplace"
    why = f"the difference looks like {law} noise of standard deviation {mean_size:.3g} in every layer: a defense?"
    yield Cause("noise", f"{why} (kurtosis {kurtosis:.2g}); name that defense", NAN, proven=False)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a.dot(b)) / size if size > 0 else 0.0
