"""Attention masks of padded texts, also while a model runs under a function transform.

Hugging Face's models look at the mask's values to decide what to compute, which `vmap` forbids. A mask that is ready
for every pair of positions they take as it is; but then it must hold what the model would have added: that a causal
model never looks ahead. Which of the two a model does is found by running it.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level  # no public function tells whether a transform is active

Form = Literal["causal", "both_ways"]

_TOLERANCE = 1e-3
_FORMS: WeakKeyDictionary[nn.Module, Form | None] = WeakKeyDictionary()


def attention_mask(module: nn.Module, present: Tensor, tokens_name: str, dtype: torch.dtype) -> Tensor:
    """What a model takes as `attention_mask`.

    Args:
        module: a model with arguments for ids and `attention_mask`.
        present: which positions hold tokens, bool `[N, T]`.
        tokens_name: the name of its argument for ids.
        dtype: of its embeddings.

    Returns:
        `[N, T]`, 1 for tokens; under a function transform `[N, 1, T, T]`, to be added to attention's logits, where the
        model takes such a mask.
    """
    if maybe_current_level() is None:
        return present.long()
    if module not in _FORMS:
        _FORMS[module] = _form(module, present.shape[1], tokens_name, dtype, present.device)
    form = _FORMS[module]
    return present.long() if form is None else _ready(present, form, dtype)


def _ready(present: Tensor, form: Form, dtype: torch.dtype) -> Tensor:
    """Zero where a position may look, a very negative number elsewhere; `[N, 1, T, T]`."""
    length = present.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool, device=present.device)
    if form == "causal":
        allowed = allowed.tril()
    hidden = ~(present[:, None, None, :] & allowed)
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


def _form(module: nn.Module, length: int, tokens_name: str, dtype: torch.dtype, device: torch.device) -> Form | None:
    """The ready mask that gives the outputs of the plain one; None if neither does."""
    present = torch.ones(2, length, dtype=torch.bool, device=device)
    present[1, (length + 1) // 2 :] = False
    tokens = torch.arange(2 * length, device=device).view(2, length) % 2

    def run(mask: Tensor) -> Tensor:
        given: dict[str, Any] = {tokens_name: tokens, "attention_mask": mask}
        found: Any = module(**given)
        outputs: Tensor = found if isinstance(found, Tensor) else found.logits
        return outputs[present] if outputs.dim() == 3 else outputs

    # A model with draws of its own must not advance the caller's random state.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = run(present.long())
        errors = {form: _error(run, _ready(present, form, dtype), expected) for form in get_args(Form)}
    best: Form = min(errors, key=lambda form: errors[form])
    return best if errors[best] <= _TOLERANCE else None


def _error(run: Callable[[Tensor], Tensor], mask: Tensor, expected: Tensor) -> float:
    """Largest relative difference of outputs; infinite for a model that refuses the mask."""
    try:
        found = run(mask)
    # Foreign code, and any exception of it means that it takes no such mask.
    except Exception:  # noqa: BLE001
        return float("inf")
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return error if error == error else float("inf")
