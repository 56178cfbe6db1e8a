"""BERT, GPT-2 and Llama of any size with random weights: nothing is downloaded."""

from typing import Any

from torch import nn

from gradleak.adapters.huggingface.importing import library
from gradleak.errors import refuse
from gradleak.zoo.models import TextModelCard
from gradleak.zoo.models.attention import TransformerSizes
from gradleak.zoo.models.building import at_least, seeded


def bert(
    vocabulary: int,
    length: int,
    num_classes: int | None = None,
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 2,
    inner: int | None = None,
    tied: bool = True,
    padding: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """`BertForMaskedLM`, or `BertForSequenceClassification`, with random weights and without dropout.

    Args:
        vocabulary: number of token ids, at least 2.
        length: largest number of positions, at least 1.
        num_classes: of a classifier; None for a masked language model.
        width: numbers of a position, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of attention, at least 1.
        inner: units of the feed-forward layers; None for four times the width.
        tied: whether a language model's last layer has the embedding's weights.
        padding: id that fills up short texts; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        The model, in evaluation mode.

    Raises:
        BadInput: when a number is out of range, or transformers is not installed.
    """
    sizes = _checked(TransformerSizes(vocabulary, length, num_classes, width, layers, heads, inner, tied, padding))
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": sizes.units,
        "max_position_embeddings": length,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return _built("Bert", "ForMaskedLM", sizes, settings, seed)


def gpt2(
    vocabulary: int,
    length: int,
    num_classes: int | None = None,
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 2,
    inner: int | None = None,
    tied: bool = True,
    padding: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """`GPT2LMHeadModel`, or `GPT2ForSequenceClassification`, with random weights and without dropout.

    Args:
        vocabulary: number of token ids, at least 2.
        length: largest number of positions, at least 1.
        num_classes: of a classifier; None for a causal language model.
        width: numbers of a position, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of attention, at least 1.
        inner: units of the feed-forward layers; None for four times the width.
        tied: whether a language model's last layer has the embedding's weights.
        padding: id that fills up short texts; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        The model, in evaluation mode.

    Raises:
        BadInput: when a number is out of range, or transformers is not installed.
    """
    sizes = _checked(TransformerSizes(vocabulary, length, num_classes, width, layers, heads, inner, tied, padding))
    settings = {
        "vocab_size": vocabulary,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": sizes.units,
        "n_positions": length,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return _built("GPT2", "LMHeadModel", sizes, settings, seed)


def llama(
    vocabulary: int,
    length: int,
    num_classes: int | None = None,
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 2,
    key_value_heads: int | None = None,
    inner: int | None = None,
    tied: bool = False,
    padding: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """`LlamaForCausalLM`, or `LlamaForSequenceClassification`, with random weights; it has rotary positions.

    Args:
        vocabulary: number of token ids, at least 2.
        length: number of positions that the model states, at least 1.
        num_classes: of a classifier; None for a causal language model.
        width: numbers of a position, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of attention, at least 1.
        key_value_heads: of keys and values, a divisor of `heads`; None for as many.
        inner: units of the feed-forward layers; None for four times the width.
        tied: whether a language model's last layer has the embedding's weights.
        padding: id that fills up short texts; None if there is none.
        seed: decides the weights, at least 0.

    Returns:
        The model, in evaluation mode.

    Raises:
        BadInput: when a number is out of range, or transformers is not installed.
    """
    sizes = TransformerSizes(vocabulary, length, num_classes, width, layers, heads, inner, tied, padding)
    problems = sizes.problems()
    own = heads if key_value_heads is None else key_value_heads
    problems += at_least("key_value_heads", own, 1)
    if own > 0 and heads % own:
        problems.append(f"key_value_heads: expected a divisor of the {heads} heads, got {own}; they share keys")
    if heads > 0 and width % (2 * heads):
        problems.append(f"width: expected an even number for each of the {heads} heads, got {width}; positions rotate")
    refuse(problems)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": own,
        "intermediate_size": sizes.units,
        "max_position_embeddings": length,
    }
    return _built("Llama", "ForCausalLM", sizes, settings, seed)


def _checked(sizes: TransformerSizes) -> TransformerSizes:
    refuse(sizes.problems())
    return sizes


def _built(family: str, language: str, sizes: TransformerSizes, settings: dict[str, Any], seed: int) -> nn.Module:
    """The model of a family, by the names that transformers gives its classes."""
    transformers = library("transformers", f"{family} models")
    # The ids of begin and end that a family has by itself are mostly out of range of a small vocabulary.
    marks = {"pad_token_id": sizes.padding, "bos_token_id": None, "eos_token_id": None}
    classes = {} if sizes.num_classes is None else {"num_labels": sizes.num_classes}
    config = getattr(transformers, f"{family}Config")(
        **settings, **marks, **classes, tie_word_embeddings=sizes.tied and sizes.num_classes is None
    )
    kind = getattr(transformers, family + (language if sizes.num_classes is None else "ForSequenceClassification"))
    model: nn.Module = seeded(seed, lambda: kind(config))
    return model.eval()


CONFIGURED_MODELS: tuple[TextModelCard, ...] = (
    TextModelCard(
        "bert",
        "Hugging Face BERT with random weights: hidden words, or the class of a text; extra text",
        "Devlin et al., BERT, NAACL 2019",
        bert,
        ("masked", "classification"),
    ),
    TextModelCard(
        "gpt2",
        "Hugging Face GPT-2 with random weights: the next token, or the class of a text; extra text",
        "Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
        gpt2,
        ("causal", "classification"),
    ),
    TextModelCard(
        "llama",
        "Hugging Face Llama with random weights: the next token, or the class of a text; extra text",
        "Touvron et al., LLaMA, 2023",
        llama,
        ("causal", "classification"),
    ),
)
"""The families that a specification can name with sizes."""
