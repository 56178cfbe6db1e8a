"""A task from a model and its tokenizer, with everything that does not fit told at once."""

from typing import Any

from torch import nn

from gradleak.adapters.huggingface.subwords import LibraryTokenizer
from gradleak.errors import refuse
from gradleak.tasks import Task
from gradleak.tokens import Objective, TokenSpace
from gradleak.zoo.data import Tokenizer

OBJECTIVES = ("causal", "masked", "classification")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")


def language_task(
    model: nn.Module,
    tokenizer: Any,
    length: int,
    objective: Objective = "causal",
    *,
    num_classes: int | None = None,
    padded: bool = True,
) -> Task:
    """The task of a language model with its tokenizer.

    Args:
        model: of Hugging Face, or any module with `get_input_embeddings` that takes ids.
        tokenizer: of `transformers`, or a `gradleak.zoo.data.Tokenizer`.
        length: tokens of an input.
        objective: what is predicted: every next token, hidden tokens, or a class.
        num_classes: of a classifier; None for what its configuration says.
        padded: whether texts may be shorter than `length`.

    Returns:
        The task; its space has the tokenizer's ids of padding, mask, begin and end, and its `decode`.

    Raises:
        BadInput: when tokenizer, length and objective do not fit the model; all problems at once.
    """
    words = tokenizer if isinstance(tokenizer, Tokenizer) else LibraryTokenizer(tokenizer)
    embedding = _embedding(model)
    problems: list[str] = []
    if objective not in OBJECTIVES:
        problems.append(f"objective: expected one of {', '.join(OBJECTIVES)}, got {objective!r}; choose one")
    if embedding is None:
        problems.append(
            "model: expected an embedding of tokens that get_input_embeddings returns, got none; give a model of texts"
        )
    elif words.vocabulary > embedding.num_embeddings:
        problems.append(
            f"tokenizer: expected at most {embedding.num_embeddings} ids (rows of the model's embedding), got "
            f"{words.vocabulary}; use the model's own tokenizer, or call model.resize_token_embeddings"
        )
    positions = _positions(model)
    if length < 1 or (positions is not None and length > positions):
        wanted = "at least 1" if length < 1 else f"at most {positions} (positions of the model)"
        problems.append(f"length: expected {wanted}, got {length}; choose within it")
    if padded and words.padding is None:
        problems.append(
            "tokenizer: expected an id for padding, got none; set tokenizer.pad_token, or say padded=False if every "
            "text has all tokens"
        )
    if objective == "masked" and words.mask is None:
        problems.append("tokenizer: expected an id for hidden tokens, got none; use one with a mask token")
    classes = num_classes if num_classes is not None else getattr(getattr(model, "config", None), "num_labels", None)
    if objective == "classification":
        problems += _classifier_problems(model, words.padding if padded else None, classes)
    refuse(problems)
    assert embedding is not None  # refused above; said again for the type checker
    space = TokenSpace(
        embedding.num_embeddings,
        length,
        padding=words.padding if padded else None,
        mask=words.mask,
        special=_special(words),
        embedding=next(name for name, module in model.named_modules() if module is embedding),
        to_text=words.text,
    )
    if objective == "classification":
        return Task(model, space, int(classes or 0))
    return Task(model, space, embedding.num_embeddings, classified="token")


def _embedding(model: nn.Module) -> nn.Embedding | None:
    find = getattr(model, "get_input_embeddings", None)
    try:
        found = find() if callable(find) else None
    except NotImplementedError:  # transformers' word for a model without one
        return None
    return found if isinstance(found, nn.Embedding) else None


def _positions(model: nn.Module) -> int | None:
    """How many positions a model says that it has."""
    config = getattr(model, "config", None)
    stated = [getattr(config, name, None) for name in _POSITIONS]
    own = getattr(model, "positions", None)
    if isinstance(own, nn.Embedding):
        stated.append(own.num_embeddings)
    return next((int(count) for count in stated if isinstance(count, int)), None)


def _special(words: Tokenizer) -> tuple[int, ...]:
    """Ids that are no words; of a tokenizer of transformers all that it calls special, but for unknown words."""
    found = [token for token in (words.begin, words.end) if token is not None]
    if isinstance(words, LibraryTokenizer):
        apart = {words.padding, words.mask, words.inner.unk_token_id}
        found += [token for token in words.inner.all_special_ids if token not in apart]
    return tuple(dict.fromkeys(found))


def _classifier_problems(model: nn.Module, padding: int | None, classes: Any) -> list[str]:
    problems: list[str] = []
    if not isinstance(classes, int) or classes < 2:
        problems.append(f"num_classes: expected at least 2, got {classes}; count the model's outputs")
    config = getattr(model, "config", None)
    # Decoders look for each text's last token by it.
    if config is not None and padding is not None and getattr(config, "pad_token_id", None) != padding:
        got = getattr(config, "pad_token_id", None)
        problems.append(
            f"model: expected config.pad_token_id {padding} as in the tokenizer, got {got}; set it on the model"
        )
    return problems
