"""Every tensor operation of a run, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, eq=False)
class Call:
    """One recorded tensor operation.

    Attributes:
        operation: its name, the same for the in-place form.
        arguments: positional and then keyword arguments.
        result: what came back.
        function: what was called, to run it again on other data.
    """

    operation: str
    arguments: tuple[object, ...]
    result: object
    function: Callable[..., object]


class Recorder(TorchDispatchMode):
    """Writes down every tensor operation that runs while it is active as a context.

    Attributes:
        calls: what ran, in order; holding the tensors keeps their identities apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        del types
        result = func(*args, **(kwargs or {}))
        name, arguments = str(func).split(".")[1].rstrip("_"), (*args, *(kwargs or {}).values())
        self.calls.append(Call(name, arguments, result, func))
        return result
