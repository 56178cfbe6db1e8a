"""What an audit is: one frozen object, the same from a YAML file, a mapping or a shipped name."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from gradleak.audits.overrides import DEFAULT_NAMES
from gradleak.audits.positions import CHOICE, write_yaml
from gradleak.audits.settings import RunSettings
from gradleak.tokens import Objective

T = TypeVar("T")

MOST_TRIALS = 1_000_000
"""Captured batches for each cell; more is a slip of the finger."""


def _as_axis(value: object) -> object:
    """One entry is short for a list of one."""
    return tuple(cast("list[object]", value)) if isinstance(value, list | tuple) else (value,)


def _as_limits(value: object) -> object:
    """No limit, one or several."""
    return () if value is None else _as_axis(value)


def _as_composition(value: object) -> object:
    """An entry of the defenses: `none`, one defense, or several in order."""
    if value is None or value == "none":
        return ()
    return _as_axis(value)


Axis = Annotated[tuple[T, ...], BeforeValidator(_as_axis), Field(min_length=1)]
"""An axis of the grid: one entry or a list of entries."""


class Part(BaseModel):
    """What all parts of a spec share: they are frozen, and nothing is guessed or ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def by_name(value: object) -> object:
    """A word is short for `{name: word}`, and `factory` is another word for `name`."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and "factory" in value and "name" not in value:
        return {"name" if key == "factory" else key: entry for key, entry in value.items()}
    return value


class Component(Part):
    """An attack, a client, a defense or a threat model, with its settings.

    Attributes:
        name: of the package, of a plugin, or `package.module:factory`.
        settings: its keyword arguments.
    """

    name: str
    settings: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _folded(cls, value: object) -> object:
        value = by_name(value)
        if isinstance(value, Mapping) and not (set(value) <= {"name", "settings"} and "settings" in value):
            settings = {key: entry for key, entry in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "settings": settings}
        return value

    def plain(self) -> dict[str, Any]:
        """Name and settings side by side, as a file has them."""
        return {"name": self.name, **self.settings}


Composition = Annotated[tuple[Component, ...], BeforeValidator(_as_composition)]
"""Defenses in the order in which they are applied; empty for none."""


class Trained(Part):
    """A model that is trained before the audit.

    Attributes:
        spec: of the training: a YAML file, or a name of `gradleak list trainings`.
        at: fractions of training, among its checkpoints; each is a model of the axis.
        overrides: `path=value` each, in place of values of that spec.
    """

    spec: str
    at: Axis[Annotated[float, Field(ge=0, le=1)]] = (1.0,)
    overrides: Annotated[tuple[str, ...], BeforeValidator(_as_limits)] = ()


class ModelSpec(Part):
    """A model.

    Attributes:
        name: of the zoo or a plugin, or `package.module:factory`.
        settings: keyword arguments of the factory.
        weights: a `.safetensors` file with the parameters and buffers. All else can be left out for a checkpoint of
            `gradleak train`.
        stage: how far it is trained, in words, for tables and curves.
        redraw: a new network for each captured batch; None for: if it is of the zoo and has no weights.
        mean: subtracted from images, one for each channel or one for all.
        std: divided by after that.
        trained: train it first, in place of all else; a spec that was read has the checkpoints as `weights` instead.
    """

    name: str
    settings: dict[str, Any] = {}
    weights: str | None = None
    stage: str | None = None
    redraw: bool | None = None
    mean: Axis[float] = (0.0,)
    std: Axis[float] = (1.0,)
    trained: Trained | None = None

    _named = model_validator(mode="before")(staticmethod(by_name))


class DataSpec(Part):
    """A data set.

    Attributes:
        name: bundled, of a plugin, a path, or `package.module:factory`.
        settings: keyword arguments of a factory.
        size: pixels per side to which images are resized; None keeps them.
        only: names of the classes whose examples are used; None for all.
        classes: number of the task's classes; None for those of the data. Data that show one class only have no labels
            worth the name, so then each example gets one of these at random.
        objective: what a model of texts predicts: a class, every next token (`causal`), or hidden words (`masked`).
        distinct_labels: at most one example of each class in a batch.
    """

    name: str
    settings: dict[str, Any] = {}
    size: Annotated[int, Field(ge=1)] | None = None
    only: Axis[str] | None = None
    classes: Annotated[int, Field(ge=2)] | None = None
    objective: Objective = "classification"
    distinct_labels: bool = False

    _named = model_validator(mode="before")(staticmethod(by_name))


LimitScore = Literal[
    "psnr", "ssim", "correlation", "token_accuracy", "token_recall", "rouge1", "rouge2", "rougeL", "exact"
]
"""Columns of scores of which the highest is the worst."""


class Limit(Part):
    """How much leakage is accepted.

    Attributes:
        success_rate_at: the threshold: dB of PSNR for images, a share in (0, 1] for texts.
        below: largest accepted success rate, which the upper end of its 95 % interval must stay under.
        score: what is compared with the threshold; None for PSNR of images and token accuracy of texts.
    """

    success_rate_at: float
    below: Annotated[float, Field(gt=0, le=1)]
    score: LimitScore | None = None


class TrainingData(Part):
    """A data set, in the words of audits.

    Attributes:
        name: bundled, of a plugin, a path, or `package.module:factory`.
        settings: keyword arguments of a factory.
        size: pixels per side to which images are resized; None keeps them.
        only: names of the classes whose examples are used; None for all.
        classes: number of the task's classes; None for those of the data.
        objective: what a model of texts predicts.
    """

    name: str
    settings: dict[str, Any] = {}
    size: Annotated[int, Field(ge=1)] | None = None
    only: Axis[str] | None = None
    classes: Annotated[int, Field(ge=2)] | None = None
    objective: Objective = "classification"

    _named = model_validator(mode="before")(staticmethod(by_name))


class Optimizer(Part):
    """`torch.optim.SGD`, with a schedule of its learning rate.

    Attributes:
        lr: learning rate at the start.
        momentum: of the velocity.
        weight_decay: multiple of the weights that is added to the gradient.
        schedule: `constant`, or `cosine` from `lr` to zero over the whole training.
    """

    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"


class PriceSpec(Part):
    """How each setting, with its own model, data, client and defenses, is trained to learn its test accuracy.

    Attributes:
        epochs: passes over the training data.
        examples: how many of the data are trained on, drawn at random; None for all that are not held out.
        test: data to test on; None for a part of `data` that is held out.
        held_out: that part; None for a fifth if there is no `test`.
        batch_size: examples of each client in a step; None for the batch size of the setting.
        workers: clients whose defended updates are averaged in a step.
        optimizer: of the server; the learning rate of a client with local steps is its own.
        seeds: trainings of each setting; those of one seed start from the same network and see the same batches.
        max_seconds: after which no further training is begun, and the one that runs stops where it is, to be gone on
            with by the same command; None for no end.
    """

    epochs: Annotated[int, Field(ge=1)] = 2
    examples: Annotated[int, Field(ge=2)] | None = None
    test: TrainingData | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1)] = 1
    optimizer: Optimizer = Optimizer()
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    max_seconds: Annotated[float, Field(gt=0)] | None = None


class BoundSpec(Part):
    """Of which captured batches it is computed what no attacker of a stated class can do better than.

    Attributes:
        batches: the first so many of every setting; all if there are fewer.
        max_seconds: for each; where the whole spectrum would take longer, its leading part stands for it.
        prior: what an attacker is taken to know of inputs for the second ceiling: `photographs`, what `auto` knows of
            them, for images of 1 or 3 channels and at most 4096 values in a batch, and `smoothness` for others; `none`
            for no such ceiling.
    """

    batches: Annotated[int, Field(ge=1)] = 3
    max_seconds: Annotated[float, Field(gt=0)] = 60.0
    prior: Literal["photographs", "smoothness", "none"] = "photographs"


class PerClient(Part):
    """A batch size that goes with the number of clients: each trial has so many private examples for every client.

    Attributes:
        per_client: examples of each client; an aggregate of K clients has K times as many, any other client is one.
    """

    per_client: Annotated[int, Field(ge=1)]


def _size_kind(value: object) -> str:
    """Decides which of the two is meant, so that a mistake is told once."""
    return f"{CHOICE}client" if isinstance(value, Mapping | PerClient) else f"{CHOICE}number"


BatchSize = Annotated[
    Annotated[int, Field(ge=1), Tag(f"{CHOICE}number")] | Annotated[PerClient, Tag(f"{CHOICE}client")],
    Discriminator(_size_kind),
]
"""A number of private examples, or one that goes with the clients."""


class AuditSpec(Part):
    """A declared grid of trials and the questions it answers.

    Attributes:
        name: in the report.
        seed: draws examples, networks and starts.
        trials: captured batches for each cell of the grid.
        model: axis of the models.
        data: axis of the data sets.
        batch_size: axis of the numbers of private examples; `{per_client: 1}` counts them for each client.
        client: axis of the clients.
        defense: axis of the compositions of defenses.
        attack: axis of the attacks.
        threat: axis of the threat models, as the settings of `ThreatModel`.
        threshold: at which success rates are reported: dB of PSNR for images, token accuracy for texts.
        limit: what exit code 1 says was exceeded.
        price: how the settings are trained to learn their test accuracy; None for not at all.
        bound: for how many batches the ceiling of any attacker is computed; None for none.
        run: how the trials are run.
    """

    name: Annotated[str, Field(min_length=1)] = "audit"
    seed: Annotated[int, Field(ge=0)] = 0
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 20
    model: Axis[ModelSpec]
    data: Axis[DataSpec]
    batch_size: Axis[BatchSize] = (1,)
    client: Axis[Component] = (Component(name=DEFAULT_NAMES["client"]),)
    defense: Axis[Composition] = ((),)
    attack: Axis[Component] = (Component(name=DEFAULT_NAMES["attack"]),)
    threat: Axis[dict[str, Any]] = ({},)
    threshold: Axis[float] = (20.0, 30.0)
    limit: Annotated[tuple[Limit, ...], BeforeValidator(_as_limits)] = ()
    price: PriceSpec | None = None
    bound: BoundSpec | None = None
    run: RunSettings = RunSettings()

    def to_plain(self) -> dict[str, Any]:
        """Every setting, defaults too, as plain data that read back as this very spec."""
        plain = self.model_dump(mode="json")
        for axis in ("client", "attack"):
            plain[axis] = [component.plain() for component in getattr(self, axis)]
        plain["defense"] = [
            "none" if not composition else [component.plain() for component in composition]
            for composition in self.defense
        ]
        return plain

    def to_yaml(self, comment: str = "") -> str:
        """The text of a spec file.

        Args:
            comment: its first line.

        Returns:
            YAML that reads back as this very spec.
        """
        text = write_yaml(self.to_plain())
        return f"# {comment}\n{text}" if comment else text
