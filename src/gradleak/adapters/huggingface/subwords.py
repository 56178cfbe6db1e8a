"""Tokenizers of Hugging Face as tokenizers of this package, and training one on texts at hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradleak.adapters.huggingface.importing import library
from gradleak.errors import BadInput
from gradleak.zoo.data.words import BEGIN, END, MASK, PADDING, SPECIAL, UNKNOWN

BYTES = 256
"""Tokens that a byte-level tokenizer has before it learns any."""


@dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A tokenizer of the package `tokenizers`, with the special tokens of this one as far as it has them.

    Args:
        inner: a `tokenizers.Tokenizer`.
    """

    inner: Any

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return int(self.inner.get_vocab_size())

    @property
    def padding(self) -> int | None:
        """Id that fills up short texts."""
        return self.inner.token_to_id(PADDING)

    @property
    def mask(self) -> int | None:
        """Id that stands for a hidden token."""
        return self.inner.token_to_id(MASK)

    @property
    def begin(self) -> int | None:
        """Id before a text's first token."""
        return self.inner.token_to_id(BEGIN)

    @property
    def end(self) -> int | None:
        """Id after a text's last token."""
        return self.inner.token_to_id(END)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without marks of begin and end."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """The readable text of ids."""
        return str(self.inner.decode(_known(ids, self.vocabulary), skip_special_tokens=False))


@dataclass(frozen=True, eq=False)
class LibraryTokenizer:
    """A tokenizer of the package `transformers`.

    Args:
        inner: what `transformers.AutoTokenizer` returns.
    """

    inner: Any

    @property
    def vocabulary(self) -> int:
        """Number of ids, added tokens among them."""
        return len(self.inner)

    @property
    def padding(self) -> int | None:
        """Id that fills up short texts."""
        return self.inner.pad_token_id

    @property
    def mask(self) -> int | None:
        """Id that stands for a hidden token."""
        return self.inner.mask_token_id

    @property
    def begin(self) -> int | None:
        """Id before a text's first token."""
        return self.inner.cls_token_id if self.inner.cls_token_id is not None else self.inner.bos_token_id

    @property
    def end(self) -> int | None:
        """Id after a text's last token."""
        return self.inner.sep_token_id if self.inner.sep_token_id is not None else self.inner.eos_token_id

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without marks of begin and end."""
        return list(self.inner.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """The readable text of ids."""
        return str(self.inner.decode(_known(ids, self.vocabulary), skip_special_tokens=False))


def train_subwords(texts: Iterable[str], vocabulary: int = 1000) -> SubwordTokenizer:
    """A byte-level tokenizer by byte pair encoding (Sennrich, Haddow, Birch, ACL 2016), trained on texts.

    Args:
        texts: any number.
        vocabulary: most ids; the special tokens and the 256 bytes are among them.

    Returns:
        The tokenizer, the same for the same texts; few texts may give fewer ids.

    Raises:
        BadInput: when there is no room to learn anything, or tokenizers is not installed.
    """
    least = BYTES + len(SPECIAL)
    if vocabulary <= least:
        raise BadInput([f"vocabulary: expected more than {least} (bytes and special tokens), got {vocabulary}"])
    tokenizers = library("tokenizers", "training a tokenizer of parts of words")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=UNKNOWN))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(list(texts), trainer)
    return SubwordTokenizer(inner)


def read_subwords(path: Path) -> SubwordTokenizer:
    """A tokenizer from its `.json` file, as `tokenizers.Tokenizer.save` writes it.

    Returns:
        The tokenizer.

    Raises:
        BadInput: when it cannot be read, or tokenizers is not installed.
    """
    tokenizers = library("tokenizers", f"tokenizer {path}")
    try:
        return SubwordTokenizer(tokenizers.Tokenizer.from_file(str(path)))
    # The package raises plain exceptions for files that are missing or damaged.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [""])[0]
        raise BadInput([f"{path}: expected a tokenizer's JSON file, got {reason}; save it again"]) from None


def _known(ids: Sequence[int], vocabulary: int) -> list[int]:
    """Without ids that an embedding with spare rows has and the tokenizer has not."""
    return [int(token) for token in ids if 0 <= token < vocabulary]
