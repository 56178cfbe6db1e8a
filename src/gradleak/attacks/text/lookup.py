"""Precomputed outputs of the linear modules that see a token and its position alone, for many short sequences."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradleak.attacks.text.layer_inputs import LayerInputs, Reached, Structure

# Numbers that the table of one module may hold.
_MOST = 64_000_000


@contextmanager
def looked_up(inputs: LayerInputs, structure: Structure, tokens: Tensor) -> Generator[None]:
    """While it is active, modules of depth 0 answer for some tokens from a table instead of multiplying.

    The same few tokens occur in very many sequences, and these products are most of a first layer's work. Sequences
    with other tokens are not allowed meanwhile.

    Args:
        inputs: the model, whose private copy is changed and restored.
        structure: of the model.
        tokens: all that will occur, `[k]`.
    """
    space = inputs.space
    length = space.length if structure.positional or structure.fixed_length else 1
    repeated = tokens[:, None].repeat(1, length)
    modules = {one.name: inputs.module.get_submodule(one.name) for one in structure.modules if one.depth == 0}
    # Only what maps each input by itself may be replaced.
    plain = {name: module for name, module in modules.items() if not list(module.children())}
    tables = _outputs(inputs, plain, repeated)
    row = torch.zeros(space.vocabulary, dtype=torch.long)
    row[tokens] = torch.arange(len(tokens))
    for name, table in tables.items():
        if table.dim() == 3 and table.numel() <= _MOST:
            plain[name].forward = _answer(inputs, table, row)
    try:
        yield
    finally:
        for name in tables:
            # The method of the class shows again.
            plain[name].__dict__.pop("forward", None)


def _answer(inputs: LayerInputs, table: Tensor, row: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(entering: Tensor) -> Tensor:
        tokens = inputs.running[-1]
        places = torch.arange(tokens.shape[1]) if table.shape[1] > 1 else torch.zeros(1, dtype=torch.long)
        return table[row[tokens], places].to(entering.dtype)

    return forward


def _outputs(inputs: LayerInputs, modules: Mapping[str, nn.Module], tokens: Tensor) -> dict[str, Tensor]:
    """What leaves modules in a pass of ids `[k, T]`, by name."""
    found: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _entering: object, leaving: object) -> None:
            if isinstance(leaving, Tensor):
                found.setdefault(name, leaving.detach())
                if len(found) == len(modules):
                    raise Reached

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        inputs.run(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return found
