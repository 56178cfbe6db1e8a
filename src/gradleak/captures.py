"""The wall: the only place where the private batch and the attacker's observation are both in sight.

Attack code may not import this module; a test holds that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gradleak.clients import ChecksBatch, Client, DrawsOrder, Gradient
from gradleak.clients.divergence import divergence
from gradleak.clients.passes import statistics_problems
from gradleak.clients.settings import sent_state
from gradleak.defenses import Defense, PrivateStep
from gradleak.defenses.applying import changed_batch, changed_task, defended, defense_problems
from gradleak.errors import refuse
from gradleak.seeds import stage_generator
from gradleak.tasks import InputSpace, Task
from gradleak.threat import Observation, ThreatModel
from gradleak.tokens import IGNORED, TokenSpace
from gradleak.updates import Update, parted


@dataclass(frozen=True, eq=False)
class Truth:
    """The private batch, as the reference of the scorer.

    Attributes:
        inputs: `[N, ...]` in the input space's own units.
        targets: class indices `[N]` or probabilities `[N, C]`.
        space: the input space.
    """

    inputs: Tensor
    targets: Tensor
    space: InputSpace


def capture(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    *,
    client: Client | None = None,
    defenses: Sequence[Defense] = (),
    threat: ThreatModel | None = None,
    seed: int = 0,
) -> tuple[Observation, Truth]:
    """Let a client make its update from a private batch, and part what the attacker sees from the truth.

    Args:
        task: the public task.
        inputs: private inputs `[N, ...]` in the input space's own units (images in [0, 1]).
        targets: class indices `[N]`, or probabilities `[N, C]`; ids `[N, T]` where every token is classified.
        client: how the update is made; `clients.Gradient()` if not given.
        defenses: applied to the update in order.
        threat: which facts the attacker gets; labels are withheld by default.
        seed: seed of the client's and the defenses' private randomness.

    Returns:
        The observation, which holds nothing of the batch but the update and the allowed facts, and the truth.

    Raises:
        BadInput: when batch, client or defenses do not fit; every problem is listed. Also when the client's own
            computation overflows, since it has no update to send then.
    """
    client = client if client is not None else Gradient()
    threat = threat if threat is not None else ThreatModel()
    task, problems = admitted(task, inputs, targets, client, defenses)
    refuse(problems or _own_text(task, inputs, targets, threat))

    # The order of local batches is drawn first, so that it can be given to an attacker who is allowed to know it.
    acting = in_drawn_order(client, len(inputs), seed)
    state = sent_state(client, task.state())
    step = acting.bind(task, state, stage_generator(seed, "client"))
    variable, probabilities = changed_batch(
        defenses, task.encode(inputs), task.target_probabilities(targets), task.space, seed
    )
    tensors, buffers = parted(step(variable, probabilities), state.parameters)
    refuse(divergence(acting, task, variable, probabilities, {**tensors, **buffers}))
    private = PrivateStep(task, state, variable, probabilities)
    undefended, tensors = tensors, defended(defenses, tensors, client.kind, step=private, seed=seed)
    refuse(_emptied(undefended, tensors))
    update = Update(
        {name: tensor.detach().clone() for name, tensor in tensors.items()},
        client.kind,
        {name: buffer.detach().clone() for name, buffer in buffers.items()},
    )
    observation = Observation(
        task,
        state,
        update,
        threat,
        client=(acting if threat.order_known else client) if threat.client_known else None,
        defenses=tuple(defenses) if threat.defense_known else None,
        batch_size=len(inputs) if threat.batch_size_known else None,
        targets=targets.detach().clone() if threat.labels_known else None,
        lengths=task.space.lengths(inputs) if threat.lengths_known and isinstance(task.space, TokenSpace) else None,
    )
    return observation, Truth(inputs.detach().clone(), targets.detach().clone(), task.space)


def admitted(
    task: Task, inputs: Tensor, targets: Tensor, client: Client, defenses: Sequence[Defense]
) -> tuple[Task, list[str]]:
    """The door: whether this client can make an update of this batch under these defenses.

    Args:
        task: the public task.
        inputs: private inputs `[N, ...]` in the input space's own units.
        targets: class indices `[N]`, or probabilities `[N, C]`.
        client: how the update is made.
        defenses: in order.

    Returns:
        The task with every defense that is a part of the model built in, and everything that is wrong, one line each.
    """
    problems = defense_problems(defenses, task)
    if not problems:
        task = changed_task(defenses, task)
    problems += task.space.problems(inputs) + task.target_problems(targets, len(inputs)) + client.problems(task)
    if not problems and isinstance(client, ChecksBatch):
        problems += client.batch_problems(len(inputs))
    if not problems:
        problems += statistics_problems(client, task, len(inputs))
    return task, problems


def in_drawn_order(client: Client, count: int, seed: int) -> Client:
    """The client with the order in which it goes through `count` examples under a seed, if it has one."""
    if not isinstance(client, DrawsOrder):
        return client
    return client.with_order(count, stage_generator(seed, "client/order"))


def _own_text(task: Task, inputs: Tensor, targets: Tensor, threat: ThreatModel) -> list[str]:
    """Labels that are the private text itself: at their own places, where nothing is left to learn, or given away."""
    if task.classified != "token" or inputs.shape[1] < 2:
        return []
    named = targets != IGNORED
    if bool((targets == inputs)[named].all()):
        return [
            "targets: expected what every position is to predict, got the inputs themselves; some libraries shift "
            "labels inside the model, here give gradleak.next_tokens(inputs)"
        ]
    if not threat.labels_known:
        return []
    kept = targets[:, :-1] != IGNORED
    if not bool(kept.any()) or not bool((targets[:, :-1] == inputs[:, 1:])[kept].all()):
        return []
    return [
        "threat.labels_known: expected labels that are not the text, got targets that are the next tokens; withhold "
        "the labels of a causal language model"
    ]


def _emptied(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Whether defenses left nothing of an update that said something."""
    if any(bool(tensor.any()) for tensor in after.values()) or not any(
        bool(tensor.any()) for tensor in before.values()
    ):
        return []
    return ["defenses: expected an update with an entry other than zero, got none left by them; keep more of it"]
