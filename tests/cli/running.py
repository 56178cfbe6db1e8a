"""Run the command line in this process, with its real entry point."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from gradleak.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        """The lines of standard error that name a problem."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def run(*arguments: object) -> Done:
    out, err = io.StringIO(), io.StringIO()
    argv = ["gradleak", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", argv):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    return Done(code, out.getvalue(), err.getvalue())
