"""Where a model embeds its tokens: finding that module, whether it is a plain lookup, and answering in its place."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from torch import Tensor, nn

from gradleak.errors import BadInput, refuse

# Embeddings of so few rows are those of segments, not of positions.
_SEGMENTS = 2


def find_embedding(module: nn.Module, vocabulary: int, name: str | None = None) -> tuple[str, nn.Embedding]:
    """The module that embeds the tokens.

    Args:
        module: the model.
        vocabulary: number of rows.
        name: of the module; None to look for it.

    Returns:
        Its name, and itself.

    Raises:
        BadInput: when there is none, or it is not clear which, or it does more than look up rows.
    """
    modules = dict(module.named_modules())
    found = [(at, one) for at, one in modules.items() if isinstance(one, nn.Embedding)]
    sizes = {at: one.num_embeddings for at, one in found}
    found = [(at, one) for at, one in found if one.num_embeddings == vocabulary]
    if name is not None:
        found = [(at, one) for at, one in found if at == name]
    elif len(found) > 1:
        found = [(at, one) for at, one in found if one is _input_embeddings(module)] or found
    if len(found) == 1:
        refuse(_unusual(*found[0]))
        return found[0]
    wanted = f"an nn.Embedding with {vocabulary} rows" + (f" named {name!r}" if name else "")
    raise BadInput(
        [
            f"model: expected {wanted} for the tokens, got {sizes or 'no embedding at all'}; check that tokenizer, "
            "space and model belong together, or name the module with TokenSpace(embedding=...)"
        ]
    )


def position_problems(module: nn.Module, words: nn.Embedding, length: int) -> list[str]:
    """Whether a model that refuses its inputs has fewer positions than they have tokens.

    Args:
        module: the model.
        words: the module that embeds its tokens.
        length: tokens of an input.

    Returns:
        One line each; none where the reason must be another.
    """
    limits = {
        name: one.num_embeddings
        for name, one in module.named_modules()
        if isinstance(one, nn.Embedding) and one is not words and _SEGMENTS < one.num_embeddings < length
    }
    configured = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if not limits and isinstance(configured, int) and configured < length:
        limits = {"config.max_position_embeddings": configured}
    return [
        f"model: expected positions for sequences of {length} tokens, got {rows} ({name}); cut the texts and give "
        f"TokenSpace(length={rows}) or less, or take a model with more positions"
        for name, rows in limits.items()
    ]


@contextmanager
def replaced(embedding: nn.Embedding, embedded: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Let an embedding answer with other values of the weight that it has while it is called."""

    def answer(called: nn.Module, _tokens: object, _output: object) -> Tensor:
        assert isinstance(called, nn.Embedding)
        return embedded(called.weight)

    handle = embedding.register_forward_hook(answer)
    try:
        yield
    finally:
        handle.remove()


def _unusual(name: str, embedding: nn.Embedding) -> list[str]:
    """What keeps an embedding from being a plain lookup of its rows, one line each."""
    problems: list[str] = []
    if type(embedding).forward is not nn.Embedding.forward:
        problems.append(
            f"model: expected a plain nn.Embedding for the tokens, got {type(embedding).__name__} ({name}) with a "
            "forward of its own, such as a scale; apply that in a module after a plain embedding"
        )
    for setting, usual in (("max_norm", None), ("scale_grad_by_freq", False), ("sparse", False)):
        if getattr(embedding, setting) != usual:
            problems.append(
                f"model: expected {setting}={usual} in the embedding {name}, got {getattr(embedding, setting)}; "
                "its gradient is then not that of a plain lookup, so set it back"
            )
    return problems


def _input_embeddings(module: nn.Module) -> nn.Module | None:
    """What a Hugging Face model says itself."""
    find = getattr(module, "get_input_embeddings", None)
    found = find() if callable(find) else None
    return found if isinstance(found, nn.Module) else None
