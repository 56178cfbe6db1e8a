"""What the attacker holds: the threat model, and the observation that it allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gradleak.clients import Client, Gradient, Simulate
from gradleak.defenses import Defense
from gradleak.defenses.applying import Response, response
from gradleak.tasks import ModelState, Task
from gradleak.updates import Update, parted


@dataclass(frozen=True)
class ThreatModel:
    """Which facts the attacker holds besides the public task and the update.

    Args:
        labels_known: the targets of the private batch.
        batch_size_known: the number of examples.
        client_known: the client's settings (mode, learning rate, steps, ...).
        defense_known: the defenses and their settings, but never their random draws.
        order_known: the random order in which a client with local steps went through its examples; only together with
            the client's settings.
        lengths_known: how many tokens each text has before its padding; nothing to images.
    """

    labels_known: bool = False
    batch_size_known: bool = True
    client_known: bool = True
    defense_known: bool = True
    order_known: bool = False
    lengths_known: bool = False

    def describe(self) -> str:
        """One line for tables.

        Returns:
            What is given, and what is withheld.

        >>> ThreatModel().describe()
        'given: batch size, client, defense; withheld: labels'
        """
        facts = {
            "labels": self.labels_known,
            "batch size": self.batch_size_known,
            "client": self.client_known,
            "defense": self.defense_known,
            # Most clients have no order, so only its gift is worth a word.
            **({"batch order": True} if self.order_known else {}),
            **({"lengths": True} if self.lengths_known else {}),
        }
        given = ", ".join(fact for fact, known in facts.items() if known) or "nothing"
        withheld = ", ".join(fact for fact, known in facts.items() if not known) or "nothing"
        return f"given: {given}; withheld: {withheld}"


@dataclass(frozen=True, eq=False)
class Observation:
    """Everything that an attack receives: public task, parameters, update, and the facts that the threat allows.

    Attributes:
        task: the public task.
        state: the model's values before the client's step.
        update: what the client shared.
        threat: which of the following facts are given.
        client: how the update was made, or None if withheld.
        defenses: what was done to the update on purpose, or None if withheld.
        batch_size: number of private examples N, or None if withheld.
        targets: class indices `[N]` or probabilities `[N, C]`, or None if withheld; ids `[N, T]` where every token is
            classified.
        lengths: tokens of each text before its padding `[N]`, or None if withheld.
    """

    task: Task
    state: ModelState
    update: Update
    threat: ThreatModel = field(default_factory=ThreatModel)
    client: Client | None = None
    defenses: tuple[Defense, ...] | None = None
    batch_size: int | None = None
    targets: Tensor | None = None
    lengths: Tensor | None = None


def simulator(observation: Observation) -> Simulate:
    """The client's step as this attacker can simulate it: known client, known defenses, no private randomness.

    When the client is withheld, a gradient in evaluation mode without dropout stands in for it; unknown defenses
    are left out. Known ones are taken into account by what was sent, see `defenses.applying.response`: the simulated
    update equals the observed one wherever the candidate is consistent with it.

    Args:
        observation: what the attacker holds.

    Returns:
        A pure function of variable and target probabilities, see `Client.bind`; buffers that the client sends come
        after the update's tensors.
    """
    client = observation.client if observation.client is not None else Gradient(dropout="off")
    step = client.bind(observation.task, observation.state)
    if not observation.defenses:
        return step
    respond = responder(observation)

    def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
        return respond(step(variable, target_probabilities))

    return simulate


def responder(observation: Observation) -> Response:
    """What the undefended update of a candidate is taken to become, by the defenses that this attacker knows.

    Args:
        observation: what the attacker holds.

    Returns:
        See `defenses.response`; buffers pass through.
    """
    respond = response(observation.defenses or (), observation.update.tensors, observation.update.kind)

    def separately(sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors, buffers = parted(sent, observation.state.parameters)
        return {**respond(tensors), **buffers}

    return separately
