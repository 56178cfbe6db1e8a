"""Which tensor of an update belongs to which parameter, when names or shapes do not agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gradleak.consistency.comparison import Cause, Tensors, flat
from gradleak.tasks import ModelState

# Two updates of one parameter point the same way up to noise; unrelated ones of many entries are nearly orthogonal.
_ALIKE = 0.9
_NAMES_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Naming:
    """An update under the model's own names.

    Attributes:
        tensors: those that could be assigned, in the model's order.
        causes: what is wrong with the names and shapes; empty if nothing.
    """

    tensors: dict[str, Tensor]
    causes: tuple[Cause, ...]


def match_names(observed: Tensors, computed: Tensors, state: ModelState) -> Naming:
    """Assign observed tensors to parameters by name, then by the end of the name, then by shape and direction.

    Args:
        observed: the update by its own names.
        computed: the recomputed update by the model's names.
        state: the model's values, to tell parameters from buffers.

    Returns:
        The assignment and everything that is wrong with it.
    """
    sources = {name: name for name in computed if name in observed and observed[name].shape == computed[name].shape}
    missing = [name for name in computed if name not in sources]
    extra = [name for name in observed if name not in sources]
    renamed = _pair(missing, extra, lambda wanted, got: float(_same_end(wanted, got)), observed, computed, 0.5)
    renamed |= _pair(
        [name for name in missing if name not in renamed],
        [name for name in extra if name not in renamed.values()],
        lambda wanted, got: abs(_cosine(observed[got], computed[wanted])),
        observed,
        computed,
        _ALIKE,
    )
    transposed = {
        name: name
        for name in missing
        if name not in renamed and name in observed and computed[name].dim() == 2
        if observed[name].shape == computed[name].mT.shape
    }
    sources |= renamed | transposed
    causes = _causes(renamed, transposed, sources, observed, computed, state)
    tensors = {
        name: observed[sources[name]].T if name in transposed else observed[sources[name]]
        for name in computed
        if name in sources
    }
    return Naming(tensors, tuple(causes))


def _pair(
    missing: list[str],
    extra: list[str],
    likeness: Callable[[str, str], float],
    observed: Tensors,
    computed: Tensors,
    at_least: float,
) -> dict[str, str]:
    """Parameter -> observed name of the same shape, the most alike pairs first."""
    ranked = sorted(
        (
            (likeness(wanted, got), wanted, got)
            for wanted in missing
            for got in extra
            if observed[got].shape == computed[wanted].shape and observed[got].is_floating_point()
        ),
        key=lambda pair: -pair[0],
    )
    pairs: dict[str, str] = {}
    for value, wanted, got in ranked:
        if value >= at_least and wanted not in pairs and got not in pairs.values():
            pairs[wanted] = got
    return pairs


def _same_end(one: str, other: str) -> bool:
    """Whether one name is the other with something before it, as wrappers do (`module.fc.weight`)."""
    return one.endswith(f".{other}") or other.endswith(f".{one}")


def _cosine(one: Tensor, other: Tensor) -> float:
    a, b = flat({"": one}, [""]), flat({"": other}, [""])
    size = float(a.norm() * b.norm())
    return float(a.dot(b)) / size if size > 0 else 0.0


def _causes(
    renamed: Mapping[str, str],
    transposed: Mapping[str, str],
    sources: Mapping[str, str],
    observed: Tensors,
    computed: Tensors,
    state: ModelState,
) -> list[Cause]:
    causes: list[Cause] = []
    if renamed:
        pairs = _shown([f"{got} looks like {wanted}" for wanted, got in renamed.items()])
        causes.append(_cause("renamed", f"parameters have other names than in the model: {pairs}; rename them"))
    if transposed:
        causes.append(
            _cause("transposed", f"tensors lie the other way round: {_shown(list(transposed))}; transpose them")
        )
    wrong = [name for name in computed if name not in sources and name in observed]
    if wrong:
        shapes = _shown([f"{name} is {list(observed[name].shape)}, not {list(computed[name].shape)}" for name in wrong])
        causes.append(_cause("shape", f"tensors of another shape than the model's: {shapes}; use the client's model"))
    missing = [name for name in computed if name not in sources and name not in observed]
    if missing:
        zero = all(not bool(computed[name].any()) for name in missing)
        why = " (their gradient is zero for this batch, and some frameworks leave such tensors out)" if zero else ""
        causes.append(
            _cause(
                "missing", f"parameters without a tensor: {_shown(missing)}{why}; send them or freeze them in the model"
            )
        )
    extra = [name for name in observed if name not in sources.values() and name not in computed]
    buffers = [name for name in extra if name in state.constants]
    others = [name for name in extra if name not in buffers]
    if buffers:
        causes.append(
            _cause(
                "buffers_sent", f"buffers or frozen parameters are among the tensors: {_shown(buffers)}; leave them out"
            )
        )
    if others:
        causes.append(_cause("extra", f"tensors that belong to no parameter: {_shown(others)}; use the client's model"))
    return causes


def _cause(name: str, explanation: str) -> Cause:
    return Cause(name, explanation, float("nan"), proven=True)


def _shown(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
