"""Several searches of one attack, one after the other, as one history."""

from collections.abc import Sequence

from gradleak.optim import Minimum
from gradleak.reconstructions import History


def joined_history(courses: Sequence[Minimum]) -> History:
    """The courses one after the other, each of a single restart.

    Args:
        courses: in order.

    Returns:
        Evaluations and seconds that count on, and the objective of each evaluation; no snapshots.
    """
    counts: list[int] = []
    seconds: list[float] = []
    values: list[float] = []
    for course in courses:
        before, offset = len(counts), seconds[-1] if seconds else 0.0
        counts += [before + number for number in range(1, course.evaluations + 1)]
        seconds += [offset + moment for moment in course.times]
        values += course.trace[:, 0].tolist()
    return History(tuple(counts), tuple(seconds), tuple(values), ())
