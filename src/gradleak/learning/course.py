"""The course of a training: steps of AdamW that can be left and taken up at any of them."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.inverters import Inverter
from gradleak.learning.pairs import Pairs
from gradleak.learning.settings import LearnSettings
from gradleak.seeds import stage_generator, torch_seed

LABEL_WEIGHT = 0.01
"""Of the cross-entropy of the label beside the mean squared error of the input, which is what counts."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Course:
    """A training at some step.

    Attributes:
        step: steps that were done.
        per_epoch: steps in one pass.
        total: steps at the end.
        seconds: of earlier runs.
    """

    def __init__(self, inverter: Inverter, pairs: Pairs, settings: LearnSettings) -> None:
        self._pairs, self._settings = pairs, settings
        self._weights = {name: tensor.clone().requires_grad_() for name, tensor in inverter.weights.items()}
        self._inverter = inverter.with_weights(self._weights)
        self._adam = torch.optim.AdamW(self._weights.values(), lr=settings.lr, weight_decay=0.01)
        self.per_epoch = -(-pairs.per_pass // settings.batch_size)
        self.total = settings.epochs * self.per_epoch
        self.step, self.seconds, self._began = 0, 0.0, time.monotonic()
        self._epoch = -1
        self._order = self._chosen = self._features = torch.empty(0)

    @property
    def elapsed(self) -> float:
        """Seconds of this run and earlier ones."""
        return self.seconds + time.monotonic() - self._began

    @property
    def done(self) -> float:
        """How much of the training is done, in [0, 1], by steps or by time."""
        limit = self._settings.max_minutes
        by_time = 0.0 if limit is None else self.elapsed / (60 * limit)
        return min(1.0, max(self.step / self.total, by_time))

    def inverter(self) -> Inverter:
        """As trained so far."""
        return self._inverter.with_weights({name: tensor.detach() for name, tensor in self._weights.items()})

    def advance(self) -> float:
        """One step.

        Returns:
            The loss before it.
        """
        settings = self._settings
        epoch, place = divmod(self.step, self.per_epoch)
        if epoch != self._epoch:
            self._chosen, self._features = self._pairs.pool(epoch)
            generator = stage_generator(settings.seed, f"learning/order/{epoch}")
            self._order = torch.randperm(len(self._chosen), generator=generator)
            self._epoch = epoch
        rows = self._order[place * settings.batch_size : (place + 1) * settings.batch_size]
        inputs, targets = self._pairs.inputs[self._chosen[rows]], self._pairs.targets[self._chosen[rows]]
        for group in self._adam.param_groups:
            group["lr"] = settings.lr * (1 - self.done)
        with torch_seed(stage_generator(settings.seed, f"learning/step/{self.step}").initial_seed()):
            answers, logits = self._inverter.outputs(self._features[rows].float(), settings.dropout)
        error = functional.mse_loss(answers, inputs)
        loss = error + LABEL_WEIGHT * functional.cross_entropy(logits, targets)
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self.step += 1
        return float(error.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Weights and Adam's moments, by name."""
        found = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        for name, weight in self._weights.items():
            for moment in _MOMENTS:
                if moment in self._adam.state[weight]:
                    found[f"adam.{moment}.{name}"] = self._adam.state[weight][moment].clone()
        return found

    def go_on(self, step: int, seconds: float, tensors: Mapping[str, Tensor]) -> None:
        """Take up the place where another run ended.

        Args:
            step: steps that were done.
            seconds: that they took.
            tensors: as `tensors` gave them.
        """
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[name])
                if step:
                    moments = {moment: tensors[f"adam.{moment}.{name}"].clone() for moment in _MOMENTS}
                    self._adam.state[weight] = {"step": torch.tensor(float(step)), **moments}
        self.step, self.seconds = step, seconds
