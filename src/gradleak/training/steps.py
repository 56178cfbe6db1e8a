"""One step of training, and how good a model is: plain modules and `torch.optim`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradleak.seeds import stage_generator, torch_seed
from gradleak.tasks import ImageSpace, InputSpace
from gradleak.tokens import IGNORED, TokenSpace
from gradleak.training.losses import by_target, logits, training_loss
from gradleak.training.spec import Augmentation, Optimizer

MOST_EVALUATED = 2000
"""Training examples, drawn at random once, on which loss and accuracy are measured; of test examples, all."""

EVALUATED_AT_ONCE = 500
"""Examples of one forward pass without gradients."""


Backward = Callable[[nn.Module, Tensor, Tensor, str], float]
"""From a model, a batch of inputs and class indices and the stage of the step: gradients in place, and the loss."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs as the model receives them.

    Attributes:
        inputs: normalized, `[n, ...]`; token ids `[n, T]` of texts.
        targets: class indices `[n]`; of language models token ids `[n, T]`, -100 where there is none.
    """

    inputs: Tensor
    targets: Tensor

    def at(self, positions: Tensor) -> "Examples":
        """Some of them."""
        return Examples(self.inputs[positions], self.targets[positions])


@dataclass(frozen=True)
class Quality:
    """How good a model is on some examples.

    Attributes:
        loss: mean cross-entropy.
        accuracy: share of the examples whose class has the largest output; of language models, share of the tokens.
        examples: how many.
    """

    loss: float
    accuracy: float
    examples: int


def examples_for(model: nn.Module, inputs: Tensor, targets: Tensor, space: InputSpace) -> Examples:
    """Inputs and targets as a model receives them, in its own precision."""
    trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    if isinstance(space, TokenSpace):
        return Examples(inputs, targets)
    return Examples(normalized(inputs, space).to(trained.dtype), targets)


def normalized(inputs: Tensor, space: InputSpace) -> Tensor:
    """Inputs `[n, ...]` as the model receives them."""
    if not isinstance(space, ImageSpace):
        return inputs
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (space.mean, space.std))
    return (inputs - mean) / std


def denormalized(inputs: Tensor, space: InputSpace) -> Tensor:
    """Normalized inputs `[n, ...]` in the units of their space."""
    if not isinstance(space, ImageSpace):
        return inputs
    mean, std = (torch.tensor(values, dtype=inputs.dtype).view(-1, 1, 1) for values in (space.mean, space.std))
    return inputs * std + mean


def batches(count: int, batch_size: int, seed: int, stage: str) -> Iterator[Tensor]:
    """Positions of one epoch's batches in an order that depends on seed and stage alone.

    A last batch of a single example is left out, because batch normalization has no variance there, unless it is the
    only one.

    Yields:
        Positions of one batch.
    """
    order = torch.randperm(count, generator=stage_generator(seed, stage))
    for number in range(batches_of(count, batch_size)):
        yield order[number * batch_size : (number + 1) * batch_size]


def batches_of(count: int, batch_size: int) -> int:
    """How many batches an epoch has."""
    alone = count % batch_size == 1 and count > batch_size > 1
    return count // batch_size if alone else -(-count // batch_size)


def learning_rate(optimizer: Optimizer, done: float) -> float:
    """The learning rate when the fraction `done` of training is done."""
    return optimizer.lr * (0.5 * (1 + math.cos(math.pi * done)) if optimizer.schedule == "cosine" else 1.0)


def sgd(model: nn.Module, optimizer: Optimizer) -> torch.optim.SGD:
    """The optimizer of a model's trained parameters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=optimizer.lr, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay)


def step(
    model: nn.Module,
    sgd: torch.optim.SGD,
    lr: float,
    batch: Examples,
    augmentation: Augmentation,
    seed: int,
    stage: str,
    backward: Backward | None = None,
) -> float:
    """Change the model by one step on a batch.

    Args:
        model: in training mode.
        sgd: of its parameters.
        lr: learning rate.
        batch: the examples.
        augmentation: of the images.
        seed: with the stage decides augmentation, and what the model draws itself, such as dropout masks.
        stage: unique to the step.
        backward: puts gradients in place; None for those of the mean loss.

    Returns:
        The loss before the step, which may be no finite number.
    """
    for group in sgd.param_groups:
        group["lr"] = lr
    generator = stage_generator(seed, stage)
    inputs = augmented(batch.inputs, augmentation, generator)
    sgd.zero_grad(set_to_none=True)
    with torch_seed(generator.initial_seed()):
        loss = (backward or plain_backward)(model, inputs, batch.targets, stage)
    sgd.step()
    return loss


def plain_backward(model: nn.Module, inputs: Tensor, targets: Tensor, stage: str) -> float:
    """Gradients of the mean loss on a batch; its loss."""
    del stage
    loss = training_loss(model, inputs, targets)
    loss.backward()
    return loss.item()


def augmented(inputs: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Images `[n, channels, height, width]`, some mirrored and all shifted, as the settings say."""
    if augmentation.flip:
        mirrored = torch.rand(len(inputs), generator=generator) < 0.5
        chosen = inputs[mirrored].flip(-1)
        inputs = inputs.clone()
        inputs[mirrored] = chosen
    margin = augmentation.crop
    if margin:
        height, width = inputs.shape[-2:]
        padded = functional.pad(inputs, (margin,) * 4)
        corners = torch.randint(2 * margin + 1, (len(inputs), 2), generator=generator).tolist()
        windows = zip(padded, corners, strict=True)
        inputs = torch.stack([image[:, top : top + height, left : left + width] for image, (top, left) in windows])
    return inputs


def quality(model: nn.Module, examples: Examples) -> Quality:
    """How good a model is, in evaluation mode; the mode of its modules stays as it was."""
    flags = [(module, module.training) for module in model.modules()]
    loss, correct, count = 0.0, 0, int((examples.targets != IGNORED).sum())
    try:
        model.eval()
        with torch.no_grad():
            for inputs, targets in zip(
                examples.inputs.split(EVALUATED_AT_ONCE), examples.targets.split(EVALUATED_AT_ONCE), strict=True
            ):
                outputs, wanted = by_target(logits(model, inputs), targets)
                loss += functional.cross_entropy(outputs, wanted, reduction="sum").item()
                correct += int((outputs.argmax(dim=1) == wanted).sum())
    finally:
        for module, training in flags:
            module.training = training
    return Quality(loss / count, correct / count, len(examples.targets))
