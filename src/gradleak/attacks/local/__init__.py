"""Attacks on the update of many local steps: one gradient in their place, or the steps simulated through."""

from gradleak.attacks.local.attack import SIMULATED_EXAMPLES, local_training
from gradleak.attacks.local.order_invariant import order_invariant
from gradleak.attacks.local.sme import sme

__all__ = ["SIMULATED_EXAMPLES", "local_training", "order_invariant", "sme"]
