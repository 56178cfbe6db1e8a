"""Label counts in the order of how likely they are, given real-valued estimates and how far each may be off."""

import heapq

import torch
from torch import Tensor

# Estimates of classes that no input seems to belong to are off by a little all the same.
_SMALLEST_DEVIATION = 0.05
# Exchanges of one label that are tried from each multiset: so many classes to take from, and to give to.
_WIDTH = 12


def likely_counts(estimates: Tensor, deviations: Tensor, batch_size: int, most: int) -> Tensor:
    """The likeliest counts under independent normal errors of the estimates, best first.

    A multiset costs `sum_k (e_k - n_k)^2 / (2 s_k^2)`. The cheapest follows from any start by exchanges of one label,
    since the cost is convex and separable; the others are found from it, cheapest first, by further exchanges.

    Args:
        estimates: e, `[C]`.
        deviations: s, `[C]`; small ones are raised to 0.05.
        batch_size: sum of the counts, at least 1.
        most: how many multisets.

    Returns:
        `[M, C]`, int64, M at most `most`.

    >>> likely_counts(torch.tensor([1.4, 0.7, -0.1]), torch.tensor([0.2, 0.5, 0.1]), 2, 2).tolist()
    [[1, 1, 0], [2, 0, 0]]
    """
    values, sigma = estimates.double(), deviations.double().clamp(min=_SMALLEST_DEVIATION)

    def cost(counts: Tensor) -> Tensor:
        return ((values - counts).square() / (2 * sigma.square())).clamp(max=1e12)

    best = _cheapest(values, sigma, batch_size)
    heap = [(float(cost(best).sum()), tuple(best.tolist()))]
    seen, found = {heap[0][1]}, list[tuple[int, ...]]()
    while heap and len(found) < most:
        _, present = heapq.heappop(heap)
        found.append(present)
        counts = torch.tensor(present)
        fewer = torch.where(counts > 0, cost(counts - 1) - cost(counts), torch.inf)
        more = cost(counts + 1) - cost(counts)
        for taken in fewer.argsort()[:_WIDTH].tolist():
            for given in more.argsort()[:_WIDTH].tolist():
                if taken == given or counts[taken] == 0:
                    continue
                changed = counts.clone()
                changed[taken] -= 1
                changed[given] += 1
                key = tuple(changed.tolist())
                if key not in seen:
                    seen.add(key)
                    heapq.heappush(heap, (float(cost(changed).sum()), key))
    return torch.tensor(found)


def _cheapest(values: Tensor, sigma: Tensor, batch_size: int) -> Tensor:
    """The cheapest counts: one label after the other goes where it costs least, which is optimal for a convex cost."""
    counts = torch.zeros(len(values), dtype=torch.long)
    for _ in range(batch_size):
        increase = ((counts + 1 - values).square() - (counts - values).square()) / sigma.square()
        counts[int(increase.argmin())] += 1
    return counts
