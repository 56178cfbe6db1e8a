"""The layer that embeds patches of an input, and the trained positions added behind it, read from what a model does.

Probes tell everything about the layer: whether each entry that it receives is one entry of the input, and which
parameter gets back exactly what the layer's outputs get. What follows on the sum of both makes no difference, be it a
LayerNorm, a skip connection, a class token or any number of blocks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.attacks.closed_form.attention_inputs import StoppedModel, stopped_model
from gradleak.attacks.closed_form.patch_tokens import Place, places_of
from gradleak.clients import Gradient
from gradleak.threat import Observation

# In float64, identities of a model that has the structure hold to about 1e-13.
_EXACT = 1e-8


@dataclass(frozen=True, eq=False)
class PatchEmbedding:
    """A layer whose inputs are patches: `rows[t, k] = offset[t, k] + scale[t, k] * variable[order[t, k]]`.

    Attributes:
        weight: name of its weight, `[d, entries, ...]`.
        order: which entry of the flattened variable it receives where, `[T, entries]`.
        scale: what normalization multiplies it with, `[T, entries]`, float64; 0 where the layer pads.
        offset: what is added to it, `[T, entries]`, float64.
        places: for each patch the trained position that is added to its embedding.
        evaluations: gradients that were simulated to find this.
    """

    weight: str
    order: Tensor
    scale: Tensor
    offset: Tensor
    places: tuple[Place, ...]
    evaluations: int = 1

    @property
    def positions(self) -> str:
        """Names of the parameters that hold the positions."""
        return ", ".join(sorted({place.name for place in self.places}))

    def position_gradient(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """The derivative of the loss by the embedded patches, `[T, d]`, in the update's precision."""
        return torch.stack([place.row_of(gradient[place.name]) for place in self.places])


def find_patch_embedding(observation: Observation) -> PatchEmbedding | str:
    """Find the layer that embeds patches, with a trained position embedding added to what it makes of them.

    Args:
        observation: what the attacker holds, in float64.

    Returns:
        The layer, or in one sentence what the model has instead.
    """
    client = observation.client if isinstance(observation.client, Gradient) else Gradient(dropout="off")
    model = stopped_model(observation, client)
    probes = _probes(model)
    received = [_received(model, probe) for probe in probes]
    reasons: list[str] = []
    for layer in received[0]:
        rows = [each[layer] for each in received]
        entries = _entries(torch.stack([probe.flatten() for probe in probes]), torch.stack(rows))
        if entries is None or len(rows[0]) < 2:
            continue
        found = _read(observation, model, layer, entries)
        if not isinstance(found, str):
            return found
        reasons.append(found)
    return reasons[0] if reasons else "no linear layer or convolution receives patches of the input itself"


def _probes(model: StoppedModel) -> list[Tensor]:
    """A variable of zeros, one of ones, and one with evenly spaced values in a scrambled order."""
    probe = model.random("entries")
    ranks = probe.flatten().argsort().double() / probe.numel()
    return [torch.zeros_like(probe), torch.ones_like(probe), ranks.reshape(probe.shape)]


