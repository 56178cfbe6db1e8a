"""Which texts are likely: public knowledge of a language, learned from any text or taken from a model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradleak.errors import BadInput, refuse
from gradleak.tensorfiles import read_safetensors

_KEY = "gradleak.language_model"


class LanguageModel(Protocol):
    """Anything that tells likely texts from others."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Mean negative log-likelihood of a token.

        Args:
            tokens: ids `[K, T]`, padded on the right.

        Returns:
            `[K]` in nats, over the tokens before the padding.
        """
        ...


@dataclass(frozen=True, eq=False)
class NGrams:
    """An interpolated n-gram model with absolute discounting (Ney, Essen, Kneser 1994); made by `train_language_model`.

    Every order takes the discount from its counts, and gives what it saved to the next shorter context; the shortest
    mixes with the uniform distribution.

    Attributes:
        vocabulary: number of token ids.
        padding: id that is no token, or None.
        discount: in (0, 1).
        keys: for each order from 1, the n-grams seen as numbers in base `vocabulary`, ascending, int64.
        counts: how often, like `keys`.
    """

    vocabulary: int
    padding: int | None
    discount: float
    keys: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `LanguageModel`."""
        tokens = tokens.cpu().long()
        kept = torch.ones_like(tokens, dtype=torch.bool) if self.padding is None else tokens != self.padding
        likelihood = self.probabilities(tokens).log()
        return -(likelihood * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def probabilities(self, tokens: Tensor) -> Tensor:
        """Of every token given those before it, float64 `[K, T]`; the first ones have shorter contexts."""
        found = torch.full(tokens.shape, 1 / self.vocabulary, dtype=torch.float64)
        ending = torch.zeros_like(tokens)
        for order, (keys, counts) in enumerate(zip(self.keys, self.counts, strict=True), start=1):
            if order > tokens.shape[1]:
                break
            # The n-gram that ends at each position, and its context.
            shifted = torch.zeros_like(tokens)
            shifted[:, order - 1 :] = tokens[:, : tokens.shape[1] - order + 1]
            ending = shifted * self.vocabulary ** (order - 1) + ending
            context = ending // self.vocabulary
            total, kinds = self._context(keys, counts, context)
            seen = _lookup(keys, counts, ending)
            mixed = (seen - self.discount).clamp(min=0) + self.discount * kinds * found
            usable = (total > 0) & (torch.arange(tokens.shape[1]) >= order - 1)
            found = torch.where(usable, mixed / total.clamp(min=1), found)
        return found

    def _context(self, keys: Tensor, counts: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """How many n-grams have these beginnings, with and without repetition; keys in order lie side by side."""
        reversed_order = torch.searchsorted(keys, context * self.vocabulary)
        ends = torch.searchsorted(keys, (context + 1) * self.vocabulary)
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), counts.double().cumsum(0)])
        return sums[ends] - sums[reversed_order], (ends - reversed_order).double()

    def save(self, path: str | Path) -> None:
        """Write a `.safetensors` file."""
        tensors = {f"keys.{order}": keys for order, keys in enumerate(self.keys)}
        tensors |= {f"counts.{order}": counts for order, counts in enumerate(self.counts)}
        padding = "" if self.padding is None else str(self.padding)
        save_file(tensors, str(path), {_KEY: f"{self.vocabulary} {len(self.keys)} {self.discount} {padding}"})

    @staticmethod
    def load(path: str | Path) -> "NGrams":
        """Read what `save` wrote.

        Returns:
            The same model.

        Raises:
            BadInput: when the file is missing, broken or something else.
        """
        tensors, metadata = read_safetensors(Path(path))
        try:
            vocabulary, orders, discount, *padding = metadata[_KEY].split()
            return NGrams(
                int(vocabulary),
                int(padding[0]) if padding else None,
                float(discount),
                tuple(tensors[f"keys.{order}"] for order in range(int(orders))),
                tuple(tensors[f"counts.{order}"] for order in range(int(orders))),
            )
        except (KeyError, ValueError) as error:
            raise BadInput(
                [f"{path}: expected a language model, got a file without its parts ({error}); save it with NGrams.save"]
            ) from error


def train_language_model(
    texts: Iterable[Sequence[int] | Tensor],
    vocabulary: int,
    *,
    order: int = 3,
    discount: float = 0.75,
    padding: int | None = None,
) -> NGrams:
    """Count n-grams of public texts; a megabyte of text takes seconds.

    Args:
        texts: ids of each text, such as `[encode(line) for line in open(file)]`, or rows of a tensor; with the same
            tokens at their ends as the private texts.
        vocabulary: number of token ids.
        order: longest n-gram, at least 1.
        discount: taken from each count, in (0, 1).
        padding: id that is no token, or None.

    Returns:
        The model.

    Raises:
        BadInput: when a number is out of range, or there is no text.
    """
    problems: list[str] = []
    # Keys are numbers below vocabulary ** order in int64.
    if order < 1 or vocabulary < 2 or vocabulary**order >= 2**62:
        problems.append(
            f"order: expected at least 1 and a number of n-grams below 2**62, got order {order} of {vocabulary} "
            "tokens; 3 suits"
        )
    if not 0 < discount < 1:
        problems.append(f"discount: expected a number in (0, 1), got {discount}; 0.75 is usual")
    rows = [torch.as_tensor(text, dtype=torch.long) for text in texts]
    rows = [row if padding is None else row[row != padding] for row in rows]
    if not any(len(row) for row in rows):
        problems.append("texts: expected at least one token, got none; give public texts of the language")
    elif min(int(row.min()) for row in rows if len(row)) < 0 or max(int(r.max()) for r in rows if len(r)) >= vocabulary:
        problems.append(f"texts: expected ids from 0 to {vocabulary - 1}, got others; use the model's tokenizer")
    refuse(problems)
    keys: list[Tensor] = []
    counts: list[Tensor] = []
    for size in range(1, order + 1):
        powers = vocabulary ** torch.arange(size - 1, -1, -1)
        grams = [(row.unfold(0, size, 1) * powers).sum(dim=1) for row in rows if len(row) >= size]
        unique, number = torch.cat(grams or [torch.zeros(0, dtype=torch.long)]).unique(return_counts=True)
        keys.append(unique)
        counts.append(number)
    return NGrams(vocabulary, padding, discount, tuple(keys), tuple(counts))


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A causal model, such as one of Hugging Face's with a language model's head, as judge of texts.

    Args:
        model: from ids to logits `[K, T, vocabulary]`, or to an object with `.logits`; its mode is the caller's.
        padding: id that is no token, or None.
        chunk: texts that pass together.
    """

    model: nn.Module
    padding: int | None = None
    chunk: int = 32

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `LanguageModel`; the first token is given."""
        return torch.cat([self._mean(part) for part in tokens.split(self.chunk)])

    def _mean(self, tokens: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        with torch.no_grad():
            found: Any = self.model(tokens.to(device))
        logits: Tensor = found if isinstance(found, Tensor) else found.logits
        likelihood = torch.log_softmax(logits[:, :-1].double().cpu(), dim=-1)
        following = tokens[:, 1:].cpu()
        kept = torch.ones_like(following, dtype=torch.bool) if self.padding is None else following != self.padding
        found_tokens = likelihood.gather(2, following[..., None])[..., 0]
        return -(found_tokens * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def _lookup(keys: Tensor, counts: Tensor, wanted: Tensor) -> Tensor:
    """Counts of n-grams, 0 for those never seen; float64."""
    if len(keys) == 0:
        return torch.zeros(wanted.shape, dtype=torch.float64)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, counts[place], 0).double()
