"""What an update says of the tokens without any search: which, how many, and how long the texts are."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.disturbance import undisturbed
from gradleak.attacks.labels import NoBatchSize, recover_batch_size
from gradleak.attacks.one_gradient import as_gradient
from gradleak.attacks.text.embedding_rows import Rows, shown_by_rows
from gradleak.attacks.text.gradient_noise import added_noise
from gradleak.attacks.text.layer_inputs import Structure, layer_inputs, structure_of
from gradleak.attacks.text.output_layer import OutputLayer, find_output_layer
from gradleak.errors import BadInput
from gradleak.linalg import singular_values_above_rounding
from gradleak.threat import Observation
from gradleak.tokens import TokenSpace

# Estimated counts are this close to whole numbers.
_WHOLE = 0.1
_DUMMIES = 8
_LEAST_NEGATIVE = 1e-3
_ROUGH = 1e-2


@dataclass(frozen=True, eq=False)
class TokenEvidence:
    """What an update says of the tokens.

    Attributes:
        tokens: ids that trained the embedding, in rising order, or None if it says nothing.
        probability: that each of them is in the batch; NaN where that cannot be told.
        tokens_certain: whether it is exactly these. Of a causal model the last token of a text does not train it.
        targets: ids that had to be predicted, where every token is classified, or None.
        target_counts: how often each, or None if the counts do not fit whole numbers.
        targets_certain: whether each of the targets is certainly one; others may be missing that were predicted well.
        longest: positions of the longest text, or None.
        total_tokens: tokens of the batch that differ in id or position, at least, or None.
        batch_size: number of texts, or None.
        notes: how each was found, or why it was not.
    """

    tokens: Tensor | None
    probability: Tensor | None
    tokens_certain: bool
    targets: Tensor | None
    target_counts: Tensor | None
    targets_certain: bool
    longest: int | None
    total_tokens: int | None
    batch_size: int | None
    notes: tuple[str, ...]

    @property
    def bag(self) -> Tensor:
        """All ids that are known to occur as inputs or targets, in rising order; empty if there are none."""
        known = [ids for ids in (self.tokens, self.targets) if ids is not None]
        return torch.cat(known).unique() if known else torch.empty(0, dtype=torch.long)


def token_evidence(observation: Observation) -> TokenEvidence:
    """Read the tokens from rows of the embedding, the last layer, the positions, and the rank of linear layers.

    Parts are found by what they do, so frozen, tied, adapted and renamed models are covered; a part that says nothing
    is left out with its reason.

    Args:
        observation: what the attacker holds; it is not changed.

    Returns:
        The evidence.

    Raises:
        BadInput: when the inputs are no tokens.
    """
    task = observation.task
    if not isinstance(task.space, TokenSpace):
        name = type(task.space).__name__
        raise BadInput([f"observation: expected a task with a TokenSpace, got {name}; only tokens have such evidence"])
    single = as_gradient(observation)
    one_step = not isinstance(single, str)
    read = single if isinstance(single, Observation) else observation
    exact = one_step and undisturbed(observation)
    gradient = read.update.in_gradient_direction()
    name, embedding = task.space.embedding_of(task.model)
    layer = find_output_layer(task, observation.state, embedding)
    structure = structure_of(layer_inputs(observation))
    notes: list[str] = []
    rows = _input_rows(read, gradient, f"{name}.weight".lstrip("."), layer, exact, notes)
    targets, counts, certain = _targets(read, gradient, layer, exact, rows, notes)
    longest = _longest(read, gradient, embedding, structure, notes)
    total = _total(read, structure, notes)
    size = recover_batch_size(observation)
    if isinstance(size, NoBatchSize):
        notes.append(f"batch size: {size.reason}")
    return TokenEvidence(
        None if rows is None else rows.tokens,
        None if rows is None else rows.probability,
        rows is not None and rows.certain,
        targets,
        counts,
        certain,
        longest,
        total,
        None if isinstance(size, NoBatchSize) or not size.certain else size.size,
        tuple(notes),
    )


def _input_rows(
    observation: Observation,
    gradient: dict[str, Tensor],
    name: str,
    layer: OutputLayer | None,
    exact: bool,
    notes: list[str],
) -> Rows | None:
    """Tokens by the embedding's rows, without padding."""
    space = observation.task.space
    assert isinstance(space, TokenSpace)
    names = _first_names(observation.task.model)
    weight = observation.state.parameters.get(names.get(name, name))
    sent = gradient.get(names.get(name, name))
    if sent is None or weight is None:
        notes.append(f"tokens: nothing, {name} is frozen or was not sent")
        return None
    tied = layer is not None and layer.tied
    noise = added_noise(observation) if observation.defenses is not None else None
    # Decay of a single known step is taken off already, and leaves rounding in every row.
    coarse = observation.update.coarseness > torch.finfo(sent.dtype).eps or observation.update.kind == "delta"
    found = shown_by_rows(sent, weight, tied=tied, exact=exact and not coarse, noise=noise or None, coarse=coarse)
    if found is None:
        notes.append(f"tokens: nothing, no row of {name} is told from the others")
        return None
    kept = torch.ones_like(found.tokens, dtype=torch.bool) if space.padding is None else found.tokens != space.padding
    notes.append(f"tokens: {int(kept.sum())} by {found.how}")
    return Rows(found.tokens[kept], found.probability[kept], found.certain, found.how)


