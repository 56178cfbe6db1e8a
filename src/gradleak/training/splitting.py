"""Who holds which training examples in a federation."""

import numpy as np
import torch
from torch import Tensor

from gradleak.seeds import stage_generator
from gradleak.training.spec import Federation


def split_among_clients(targets: Tensor, federation: Federation, seed: int) -> list[Tensor]:
    """Positions of the examples of each client; every example belongs to one client.

    With `dirichlet`, the examples of each class are divided in proportions drawn from Dir(alpha, ..., alpha) over the
    clients (Hsu, Qi, Brown, *Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification*, 2019, section 3). A client that this leaves without any gets one from whoever has most.

    Args:
        targets: class indices `[n]`, n at least the number of clients.
        federation: how to split.
        seed: decides the draw.

    Returns:
        One int64 tensor for each client, ascending, none empty.
    """
    count = federation.clients
    order = torch.randperm(len(targets), generator=stage_generator(seed, "federation/order"))
    if federation.split == "iid":
        return [part.sort().values for part in order.tensor_split(count)]
    # torch draws from no Dirichlet distribution with a generator of one's own.
    generator = np.random.default_rng(stage_generator(seed, "federation/shares").initial_seed())
    parts: list[list[int]] = [[] for _ in range(count)]
    for number in targets.unique().tolist():
        members = order[targets[order] == number].tolist()
        shares = generator.dirichlet(np.full(count, federation.alpha))
        ends = np.round(np.cumsum(shares) * len(members)).astype(int)
        for part, start, end in zip(parts, [0, *ends[:-1]], [*ends[:-1], len(members)], strict=True):
            part.extend(members[start:end])
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [torch.tensor(sorted(part)) for part in parts]
