"""What a training is: one frozen object, the same from a YAML file, a mapping or a shipped name."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gradleak.audits.positions import write_yaml
from gradleak.audits.spec import Axis, Composition, Optimizer, Part, TrainingData, by_name

DEFAULT_CHECKPOINTS = (0.0, 0.01, 0.1, 1.0)
"""Fractions of training that papers on gradient leakage look at."""

DEFAULT_HELD_OUT = 0.2


class TrainedModel(Part):
    """The model that is trained, in the words of audits.

    Attributes:
        name: of the zoo or a plugin, or `package.module:factory`.
        settings: keyword arguments of the factory.
        mean: subtracted from images, one for each channel or one for all.
        std: divided by after that.
    """

    name: str
    settings: dict[str, Any] = {}
    mean: Axis[float] = (0.0,)
    std: Axis[float] = (1.0,)

    _named = model_validator(mode="before")(staticmethod(by_name))


class Augmentation(Part):
    """What is done to images at random before each step.

    Attributes:
        flip: mirror half of them, left to right.
        crop: largest shift in pixels along each side; what is shifted in has the mean's value.
    """

    flip: bool = False
    crop: Annotated[int, Field(ge=0)] = 0


class Federation(Part):
    """Federated averaging (McMahan et al., AISTATS 2017, algorithm 1) in place of one worker.

    Attributes:
        clients: among whom the training data are split.
        participation: fraction of the clients that take part in a round, at least one of them.
        local_epochs: of each client in a round.
        split: `iid`, or `dirichlet` (Hsu, Qi, Brown, 2019): of each class the clients have shares drawn from a
            Dirichlet distribution.
        alpha: concentration of that distribution; the smaller, the more the clients differ.
    """

    clients: Annotated[int, Field(ge=1)] = 10
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    local_epochs: Annotated[int, Field(ge=1)] = 1
    split: Literal["iid", "dirichlet"] = "iid"
    alpha: Annotated[float, Field(gt=0)] = 0.5


class Privacy(Part):
    """Differentially private SGD (Abadi et al. 2016, algorithm 1) in place of plain steps.

    Each step draws every example with probability `batch_size` over the number of examples (Poisson sampling), clips
    each example's gradient over all trained parameters together, adds noise to their sum, and divides by `batch_size`.

    Attributes:
        clip: largest norm of an example's gradient.
        noise_multiplier: standard deviation of the noise in units of `clip`; None if it follows from `epsilon`.
        epsilon: of the whole training, from which opacus finds the noise; None if the noise is given.
        delta: of (epsilon, delta)-differential privacy; neighboring data sets differ by one example more or less.
    """

    clip: Annotated[float, Field(gt=0)] = 1.0
    noise_multiplier: Annotated[float, Field(ge=0)] | None = None
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5


class TrainSpec(Part):
    """A training and the moments at which the model is kept.

    Attributes:
        name: in messages.
        model: what is trained.
        data: on what.
        test: data to test on; None for a part of `data` that is held out.
        held_out: that part; None for a fifth if there is no `test`.
        examples: how many of the training data are used, drawn at random; None for all.
        epochs: passes over the data of a single worker.
        rounds: of a federated training.
        batch_size: examples of a step.
        optimizer: of the worker or of each client.
        augmentation: of training images.
        federated: clients and their data; None for a single worker.
        defense: applied to what each worker or client sends, in order, in the words of audits.
        workers: among whom each batch is split; each defends its own gradient before they are averaged.
        dp: differentially private SGD; None for plain steps.
        autocast: type of mixed precision in which the forward pass runs; None for none.
        seed: draws the model, the held-out part, the order of the examples and all else.
        checkpoints: fractions of training at which the model is kept; None for those of 0, 0.01, 0.1 and 1 that fall
            on a step or round of their own. Training ends at the last of them.
        threads: torch threads; the same number gives the same bits.
        save_every: seconds after which there is a new place to go on from.
    """

    name: Annotated[str, Field(min_length=1)] = "training"
    model: TrainedModel
    data: TrainingData
    test: TrainingData | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    examples: Annotated[int, Field(ge=2)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    rounds: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    federated: Federation | None = None
    defense: Composition = ()
    workers: Annotated[int, Field(ge=1)] = 1
    dp: Privacy | None = None
    autocast: Literal["bf16"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    checkpoints: Axis[Annotated[float, Field(ge=0, le=1)]] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    save_every: Annotated[float, Field(ge=0)] = 20.0

    def to_plain(self) -> dict[str, Any]:
        """Every setting, defaults too, as plain data that read back as this very spec."""
        return self.model_dump(mode="json")

    def to_yaml(self, comment: str = "") -> str:
        """The text of a spec file that reads back as this very spec.

        Args:
            comment: its first line.

        Returns:
            YAML.
        """
        text = write_yaml(self.to_plain())
        return f"# {comment}\n{text}" if comment else text
