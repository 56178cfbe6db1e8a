"""How an inverter is trained."""

from dataclasses import asdict, dataclass
from typing import Any

from gradleak.errors import refuse


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """How an inverter is trained.

    Args:
        epochs: passes over the training data at most.
        max_minutes: end after these minutes, with the learning rate gone to zero by then; None for no limit. With a
            limit, the result depends on the machine's speed.
        batch_size: examples in a step.
        lr: learning rate of AdamW at the start; it falls linearly to zero.
        hidden: widths of the hidden layers.
        features: coordinates of the update that are used at most; drawn at random among those that vary.
        dropout: share of hidden units left out in training.
        flip: also train on mirrored images.
        seed: of every random draw.
        save_every: seconds between two places from which a killed training goes on.
        threads: processor threads.

    Raises:
        BadInput: with every setting outside its range.
    """

    epochs: int = 30
    max_minutes: float | None = None
    batch_size: int = 256
    lr: float = 1e-3
    hidden: tuple[int, ...] = (1000,)
    features: int = 4096
    dropout: float = 0.2
    flip: bool = False
    seed: int = 0
    save_every: float = 30.0
    threads: int = 1

    def __post_init__(self) -> None:
        whole = [("epochs", self.epochs), ("batch_size", self.batch_size), ("features", self.features)]
        whole += [("hidden", width) for width in self.hidden] + [("threads", self.threads)]
        problems = [f"{name}: expected at least 1, got {value}; give 1 or more" for name, value in whole if value < 1]
        if not self.hidden:
            problems.append("hidden: expected at least one hidden layer, got none; give its width")
        if self.max_minutes is not None and not self.max_minutes > 0:
            problems.append(f"max_minutes: expected more than 0, got {self.max_minutes}; leave it out for no limit")
        if not 0 < self.lr < float("inf"):
            problems.append(f"lr: expected a finite number above 0, got {self.lr}; 1e-3 is usual")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout: expected a share of at least 0 and below 1, got {self.dropout}; 0 is none")
        if not self.save_every >= 0:
            problems.append(f"save_every: expected at least 0 seconds, got {self.save_every}; 30 is usual")
        refuse(problems)

    def plain(self) -> dict[str, Any]:
        """Those that decide the result, as JSON gives them back."""
        plain = {key: value for key, value in asdict(self).items() if key not in {"save_every", "threads"}}
        return {**plain, "hidden": list(self.hidden)}
