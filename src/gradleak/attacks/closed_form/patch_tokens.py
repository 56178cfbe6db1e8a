"""How an image becomes the tokens of a transformer's first attention, read from what the model computes.

Probes tell everything: which layers receive the same tokens, which entries of the input each token depends on and by
which weights, and which trained parameter is added to it. How patches are cut and embedded, where a class token is put
and what the parameters are called makes no difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.attention_inputs import Receiver, StoppedModel, attention_receivers, stopped_model
from gradleak.clients import Gradient
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

# In float64, identities of a model that has the structure hold to about 1e-13.
_EXACT = 1e-8


@dataclass(frozen=True, eq=False)
class PatchTokens:
    """Tokens that enter an attention: `token[t] = offset[t] + maps[t] @ variable[patches[t]]`.

    Attributes:
        layer: name of the attention, or of its first linear layer.
        weights: names of its query, key and value weights, or of the one that holds all three.
        offset: tokens of an input of zeros, `[T, d]`, float64.
        patches: for each token the entries of the flattened variable that it depends on; none for a class token.
        maps: for each token `[d, entries]`, float64.
        places: for each token the trained parameter that is added to it, see `position_gradient`.
        evaluations: gradients that were simulated to find this.
    """

    layer: str
    weights: tuple[str, ...]
    offset: Tensor
    patches: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    places: tuple["Place", ...]
    evaluations: int = 1

    def position_gradient(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """The derivative of the loss by the tokens, `[T, d]`, in the update's precision."""
        return torch.stack([place.row_of(gradient[place.name]) for place in self.places])


