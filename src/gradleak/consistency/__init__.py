"""Does an update come from this batch? Recompute it from the true batch, and if it differs, find out why.

This is the harness's side of the wall: it needs the private batch, and no attack may use it.
"""

from gradleak.consistency.check import Consistency, check_consistency
from gradleak.consistency.comparison import Cause

__all__ = ["Cause", "Consistency", "check_consistency"]
