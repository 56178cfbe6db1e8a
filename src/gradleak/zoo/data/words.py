"""Texts as token ids: what a tokenizer is, and one whose tokens are words, in plain Python."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from gradleak.errors import BadInput, refuse

PADDING, UNKNOWN, MASK, BEGIN, END = "[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"
SPECIAL = (PADDING, UNKNOWN, MASK, BEGIN, END)
"""The first ids of every tokenizer that is trained here."""

_TOKEN = re.compile(r"<unk>|\w+(?:['\u2019]\w+)*|[^\w\s]")
_FOREIGN_UNKNOWN = "<unk>"
"""How WikiText writes a word that its vocabulary lacks."""

_BEFORE = re.compile(r" ([.,;:!?)\]])")
_AFTER = re.compile(r"([(\[]) ")


@runtime_checkable
class Tokenizer(Protocol):
    """From texts to ids and back."""

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        ...

    @property
    def padding(self) -> int | None:
        """Id that fills up short texts; None if there is none."""
        ...

    @property
    def mask(self) -> int | None:
        """Id that stands for a hidden token; None if there is none."""
        ...

    @property
    def begin(self) -> int | None:
        """Id before a text's first token; None if there is none."""
        ...

    @property
    def end(self) -> int | None:
        """Id after a text's last token; None if there is none."""
        ...

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without marks of begin and end."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The readable text of ids."""
        ...


@dataclass(frozen=True)
class WordTokenizer:
    """Tokens are words in lower case, and punctuation marks.

    Args:
        words: by id; the first five are the special ones, `SPECIAL`.

    Raises:
        BadInput: when the special ones are not the first, there is nothing else, or a word comes twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.words[: len(SPECIAL)] != SPECIAL:
            problems.append(f"words: expected {', '.join(SPECIAL)} first, got {list(self.words[:5])}; put them there")
        if len(self.words) <= len(SPECIAL):
            problems.append("words: expected a word besides the special ones, got none; give texts with words")
        if len(set(self.words)) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            problems.append(f"words: expected each word once, got {twice!r} again; remove one")
        refuse(problems)

    @classmethod
    def trained(cls, texts: Iterable[str], vocabulary: int | None = None) -> "WordTokenizer":
        """A tokenizer of the words of texts.

        Args:
            texts: any number.
            vocabulary: most ids, the five special ones among them: the most frequent words are kept, of equally
                frequent ones those that come first in the alphabet; None for all words.

        Returns:
            The tokenizer, the same for the same texts.

        Raises:
            BadInput: when there is room for no word, or there is none.
        """
        if vocabulary is not None and vocabulary <= len(SPECIAL):
            raise BadInput(
                [f"vocabulary: expected more than {len(SPECIAL)} (the special tokens), got {vocabulary}; give more"]
            )
        counts = Counter(token for text in texts for token in split_words(text) if token != _FOREIGN_UNKNOWN)
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL, *ordered[: None if vocabulary is None else vocabulary - len(SPECIAL)]))

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return len(self.words)

    @property
    def padding(self) -> int:
        """Id that fills up short texts."""
        return SPECIAL.index(PADDING)

    @property
    def mask(self) -> int:
        """Id that stands for a hidden token."""
        return SPECIAL.index(MASK)

    @property
    def begin(self) -> int:
        """Id before a text's first token."""
        return SPECIAL.index(BEGIN)

    @property
    def end(self) -> int:
        """Id after a text's last token."""
        return SPECIAL.index(END)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text; words that are not known have the id of `[UNK]`."""
        unknown = SPECIAL.index(UNKNOWN)
        return [self._numbers.get(token, unknown) for token in split_words(text)]

    def text(self, ids: Sequence[int]) -> str:
        """The words with a space between them, and none before a full stop."""
        words = " ".join(self.words[token] if 0 <= token < len(self.words) else "?" for token in ids)
        return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", words))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        # Texts are in lower case, so no text can hold a special token.
        return {word: number for number, word in enumerate(self.words)}


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case.

    Returns:
        Them, in order.

    >>> split_words("Don't wait (for us)!")
    ["don't", 'wait', '(', 'for', 'us', ')', '!']
    """
    return _TOKEN.findall(text.lower())
