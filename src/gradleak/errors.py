"""The one exception that bad input raises, with every problem found at the door."""

from collections.abc import Iterable


class BadInput(ValueError):
    """Something given to gradleak cannot be used; nothing was computed or written.

    Every problem found is listed, one line each, worded as *expected / got / what to do*. The command
    line prints these lines and exits with code 2.

    Attributes:
        problems: one sentence per problem, never empty.

    >>> raise BadInput(["batch size: expected at least 1, got 0; give one example or more"])
    Traceback (most recent call last):
    gradleak.errors.BadInput: batch size: expected at least 1, got 0; give one example or more
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def refuse(problems: Iterable[str]) -> None:
    """Raise `BadInput` if there is any problem, and return quietly if there is none.

    Raises:
        BadInput: when `problems` is not empty.
    """
    found = tuple(problems)
    if found:
        raise BadInput(found)


def missing_extra(package: str, extra: str, purpose: str) -> BadInput:
    """The error for an optional dependency that is not installed, naming the extra that brings it."""
    return BadInput(
        [f"{purpose}: expected the package {package!r}, which is not installed; run: pip install 'gradleak[{extra}]'"]
    )
