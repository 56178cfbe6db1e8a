"""The command line: `gradleak COMMAND`. One file for each command, and one line here.

Exit codes: 0 fine, 1 a declared leak limit is exceeded, 2 bad usage or bad input, 3 incomplete.
"""

import sys

import typer

from gradleak.cli.attack import attack
from gradleak.cli.audit import audit
from gradleak.cli.bench import bench
from gradleak.cli.bound import bound
from gradleak.cli.bound_dp import bound_dp
from gradleak.cli.check import check
from gradleak.cli.compare import compare_folders
from gradleak.cli.demo import demo
from gradleak.cli.inspect import inspect_model
from gradleak.cli.learn import learn
from gradleak.cli.listing import listing
from gradleak.cli.report import report
from gradleak.cli.screen import screen_data
from gradleak.cli.train import train
from gradleak.errors import BadInput

app = typer.Typer(
    name="gradleak",
    help="How much of the training data can be rebuilt from the updates that clients share.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(audit)
app.command()(train)
app.command()(learn)
app.command()(attack)
app.command()(check)
app.command()(bound)
app.command("inspect")(inspect_model)
app.command("screen")(screen_data)
app.command("list")(listing)
app.command()(report)
app.command("compare")(compare_folders)
app.command()(bench)
app.command("bound-dp")(bound_dp)


def main() -> None:
    """Run the command line; bad input becomes one line for each problem and exit code 2."""
    try:
        app()
    except BadInput as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
