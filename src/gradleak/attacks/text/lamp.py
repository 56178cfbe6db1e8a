"""LAMP, extracting text from gradients with language model priors (Balunovic, Dimitrov, Jovanovic, Vechev, 2022)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import AbsoluteAndSquaredDistance, layer_cosine_distance
from gradleak.attacks.priors import Term, Weighted
from gradleak.attacks.searched_targets import LabelPart
from gradleak.attacks.text.alternation import Alternation
from gradleak.attacks.text.embedded import BERT_RMS, EmbeddedTokens
from gradleak.attacks.text.language_model import LanguageModel, NGrams
from gradleak.errors import BadInput
from gradleak.optim import Adam, Staircase
from gradleak.threat import Observation

Variant = Literal["cos", "l2_l1"]

_NORM_WEIGHT: Mapping[Variant, float] = {"cos": 1.0, "l2_l1": 25.0}
_LANGUAGE_WEIGHT: Mapping[Variant, float] = {"cos": 0.2, "l2_l1": 60.0}


def embedding_norm(observation: Observation) -> Term:
    """`(mean_t ||x_t|| - mean_v ||E_v||)^2`: embeddings are as long as the vocabulary's (Balunovic et al. 2022)."""
    space = observation.task.space
    assert isinstance(space, EmbeddedTokens)
    target = space.mean_norm
    free = space.frame.known < 0

    def term(variable: Tensor, targets: Tensor) -> Tensor:
        del targets
        norms = torch.linalg.vector_norm(variable, dim=-1)
        kept = free.to(norms.device)
        return ((norms * kept).sum() / kept.sum().clamp(min=1) - target).square()

    return term


def lamp(
    *,
    variant: Variant = "cos",
    language_model: LanguageModel | str | None = None,
    language_weight: float | None = None,
    steps: int = 2000,
    candidates: int = 500,
    permutations: int = 500,
    proposals: int = 200,
    swap_every: int = 75,
    labels: LabelPart = "evidence",
    begin: int | None = None,
    end: int | None = None,
    touched_only: bool = True,
    restarts: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    snapshots: int = 24,
) -> Alternation:
    """LAMP: continuous steps on embeddings in turn with other orders of the tokens that a language model likes.

    Numbers of the released code: the best of 500 random starts and of 500 of its permutations, 2000 steps of Adam with
    lr 0.01 times 0.89 every 50, and from a tenth of the steps on, every 75, the best of 200 reorderings of each text by
    reconstruction loss plus weighted mean log-loss of the language model. All are in units in which the embedding's
    entries are as large as BERT's.

    Args:
        variant: `"cos"`: one minus the cosine of each tensor, weights 1 (norm) and 0.2 (language); `"l2_l1"`: squared
            plus 0.01 absolute differences, weights 25 and 60.
        language_model: judge of orders, such as `train_language_model` makes, or the file to which one was saved; None
            leaves only the update to judge.
        language_weight: of the mean log-loss; None for the variant's own.
        steps: of Adam; with the other numbers, fewer if `max_evaluations` allows only fewer.
        candidates: random starts of a restart, of which one is kept.
        permutations: of that start.
        proposals: reorderings of each text at a time.
        swap_every: steps between reorderings.
        labels: where they are not given, see `Inversion`.
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        touched_only: decode only to tokens whose row of the embedding's gradient is not zero, where there are zeros;
            the released code leaves out tokens that its data never have.
        restarts: independent runs.
        max_evaluations: over all restarts together, counting starts and reorderings; None leaves it to the numbers.
        max_seconds: wall time; None leaves it to the numbers.
        snapshots: how many candidates to keep for pictures.

    Returns:
        The attack.

    Raises:
        BadInput: on another variant, or a file that is no language model.
    """
    if variant not in _NORM_WEIGHT:
        raise BadInput([f"variant: expected 'cos' or 'l2_l1', got {variant!r}; choose one"])
    objective = layer_cosine_distance if variant == "cos" else AbsoluteAndSquaredDistance(0.01)
    adam = Adam(steps=steps, lr=0.01, schedule=Staircase(0.89, 50))
    search = Inversion(
        name="lamp",
        objective=objective,
        optimizer=lambda _count: adam,
        labels=labels,
        priors=(Weighted(_NORM_WEIGHT[variant], embedding_norm),),
        restarts=restarts,
        max_seconds=max_seconds,
        snapshots=snapshots,
    )
    made = Alternation(
        search=search,
        adam=adam,
        language_model=NGrams.load(language_model) if isinstance(language_model, str) else language_model,
        language_weight=_LANGUAGE_WEIGHT[variant] if language_weight is None else language_weight,
        candidates=candidates,
        permutations=permutations,
        proposals=proposals,
        swap_every=swap_every,
        begin=begin,
        end=end,
        touched_only=touched_only,
        rms=BERT_RMS,
    )
    return made if max_evaluations is None else replace(made, max_evaluations=max_evaluations)
