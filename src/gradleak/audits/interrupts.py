"""Ctrl-C and a polite kill end a run between two writes, never inside one."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Turns SIGINT and SIGTERM into `KeyboardInterrupt`, and holds it back where it would do harm."""

    def __init__(self) -> None:
        self._held = 0
        self._waiting = False

    @contextmanager
    def caught(self) -> Generator[None]:
        """Be responsible for both signals; outside the main thread Python lets nobody be, and nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Generator[None]:
        """Let the block end first.

        Raises:
            KeyboardInterrupt: at the end of the block, if a signal came inside it.
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._waiting and not self._held:
            self._waiting = False
            raise KeyboardInterrupt

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._waiting = True
