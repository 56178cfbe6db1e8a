"""Trained models and tokenizers from a local folder or the hub: safetensors and JSON only, and nobody's code is run."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from gradleak.adapters.huggingface.importing import library
from gradleak.adapters.huggingface.subwords import LibraryTokenizer, SubwordTokenizer, read_subwords
from gradleak.errors import BadInput, refuse
from gradleak.tokens import Objective
from gradleak.zoo.models import TextModelCard
from gradleak.zoo.models.building import seeded

CLASSES = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
}

READ = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched from the hub."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


def load_model(
    source: str | Path, objective: Objective = "causal", *, num_classes: int | None = None, seed: int = 0
) -> nn.Module:
    """A model of Hugging Face with its trained weights.

    Args:
        source: a folder with `config.json` and `.safetensors` files, as `save_pretrained` writes it, or a name on the
            hub, where the network allows.
        objective: `causal` or `masked` for a language model, `classification` for a classifier.
        num_classes: of a classifier; None for what the folder says.
        seed: of weights that the folder lacks, such as the last layer of a classifier.

    Returns:
        The model, in evaluation mode.

    Raises:
        BadInput: when there is no such model, it has other files than safetensors, or transformers is not installed.
    """
    transformers = library("transformers", f"model {source}")
    folder = _folder(source, "a model")
    problems: list[str] = []
    if not (folder / "config.json").is_file():
        problems.append(f"{folder}: expected a config.json, got none; write the folder with save_pretrained")
    if not any(folder.glob("*.safetensors")):
        got = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        problems.append(
            f"{folder}: expected weights in .safetensors files, got {got}; write them with save_pretrained, since "
            "pickles are never read"
        )
    refuse(problems)
    classes = {} if num_classes is None or objective != "classification" else {"num_labels": num_classes}
    kind = getattr(transformers, CLASSES[objective])

    def build() -> nn.Module:
        return kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **classes
        )

    try:
        with _without_bars(transformers):
            return seeded(seed, build).eval()
    except BadInput:
        raise
    # What transformers raises for foreign configurations and damaged files is of many kinds.
    except Exception as error:
        raise BadInput([f"{source}: expected a model for {objective!r}, got {_reason(error)}; check it"]) from error


def load_tokenizer(source: str | Path) -> LibraryTokenizer | SubwordTokenizer:
    """A tokenizer of Hugging Face.

    Args:
        source: a folder with a tokenizer, its `tokenizer.json` file, or a name on the hub, where the network allows.

    Returns:
        The tokenizer.

    Raises:
        BadInput: when there is none, or transformers is not installed.
    """
    if str(source).endswith(".json"):
        return read_subwords(Path(source))
    transformers = library("transformers", f"tokenizer {source}")
    folder = _folder(source, "a tokenizer")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise BadInput([f"{folder}: expected a tokenizer, got none of {', '.join(TOKENIZER_FILES)}; save it there"])
    try:
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # What transformers raises for foreign configurations and damaged files is of many kinds.
    except Exception as error:
        raise BadInput([f"{source}: expected a tokenizer, got {_reason(error)}; check it"]) from error
    return LibraryTokenizer(found)


@contextmanager
def _without_bars(transformers: Any) -> Generator[None]:
    """Leave the progress bars of transformers out, and then as they were."""
    words = transformers.utils.logging
    shown = words.is_progress_bar_enabled()
    words.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            words.enable_progress_bar()


def _folder(source: str | Path, what: str) -> Path:
    """A local folder: the source itself, or what the hub has under that name.

    Returns:
        The folder.

    Raises:
        BadInput: when there is none.
    """
    path = Path(source)
    if path.is_dir():
        return path
    name = str(source)
    if isinstance(source, Path) or path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        got = "a file" if path.exists() else "nothing there"
        raise BadInput([f"{source}: expected a folder with {what}, got {got}; check the path"])
    hub = library("huggingface_hub", f"{what} from the hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(READ)))
    # No network, no such name, no permission: many kinds of errors with one meaning.
    except Exception as error:  # noqa: BLE001
        raise BadInput(
            [
                f"{name}: expected a local folder or a name on the Hugging Face hub, got no folder here, and from the "
                f"hub {_reason(error)}; check name and network, or download it elsewhere and give the folder"
            ]
        ) from None


def _reason(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:200]}"


def _pretrained(
    vocabulary: int,
    num_classes: int | None = None,
    *,
    source: str,
    objective: Objective,
    padding: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """A trained model for a data set, by what its targets are."""
    model: Any = load_model(source, objective, num_classes=num_classes, seed=seed)
    rows = model.get_input_embeddings().num_embeddings
    if rows < vocabulary:
        refuse(
            [
                f"source: expected an embedding of at least {vocabulary} tokens (those of the data), got {rows}; add "
                f"settings: {{tokenizer: {source}}} to data"
            ]
        )
    if padding is not None:
        model.config.pad_token_id = padding
    return model


PRETRAINED = TextModelCard(
    "hugging_face",
    "trained model from a folder or the hub, setting source; extra text",
    "whoever trained it",
    _pretrained,
    ("causal", "masked", "classification"),
    positions=False,
    pretrained=True,
)
"""A model by the name of its folder, or on the hub."""
