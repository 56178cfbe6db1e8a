"""Differentially private steps: per-example gradients, clipped, with noise on their sum."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.audits.faults import Fault
from gradleak.clients import DPSGD
from gradleak.defenses import ChangesBatch, Defense, LooksAtStep
from gradleak.errors import BadInput, missing_extra
from gradleak.seeds import stage_generator
from gradleak.training.defending import Defending, private_seed
from gradleak.training.losses import Autocast, training_loss
from gradleak.training.memories import Memories
from gradleak.training.spec import Privacy

NORM_SLACK = 1e-6
"""As opacus, which adds this to the norm before it divides."""

WITHIN = 0.01
"""How near to the wanted epsilon the noise is searched for."""


@dataclass(frozen=True)
class PrivateSettings:
    """What a differentially private training does, with the noise found.

    Attributes:
        clip: largest norm of an example's gradient.
        noise_multiplier: standard deviation of the noise in units of `clip`.
        sampling_rate: probability with which an example takes part in a step.
        expected_batch_size: by which the sum is divided.
        steps: of the whole training.
        delta: of (epsilon, delta)-differential privacy.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    expected_batch_size: int
    steps: int
    delta: float

    def epsilon(self, steps: int) -> float:
        """Spent after so many steps, by opacus' PRV accountant; 0 before the first, infinity without noise."""
        if steps == 0:
            return 0.0
        client = DPSGD(clip=self.clip, noise_multiplier=self.noise_multiplier, sampling_rate=self.sampling_rate)
        with _without_order_warnings():
            return client.epsilon(steps, self.delta)


def private_settings(privacy: Privacy, batch_size: int, examples: int, steps: int) -> PrivateSettings:
    """The noise that a training needs, if it is not given.

    Args:
        privacy: checked; its noise, or the epsilon of the whole training.
        batch_size: expected size of a batch.
        examples: how many there are.
        steps: of the whole training.

    Returns:
        Settings whose epsilon is at most the wanted one.

    Raises:
        BadInput: when opacus is not installed.
    """
    rate = min(1.0, batch_size / examples)
    noise = privacy.noise_multiplier
    if noise is None:
        noise = _noise_for(privacy.epsilon or 1.0, privacy.delta, rate, steps)
    return PrivateSettings(privacy.clip, noise, rate, min(batch_size, examples), steps, privacy.delta)


def trial_settings(privacy: Privacy, size: int) -> PrivateSettings:
    """The same without noise, for a step that tells only whether it works and how long it takes."""
    return PrivateSettings(privacy.clip, 0.0, 1.0, size, 1, privacy.delta)


@lru_cache(maxsize=16)
def _noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The smallest noise multiplier with at most that epsilon; a large one takes opacus many seconds."""
    try:
        from opacus.accountants.utils import get_noise_multiplier
    except ImportError as error:
        raise BadInput(missing_extra("opacus", "dp", "the noise for an epsilon").problems) from error
    with _without_order_warnings():
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                epsilon_tolerance=WITHIN,
                accountant="prv",
            )
        )


@contextmanager
def _without_order_warnings() -> Generator[None]:
    """The PRV accountant sizes its grid by Renyi orders, where opacus' advice about their range means nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        yield


def poisson_batch(count: int, rate: float, seed: int, unit: int) -> Tensor:
    """Positions of the examples of one step, each drawn by itself; possibly none."""
    generator = stage_generator(seed, f"training/poisson/{unit}")
    return (torch.rand(count, generator=generator) < rate).nonzero().flatten()


class PrivateGradients:
    """What `step` calls in place of a plain backward pass.

    Defenses of the update come after the noise, and so change nothing about epsilon.

    Args:
        defending: the defenses, bound to the task.
        settings: of the privacy.
        seed: of the training.
        autocast: type of mixed precision; None for none.
        memories: what defenses keep from step to step.
    """

    def __init__(
        self,
        defending: Defending,
        settings: PrivateSettings,
        seed: int,
        autocast: Autocast | None,
        memories: Memories,
    ) -> None:
        self.defending, self.settings, self.seed, self.memories = defending, settings, seed, memories
        self.autocast: Autocast | None = autocast

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, stage: str) -> float:
        """Put the private mean gradient in place; see `SentGradients`.

        Returns:
            The mean loss before the step; 0 for a batch without examples.
        """
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        sums, loss = self._clipped_sums(
            model, {name: value.detach() for name, value in trained.items()}, inputs, targets
        )
        generator = stage_generator(self.seed, f"{stage}/privacy")
        std, count = self.settings.noise_multiplier * self.settings.clip, self.settings.expected_batch_size
        noisy = {
            name: (tensor + std * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)) / count
            for name, tensor in sums.items()
        }
        seed = private_seed(self.seed, stage, 0)
        sent = self.memories.sent(self.defending, noisy, "gradient", None, seed, 0)
        for name, parameter in trained.items():
            parameter.grad = sent[name]
        return loss

    def _clipped_sums(
        self, model: nn.Module, trained: dict[str, Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], float]:
        """Sum of the clipped gradients of all examples, and their mean loss."""
        if not len(inputs):
            return {name: torch.zeros_like(value) for name, value in trained.items()}, 0.0

        def loss_of(values: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
            def forward(batch: Tensor) -> Tensor:
                return functional_call(model, values, (batch,))

            return training_loss(forward, example[None], target[None], self.autocast)

        each = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0), randomness="different")
        # Fused attention has no batching rule.
        with sdpa_kernel(SDPBackend.MATH):
            gradients, losses = each(trained, inputs, targets)
        squares = torch.stack([rows.flatten(1).square().sum(dim=1) for rows in gradients.values()]).sum(dim=0)
        factors = (self.settings.clip / (squares.sqrt() + NORM_SLACK)).clamp(max=1.0)
        sums = {name: torch.tensordot(factors, rows, dims=1) for name, rows in gradients.items()}
        return sums, float(losses.mean())


def privacy_faults(defenses: tuple[Defense, ...], model: nn.Module) -> list[Fault]:
    """What would make the epsilon of a private training wrong."""
    found: list[Fault] = []
    for defense in defenses:
        if isinstance(defense, ChangesBatch | LooksAtStep):
            text = (
                f"expected defenses of the update alone with dp, got {type(defense).__name__}, which looks at several "
                "examples before they are clipped one by one, so that no epsilon is known; remove it, or dp"
            )
            found.append(Fault(("defense",), text))
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):  # pyright: ignore[reportPrivateUsage]
        text = (
            "expected a model without BatchNorm, whose batch statistics mix the examples that dp keeps apart; replace "
            "it by GroupNorm"
        )
        found.append(Fault(("dp",), text))
    return found
