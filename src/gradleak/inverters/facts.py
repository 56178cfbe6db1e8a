"""What an inverter was trained for, and whether an observation is of that kind."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from gradleak.components import to_plain
from gradleak.tasks import ModelState, Task

KIND = "inverter"

_ADVICE = "train one for this with gradleak learn"


class _Facts(BaseModel):
    """Frozen, and nothing is guessed or ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QualityFacts(_Facts):
    """How good an inverter is on held-out examples: means over them.

    Attributes:
        examples: how many.
        ssim: mean structural similarity; None for inputs that have none.
        psnr: mean, in dB.
        label_accuracy: share of labels that are right.
        mean_ssim: of the mean training input in place of the answer.
        mean_psnr: of the same.
        shuffled_ssim: of the answers to the updates of other examples.
        shuffled_psnr: of the same.
    """

    examples: int
    ssim: float | None
    psnr: float | None
    label_accuracy: float
    mean_ssim: float | None
    mean_psnr: float | None
    shuffled_ssim: float | None
    shuffled_psnr: float | None


class InverterFacts(_Facts):
    """What an inverter was trained for, and on what.

    Attributes:
        kind: tells its files from others of the package.
        version: of the format.
        model: what the model was called.
        state: digest of its values, see `state_digest`.
        client: as plain data.
        defenses: as plain data, in order.
        shape: of one input.
        bounds: of the inputs.
        num_classes: number of classes.
        data: name of the training data.
        examples: how many were trained on.
        data_digest: of these, 16 hexadecimal digits of SHA-256.
        held_out: name of the data that were not trained on.
        held_out_examples: how many.
        settings: of the training.
        steps: that were done.
        quality: at the end; None before.
    """

    kind: Literal["inverter"] = KIND
    version: Literal[1] = 1
    model: str
    state: str
    client: dict[str, Any]
    defenses: list[dict[str, Any]]
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    num_classes: int
    data: str
    examples: int
    data_digest: str
    held_out: str
    held_out_examples: int
    settings: dict[str, Any]
    steps: int = 0
    quality: QualityFacts | None = None


def state_digest(state: ModelState) -> str:
    """16 hexadecimal digits of SHA-256 of all values of a model, whichever of them are trained."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**state.constants, **state.parameters}.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def plain_components(components: Sequence[object]) -> list[dict[str, Any]]:
    """Clients or defenses as JSON gives them back, so that they can be compared."""
    return json.loads(json.dumps([to_plain(component) for component in components]))


def input_mismatches(facts: InverterFacts, task: Task) -> list[str]:
    """Whether an inverter is for other inputs or classes than a task's, one line."""
    if facts.shape == task.space.shape and facts.num_classes == task.num_classes:
        return []
    return [
        f"inverter: expected inputs of shape {list(task.space.shape)} in {task.num_classes} classes, got one trained "
        f"for {list(facts.shape)} in {facts.num_classes}; {_ADVICE}"
    ]


def mismatches(
    facts: InverterFacts, task: Task, state: ModelState, client: object | None, defenses: Sequence[object] | None
) -> list[str]:
    """Everything in which an observation differs from what an inverter was trained for, one line each.

    Args:
        facts: of the inverter.
        task: the public task.
        state: the model's values.
        client: as far as the attacker knows it; None is passed over.
        defenses: that the attacker knows; None means that he takes the update for undefended.

    Returns:
        Lines worded expected / got / what to do.
    """
    problems = input_mismatches(facts, task)
    if not problems and facts.state != state_digest(state):
        problems.append(
            f"inverter: expected one trained for this model (digest {state_digest(state)}), got one for "
            f"{facts.model} (digest {facts.state}); {_ADVICE}, or load the weights it was trained for"
        )
    own = [] if client is None else plain_components([client])
    if client is not None and own != [facts.client]:
        problems.append(
            f"inverter: expected one trained for the client {_words(own)}, got one for {_words([facts.client])}; "
            f"{_ADVICE}"
        )
    known = plain_components(defenses or ())
    if known != facts.defenses:
        problems.append(
            f"inverter: expected one trained for {_words(known)}, got one for {_words(facts.defenses)}; {_ADVICE}"
        )
    return problems


def _words(components: Sequence[dict[str, Any]]) -> str:
    """`TopK(keep=0.01, scope='global')`, in order, or `no defense`."""
    return (
        ", ".join(
            f"{entry['name']}({', '.join(f'{key}={value!r}' for key, value in entry.items() if key != 'name')})"
            for entry in components
        )
        or "no defense"
    )
