"""Sequences of tokens: what such an input is, how it enters a model, and the losses on every position."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradleak.errors import refuse
from gradleak.token_embeddings import find_embedding, position_problems, replaced
from gradleak.token_masks import attention_mask

IGNORED = -100
"""Target of a position that the loss leaves out, as in PyTorch's cross-entropy."""

NO_TOKEN = -1
"""In a reconstruction: nothing is known of this position."""

Objective = Literal["classification", "causal", "masked"]
"""What a model of texts predicts: a class, at every position the next token, or the tokens that are hidden."""


def token_cross_entropy(outputs: Tensor, target_probabilities: Tensor) -> Tensor:
    """Cross-entropy averaged over all positions of the batch that have a target.

    Args:
        outputs: logits `[N, T, C]`.
        target_probabilities: `[N, T, C]`, rows of zeros where a position has no target.

    Returns:
        A scalar; that of `torch.nn.functional.cross_entropy` with `ignore_index` for one-hot rows.
    """
    total = -(target_probabilities * torch.log_softmax(outputs, dim=-1)).sum()
    return total / target_probabilities.sum()


@runtime_checkable
class OfTokens(Protocol):
    """A space of sequences of tokens, whatever variable an attack searches them by."""

    @property
    def token_space(self) -> "TokenSpace":
        """What the sequences are."""
        ...


