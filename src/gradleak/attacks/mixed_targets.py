"""Whether the targets of the client's step are the private ones."""

from gradleak.defenses import MixesTargets
from gradleak.threat import Observation

WHY_NOT = "a known defense mixes targets, and this attack expects those of single examples; batch_restoration does not"
"""Why an attack that recovers labels, or uses given ones, does not apply."""


def mixes_targets(observation: Observation) -> bool:
    """Whether a known defense makes soft targets of the private ones; one example leaves nothing to mix."""
    known = observation.defenses or ()
    return observation.batch_size != 1 and any(isinstance(one, MixesTargets) and one.mixes_targets for one in known)