def _watch(model: StoppedModel, hook: Callable[[str, nn.Module, Tensor, Tensor], Tensor], variable: Tensor) -> Tensor:
    """The model's outputs `[1, C]`, with what linear layers and convolutions make of their inputs replaced."""

    def bound(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]:
        def called(owner: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], outputs: Tensor) -> Tensor:
            return hook(name, owner, inputs[0] if inputs else named["input"], outputs)

        return called

    handles = [
        layer.register_forward_hook(bound(name), with_kwargs=True)
        for name, layer in model.module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        # With gradients on, since fused encoder layers for inference pass their parts by.
        with torch.enable_grad():
            return model.task.space.forward(model.module, dict(model.values), variable[None])
    finally:
        for handle in handles:
            handle.remove()


def _received(model: StoppedModel, variable: Tensor) -> dict[str, Tensor]:
    """What each layer multiplies with its weight, `[T, entries]`, by name."""
    found: dict[str, Tensor] = {}

    def record(name: str, owner: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
        rows = _rows(owner, inputs.detach())
        if rows is not None:
            found.setdefault(name, rows)
        return outputs

    _watch(model, record, variable)
    return found


def _rows(owner: nn.Module, inputs: Tensor) -> Tensor | None:
    """The inputs as patches `[T, entries]`; None for convolutions whose patches are not plain cuts."""
    if isinstance(owner, nn.Conv2d):
        if owner.groups != 1 or owner.padding_mode != "zeros" or isinstance(owner.padding, str):
            return None
        cut = nn.functional.unfold(
            inputs.reshape(-1, *inputs.shape[-3:]), owner.kernel_size, owner.dilation, owner.padding, owner.stride
        )
        return cut.transpose(1, 2).flatten(0, 1)
    return inputs.reshape(-1, inputs.shape[-1])


def _entries(probes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Order, scale and offset if each received entry is an affine function of one entry of the probes, or constant."""
    offset, scale = rows[0], rows[1] - rows[0]
    size = probes.shape[1]
    used = scale.abs() > _EXACT * scale.abs().max()
    spaced = (rows[2] - offset) / torch.where(used, scale, 1.0) * size
    near = spaced.round().long()
    apart = torch.where(used, (spaced - near).abs(), spaced.abs())
    # Compared in this direction so that NaN is refused.
    if not bool((apart < 1e-3).all()) or not bool(used.any()) or int(near.min()) < 0 or int(near.max()) >= size:
        return None
    entry = (probes[2] * size).round().long().argsort()
    return entry[near], torch.where(used, scale, 0.0), offset


def _read(
    observation: Observation, model: StoppedModel, layer: str, entries: tuple[Tensor, Tensor, Tensor]
) -> PatchEmbedding | str:
    """Check on a probe everything that the closed form relies on."""
    trained, weight = observation.state.parameters, f"{layer}.weight".lstrip(".")
    if weight not in trained:
        return f"the patch embedding {weight} is not trained, and its gradient is needed"
    probe = model.random("embedding")
    sent, gradient = _probe_gradient(model, layer, probe)
    # Trained ones first: a frozen one beside them does no harm.
    places = places_of(sent, {name: gradient[name] for name in sorted(gradient, key=lambda name: name not in trained)})
    missing = sum(place is None for place in places)
    if missing:
        return f"no position embedding is added directly to {missing} of the {len(places)} patches behind {layer}"
    added = tuple(place for place in places if place is not None)
    frozen = sorted({place.name for place in added} - set(trained))
    if frozen:
        return f"the position embedding {', '.join(frozen)} is not trained, and its gradient is needed"
    found = PatchEmbedding(weight, *entries, added)
    expected = sent.T @ (found.offset + found.scale * probe.flatten()[found.order])
    departure = float((gradient[weight].flatten(1) - expected).norm() / expected.norm())
    if not departure < _EXACT:
        return f"the gradient of {weight} departs by {departure:.1%} from that of one use on these patches"
    return found


def _probe_gradient(model: StoppedModel, layer: str, probe: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The derivative of the loss by what the layer puts out, `[T, d]`, and by every parameter and buffer."""
    fixed = _running_statistics(model.module)
    leaves = {
        name: value.detach().clone()
        for name, value in model.values.items()
        if value.is_floating_point() and name not in fixed
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    made: list[Tensor] = []

    def keep(name: str, _owner: nn.Module, _inputs: Tensor, outputs: Tensor) -> Tensor:
        if name != layer:
            return outputs
        made.append(outputs)
        # A copy goes on, since adding to it in place would make what is kept another tensor.
        return outputs.clone()

    whole = StoppedModel(model.task, model.module, {**model.values, **leaves})
    outputs = _watch(whole, keep, probe)
    target = torch.eye(model.task.num_classes, dtype=outputs.dtype, device=outputs.device)[:1]
    with torch.enable_grad():
        loss = model.task.loss(outputs, target)
    back, *rest = torch.autograd.grad(loss, [made[0], *leaves.values()], materialize_grads=True)
    is_map = isinstance(model.module.get_submodule(layer), nn.Conv2d)
    sent = back.movedim(-3, -1) if is_map else back
    return sent.reshape(-1, sent.shape[-1]), dict(zip(leaves, rest, strict=True))


def _running_statistics(module: nn.Module) -> set[str]:
    """Names of the buffers of BatchNorm, by which torch does not differentiate; no position is among them."""
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    return {f"{name}.{buffer}".lstrip(".") for name, layer in layers for buffer, _ in layer.named_buffers()}
