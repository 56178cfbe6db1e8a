"""The gradient of a step as the server receives it: each worker's own, defended by that worker, and averaged."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradleak.training.defending import Defending, private_seed
from gradleak.training.losses import Autocast, training_loss
from gradleak.training.memories import Memories


class SentGradients:
    """What `step` calls in place of a plain backward pass, as in synchronous distributed SGD.

    Every worker takes its share of the batch, changes it if a defense does, and defends the gradient of its mean loss.
    The server weighs the workers by their examples, so that without defenses this is the gradient of the whole batch.
    A batch with fewer examples than there are workers leaves the last ones out.

    Args:
        defending: the defenses, bound to the task.
        workers: how many.
        seed: of the training.
        autocast: type of mixed precision; None for none.
        memories: what defenses keep from step to step, for each worker.
    """

    def __init__(
        self, defending: Defending, workers: int, seed: int, autocast: Autocast | None, memories: Memories
    ) -> None:
        self.defending, self.workers, self.seed, self.memories = defending, workers, seed, memories
        self.autocast: Autocast | None = autocast

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, stage: str) -> float:
        """Put the mean of what is sent in place of the gradients.

        Args:
            model: in training mode.
            inputs: of the whole batch, `[N, ...]`.
            targets: class indices `[N]`.
            stage: unique to the step.

        Returns:
            The mean loss before the step, on the batch as the defenses changed it.
        """
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        mean: dict[str, Tensor] = {}
        loss = 0.0
        parts = zip(inputs.tensor_split(self.workers), targets.tensor_split(self.workers), strict=True)
        for worker, (own, classes) in enumerate(parts):
            if not len(own):
                continue
            weight = len(own) / len(inputs)
            own_loss, sent = self._of_worker(model, trained, own, classes, stage, worker)
            loss += weight * own_loss
            for name, tensor in sent.items():
                mean[name] = mean[name].add_(tensor, alpha=weight) if name in mean else weight * tensor
        for name, parameter in trained.items():
            parameter.grad = mean.get(name)
        return loss

    def _of_worker(
        self,
        model: nn.Module,
        trained: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        stage: str,
        worker: int,
    ) -> tuple[float, dict[str, Tensor]]:
        """Loss and defended gradient of one worker."""
        seed = private_seed(self.seed, stage, worker)
        inputs, targets = self.defending.batch(inputs, targets, seed)
        step = self.defending.step_of(inputs, targets)
        loss = training_loss(model, inputs, targets, self.autocast)
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(trained, found, strict=True))
        return loss.item(), self.memories.sent(self.defending, gradients, "gradient", step, seed, worker)
