"""Which kernels a model runs on what the input becomes, and inside which module.

The model runs once under a dispatch mode, so that functional calls, tensor methods, fused kernels and the insides of
custom Functions are seen as well as modules. Hooks that tell the module's path sit on a private copy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # no public module offers dispatch modes
from torch.utils._pytree import tree_flatten, tree_map  # nor the trees that dispatch modes deal in

ROOT = "forward"
"""The place of what runs in the model itself, outside every child."""


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel call on what the input, or the weights alone, became.

    Attributes:
        kernel: the overload that ran.
        args: its positional arguments, copied before it ran.
        kwargs: its keyword arguments, copied before it ran.
        moved: among the flattened arguments, those that depend on the input, or else on the weights.
        place: path of the innermost module, with its class.
        on_weights: whether only weights reach it.
        outer: the function that was called, inside which this kernel is a part; None outside of any.
    """

    kernel: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    moved: tuple[int, ...]
    place: str
    on_weights: bool
    outer: "Call | None" = None

    @property
    def name(self) -> str:
        """The kernel's name without overload and in-place mark."""
        return kernel_name(self.kernel)


@dataclass(eq=False)
class Record:
    """What ran.

    Attributes:
        calls: first call of each kind, see `key`.
        places: for each kind, all places.
        in_place: in-place operations on what the input became, with their places.
        functions: custom autograd Functions and their places.
        random: kernels that draw random numbers, and their places.
        once: custom Functions among them that are marked `once_differentiable`.
        dtypes: floating-point types of what the input became.
    """

    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    places: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    in_place: list[str] = field(default_factory=list[str])
    functions: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    random: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    once: set[str] = field(default_factory=set[str])
    dtypes: set[torch.dtype] = field(default_factory=set[torch.dtype])


def kernel_name(kernel: Any) -> str:
    """`aten.max_pool2d_with_indices.default` is `max_pool2d`."""
    name = str(getattr(kernel, "overloadpacket", kernel).__name__)
    name = name if name.startswith("_") else name.rstrip("_")
    return name.removesuffix("_with_indices")


def record(
    module: nn.Module, variable: Tensor, forward: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor]
) -> Record:
    """Run the model once and see what it does.

    Args:
        module: a private copy that `forward` runs; it is left with hooks.
        variable: `[N, *variable_shape]`.
        forward: from the variable to outputs.
        weights: the trained values that `forward` uses.

    Returns:
        The record.
    """
    found = Record()
    stack: list[str] = []
    graph = _Graph(found, stack)
    for path, part in module.named_modules():
        _attach(part, f"{path} ({type(part).__name__})" if path else ROOT, stack, graph)
    outer = _Outer()
    with outer, _Recorder(found, stack, outer, variable, list(weights.values())), torch.enable_grad():
        outputs = forward(variable)
    graph.attribute([outputs])
    return found


def _attach(part: nn.Module, place: str, stack: list[str], graph: "_Graph") -> None:
    """Keep the stack of places while a module runs."""

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
        graph.attribute(tree_flatten((args, kwargs))[0])
        stack.append(place)

    def leave(_module: nn.Module, _args: Any, outputs: Any) -> None:
        graph.attribute(tree_flatten(outputs)[0])
        if stack:
            stack.pop()

    try:
        part.register_forward_pre_hook(enter, with_kwargs=True)
        part.register_forward_hook(leave, always_call=True)
    except RuntimeError:  # scripted modules take no hooks; what they run is seen, under their parent's path
        return


class _Graph:
    """Attributes custom Functions to modules: a node first seen at a module's end was made inside it."""

    def __init__(self, found: Record, stack: list[str]) -> None:
        self.found, self.stack = found, stack
        self.seen: set[Any] = set()

    def attribute(self, tensors: Sequence[Any]) -> None:
        nodes = [tensor.grad_fn for tensor in tensors if isinstance(tensor, Tensor)]
        while nodes:
            node = nodes.pop()
            if node is None or node in self.seen:
                continue
            self.seen.add(node)
            if isinstance(node, BackwardCFunction):
                name = type(node).__name__.removesuffix("Backward")
                _add(self.found.functions, name, self.stack[-1] if self.stack else ROOT)
                if _is_marked(type(node)):
                    self.found.once.add(name)
            nodes.extend(before for before, _ in node.next_functions)


def _is_marked(node: type) -> bool:
    """Whether a custom Function's backward is wrapped by `once_differentiable`."""
    function = getattr(node, "_forward_cls", None)
    backward = getattr(function, "backward", None)
    return getattr(backward, "__code__", None) is _MARKED


def _unmarked(ctx: Any) -> None:
    """Stands in for a backward pass, to have one to wrap."""


_MARKED = getattr(once_differentiable(_unmarked), "__code__", None)  # its stub says nothing about what it returns


