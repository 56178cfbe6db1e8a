"""The texts of a trial: what is kept of them, how two are compared for a reader, and the file that holds them.

A model may recover bytes that are no letters, and the readers of a report are a browser and a terminal. So what could
act there instead of being seen (control characters, marks that turn the direction of writing, halves of code points)
is spelled out before it is stored.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.tokens import NO_TOKEN, TokenSpace

MOMENTS = 8
"""Largest number of moments of a course that are kept."""

Difference = Literal["equal", "lost", "wrong", "missing"]
"""`lost` stands in the true text, `wrong` and `missing` in the recovered one."""

_JOINERS = {"\u200c", "\u200d"}
_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True)
class Text:
    """One text, token by token.

    Attributes:
        ids: without the padding at the end; -1 where nothing is known.
        pieces: what a reader sees of each, spaces included; empty for tokens that are no words.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]

    @property
    def readable(self) -> str:
        """The whole on one line."""
        return "".join(self.pieces).strip()


@dataclass(frozen=True)
class TrialTexts:
    """What a trial on texts leaves to read, in true order.

    Attributes:
        truth: private texts.
        recovered: their partners.
        snapshots: best candidates at a few moments, one row of texts each.
        evaluations: count at each of those.
    """

    truth: tuple[Text, ...]
    recovered: tuple[Text, ...]
    snapshots: tuple[tuple[Text, ...], ...] = ()
    evaluations: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """Successive tokens of a text that share a verdict."""

    kind: Difference
    text: str

    @property
    def words(self) -> str:
        """Without the space before."""
        return self.text.lstrip()

    @property
    def space(self) -> str:
        """The space before, which is not marked."""
        return self.text[: len(self.text) - len(self.words)]


def texts_of(tokens: Tensor, space: TokenSpace) -> tuple[Text, ...]:
    """Texts `[N, T]` of ids as they are stored."""
    return tuple(_text(row, space) for row in tokens.tolist())


def visible(text: str) -> str:
    """The same with everything spelled out that would act instead of being seen, escape characters above all."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _ACTING and character not in _JOINERS
        else character
        for character in text
    )


def compared(truth: Text, recovered: Text) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Two texts with their differences, after the alignment that keeps the most tokens in order.

    Args:
        truth: the private one.
        recovered: its partner.

    Returns:
        Runs of the true text, `equal` or `lost`, and of the recovered one: `equal`, `wrong`, or `missing` where it
        has nothing.
    """
    own, other = _shown(truth), _shown(recovered)
    matcher = SequenceMatcher(None, [token for token, _ in own], [token for token, _ in other], autojunk=False)
    left: list[Run] = []
    right: list[Run] = []
    for tag, start, end, first, last in matcher.get_opcodes():
        mine, theirs = ("".join(piece for _, piece in part) for part in (own[start:end], other[first:last]))
        if tag == "equal":
            left.append(Run("equal", mine))
            right.append(Run("equal", theirs))
            continue
        if end > start:
            left.append(Run("lost", mine))
        if last > first:
            right.append(Run("wrong", theirs))
        if end - start > last - first:
            right.append(Run("missing", ""))
    return tuple(left), tuple(right)


def _shown(text: Text) -> list[tuple[int, str]]:
    """Tokens that are words."""
    return [(token, piece) for token, piece in zip(text.ids, text.pieces, strict=True) if token != NO_TOKEN and piece]


def moments(count: int, most: int = MOMENTS) -> list[int]:
    """Positions of at most `most` of `count` snapshots, evenly spread, from the first to the last."""
    return sorted({round(step * (count - 1) / (most - 1)) for step in range(most)}) if count else []


def to_bytes(identity: str, texts: TrialTexts) -> bytes:
    """The content of a trial's file: JSON in ASCII, the readable lines first."""
    lines = ",\n".join(
        json.dumps({"true": truth.readable, "recovered": recovered.readable})
        for truth, recovered in zip(texts.truth, texts.recovered, strict=True)
    )
    whole = f'{{"id": {json.dumps(identity)}, "lines": [\n{lines}\n], "texts": {json.dumps(asdict(texts))}}}\n'
    return whole.encode("ascii")


def from_bytes(content: bytes, where: str) -> TrialTexts:
    """The texts of a trial's file.

    Args:
        content: of the file.
        where: its name, for the message.

    Returns:
        The texts as they were stored.

    Raises:
        BadInput: when it holds something else.
    """
    try:
        return _TEXTS.validate_python(json.loads(content)["texts"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        words = f"{where}: expected the texts of a trial, got something else ({type(error).__name__}); remove it"
        raise BadInput([words]) from error


_TEXTS = TypeAdapter(TrialTexts)


def _text(ids: Sequence[int], space: TokenSpace) -> Text:
    end = len(ids)
    while end > 0 and ids[end - 1] == space.padding:
        end -= 1
    kept = [int(token) for token in ids[:end]]
    hidden = {NO_TOKEN, space.padding, *space.special}
    words = [position for position, token in enumerate(kept) if token not in hidden]
    pieces = [""] * len(kept)
    for position, piece in zip(words, _pieces([kept[position] for position in words], space), strict=True):
        pieces[position] = visible(piece)
    return Text(tuple(kept), tuple(pieces))


def _pieces(ids: Sequence[int], space: TokenSpace) -> list[str]:
    """What each token adds to the readable text of those before it; ids where there are no words."""
    if space.to_text is None:
        return [f" {token}" for token in ids]
    found: list[str] = []
    before = ""
    for count, token in enumerate(ids, start=1):
        whole = _decoded(space.to_text, ids[:count])
        # A tokenizer may change what it said before, at half a code point above all: then the token stands for itself.
        grown = whole.startswith(before) and len(whole) > len(before)
        found.append(whole[len(before) :] if grown else _decoded(space.to_text, [token]) or f"<{token}>")
        before = whole
    return found


def _decoded(to_text: Callable[[Sequence[int]], str], ids: Sequence[int]) -> str:
    """Readable text, or the ids if the caller's function does not take them: a picture is not worth a trial."""
    try:
        return str(to_text(list(ids)))
    except Exception:  # noqa: BLE001  # foreign code
        return "".join(f" <{token}>" for token in ids)
