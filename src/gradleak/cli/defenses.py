"""From the words on the command line to defenses."""

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from gradleak.audits.by_name.defenses import defense_named
from gradleak.audits.faults import BadSettings
from gradleak.audits.positions import read_yaml
from gradleak.defenses import Defense
from gradleak.errors import BadInput, refuse

NO_DEFENSE = "none"
"""The word for an update of which it is known that nothing was done to it."""

# Spaces inside a value, as in `layers=[a, b]`, belong to it.
_SPACES = re.compile(r"\s+(?=[^\s=]+(?:\s|=|$))(?![^\[]*\])")

DefenseWords = Annotated[
    list[str] | None,
    typer.Option(
        "--defense",
        metavar="'TopK keep=0.01'",
        help="A name of list defenses with settings, values in YAML; repeat it for several, in order; or none.",
    ),
]


def defenses_from_words(words: Sequence[str]) -> list[Defense]:
    """The defenses that a command line names.

    Args:
        words: `Name key=value key=value` each, or `none` alone.

    Returns:
        The defenses, in order; an empty list for `none`.

    Raises:
        BadInput: with everything that cannot be read, and every setting that a defense does not take.
    """
    defenses: list[Defense] = []
    problems: list[str] = []
    named = [text for text in words if text.strip() != NO_DEFENSE]
    if named and len(named) < len(words):
        others = ", ".join(map(repr, named))
        problems.append(f"--defense {NO_DEFENSE}: expected it alone, got {others} beside it; leave one out")
    for text in named:
        name, *assignments = _SPACES.split(text.strip())
        settings: dict[str, object] = {}
        found: list[str] = []
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals or not key.isidentifier():
                found.append(f"--defense {name}: expected key=value, got {assignment!r}; write for instance keep=0.01")
                continue
            document = read_yaml(value, f"--defense {name} {key}")
            found += [problem for _, problem in document.problems]
            settings[key] = document.value
        if not found:
            try:
                made = defense_named(name, settings)
                defenses.append(made)
                found += [f"--defense {problem}" for problem in made.problems()]
            except BadSettings as error:
                found += [
                    f"--defense {name} {'.'.join(map(str, fault.path))}: {fault.text}".replace(" name: ", ": ")
                    for fault in error.faults
                ]
            except BadInput as error:
                found += error.problems
        problems += found
    refuse(problems)
    return defenses
