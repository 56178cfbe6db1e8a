"""Attacks on text: searches of embeddings, and the language models that judge their orders."""

from gradleak.attacks.text.dlg_text import dlg_text
from gradleak.attacks.text.lamp import lamp
from gradleak.attacks.text.language_model import CausalModel, LanguageModel, NGrams, train_language_model
from gradleak.attacks.text.tag import tag

__all__ = ["CausalModel", "LanguageModel", "NGrams", "dlg_text", "lamp", "tag", "train_language_model"]
