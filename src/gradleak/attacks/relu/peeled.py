"""What is left of a ReLU stack below the lowest output that peeling determines, as an objective for a search.

With the derivative `k` with respect to an intermediate pre-activation `z` known, the weight gradients of the layers
below are those of the scalar `<k, z(x)>`, and `z` itself is known where its units are active.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.attacks.closed_form.layers import Chain
from gradleak.attacks.objectives import cosine_distance
from gradleak.attacks.relu.mask_derivative import MaskDerivative
from gradleak.attacks.relu.stack import Front, LayerInput, Stack
from gradleak.optim import Energy


def peeled_energy(
    chain: Chain, stack: Stack, front: Front, observed: Mapping[str, Tensor], derivative: MaskDerivative
) -> Energy:
    """Cosine distance of the remaining weight gradients plus the misfit of the known output.

    The misfit is `(|z - a|^2 over active units + |relu(z)|^2 over the others) / |a|^2`, over determined units; the same
    holds one layer further down for the directions of that layer's output that are determined, all counted alike
    however weakly the equations see them.

    Args:
        chain: the network, for its normalization.
        stack: its layers.
        front: the known output.
        observed: the update in gradient direction, in the precision to compute in.
        derivative: of the masks in between.

    Returns:
        The energy of one flat image `[D]`.
    """
    layers = stack.convolutions[: front.position + 1]
    first = observed[layers[0].name]
    parameters = {layer.name: layer.weight.to(first) for layer in layers}
    biases = {layer.bias_name: layer.bias.to(first) for layer in layers if layer.bias_name is not None}
    parameters.update(biases)
    remaining = {name: observed[name] for name in parameters}
    values, cotangent = front.values.to(first), front.cotangent.to(first)
    on, off = (front.sure & front.active).to(first), (front.sure & ~front.active).to(first)
    scale = values.square().sum()
    below = None
    if front.below is not None:
        known = front.below
        below = LayerInput(known.values.to(first), known.error.to(first), known.open.to(first), known.misfit)

    def output(weights: dict[str, Tensor], image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        z = entering = chain.normalize(image)
        for index, layer in enumerate(layers):
            bias = layer.bias.to(first) if layer.bias_name is None else weights[layer.bias_name]
            entering = z if index == 0 else derivative.relu(z)
            z = functional.conv2d(entering, weights[layer.name], bias, layer.stride, layer.padding, layer.dilation)
        return (cotangent * z[0]).sum(), (z[0], entering)

    def energy(candidate: Tensor) -> Tensor:
        image = candidate.view(1, *layers[0].input_shape)
        simulated, (z, entering) = torch.func.grad(output, has_aux=True)(parameters, image)
        misfit = (((z - values).square() * on).sum() + (torch.relu(z).square() * off).sum()) / scale
        if below is not None:
            gap = below.closed_part(entering.flatten() - below.values)
            misfit = misfit + gap.square().sum() / below.values.square().sum()
        return cosine_distance(simulated, remaining) + misfit

    return energy
