"""Where noise enters a defended update, and how much information about an entry it leaves at most.

A location parameter observed under noise of Fisher information i per entry is known to no better than a variance of
`1 / i` by any unbiased estimator: `q = std^2` for normal noise, `q = scale^2` for Laplace noise. Of independent noises
that add up, `1 / i` of the sum is at least the sum of theirs (Stam 1959), with equality for normal ones, so adding q up
never understates what is left.

Processing cannot raise information. Whatever follows the noise may be left out, and what precedes it is differentiated
through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradleak.clients import DPSGD, Aggregate, Client
from gradleak.defenses import QSGD, AddsNoise, Defense, DropLayers, Quantize, RandomK, Sign

Placed = tuple[int, Defense]
"""A defense with its position in the list given, which decides its random stream."""


@dataclass(frozen=True)
class NoiseStage:
    """The part of a defended client that a bound is about: everything up to some noise, and that noise.

    Attributes:
        before: defenses between the client's step and the noise.
        inverse_information: q of the noise on one entry, in the square of the update's units; 0 for none.
        masks: defenses after the noise that withhold entries chosen without a look at them.
        assumptions: what was taken for granted, a sentence each.
    """

    before: tuple[Placed, ...]
    inverse_information: float
    masks: tuple[Placed, ...]
    assumptions: tuple[str, ...]

    @property
    def rounds(self) -> bool:
        """Whether something before the noise rounds entries."""
        return any(isinstance(defense, Quantize | QSGD) for _, defense in self.before)


def noise_stage(client: Client, defenses: Sequence[Defense], count: int) -> NoiseStage:
    """The stage of the strongest noise; all defenses if there is none.

    Args:
        client: how the update is made.
        defenses: in order.
        count: private examples.

    Returns:
        Noises that follow each other directly count together. Weaker noises before the strongest are taken as known to
        the attacker, and those after it are left out, both of which can only raise the ceiling.
    """
    placed = list(enumerate(defenses))
    said: list[str] = []
    for position, defense in placed:
        if isinstance(defense, Sign):
            said.append(
                "Signs have no derivative but zero, so the figures are those of the update before the signs were "
                "taken; one bit of each entry says less."
            )
            placed = placed[:position]
            break
    # Runs of noise: the number of defenses before, that after, and q.
    of_client = client_inverse_information(client, count)
    runs: list[tuple[int, int, float]] = [(0, 0, of_client)] if of_client else []
    for position, defense in placed:
        own = _of_defense(defense)
        if not own:
            continue
        if runs and runs[-1][1] == position:
            runs[-1] = (runs[-1][0], position + 1, runs[-1][2] + own)
        else:
            runs.append((position, position + 1, own))
    if not runs:
        return NoiseStage(tuple(placed), 0.0, (), tuple(said))
    first, after, information = max(runs, key=lambda run: run[2])
    if len(runs) > 1:
        said.append(
            "Of several noises with other defenses between them, only the strongest counts: those before it are "
            "granted to the attacker, and those after it are left out."
        )
    masks = tuple(pair for pair in placed[after:] if isinstance(pair[1], DropLayers | RandomK))
    rest = [type(defense).__name__ for _, defense in placed[after:] if not isinstance(defense, DropLayers | RandomK)]
    if rest:
        said.append(f"What follows the noise ({', '.join(rest)}) cannot add information, and is left out.")
    return NoiseStage(tuple(placed[:first]), information, masks, tuple(said))


def client_inverse_information(client: Client, count: int) -> float:
    """The inverse information of the noise that the client itself adds to an entry of its update.

    DP-SGD adds `N(0, (sigma C)^2)` to a sum that is divided by B; of an aggregate's clients every noise is multiplied
    by the client's share.

    Args:
        client: how the update is made.
        count: private examples.

    Returns:
        Q, in the square of the update's units; 0 for none.
    """
    if isinstance(client, DPSGD):
        return (client.noise_multiplier * client.clip / (client.expected_batch_size or count)) ** 2
    if isinstance(client, Aggregate):
        members = zip(client.members, client.parts(count), client.shares(count), strict=True)
        return sum(share**2 * client_inverse_information(member, len(part)) for member, part, share in members)
    return 0.0


def _of_defense(defense: Defense) -> float:
    if not isinstance(defense, AddsNoise):
        return 0.0
    # A Laplace law of scale b has the standard deviation b sqrt(2) and Fisher information 1 / b^2.
    return defense.noise_std**2 / (2 if defense.noise_law == "laplace" else 1)
