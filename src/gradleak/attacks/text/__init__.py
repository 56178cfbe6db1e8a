"""Attacks on text: exact recovery, searches of embeddings, and the language models that judge their orders."""

from gradleak.attacks.text.dager import dager
from gradleak.attacks.text.dlg_text import dlg_text
from gradleak.attacks.text.lamp import lamp
from gradleak.attacks.text.language_model import CausalModel, LanguageModel, NGrams, train_language_model
from gradleak.attacks.text.tag import tag
from gradleak.attacks.text.token_bag import token_bag

__all__ = [
    "CausalModel",
    "LanguageModel",
    "NGrams",
    "dager",
    "dlg_text",
    "lamp",
    "tag",
    "token_bag",
    "train_language_model",
]
