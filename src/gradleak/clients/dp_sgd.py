"""Differentially private SGD: clipped per-example gradients with Gaussian noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gradleak.clients.protocol import Simulate
from gradleak.clients.settings import StepSettings, sent_names
from gradleak.clients.stateless import recurrent
from gradleak.clients.step import bound_step
from gradleak.errors import BadInput, missing_extra, refuse
from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind

Accountant = Literal["prv", "rdp", "gdp"]

# As opacus, which adds this to the norm before it divides.
_NORM_SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class DPSGD(StepSettings):
    """One noisy step of DP-SGD as opacus makes it; `epsilon` is by opacus' PRV accountant unless another is named.

    `1/B (sum_n min(1, clip / ||g_n||) g_n + N(0, (noise_multiplier clip)^2))` with g_n the gradient of example n by all
    trained parameters together ("flat" clipping; Abadi et al. 2016, algorithm 1). The noise is the client's private
    randomness: an attacker simulates the rest.

    Args:
        clip: largest norm of an example's gradient, over all parameters; above 0.
        noise_multiplier: standard deviation of the noise in units of `clip`; 0 for none.
        sampling_rate: probability with which an example takes part in a step, in (0, 1]; for `epsilon` only: the
            private batch is what was drawn.
        expected_batch_size: B; None for the number of private examples.
    """

    clip: float
    noise_multiplier: float = 0.0
    sampling_rate: float = 1.0
    expected_batch_size: int | None = None

    @property
    def kind(self) -> UpdateKind:
        """A gradient."""
        return "gradient"

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range, and models whose examples influence each other."""
        return super().problems(task) + self._range_problems() + self._model_limits(task)

    def _range_problems(self) -> list[str]:
        problems: list[str] = []
        if not 0 < self.clip < float("inf"):
            problems.append(f"client.clip: expected a finite number above 0, got {self.clip}; give the clipping norm")
        if not 0 <= self.noise_multiplier < float("inf"):
            problems.append(f"client.noise_multiplier: expected at least 0, got {self.noise_multiplier}; 0 is none")
        if not 0 < self.sampling_rate <= 1:
            problems.append(f"client.sampling_rate: expected a number in (0, 1], got {self.sampling_rate}; correct it")
        if self.expected_batch_size is not None and self.expected_batch_size < 1:
            problems.append(
                f"client.expected_batch_size: expected at least 1, got {self.expected_batch_size}; "
                "None is the number of private examples"
            )
        return problems

    def _model_limits(self, task: Task) -> list[str]:
        problems: list[str] = []
        if self.send_buffers:
            problems.append("client.send_buffers: expected False, since DP-SGD shares no statistics; leave it out")
        if self.mode == "train" and any(
            isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
            for layer in task.model.modules()
        ):
            problems.append(
                "client.mode: expected 'eval' with BatchNorm, whose batch statistics would mix the examples that "
                "DP-SGD keeps apart, got 'train'; use 'eval' or replace BatchNorm by GroupNorm"
            )
        if self.micro_batch is not None:
            problems.append("client.micro_batch: expected none, since every example passes alone; leave it out")
        return problems

    def epsilon(self, steps: int, delta: float, accountant: Accountant = "prv") -> float:
        """The epsilon of (epsilon, delta)-differential privacy after many such steps with Poisson-sampled batches.

        Neighboring data sets differ by one example that is added or removed.

        Args:
            steps: how many, at least 1.
            delta: in (0, 1), usually below one over the size of the data set.
            accountant: one of opacus': `"prv"`, the tightest (Gopi et al. 2021; an upper bound within 0.01 of the true
                value); `"rdp"`, Renyi differential privacy, a looser bound; `"gdp"`, Gaussian differential privacy, a
                limit for many steps that may lie below the true value, of which opacus warns.

        Returns:
            Epsilon; infinity without noise.

        Raises:
            BadInput: when a setting is out of range, or opacus is not installed.
        """
        problems: list[str] = []
        if steps < 1:
            problems.append(f"steps: expected at least 1, got {steps}; count the steps of the whole training")
        if not 0 < delta < 1:
            problems.append(f"delta: expected a number in (0, 1), got {delta}; 1e-5 is usual")
        if accountant not in get_args(Accountant):
            problems.append(f"accountant: expected 'prv', 'rdp' or 'gdp', got {accountant!r}; choose one")
        refuse(problems + self._range_problems())
        if self.noise_multiplier == 0:
            return float("inf")
        try:
            from opacus.accountants import create_accountant
        except ImportError as error:
            raise BadInput(missing_extra("opacus", "dp", "epsilon of DP-SGD").problems) from error
        made = create_accountant(mechanism=accountant)
        made.history = [(self.noise_multiplier, self.sampling_rate, steps)]
        # At a sampling rate of 1 opacus takes the logarithm of 0, and rightly goes on with minus infinity.
        with np.errstate(divide="ignore", over="ignore"):
            return float(made.get_epsilon(delta=delta))

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Copy the model once; see `Client.bind`. The generator draws the noise, and dropout's masks and latents."""
        settings = replace(self, send_buffers=False)
        # An example's norm counts everything that is trained, whether it is sent or not.
        step = bound_step(settings, task, state, all_trained=True)
        sent = sent_names(self, list(step.parameters))
        private = None if generator is None else int(torch.randint(2**31, (), generator=generator))

        def one(variable: Tensor, targets: Tensor, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            alone = {name: draw[None] for name, draw in draws.items()}
            gradients = step(
                step.parameters, step.buffers, variable[None], targets[None], alone, constant_weights=True
            ).gradients
            squares = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()
            norm = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
            factor = (self.clip / (norm + _NORM_SLACK)).clamp(max=1.0)
            return {name: factor * gradients[name] for name in sent}

        def in_turn(variable: Tensor, targets: Tensor, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            rows = [
                one(variable[n], targets[n], {name: draw[n] for name, draw in draws.items()})
                for n in range(len(variable))
            ]
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

        each: Callable[..., dict[str, Tensor]] = in_turn if recurrent(task.model) else torch.vmap(one)

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            noise = None if private is None else torch.Generator().manual_seed(private)
            draws = step.draw(variable, noise)
            count = self.expected_batch_size or len(variable)
            sums = {name: rows.sum(dim=0) for name, rows in each(variable, target_probabilities, draws).items()}
            if noise is not None and self.noise_multiplier:
                for name, tensor in sums.items():
                    drawn = torch.randn(tensor.shape, generator=noise, dtype=tensor.dtype).to(tensor.device)
                    sums[name] = tensor + self.noise_multiplier * self.clip * drawn
            return {name: tensor / count for name, tensor in sums.items()}

        return simulate
