"""A model at a moment of its training, with everything that must be said about it: one `.safetensors` file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from gradleak.audits.by_name.spaces import space_for
from gradleak.audits.faults import expected_words
from gradleak.audits.files import write_whole
from gradleak.errors import BadInput
from gradleak.tasks import InputSpace
from gradleak.tensorfiles import read_safetensors
from gradleak.tokens import Objective, TokenSpace
from gradleak.zoo.data import vocabulary_digest

KEY = "gradleak"
"""Where the metadata of a safetensors file hold what follows, as JSON."""

KIND = "checkpoint"


class _Facts(BaseModel):
    """Frozen, and nothing is guessed or ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(_Facts):
    """What was trained; see `TrainedModel`.

    Attributes:
        name: of the zoo or a plugin, or `package.module:factory`.
        settings: keyword arguments of the factory.
        defenses: that are a part of the model, each a name with its settings side by side.
    """

    name: str
    settings: dict[str, Any] = {}
    defenses: tuple[dict[str, Any], ...] = ()


class TextFacts(_Facts):
    """Of texts: see `TokenSpace`.

    Attributes:
        vocabulary: number of ids.
        padding: id after a text's end.
        mask: id of a hidden token.
        special: ids that are no words.
        objective: what the model predicts.
        words: digest of what every id means; see `vocabulary_digest`.
    """

    vocabulary: int
    padding: int | None = None
    mask: int | None = None
    special: tuple[int, ...] = ()
    objective: Objective = "classification"
    words: str


class SpaceFacts(_Facts):
    """The input space: the shape of one input, the normalization of images, and the ids of texts."""

    shape: tuple[Annotated[int, Field(ge=1)], ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    texts: TextFacts | None = None


class DataFacts(_Facts):
    """On what.

    Attributes:
        name: of the training data.
        examples: how many were trained on.
        test: name of the test data.
        test_examples: how many.
        held_out: whether they are a part of the same data that was not trained on.
        digest: of training inputs and targets, 16 hexadecimal digits of SHA-256.
    """

    name: str
    examples: int
    test: str
    test_examples: int
    held_out: bool
    digest: str


class QualityFacts(_Facts):
    """Mean loss and accuracy in evaluation mode on so many examples."""

    loss: float
    accuracy: Annotated[float, Field(ge=0, le=1)]
    examples: int


class PrivacyFacts(_Facts):
    """Differential privacy up to that moment, with Poisson sampling.

    Attributes:
        epsilon: spent so far, by opacus' PRV accountant; None for infinity, without noise.
        delta: of (epsilon, delta)-differential privacy.
        noise_multiplier: standard deviation of the noise in units of `clip`.
        clip: largest norm of an example's gradient.
        sampling_rate: probability with which an example takes part in a step.
    """

    epsilon: float | None
    delta: float
    noise_multiplier: float
    clip: float
    sampling_rate: float


class Checkpoint(_Facts):
    """What a checkpoint says about itself.

    Attributes:
        kind: tells it from other files of the package.
        version: of the format.
        model: what was trained.
        data: on what.
        space: the input space.
        num_classes: number of classes.
        fraction: how much of the declared training was done, in [0, 1].
        stage: the same in words.
        units: steps, or rounds of a federation, that were done.
        of_units: that the declared training has.
        unit: `step` or `round`.
        epochs: passes over the training data.
        train: quality on training examples drawn at random.
        test: quality on all test examples.
        spec: the effective spec of the training, with its defenses.
        privacy: of a differentially private training; None for any other.
    """

    kind: Literal["checkpoint"] = KIND
    version: Literal[1] = 1
    model: ModelFacts
    data: DataFacts
    space: SpaceFacts
    num_classes: int
    fraction: Annotated[float, Field(ge=0, le=1)]
    stage: str
    units: int
    of_units: int
    unit: Literal["step", "round"]
    epochs: float
    train: QualityFacts
    test: QualityFacts
    spec: dict[str, Any]
    privacy: PrivacyFacts | None = None

    def input_space(self) -> InputSpace:
        """What the model takes."""
        texts, shape = self.space.texts, self.space.shape
        if texts is None:
            return space_for(shape, self.space.mean, self.space.std)
        return TokenSpace(texts.vocabulary, shape[0], padding=texts.padding, mask=texts.mask, special=texts.special)

    @property
    def objective(self) -> Objective:
        """What the model predicts."""
        return "classification" if self.space.texts is None else self.space.texts.objective

    def facts(self) -> dict[str, Any]:
        """What an audit says about the model under attack, as plain data."""
        return {
            "data": self.data.name,
            "examples": self.data.examples,
            "epochs": round(self.epochs, 4),
            "train_accuracy": round(self.train.accuracy, 4),
            "test_accuracy": round(self.test.accuracy, 4),
            **({} if self.privacy is None else {"epsilon": self.privacy.epsilon, "delta": self.privacy.delta}),
        }


def text_facts(space: TokenSpace, objective: Objective) -> TextFacts:
    """What a checkpoint says about texts.

    Args:
        space: of the training data.
        objective: of the training.

    Returns:
        The facts.
    """
    return TextFacts(
        vocabulary=space.vocabulary,
        padding=space.padding,
        mask=space.mask,
        special=space.special,
        objective=objective,
        words=vocabulary_digest(space),
    )


def write_checkpoint(path: Path, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Write parameters, buffers and facts whole or not at all.

    Args:
        path: the file.
        model: at that moment.
        checkpoint: what is said about it.

    Raises:
        BadInput: when the file cannot be written.
    """
    own = {name: tensor.detach().contiguous() for name, tensor in _untied(model).items()}
    write_whole(path, save(own, metadata={KEY: checkpoint.model_dump_json()}))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """What a checkpoint says about itself.

    Args:
        path: a file that `gradleak train` wrote.

    Returns:
        The facts; the tensors are read by `load_weights`.

    Raises:
        BadInput: when it is no checkpoint, or what it says cannot be used.
    """
    found = find_checkpoint(path)
    if found is None:
        raise BadInput(
            [f"{path}: expected a checkpoint of gradleak train, got tensors without its facts; name model and settings"]
        )
    return found


def find_checkpoint(path: str | Path) -> Checkpoint | None:
    """The same; None for a safetensors file without such facts, as others write it.

    Returns:
        The facts.

    Raises:
        BadInput: when it is no safetensors file, or what it says cannot be used.
    """
    _, metadata = read_safetensors(Path(path))
    text = metadata.get(KEY, "")
    if f'"kind":"{KIND}"' not in text.replace(" ", ""):
        return None
    try:
        return Checkpoint.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{path}: metadata {'.'.join(map(str, fault['loc'])) or KEY}: expected {expected_words(fault)}; "
            "train again with this version of gradleak"
            for fault in error.errors(include_url=False)
        ]
        raise BadInput(problems) from None


def unusable_tensors(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold NaN or infinity."""
    return [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]


def _untied(model: nn.Module) -> Mapping[str, Tensor]:
    """All of the state under each of its names; tied tensors are written under each, as `load_weights` wants them."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