class _Outer(TorchFunctionMode):
    """Remembers which function is being called; what it calls in turn does not come here."""

    def __init__(self) -> None:
        super().__init__()
        self.call: tuple[Any, Any, Any] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, self.call = self.call, (func, args, kwargs or {})
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.call = before


class _Recorder(TorchDispatchMode):
    """Follows which storages depend on the input and on the weights."""

    def __init__(self, found: Record, stack: list[str], outer: _Outer, variable: Tensor, weights: Sequence[Tensor]):
        super().__init__()
        self.found, self.stack, self.outer = found, stack, outer
        self.from_input = {_storage(variable)}
        self.from_weights = {_storage(weight) for weight in weights}
        self.alive: list[Tensor] = []  # an address is a name only as long as its tensor lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "empty" in kernel_name(func):
            return func(*args, **kwargs)  # what a fresh piece of memory holds depends on nothing
        flat: list[Any] = tree_flatten((args, kwargs))[0]
        by_input = tuple(i for i, leaf in enumerate(flat) if _among(leaf, self.from_input))
        by_weights = tuple(i for i, leaf in enumerate(flat) if _among(leaf, self.from_weights))
        if by_input or by_weights:
            self._note(func, args, kwargs, by_input or by_weights, on_weights=not by_input)
        if torch.Tag.nondeterministic_seeded in func.tags:
            _add(self.found.random, kernel_name(func), self.stack[-1] if self.stack else ROOT)
        outputs = func(*args, **kwargs)
        for leaf in tree_flatten(outputs)[0]:
            if isinstance(leaf, Tensor) and (by_input or by_weights):
                self.alive.append(leaf)
                if by_input and leaf.is_floating_point():
                    self.found.dtypes.add(leaf.dtype)
                (self.from_input if by_input else self.from_weights).add(_storage(leaf))
        return outputs

    def _note(self, kernel: Any, args: Any, kwargs: Any, moved: tuple[int, ...], *, on_weights: bool) -> None:
        returns = kernel._schema.returns
        is_write = any(entry.alias_info is not None and entry.alias_info.is_write for entry in returns)
        if any(entry.alias_info is not None for entry in returns) and not is_write:
            return  # a view computes nothing
        place = self.stack[-1] if self.stack else ROOT
        name = kernel_name(kernel)
        if is_write and not on_weights and self._overwrites(kernel, args):
            mark = f"{name} in {place}"
            self.found.in_place += [mark] if mark not in self.found.in_place else []
        key = _key(kernel, args, kwargs, moved, on_weights=on_weights)
        _add(self.found.places, key, place)
        if key not in self.found.calls:
            copied_args, copied_kwargs = copied(args), copied(kwargs)
            outer = self._outer(place, on_weights=on_weights)
            self.found.calls[key] = Call(kernel, copied_args, copied_kwargs, moved, place, on_weights, outer)

    def _outer(self, place: str, *, on_weights: bool) -> Call | None:
        """The function that is being called, with what depends on the input or the weights among its arguments."""
        if self.outer.call is None:
            return None
        function, args, kwargs = self.outer.call
        known = self.from_weights if on_weights else self.from_input
        moved = tuple(i for i, leaf in enumerate(tree_flatten((args, kwargs))[0]) if _among(leaf, known))
        return Call(function, copied(args), copied(kwargs), moved, place, on_weights)

    def _overwrites(self, kernel: Any, args: Any) -> bool:
        """Whether the kernel writes into something that the function called was given, not into a buffer of its own."""
        written = {
            _storage(value)
            for entry, value in zip(kernel._schema.arguments, args, strict=False)
            if entry.alias_info is not None and entry.alias_info.is_write and isinstance(value, Tensor)
        }
        given = tree_flatten(self.outer.call[1:])[0] if self.outer.call is not None else []
        return any(_among(leaf, written) for leaf in given)


def _add(places: dict[str, list[str]], name: str, place: str) -> None:
    if place not in places.setdefault(name, []):
        places[name].append(place)


def _key(kernel: Any, args: Any, kwargs: Any, moved: tuple[int, ...], *, on_weights: bool) -> str:
    """Calls of one key behave alike: same kernel, same settings, same kinds of tensors."""
    words = [
        f"{leaf.dtype}{leaf.dim()}" if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in tree_flatten((args, kwargs))[0]
    ]
    return f"{kernel} {moved} {on_weights} {' '.join(words)}"


def copied(tree: Any) -> Any:
    """The same tree of arguments with tensors of its own."""

    def own(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    return tree_map(own, tree)


def _among(leaf: Any, storages: set[int]) -> bool:
    return isinstance(leaf, Tensor) and _storage(leaf) in storages


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # tensors in a layout of another library have no storage to name
        return id(tensor)