@dataclass(frozen=True)
class TokenSpace:
    """Sequences of token ids `[T]`, padded on the right where shorter.

    The variable of an attack is one row of probabilities a position, `[T, vocabulary]`, which enters the model through
    its own embedding. One-hot rows give the gradient of the true lookup, to that embedding as well.

    Args:
        vocabulary: number of token ids, those of the model's embedding.
        length: positions T of an input.
        padding: id that fills the positions after a text's end, or None if every input has all T tokens. A model with
            an argument `attention_mask` gets the mask of the others, and padding is never scored.
        mask: id that stands for a hidden token in masked language models, or None.
        special: further ids that are no words, such as those for begin and end; they are left out of scores by words.
        embedding: name of the module that embeds the tokens; found by itself if there is no doubt.
        to_text: from ids to readable text, such as a tokenizer's `decode`; None shows the ids.

    Raises:
        BadInput: when a number is out of range.
    """

    vocabulary: int
    length: int
    padding: int | None = None
    mask: int | None = None
    special: tuple[int, ...] = ()
    embedding: str | None = None
    to_text: Callable[[Sequence[int]], str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special", tuple(int(token) for token in self.special))
        problems: list[str] = []
        if self.vocabulary < 2:
            problems.append(
                f"vocabulary: expected at least 2 tokens, got {self.vocabulary}; count the embedding's rows"
            )
        if self.length < 1:
            problems.append(f"length: expected at least 1 position, got {self.length}; give that of the longest input")
        for name, token in (
            ("padding", self.padding),
            ("mask", self.mask),
            *(("special", one) for one in self.special),
        ):
            if token is not None and not 0 <= token < self.vocabulary:
                problems.append(
                    f"{name}: expected an id from 0 to {self.vocabulary - 1}, got {token}; see the tokenizer's ids"
                )
        refuse(problems)

    @property
    def token_space(self) -> "TokenSpace":
        """Itself."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """One sequence."""
        return (self.length,)

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """Probabilities of every token at every position."""
        return (self.length, self.vocabulary)

    @property
    def bounds(self) -> None:
        """Ids are names, not quantities."""
        return None

    def problems(self, inputs: Tensor) -> list[str]:
        """Wrong shape, empty batch, no integers, ids out of range, padding before the end, nothing but padding."""
        if inputs.dim() != 2 or inputs.shape[1] != self.length:
            return [
                f"inputs: expected token ids of shape [N, {self.length}], got {list(inputs.shape)}; pad or cut every "
                "sequence to that length, or change the space's"
            ]
        if len(inputs) == 0:
            return ["inputs: expected a batch of at least 1 example, got 0; give the client's private batch"]
        if inputs.is_floating_point() or inputs.is_complex() or inputs.dtype == torch.bool:
            return [f"inputs: expected integer token ids, got {inputs.dtype}; give ids, not embeddings"]
        if int(inputs.min()) < 0 or int(inputs.max()) >= self.vocabulary:
            return [
                f"inputs: expected token ids from 0 to {self.vocabulary - 1}, got {int(inputs.min())} to "
                f"{int(inputs.max())}; use the tokenizer that belongs to this model"
            ]
        if self.padding is not None:
            kept = inputs != self.padding
            if bool((kept[:, 1:] & ~kept[:, :-1]).any()):
                return [
                    f"inputs: expected padding (id {self.padding}) after the last token only, got it before one; pad "
                    "on the right"
                ]
            if not bool(kept.any(dim=1).all()):
                return ["inputs: expected at least one token in every sequence, got only padding; leave such rows out"]
        return []

    def lengths(self, inputs: Tensor) -> Tensor:
        """How many tokens before the padding, `[N]`, of inputs `[N, T]`."""
        if self.padding is None:
            return torch.full((len(inputs),), self.length, dtype=torch.long)
        return (inputs != self.padding).sum(dim=1).cpu()

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot rows `[N, T, vocabulary]`, float32."""
        return nn.functional.one_hot(inputs.long(), self.vocabulary).float()

    def decode(self, variable: Tensor) -> Tensor:
        """The most probable id at every position."""
        return variable.argmax(dim=-1)

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The module's outputs at token probabilities, by its own embedding with the values of `state`."""
        tokens = self.decode(variable.detach())
        embedding = self.embedding_of(module)[1]

        def embedded(rows: Tensor) -> Tensor:
            # The row of nn.Embedding's own padding index is never trained.
            if embedding.padding_idx is not None:
                trained = torch.arange(self.vocabulary, device=rows.device)[:, None] != embedding.padding_idx
                rows = torch.where(trained, rows, rows.detach())
            return variable @ rows

        return self.outputs(module, state, tokens, embedded)

    def outputs(
        self, module: nn.Module, state: Mapping[str, Tensor], tokens: Tensor, embedded: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The module's outputs with other values in place of its embedding's.

        Args:
            module: the model.
            state: in place of its parameters and buffers.
            tokens: ids `[N, T]` from which the model takes what does not go through the embedding: padding above all.
            embedded: from the embedding's weight `[vocabulary, d]` to its output `[N, T, d]`.

        Returns:
            Logits `[N, C]` or `[N, T, C]`.
        """
        embedding = self.embedding_of(module)[1]
        # Before the embedding answers with other values, since a mask may need a run of the plain model.
        arguments = self._arguments(module, tokens)
        with replaced(embedding, embedded):
            found = functional_call(module, dict(state), (), arguments)
        return found if isinstance(found, Tensor) else found.logits

    def _arguments(self, module: nn.Module, tokens: Tensor) -> dict[str, object]:
        """By the names that the model's `forward` has for them."""
        # A model with adapters may hand on whatever it gets.
        inner = getattr(module, "get_base_model", None)
        called = inner() if callable(inner) else module
        names = list(inspect.signature((called if isinstance(called, nn.Module) else module).forward).parameters)
        given: dict[str, object] = {"input_ids" if "input_ids" in names else names[0]: tokens}
        if self.padding is not None and "attention_mask" in names:
            dtype = self.embedding_of(module)[1].weight.dtype
            given["attention_mask"] = attention_mask(module, tokens != self.padding, next(iter(given)), dtype)
        if "use_cache" in names:
            given["use_cache"] = False
        return given

    def embedding_of(self, module: nn.Module) -> tuple[str, nn.Embedding]:
        """The module that embeds the tokens.

        Returns:
            Its name, and itself.

        Raises:
            BadInput: when there is none, or it is not clear which, or it does more than look up rows.
        """
        return find_embedding(module, self.vocabulary, self.embedding)

    def position_problems(self, module: nn.Module) -> list[str]:
        """Whether a model that refuses such inputs has fewer positions than they have tokens, one line each."""
        return position_problems(module, self.embedding_of(module)[1], self.length)


def next_tokens(inputs: Tensor, padding: int | None = None) -> Tensor:
    """Targets of a causal language model: at every position the token that follows.

    Args:
        inputs: ids `[N, T]`.
        padding: id that is no target.

    Returns:
        `[N, T]`, `IGNORED` at the last token and at padding.
    """
    targets = torch.full_like(inputs, IGNORED)
    targets[:, :-1] = inputs[:, 1:]
    return targets if padding is None else targets.masked_fill(targets == padding, IGNORED)


def masked_tokens(
    inputs: Tensor, space: TokenSpace, generator: torch.Generator, share: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a masked language model (Devlin et al. 2019), every hidden token by the mask's id.

    Args:
        inputs: ids `[N, T]`.
        space: with `mask`; its special ids and padding are never hidden.
        generator: draws which are hidden.
        share: of the other tokens, at least one in every sequence.

    Returns:
        Inputs with hidden tokens, and targets that are `IGNORED` elsewhere, both `[N, T]`.

    Raises:
        BadInput: without an id for the mask, or when a sequence has no token to hide.
    """
    candidates = torch.ones_like(inputs, dtype=torch.bool)
    for token in (*space.special, space.padding):
        if token is not None:
            candidates &= inputs != token
    problems: list[str] = []
    if space.mask is None:
        problems.append("mask: expected the id that stands for a hidden token, got None; give TokenSpace(mask=...)")
    if not bool(candidates.any(dim=1).all()):
        problems.append("inputs: expected a word to hide in every sequence, got none in one; leave such rows out")
    refuse(problems)
    assert space.mask is not None
    draws = torch.rand(inputs.shape, generator=generator).to(inputs.device).masked_fill(~candidates, 2.0)
    counts = (share * candidates.sum(dim=1)).round().clamp(min=1).long()
    hidden = draws.argsort(dim=1).argsort(dim=1) < counts[:, None]
    return inputs.masked_fill(hidden, space.mask), torch.where(hidden, inputs, IGNORED)
