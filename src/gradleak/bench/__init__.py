"""Side by side: the package's attacks against plain transcriptions of the published loops, on the same captures.

The transcriptions are slow on purpose; tests hold the recipes to them, and `gradleak bench` runs them beside `auto`.
"""

from gradleak.bench.contest import NETS, Contest, Row, contestants, run_contest
from gradleak.bench.released_dlg import released_dlg_loop
from gradleak.bench.released_inverting_gradients import released_inverting_gradients_loop

__all__ = [
    "NETS",
    "Contest",
    "Row",
    "contestants",
    "released_dlg_loop",
    "released_inverting_gradients_loop",
    "run_contest",
]
