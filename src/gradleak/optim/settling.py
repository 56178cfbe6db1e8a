"""An optimizer that ends where nothing happens any more."""

from dataclasses import dataclass

from torch import Tensor

from gradleak.optim.minimize import Box, Optimizer, Proposals


@dataclass(frozen=True)
class Settling:
    """Another optimizer, until its lowest value falls too slowly.

    Args:
        optimizer: what proposes the points.
        window: evaluations over which the fall is measured.
        least: smallest fall over a window, summed over restarts, that is worth going on; in the function's units.
    """

    optimizer: Optimizer
    window: int = 40
    least: float = 0.0

    def propose(self, start: Tensor, box: Box | None = None) -> Proposals:
        """See `Optimizer.propose`."""
        proposals = self.optimizer.propose(start, box)
        points = next(proposals)
        lowest: Tensor | None = None
        before, count = float("inf"), 0
        while True:
            values, gradients = yield points
            lowest = values if lowest is None else values.minimum(lowest)
            count += 1
            if count % self.window == 0:
                now = float(lowest.sum())
                if before - now < self.least:
                    return
                before = now
            try:
                points = proposals.send((values, gradients))
            except StopIteration:
                return
