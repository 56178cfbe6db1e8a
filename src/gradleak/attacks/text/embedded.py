"""Texts as an attacker sees them who searches embeddings: one vector a position, in place of the embedding's output.

The published attacks on text (DLG, TAG, LAMP) search these vectors until the gradients of all other layers fit, and
then take the nearest token at each position. With such a space every search for images works on texts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradleak.attacks.text.frames import Frame, frame_of
from gradleak.clients import Gradient
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ModelState
from gradleak.threat import Observation
from gradleak.tokens import IGNORED, NO_TOKEN, TokenSpace

BERT_RMS = 1.4 / math.sqrt(768)
"""Root mean square of the entries of BERT's token embeddings, for which the constants of TAG and LAMP were found."""

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class EmbeddedTokens:
    """Sequences whose variable is the embedding's output `[T, d]` over `unit`; an `InputSpace`.

    Args:
        token_space: what the sequences are.
        rows: the embedding's weight `[vocabulary, d]`.
        frame: what is taken as known of every text.
        allowed: which tokens a position may decode to, bool `[vocabulary]`; None for all.
        unit: of the variable, in the model's own.
    """

    token_space: TokenSpace
    rows: Tensor
    frame: Frame
    allowed: Tensor | None = None
    unit: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """One sequence."""
        return self.token_space.shape

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """One vector a position."""
        return (self.token_space.length, self.rows.shape[1])

    @property
    def bounds(self) -> None:
        """Embeddings have none."""
        return None

    @property
    def mean_norm(self) -> float:
        """Of the embedding's rows, in the variable's unit."""
        return float(torch.linalg.vector_norm(self.rows.double(), dim=1).mean()) / self.unit

    def problems(self, inputs: Tensor) -> list[str]:
        """Those of the token space."""
        return self.token_space.problems(inputs)

    def encode(self, inputs: Tensor) -> Tensor:
        """The rows of the tokens, `[N, T, d]`."""
        return self.rows[inputs.long()] / self.unit

    def decode(self, variable: Tensor) -> Tensor:
        """The token whose row points most in the direction of each vector, int64 `[N, T]`; what is known stays."""
        known = self.frame.first(len(variable)).to(variable.device)
        return torch.where(known == NO_TOKEN, self.nearest(variable), known)

    def nearest(self, variable: Tensor) -> Tensor:
        """Greatest cosine similarity among the allowed rows, whatever is known; int64 like `variable[..., 0]`."""
        # Every row is divided by its norm, not by its square: else short rows would win.
        rows = nn.functional.normalize(self.rows.to(variable.device, variable.dtype), dim=1)
        allowed = None if self.allowed is None else self.allowed.to(variable.device)
        found: list[Tensor] = []
        for part in variable.detach().reshape(-1, rows.shape[1]).split(_CHUNK):
            similarity = part @ rows.T
            found.append((similarity if allowed is None else similarity.masked_fill(~allowed, -torch.inf)).argmax(1))
        return torch.cat(found).view(variable.shape[:-1])

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The module's outputs at embeddings `[N, T, d]`; those of known positions are put in."""
        known = self.frame.first(len(variable)).to(variable.device)
        free = (known == NO_TOKEN)[..., None]

        def embedded(rows: Tensor) -> Tensor:
            return torch.where(free, self.unit * variable, rows.detach()[known.clamp(min=0)].to(variable.dtype))

        # Any word will do where the token is unknown: the model takes only padding from it.
        word = next(token for token in range(2) if token != self.token_space.padding)
        return self.token_space.outputs(module, state, torch.where(known == NO_TOKEN, word, known), embedded)

    def next_tokens(self, variable: Tensor, temperature: float = 0.1) -> Tensor:
        """Target probabilities `[N, T, vocabulary]` of a causal model: soft guesses of the following token.

        Args:
            variable: `[N, T, d]`.
            temperature: of the softmax over cosine similarities with the rows.

        Returns:
            Rows of zeros at the last token and at padding.
        """
        known = self.frame.first(len(variable)).to(variable.device)
        following = known[:, 1:]
        rows = nn.functional.normalize(self.rows.to(variable.device, variable.dtype), dim=1)
        # A vector of zeros has no direction, and no gradient of its norm.
        similarity = nn.functional.normalize(variable[:, 1:], dim=-1, eps=1e-6) @ rows.T
        soft = torch.softmax(similarity / temperature, dim=-1)
        hard = nn.functional.one_hot(following.clamp(min=0), len(rows)).to(soft.dtype)
        targets = torch.where((following == NO_TOKEN)[..., None], soft, hard)
        if self.token_space.padding is not None:
            targets = targets * (following != self.token_space.padding)[..., None].to(soft.dtype)
        return torch.cat([targets, torch.zeros_like(targets[:, :1])], dim=1)

    @property
    def target_gate(self) -> Callable[[Tensor], Tensor] | None:
        """Where a masked language model has its targets: at the positions that hold the mask's token."""
        return None if self.token_space.mask is None else self._masked

    def _masked(self, variable: Tensor) -> Tensor:
        """How probable it is that each position is masked `[N, T]`, by its cosine similarity with the mask's row."""
        mask = self.token_space.mask
        known = self.frame.first(len(variable)).to(variable.device)
        row = nn.functional.normalize(self.rows[mask].to(variable.device, variable.dtype), dim=0)
        similarity = nn.functional.normalize(variable, dim=-1, eps=1e-6) @ row
        # Far from saturation at the start, where all similarities are near 0: only ratios between positions count.
        return torch.where(known == NO_TOKEN, torch.sigmoid(8 * (similarity - 0.5)), (known == mask).to(row.dtype))


