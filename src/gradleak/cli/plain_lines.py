"""How far something is, where standard error is no terminal: a plain line every few seconds, and every note."""

import time

from rich.text import Text

from gradleak.cli.console import SECONDS_BETWEEN_LINES, errors


class PlainLines:
    """Prints at most one line every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, note: str, line: str) -> None:
        """Print the note, if there is one, and the line, if it is time."""
        if note:
            errors.print(Text(note), soft_wrap=True)
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            errors.print(line, soft_wrap=True)