@dataclass(frozen=True)
class Place:
    """Where a parameter holds what is added to one token.

    Attributes:
        name: of the parameter.
        transposed: whether it holds `[d, tokens]` instead of `[tokens, d]`.
        row: which token of it.
        rows: how many tokens it holds.
    """

    name: str
    transposed: bool
    row: int
    rows: int

    def row_of(self, tensor: Tensor) -> Tensor:
        """The entries `[d]` of a tensor of the parameter's shape."""
        return _token_rows(tensor, tensor.numel() // self.rows, self.transposed)[self.row]


def _token_rows(tensor: Tensor, width: int, transposed: bool) -> Tensor:
    return tensor.reshape(width, -1).T if transposed else tensor.reshape(-1, width)


def find_patch_tokens(observation: Observation) -> PatchTokens | str:
    """Find the attention whose tokens are patches plus a trained position embedding, and how they are made.

    Args:
        observation: what the attacker holds, in float64.

    Returns:
        The tokens, or in one sentence what the model has instead.
    """
    client = observation.client if isinstance(observation.client, Gradient) else Gradient(dropout="off")
    model = stopped_model(observation, client)
    receivers = attention_receivers(model)
    if not receivers:
        return "no attention whose query, key and value layers receive the same tokens"
    reasons: list[str] = []
    for receiver in receivers:
        found = _read(observation, model, receiver, client)
        if not isinstance(found, str):
            return found
        reasons.append(found)
    return reasons[0]


def _read(observation: Observation, model: StoppedModel, receiver: Receiver, client: Gradient) -> PatchTokens | str:
    """Read and check everything that the closed form relies on."""
    layer, trained = receiver.layer, observation.state.parameters
    frozen = [name for name in receiver.weights if name not in trained]
    if frozen:
        return f"the attention weights {', '.join(frozen)} are frozen, and their gradient is needed"
    first, second = model.random("first"), model.random("second")
    offset = model.tokens_at(layer, torch.zeros_like(first)).detach()
    with torch.no_grad():
        moved = model.tokens_at(layer, first) - offset
        bent = model.tokens_at(layer, first + second) - model.tokens_at(layer, second) - moved
    if not bool(moved.any()):
        return f"the tokens that enter {layer} do not depend on the input"
    bend = float(bent.norm() / moved.norm())
    if not bend < _EXACT:
        return (
            f"the tokens that enter {layer} depart from an affine function of the input by {bend:.1%}, as behind a "
            "LayerNorm before the attention"
        )
    places = _places(model, layer)
    missing = sum(place is None for place in places)
    if missing:
        return f"no position embedding is added to {missing} of the {len(places)} tokens that enter {layer}"
    added = tuple(place for place in places if place is not None)
    frozen = sorted({place.name for place in added} - set(trained))
    if frozen:
        return f"the position embedding {', '.join(frozen)} is not trained, and its gradient is needed"
    patches = _patches(model, layer)
    if isinstance(patches, str):
        return patches
    tokens = PatchTokens(layer, tuple(receiver.weights), offset, patches, _maps(model, layer, offset, patches), added)
    departure = _departure(observation, model, tokens, client)
    if not departure < _EXACT:
        return (
            f"the position embedding's gradient departs by {departure:.1%} from what {layer} sends back, as with a "
            "skip connection around the attention"
        )
    return tokens


def _places(model: StoppedModel, layer: str) -> list[Place | None]:
    """For each token, the parameter or buffer that is added to it; trained ones before frozen ones."""
    leaves = {name: value.detach().clone() for name, value in model.values.items() if value.is_floating_point()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    with torch.enable_grad():
        tokens = model.tokens_at(layer, model.random("places"), leaves)
    cotangent = _cotangent(tokens)
    pulled = torch.autograd.grad(tokens, list(leaves.values()), cotangent, materialize_grads=True)
    return places_of(cotangent, dict(zip(leaves, pulled, strict=True)))


def places_of(sent: Tensor, gradient: Mapping[str, Tensor]) -> list[Place | None]:
    """Find where something is added to tokens, and does nothing else: it gets back exactly what was sent to them.

    Args:
        sent: the derivative of any scalar by the tokens, `[T, d]`, float64.
        gradient: its derivative by parameters and buffers; of several that fit the first is taken.

    Returns:
        For each token the place of what is added to it, or None.
    """
    width = sent.shape[1]
    tolerance = _EXACT * sent.abs().amax(dim=1)
    places: list[Place | None] = [None] * len(sent)
    for name, back in gradient.items():
        if back.numel() % width:
            continue
        for transposed in (False, True):
            rows = _token_rows(back, width, transposed)
            for index, row in enumerate(sent):
                if places[index] is not None:
                    continue
                same = (rows - row).abs().amax(dim=1) <= tolerance[index]
                if bool(same.any()):
                    places[index] = Place(name, transposed, int(same.int().argmax()), len(rows))
    return places


def _cotangent(tokens: Tensor) -> Tensor:
    generator = stage_generator(0, "attack/april/cotangent")
    return torch.randn(tokens.shape, generator=generator, dtype=tokens.dtype).to(tokens.device)


def _patches(model: StoppedModel, layer: str) -> tuple[Tensor, ...] | str:
    """For each token the entries of the flattened variable that it depends on."""
    variable = model.random("patches").requires_grad_()
    with torch.enable_grad():
        tokens = model.tokens_at(layer, variable)
    cotangent = _cotangent(tokens)
    touched: list[Tensor] = []
    for index in range(len(tokens)):
        (back,) = torch.autograd.grad(tokens[index], variable, cotangent[index], retain_graph=True)
        touched.append(back.flatten().abs() > _EXACT * back.abs().max())
    shared = int((torch.stack(touched).sum(dim=0) > 1).sum())
    if shared:
        return f"{shared} of {variable.numel()} entries of the input reach several of the tokens that enter {layer}"
    return tuple(mask.nonzero()[:, 0] for mask in touched)


def _maps(model: StoppedModel, layer: str, offset: Tensor, patches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The weights from the entries of each patch to its token; one probe serves one entry of every patch."""
    columns: list[list[Tensor]] = [[] for _ in patches]
    for place in range(max(len(patch) for patch in patches)):
        reached = [index for index, patch in enumerate(patches) if place < len(patch)]
        probe = torch.zeros(model.task.space.variable_shape, dtype=offset.dtype, device=offset.device)
        probe.view(-1)[torch.stack([patches[index][place] for index in reached])] = 1.0
        with torch.no_grad():
            moved = model.tokens_at(layer, probe) - offset
        for index in reached:
            columns[index].append(moved[index])
    empty = offset.new_zeros((offset.shape[1], 0))
    return tuple(torch.stack(column, dim=1) if column else empty for column in columns)


def _departure(observation: Observation, model: StoppedModel, tokens: PatchTokens, client: Gradient) -> float:
    """How far `A^T z = sum W^T dL/dW` is from true for a probe whose tokens are known, relative to its terms."""
    task, probe = observation.task, model.random("departure")
    target = torch.eye(task.num_classes, dtype=task.dtype, device=task.device)[:1]
    gradient = client.bind(task, observation.state)(probe[None], target)
    with torch.no_grad():
        received = model.tokens_at(tokens.layer, probe)
    expected = tokens.position_gradient(gradient).T @ received
    sent = sum((model.values[name].T @ gradient[name] for name in tokens.weights), start=torch.zeros_like(expected))
    return float((expected - sent).norm() / torch.maximum(expected.norm(), sent.norm()))
