"""What a language model is to predict: the class of a text, the next token, or the hidden ones."""

from dataclasses import replace

from gradleak.errors import BadInput
from gradleak.seeds import stage_generator
from gradleak.tokens import IGNORED, Objective, masked_tokens, next_tokens
from gradleak.zoo.data.dataset import Dataset

HIDDEN_SHARE = 0.15
"""Of the words of a text, those that are hidden (Devlin et al., NAACL 2019, section 3.1)."""


def with_objective(dataset: Dataset, objective: Objective, *, seed: int = 0, share: float = HIDDEN_SHARE) -> Dataset:
    """The same texts with the targets of an objective.

    Args:
        dataset: texts with a class each.
        objective: `classification` for the data as they are; `causal` for the next token at every position; `masked`
            for inputs in which some tokens are hidden, and those tokens as targets.
        seed: with the name of the data draws which are hidden.
        share: of each text's words that are hidden, at least one.

    Returns:
        Targets `[n]`, or `[n, T]` with `IGNORED` (-100) where there is none.

    Raises:
        BadInput: when the data are no texts, or have texts with nothing to predict.
    """
    if objective == dataset.objective:
        return dataset
    space = dataset.tokens
    if space is None or dataset.classified == "token":
        got = "no texts" if space is None else "targets for every token already"
        raise BadInput([f"objective: expected texts with classes for {objective!r}, got {got}; leave objective out"])
    if objective == "causal":
        targets = next_tokens(dataset.inputs, space.padding)
        alone = int((targets == IGNORED).all(dim=1).sum())
        if alone:
            raise BadInput(
                [
                    f"data {dataset.name!r}: expected at least 2 tokens in every text to predict the next one, got "
                    f"{alone} texts with one; leave them out with shortest: 2"
                ]
            )
        return replace(dataset, targets=targets, objective=objective)
    if not 0 < share <= 1:
        raise BadInput([f"share: expected a part of the words, more than 0 and at most 1, got {share:g}; correct it"])
    inputs, targets = masked_tokens(dataset.inputs, space, stage_generator(seed, f"hidden/{dataset.name}"), share)
    return replace(dataset, inputs=inputs, targets=targets, objective=objective)