def _targets(
    observation: Observation,
    gradient: dict[str, Tensor],
    layer: OutputLayer | None,
    exact: bool,
    inputs: Rows | None,
    notes: list[str],
) -> tuple[Tensor | None, Tensor | None, bool]:
    """Predicted tokens and their counts by the last layer's bias, or by the rows of its weight."""
    task = observation.task
    if task.classified != "token":
        notes.append("targets: the model predicts no tokens")
        return None, None, False
    if layer is None:
        notes.append("targets: nothing, the outputs do not come straight from a linear layer")
        return None, None, False
    expected = _mean_softmax(observation)
    if layer.bias is not None and layer.bias in gradient:
        signal, where, certain = gradient[layer.bias].double().cpu(), layer.bias, exact
    elif layer.weight in gradient and (not layer.tied or (inputs is not None and exact)):
        signal, where, certain = _bias_like(gradient[layer.weight].double().cpu(), expected), layer.weight, False
        if layer.tied and inputs is not None:
            # These rows hold the gradient of the way in as well.
            signal[inputs.tokens] = 0
            where = f"{where}, tokens of the input left out"
    else:
        notes.append("targets: nothing, the last layer has no bias, and its weight says nothing or was not sent")
        return None, None, False
    least = -_LEAST_NEGATIVE * float(signal.clamp(max=0).abs().max())
    noise = 0.0 if exact else 4 * float(1.4826 * (signal - signal.median()).abs().median())
    negative = (signal < min(least, float(signal.median()) - noise) if noise else signal < least).nonzero()[:, 0]
    if not len(negative):
        notes.append(f"targets: nothing, no entry of {where} is negative enough")
        return None, None, False
    counts = _counts((expected - signal)[negative], task.space.shape[0] * (observation.batch_size or 64))
    notes.append(
        f"targets: {len(negative)} negative entries of {where}"
        + ("" if counts is None else f", {int(counts.sum())} positions by whole counts")
    )
    return negative, counts, certain


def _mean_softmax(observation: Observation) -> Tensor:
    """The model's mean probability of every token at made-up texts, `[C]`."""
    space = observation.task.space
    assert isinstance(space, TokenSpace)
    words = torch.tensor([token for token in range(space.vocabulary) if token != space.padding])
    places = torch.arange(_DUMMIES * space.length).view(_DUMMIES, space.length)
    logits = layer_inputs(observation).run(words[(places * 37 + 11) % len(words)])
    assert logits is not None
    return torch.softmax(logits.double(), dim=-1).flatten(0, -2).mean(dim=0).cpu()


