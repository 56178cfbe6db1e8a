"""The models of texts by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gradleak.tokens import Objective
from gradleak.zoo.models.decoder import decoder
from gradleak.zoo.models.encoder import encoder
from gradleak.zoo.models.word_classifiers import embedding_bag, lstm

VASWANI = "Vaswani et al., Attention Is All You Need, NeurIPS 2017"


@dataclass(frozen=True)
class TextModelCard:
    """A named model of texts.

    Attributes:
        name: how specifications and the command line call it.
        description: one line on what it is and what it is good for.
        source: the publication it comes from.
        factory: builds it; takes `vocabulary`, `num_classes`, `padding` and `seed`, and `length` if positions have an
            embedding; its other keyword arguments are settings. Without `num_classes` it is a language model.
        objectives: what it can be trained for.
        positions: whether the factory takes `length`.
        pretrained: whether its weights come from elsewhere; its factory then takes `objective` too.
    """

    name: str
    description: str
    source: str
    factory: Callable[..., nn.Module]
    objectives: tuple[Objective, ...]
    positions: bool = True
    pretrained: bool = False


TEXT_MODELS: tuple[TextModelCard, ...] = (
    TextModelCard(
        "decoder",
        "small GPT-2-style transformer: the next token, or the class of a text",
        f"{VASWANI}; Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
        decoder,
        ("causal", "classification"),
    ),
    TextModelCard(
        "encoder",
        "small BERT-style transformer: hidden words, or the class of a text",
        f"{VASWANI}; Devlin et al., BERT, NAACL 2019",
        encoder,
        ("masked", "classification"),
    ),
    TextModelCard(
        "lstm",
        "LSTM over word embeddings: the class of a text",
        "Hochreiter, Schmidhuber, Long Short-Term Memory, Neural Computation 1997",
        lstm,
        ("classification",),
        positions=False,
    ),
    TextModelCard(
        "embedding_bag",
        "mean of the word embeddings and linear layers: the class of a text",
        "Joulin et al., Bag of Tricks for Efficient Text Classification, EACL 2017",
        embedding_bag,
        ("classification",),
        positions=False,
    ),
)
"""Every named model of texts that needs no further package; names differ from those of `REFERENCE_MODELS`."""