@dataclass(frozen=True, eq=False)
class Embedded:
    """An observation in embeddings.

    Attributes:
        observation: without the embedding's own gradient; a search for any inputs can work on it.
        original: the one that was given.
        assumption: what the attack took as known of the texts' ends, one clause for people.
    """

    observation: Observation
    original: Observation
    assumption: str

    @property
    def space(self) -> EmbeddedTokens:
        """The space of the observation."""
        space = self.observation.task.space
        assert isinstance(space, EmbeddedTokens)
        return space

    def in_tokens(self, found: Reconstruction, name: str) -> Reconstruction:
        """A search's result as one of the original observation: its variable is the tokens' own.

        Args:
            found: in embeddings; objective and target probabilities stay those of the search.
            name: of the attack.

        Returns:
            The same texts.
        """
        task, given = self.original.task, self.original.targets
        if found.status == "not_applicable":
            variable = torch.full((1,), torch.nan).expand(len(found.inputs), *task.space.variable_shape)
            return replace(found, variable=variable, attack=name)
        return replace(
            found,
            variable=task.encode(found.inputs),
            targets=hard_targets(found.target_probabilities) if given is None or given.is_floating_point() else given,
            attack=name,
            message=f"{found.message}; {self.assumption}",
        )


def hard_targets(probabilities: Tensor) -> Tensor:
    """The most probable classes; `IGNORED` where the probabilities hardly sum to anything."""
    return torch.where(probabilities.sum(dim=-1) < 0.5, IGNORED, probabilities.argmax(dim=-1))


def in_embeddings(
    observation: Observation,
    *,
    begin: int | None = None,
    end: int | None = None,
    touched_only: bool = False,
    rms: float | None = None,
) -> Embedded | str:
    """Let an attacker search embeddings: swap the space, and leave the embedding's own gradient out.

    That gradient belongs to a lookup, which embeddings that are no rows do not make. Where the embedding is tied to
    the output layer, that layer's share goes with it. Local steps are simulated with an embedding that stays.

    Args:
        observation: what the attacker holds; it is not changed.
        begin: id with which every text begins, if the attacker knows one.
        end: id with which every text ends, if the attacker knows one.
        touched_only: decode only to tokens whose row of the embedding's gradient is not zero, where there are zeros.
        rms: the variable's unit is such that the entries of the embedding's rows have this root mean square, so that
            starts and learning rates mean the same for every model; None for the model's own unit.

    Returns:
        The observation in embeddings, or why there is none.
    """
    task, state, update = observation.task, observation.state, observation.update
    space = task.space
    if not isinstance(space, TokenSpace):
        return "the attack searches the embeddings of tokens, and the inputs are none"
    if observation.batch_size is None:
        return "the batch size is withheld, and this attack needs it"
    name = f"{space.embedding_of(task.model)[0]}.weight".lstrip(".")
    rows = {**state.constants, **state.parameters}[name]
    frame, assumption = frame_of(observation, space, begin, end)
    if not frame.alike and not _whole(observation):
        return "the client passes its examples in parts, and which part has which length is not known"
    allowed = None
    if touched_only and name in update.tensors:
        touched = (update.tensors[name] != 0).any(dim=1)
        allowed = touched if bool(touched.any()) else None
    tensors = {key: tensor for key, tensor in update.tensors.items() if key != name}
    if not any(bool(tensor.any()) for tensor in tensors.values()):
        return "no evidence: every entry of the update beside the embedding's is zero"
    size = float(rows.detach().double().square().mean().sqrt())
    unit = size / rms if rms is not None and size > 0 else 1.0
    embedded = replace(
        observation,
        task=replace(task, space=EmbeddedTokens(space, rows.detach(), frame, allowed, unit)),
        state=ModelState(
            {key: value for key, value in state.parameters.items() if key != name}, {**state.constants, name: rows}
        ),
        update=replace(update, tensors=tensors),
    )
    return Embedded(embedded, observation, assumption)


def _whole(observation: Observation) -> bool:
    """Whether the client passes its batch at once and in order."""
    client = observation.client
    return client is None or (isinstance(client, Gradient) and client.micro_batch is None)