def _bias_like(weight_gradient: Tensor, expected: Tensor) -> Tensor:
    """What a bias's gradient would be: a combination of the columns that is the mean softmax in most rows."""
    bulk = weight_gradient.norm(dim=1).argsort()[: len(expected) // 2]
    scale = weight_gradient[bulk].norm()
    gram = weight_gradient[bulk].T @ weight_gradient[bulk] / scale**2
    # The batch's own mean softmax is only roughly that of made-up texts.
    gram.diagonal().add_(_ROUGH)
    direction = torch.linalg.solve(gram, weight_gradient[bulk].T @ expected[bulk] / scale**2)
    return weight_gradient @ direction


def _counts(shares: Tensor, most: int) -> Tensor | None:
    """Whole numbers in proportion to shares that sum to one, for the fewest positions that fit."""
    for positions in range(len(shares), most + 1):
        counts = positions * shares
        if float((counts - counts.round()).abs().max()) < _WHOLE and int(counts.round().sum()) == positions:
            return counts.round().long()
    return None


def _longest(
    observation: Observation,
    gradient: dict[str, Tensor],
    embedding: nn.Embedding,
    structure: Structure,
    notes: list[str],
) -> int | None:
    """Positions of the longest text, by the rows of a learned position embedding that are not zero."""
    task = observation.task
    length = task.space.shape[0]
    tables: dict[str, Tensor] = {}
    names = _first_names(task.model)
    for name, module in task.model.named_modules():
        table = f"{name}.weight".lstrip(".")
        if isinstance(module, nn.Embedding) and module is not embedding and module.num_embeddings >= length:
            tables[table] = gradient.get(names.get(table, table), torch.empty(0))
    linear = {id(one.weight) for one in task.model.modules() if isinstance(one, nn.Linear | nn.Embedding)}
    for name, parameter in task.model.named_parameters():
        shape = [side for side in parameter.shape if side > 1]
        fits = len(shape) == 2 and length <= shape[0] and shape[1] == embedding.embedding_dim
        if fits and id(parameter) not in linear and parameter.dim() <= 3 and "pos" in name.lower():
            tables[name] = gradient.get(name, torch.empty(0)).reshape(-1, shape[1])
    for name, table in tables.items():
        used = table.abs().amax(dim=1).nonzero()[:, 0] if table.numel() else table
        if len(used) == 0:
            continue
        if len(used) > length:
            notes.append(f"longest: nothing, every row of {name} differs from zero")
            return None
        rows = int(used.max() - used.min()) + 1
        if structure.causal and task.classified == "token" and rows < length:
            notes.append(f"longest: {rows} rows of {name}, and a last token, which predicts nothing")
            return rows + 1
        notes.append(f"longest: {rows} rows of {name} that are not zero")
        return rows
    notes.append("longest: nothing, no learned position embedding was sent")
    return None


def _total(observation: Observation, structure: Structure, notes: list[str]) -> int | None:
    """Tokens of the batch by the largest rank of a linear layer that receives each of them."""
    update = observation.update.tensors
    sent = [module for module in structure.modules if module.weight in update and bool(update[module.weight].any())]
    if not sent or added_noise(observation) > 0 or observation.defenses is None:
        notes.append(
            "total: nothing, " + ("noise may fill every rank" if sent else "no linear layer on tokens was sent")
        )
        return None
    ranks = {module.weight: singular_values_above_rounding(update[module.weight]) for module in sent}
    best = max(ranks, key=lambda weight: ranks[weight])
    full = ranks[best] == min(update[best].shape)
    notes.append(f"total: at least {ranks[best]} tokens by the rank of {best}" + (", which is full" if full else ""))
    return ranks[best]


def _first_names(model: nn.Module) -> dict[str, str]:
    """From every name of a parameter to the one under which it is sent."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
