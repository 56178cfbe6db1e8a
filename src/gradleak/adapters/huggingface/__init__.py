"""Models and tokenizers of Hugging Face (extra `gradleak[text]`): from a config, a local folder, or the hub."""

from gradleak.adapters.huggingface.configured import CONFIGURED_MODELS, bert, gpt2, llama
from gradleak.adapters.huggingface.language_tasks import language_task
from gradleak.adapters.huggingface.pretrained import PRETRAINED, load_model, load_tokenizer
from gradleak.adapters.huggingface.subwords import LibraryTokenizer, SubwordTokenizer, train_subwords

__all__ = [
    "CONFIGURED_MODELS",
    "PRETRAINED",
    "LibraryTokenizer",
    "SubwordTokenizer",
    "bert",
    "gpt2",
    "language_task",
    "llama",
    "load_model",
    "load_tokenizer",
    "train_subwords",
]
