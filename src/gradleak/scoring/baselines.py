"""What an answer without any attack scores: the lines that stand beside every attack in a table.

PSNR alone misleads. A flat grey card scores 10 to 12 dB on natural images and the image's own mean color more,
which is above many published attacks on trained networks. These baselines look at the truth on purpose, so
they live on the scoring side of the wall and no attack can reach them.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradleak.errors import BadInput, refuse
from gradleak.scoring.scores import Scores, score_inputs
from gradleak.scoring.text_baselines import frequent_tokens, random_tokens
from gradleak.tokens import TokenSpace

if TYPE_CHECKING:
    from gradleak.captures import Truth


def grey(truth: "Truth") -> Tensor:
    """A flat card: the middle of the bounds of the input space in every entry.

    Returns:
        `[N, ...]` in input units.

    Raises:
        BadInput: when the input space has no bounds.
    """
    bounds = truth.space.bounds
    if bounds is None:
        raise BadInput(["grey: expected an input space with bounds, got one without; leave this baseline out"])
    return torch.full_like(truth.inputs, 0.5 * (bounds[0] + bounds[1]))


def mean_color(truth: "Truth") -> Tensor:
    """Each true image `[C, H, W]` replaced by its own mean color in each channel.

    Returns:
        `[N, C, H, W]` in input units.

    Raises:
        BadInput: when the true inputs are not images.
    """
    if truth.inputs.ndim != 4:
        got = list(truth.inputs.shape)
        raise BadInput([f"mean_color: expected images [N, C, H, W], got {got}; leave this baseline out"])
    return truth.inputs.mean(dim=(2, 3), keepdim=True).expand_as(truth.inputs).clone()


def dataset_mean(truth: "Truth", reference_inputs: Tensor) -> Tensor:
    """The mean of `reference_inputs` `[M, ...]` for every true example.

    Returns:
        `[N, ...]` in input units.

    Raises:
        BadInput: when the reference is empty or its examples have another shape than the true ones.
    """
    refuse(_reference_problems(truth, reference_inputs))
    mean = reference_inputs.to(truth.inputs.device, torch.float64).mean(dim=0).to(truth.inputs.dtype)
    return mean.expand_as(truth.inputs).clone()


def random_other(truth: "Truth", reference_inputs: Tensor, *, generator: torch.Generator) -> Tensor:
    """Independent draws from `reference_inputs` `[M, ...]` that equal no true example.

    What a perfect generator of this kind of data would score without seeing the update. `generator` is on the CPU.

    Returns:
        `[N, ...]` in input units.

    Raises:
        BadInput: when the examples of the reference have another shape, or each of them equals a true one.
    """
    refuse(_reference_problems(truth, reference_inputs))
    reference = reference_inputs.to(truth.inputs)
    is_true = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    for example in truth.inputs:
        is_true |= (reference == example).flatten(1).all(dim=1)
    others = (~is_true).nonzero().flatten().cpu()
    if len(others) == 0:
        raise BadInput(
            [
                f"reference_inputs: expected an example that is not in the private batch, got {len(reference)} that "
                "all are; give data beyond the batch"
            ]
        )
    drawn = others[torch.randint(len(others), (len(truth.inputs),), generator=generator)]
    return reference[drawn.to(reference.device)]


def baseline_scores(truth: "Truth", reference_inputs: Tensor, *, seed: int = 0) -> dict[str, Scores]:
    """Scores of every baseline that the input space allows, by name, against the same truth as an attack.

    `reference_inputs` `[M, ...]` are public data in the units of the truth. `grey` needs bounds, `mean_color`
    images and `dataset_mean` numbers rather than tokens; `frequent_tokens` and `random_tokens` need tokens, and
    `random_other` is always there.

    Returns:
        Name to scores, with `target_correct` None throughout: a baseline guesses no target.

    Raises:
        BadInput: when the reference is empty, has examples of another shape, or holds nothing but true examples.
    """
    refuse(_reference_problems(truth, reference_inputs))
    numeric = truth.inputs.is_floating_point()
    guesses: dict[str, Callable[[], Tensor]] = {}
    if numeric and truth.space.bounds is not None:
        guesses["grey"] = lambda: grey(truth)
    if numeric and truth.inputs.ndim == 4:
        guesses["mean_color"] = lambda: mean_color(truth)
    if numeric:
        guesses["dataset_mean"] = lambda: dataset_mean(truth, reference_inputs)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(space := truth.space, TokenSpace):
        for guess in (frequent_tokens, random_tokens):
            # A stream for each, so that one does not depend on whether the other is computed.
            own = torch.Generator().manual_seed(seed)
            guesses[guess.__name__] = partial(guess, truth, reference_inputs, space, generator=own)
    guesses["random_other"] = lambda: random_other(truth, reference_inputs, generator=generator)
    # Pairing picks the luckiest order of N guesses, which raises the score of pure chance. The baselines go through
    # the same pairing, so that what remains between them and an attack is not an effect of the pairing.
    return {name: score_inputs(guess(), truth) for name, guess in guesses.items()}


def _reference_problems(truth: "Truth", reference_inputs: Tensor) -> list[str]:
    if len(reference_inputs) > 0 and reference_inputs.shape[1:] == truth.inputs.shape[1:]:
        return []
    return [
        f"reference_inputs: expected [M, ...] with examples of shape {list(truth.inputs.shape[1:])} and M of at least "
        f"1, got {list(reference_inputs.shape)}; give public data of the same input space"
    ]
