"""The latent variables of a batch, read from the top down, and the images below them.

The softmax separates what enters the classifier, example by example (`closed_form.separation`), and with it the
derivative of each example's loss by the decoder's outputs. The decoder's gradient is the sum of their outer products
with the latent variables, which follow by least squares; so do the features that enter the encoder from its gradient,
as the derivatives by mu are known but for the divergence's small share, which is put in after a first solution.
"""

import time

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Affine, read_chain
from gradleak.attacks.closed_form.peeling import Front, peel
from gradleak.attacks.closed_form.pixels import search_pixels
from gradleak.attacks.closed_form.separation import separate
from gradleak.attacks.closed_form.separation_equations import HeadProblem
from gradleak.attacks.closed_form.whitening import Whitening
from gradleak.attacks.head import find_head
from gradleak.attacks.labels.loss_form import find_loss_form
from gradleak.attacks.latents.reading import LatentReading, below_latent, inside, value_of
from gradleak.bottleneck import bottlenecks
from gradleak.tasks import ImageSpace
from gradleak.threat import Observation

# Rounds in which the divergence's share of the derivatives is put in; each gains about the factor beta.
_ROUNDS = 8


def read_latents(observation: Observation, targets: Tensor, seed: int, deadline: float) -> LatentReading | str:
    """Read the noise of every example of a batch.

    Args:
        observation: of a gradient; it is not changed.
        targets: one-hot rows `[N, C]`, in the order that the examples of the reading have.
        seed: of the separation's starts.
        deadline: reading of `time.perf_counter` after which the separation takes no further start.

    Returns:
        What was read, or why it cannot be.
    """
    found, head, form = bottlenecks(observation.task.model), find_head(observation.task, observation.state), None
    if len(found) == 1 and head is not None and head.bias is not None:
        form = find_loss_form(observation.task)
    if head is None or head.bias is None or form is None or isinstance(form, str):
        return "latent variables of a batch are read below a softmax cross-entropy with a bias, and one bottleneck"
    ((place, layer),) = found.items()
    count, update = len(targets), {name: tensor.double() for name, tensor in observation.update.tensors.items()}
    needed = [head.weight, head.bias, *(inside(place, f"{part}.weight") for part in ("encoder", "decoder"))]
    if any(name not in update for name in needed):
        return "the gradients of the bottleneck and the classifier were not all sent"
    if count >= min(*update[head.weight].shape, layer.width):
        return f"{count} examples are too many for {layer.width} latent entries and {len(targets[0])} classes"
    labels = targets.argmax(dim=1)
    weight = value_of(observation.state, head.weight)
    problem = HeadProblem(
        update[head.weight],
        update[head.bias],
        weight,
        value_of(observation.state, head.bias),
        form.targets[labels],
        form.weights[labels] / (count if form.averaged else 1),
        observation.update.rounding / 2,
    )
    separation = separate(problem, seed=seed, deadline=deadline)
    if not separation.certified:
        return f"the classifier's inputs could not be separated, by {separation.misfit:.1e} of rounding"
    outputs = separation.residuals @ weight  # derivatives by what the decoder puts out
    latents = torch.linalg.lstsq(outputs.T, update[needed[3]]).solution
    share = layer.beta / count
    pulls = outputs @ value_of(observation.state, inside(place, "decoder.weight"))
    encoder = value_of(observation.state, inside(place, "encoder.weight"))
    offset = value_of(observation.state, inside(place, "encoder.bias"))
    derivative, gradient = pulls, update[needed[2]][: layer.width]
    features, noise = torch.zeros(()), torch.zeros(())
    for _ in range(_ROUNDS):
        features = torch.linalg.lstsq(derivative.T, gradient).solution
        mean, log_variance = (features @ encoder.T + offset).split(layer.width, dim=1)
        deviation = (log_variance / 2).exp()
        noise = (latents - mean) / deviation
        by_variance = pulls * noise * deviation / 2 + share / 2 * (log_variance.exp() - 1)
        derivative, gradient = torch.cat([pulls + share * mean, by_variance], dim=1), update[needed[2]]
    precision = float(separation.std.max())
    return LatentReading(place, noise, count * derivative, precision, features)


def images_below(observation: Observation, reading: LatentReading, seconds: float | None) -> Tensor | str:
    """The images of a batch below its latent variables: layer by layer, and by a search where that ends.

    Args:
        observation: what the attacker holds.
        reading: of all examples.
        seconds: wall time for the search; None for no limit.

    Returns:
        The variable `[N, *variable_shape]`, in float64; or why there is none.
    """
    below = below_latent(observation, reading)
    if isinstance(below, str):
        return below
    chain, space = read_chain(below.task, below.state), below.task.space
    if isinstance(chain, str):
        return f"the model is not a chain of layers: {chain}"
    head = chain.layers[-1]
    if not isinstance(head, Affine) or not isinstance(space, ImageSpace):
        return "it is for images behind a chain of layers"
    began, count = time.perf_counter(), len(reading.features)
    std = torch.full((count,), max(reading.precision, 1e-9)).double()
    cotangents = reading.derivative / count @ head.weight
    gradient = {name: tensor.double() for name, tensor in below.update.tensors.items()}
    precision = observation.update.rounding / 2
    with torch.no_grad():
        deadline = float("inf") if seconds is None else began + seconds / 2
        front = Front(len(chain.layers) - 1, reading.features, cotangents, std)
        front = peel(chain, gradient, front, precision=precision, deadline=deadline).front
    if front.index == 0:
        return chain.denormalize(front.values)
    grey = torch.full((count, *space.shape), sum(space.bounds) / 2)
    left = None if seconds is None else max(0.0, seconds - (time.perf_counter() - began))
    objectives = Whitening(chain, gradient, front, grey, precision=precision)
    return search_pixels(objectives, grey, space.bounds, max_seconds=left).variable.double()
