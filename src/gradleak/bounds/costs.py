"""What a bound would cost, from one block of products."""

from collections.abc import Sequence

from torch import Tensor

from gradleak.bounds.cramer_rao import exact_cost
from gradleak.bounds.noise import noise_stage
from gradleak.bounds.unknowns import unknowns
from gradleak.captures import admitted
from gradleak.clients import Client
from gradleak.defenses import Defense
from gradleak.errors import refuse
from gradleak.tasks import Task


def exact_seconds(
    task: Task, inputs: Tensor, targets: Tensor, *, client: Client, defenses: Sequence[Defense], seed: int = 0
) -> float:
    """About how long the whole spectrum of a batch takes.

    Args:
        task: as for `leakage_bound`, and so are all others.
        inputs: likewise.
        targets: likewise; taken as known.
        client: likewise.
        defenses: likewise.
        seed: likewise.

    Returns:
        Seconds.

    Raises:
        BadInput: when batch, client or defenses do not fit, or the model cannot be differentiated.
    """
    changed, problems = admitted(task, inputs, targets, client, defenses)
    refuse(problems)
    stage = noise_stage(client, defenses, len(inputs))
    return exact_cost(unknowns(changed, inputs, targets, client, defenses, stage, targets_unknown=False, seed=seed))
