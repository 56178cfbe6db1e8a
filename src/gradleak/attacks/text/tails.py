"""What lies between a linear module and the logits, at one position: there the last tokens leave their trace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.text.layer_inputs import LayerInputs, Reached

# Numbers that a batch of Jacobians may hold.
_CHUNK = 16_000_000


@dataclass(frozen=True, eq=False)
class Head:
    """The linear module that gives the logits.

    Attributes:
        name: of the module.
        weight: `[C, d]`.
        bias: `[C]`, or None.
    """

    name: str
    weight: Tensor
    bias: Tensor | None

    def probabilities(self, entering: Tensor) -> Tensor:
        """Softmax `[..., C]` of the logits at inputs `[..., d]`, float64."""
        bias = None if self.bias is None else self.bias.double()
        return torch.softmax(nn.functional.linear(entering.double(), self.weight.double(), bias), dim=-1)


def head_of(inputs: LayerInputs, classes: int) -> Head | None:
    """The last module to run with a matrix `[C, d]`, shared with others or not; None if there is none."""
    found: list[Head] = []

    def record(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[object, ...]) -> None:
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            entering = arguments[0] if arguments else None
            if not isinstance(weight, Tensor) or not isinstance(entering, Tensor) or not entering.is_floating_point():
                return
            if tuple(weight.shape) == (classes, entering.shape[-1]):
                found.append(Head(name, weight.detach(), bias.detach() if isinstance(bias, Tensor) else None))

        return hook

    handles = [module.register_forward_pre_hook(record(name)) for name, module in inputs.module.named_modules()]
    word = 0 if inputs.space.padding != 0 else 1
    try:
        inputs.run(torch.full((1, inputs.space.length), word))
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


@dataclass(frozen=True, eq=False)
class Tail:
    """From a module's output to the head's input.

    Attributes:
        inputs: runs the model.
        module: name of the module.
        head: where it ends.
    """

    inputs: LayerInputs
    module: str
    head: Head

    def products(self, sequences: Tensor, cotangents: Tensor) -> Tensor:
        """Derivatives of the head's inputs, times cotangents, by the outputs of a module before the head.

        Args:
            sequences: ids `[N, n]`.
            cotangents: `[N, n, d]`, one for the head's input at each position.

        Returns:
            `[N, n, out]`.
        """
        leaving, entering = self._pass(sequences)
        (found,) = torch.autograd.grad(entering, leaving, cotangents.to(entering), materialize_grads=True)
        return found

    def jacobian(self, sequence: Tensor, position: int) -> Tensor:
        """The derivative of the head's input at a position by the module's output there.

        Args:
            sequence: ids `[1, n]`.
            position: from 0.

        Returns:
            `[d, out]`, float64.
        """
        leaving, entering = self._pass(sequence)
        width = entering.shape[-1]
        rows: list[Tensor] = []
        for chosen in torch.arange(width).split(max(1, _CHUNK // leaving.numel())):
            cotangents = torch.zeros(len(chosen), *entering.shape, dtype=entering.dtype)
            cotangents[torch.arange(len(chosen)), 0, position, chosen] = 1
            (part,) = torch.autograd.grad(
                entering, leaving, cotangents, is_grads_batched=True, retain_graph=True, materialize_grads=True
            )
            rows.append(part[:, 0, position])
        return torch.cat(rows).double()

    def mixes(self, sequence: Tensor) -> bool:
        """Whether the module's output at a position reaches the head at another one, at ids `[1, n]`."""
        if self.module == self.head.name or sequence.shape[1] < 2:
            return False
        leaving, entering = self._pass(sequence)
        last = torch.zeros_like(entering)
        last[:, -1] = torch.arange(1.0, 1 + entering.shape[-1])
        (found,) = torch.autograd.grad(entering, leaving, last, materialize_grads=True)
        return bool(found[:, :-1].any())

    def _pass(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """The module's output as a leaf of a graph, and the head's input in it."""
        leaving: list[Tensor] = []
        entering: list[Tensor] = []

        def cut(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
            leaving.append(output.detach().requires_grad_())
            return leaving[-1]

        def end(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            entering.append(arguments[0])
            raise Reached

        modules: Mapping[str, nn.Module] = dict(self.inputs.module.named_modules())
        handles = [
            modules[self.module].register_forward_hook(cut),
            modules[self.head.name].register_forward_pre_hook(end),
        ]
        try:
            self.inputs.run(sequences, graph=True)
        finally:
            for handle in handles:
                handle.remove()
        return leaving[-1], entering[-1]


def along_paths(paths: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Places of the paths by their length, so that those of one length can pass together."""
    found: dict[int, list[int]] = {}
    for place, path in enumerate(paths):
        found.setdefault(len(path), []).append(place)
    return found
