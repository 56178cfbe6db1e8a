"""Texts by name: the bundled ones, or those of a file or folder, with a tokenizer."""

from collections.abc import Mapping
from pathlib import Path

from gradleak.adapters.huggingface import load_tokenizer, train_subwords
from gradleak.audits.by_name.resolving import guarded
from gradleak.audits.by_name.settings import called
from gradleak.audits.faults import BadSettings, Fault
from gradleak.errors import BadInput
from gradleak.zoo.data import BUNDLED, Dataset, Texts, Tokenizer, holds_texts, messages, read_texts, text_dataset

WORDS, SUBWORDS = "words", "bpe"
MESSAGES = "messages"

BPE_VOCABULARY = 1000
"""Ids of a tokenizer of parts of words, if nothing is said."""


def is_of_texts(name: str) -> bool:
    """Whether a name stands for texts: the bundled ones, a `.txt` file, or a folder of such files."""
    if name in {card.name for card in BUNDLED}:
        return name == MESSAGES
    path = Path(name)
    return path.exists() and holds_texts(path)


def texts_named(name: str, settings: Mapping[str, object]) -> Dataset:
    """Texts as token ids, with the settings of a spec.

    Args:
        name: bundled, or a path.
        settings: `tokenizer` (`words`, `bpe`, or a folder, file or hub name of one), `vocabulary` (most ids of one that
            is trained on the texts), `length`, `shortest` and `marks` of `text_dataset`, `sentences` of `read_texts`.

    Returns:
        The data set.

    Raises:
        BadSettings: when a setting is unknown or out of range, or the texts cannot be read.
    """
    try:
        return guarded("data", lambda: called(_texts, settings, given={"source": name}))
    except BadSettings as error:
        raise BadSettings("data", [_at_its_setting(fault, settings) for fault in error.faults]) from error


def _texts(
    *,
    source: str,
    tokenizer: str = WORDS,
    vocabulary: int | None = None,
    length: int | None = None,
    shortest: int = 1,
    marks: bool = False,
    sentences: bool = False,
) -> Dataset:
    texts = messages() if source == MESSAGES else read_texts(source, sentences=sentences)
    words, rest = _tokenizer(texts, tokenizer, vocabulary)
    return text_dataset(texts, words, vocabulary=rest, length=length, shortest=shortest, marks=marks)


def _tokenizer(texts: Texts, name: str, vocabulary: int | None) -> tuple[Tokenizer | None, int | None]:
    """The tokenizer, and the vocabulary that is left to say; none for one of words."""
    if name == WORDS:
        return None, vocabulary
    if name == SUBWORDS:
        return train_subwords(texts.lines, BPE_VOCABULARY if vocabulary is None else vocabulary), None
    try:
        return load_tokenizer(name), vocabulary
    except BadInput as error:
        raise BadInput(f"tokenizer: {problem}" for problem in error.problems) from error


def _at_its_setting(fault: Fault, settings: Mapping[str, object]) -> Fault:
    """A fault of a setting by its name, a problem of the texts such as `length: expected ...` at what it names."""
    if fault.path:
        return fault.under("settings")
    name, _, text = fault.text.partition(": ")
    return Fault(("settings", name), text) if name in settings else Fault(("name",), fault.text)
