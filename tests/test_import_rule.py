"""What each room of the package may import, and what importing the package costs and changes."""

import ast
import graphlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "gradleak"

PUBLIC_NAMES = "gradleak"  # the room of __init__.py itself
# Room -> the rooms it may import besides itself. A room is a file or a folder of src/gradleak; a dotted room is a part
# of one with a rule of its own. The direction is the flow of the data, and captures is the wall: Truth lives there, so
# attacks, which must stay blind, cannot name it.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "seeds": frozenset(),
    "components": frozenset({"errors"}),
    "tensorfiles": frozenset({"errors"}),
    "optim": frozenset({"errors"}),
    "linalg": frozenset({"errors"}),
    "zoo": frozenset({"errors", "seeds", "tensorfiles", "tokens"}),
    "bottleneck": frozenset({"errors", "seeds"}),
    "token_masks": frozenset(),
    "token_embeddings": frozenset({"errors"}),
    "tokens": frozenset({"errors", "token_embeddings", "token_masks"}),
    "tasks": frozenset({"errors", "tokens"}),
    "updates": frozenset({"errors", "tasks"}),
    "clients": frozenset({"errors", "seeds", "bottleneck", "tasks", "updates"}),
    "defenses": frozenset({"errors", "seeds", "bottleneck", "tasks", "updates"}),
    "threat": frozenset({"errors", "tasks", "updates", "clients", "defenses"}),
    "reconstructions": frozenset({"errors", "tasks", "threat"}),
    # What training on public data makes and the learned attack loads; it knows neither side of the wall.
    "inverters": frozenset({"errors", "components", "tensorfiles", "tasks"}),
    "captures": frozenset({"errors", "seeds", "tasks", "tokens", "updates", "clients", "defenses", "threat"}),
    "evidence": frozenset(
        {"errors", "components", "tensorfiles", "tasks", "tokens", "updates", "clients", "defenses", "threat"}
    ),
    "attacks": frozenset(
        {
            "errors",
            "seeds",
            "bottleneck",
            "tasks",
            "tokens",
            "updates",
            "clients",
            "defenses",
            "threat",
            "reconstructions",
            "optim",
            "linalg",
            "tensorfiles",
            "inverters",
        }
    ),
    "scoring": frozenset({"errors", "seeds", "tasks", "tokens", "captures", "reconstructions"}),
    # Bounds see the private batch, as `captures` does; nothing but audits and the command line may see them. They read
    # the layers of a model as the closed forms do.
    "bounds": frozenset(
        {
            "errors",
            "seeds",
            "tasks",
            "updates",
            "clients",
            "defenses",
            "threat",
            "captures",
            "linalg",
            "attacks",
            "bottleneck",
        }
    ),
    # Evidence against the true batch: it sees both sides, as `captures` does, and is no attack.
    "consistency": frozenset(
        {
            "errors",
            "seeds",
            "bottleneck",
            "tasks",
            "updates",
            "clients",
            "defenses",
            "threat",
            "captures",
            "evidence",
            "attacks",
        }
    ),
    # Trainings take their words from audits: the rooms that read specs, name things and write files.
    "threads": frozenset(),
    "audits.positions": frozenset({"errors"}),
    "audits.faults": frozenset({"errors", "audits.positions"}),
    "audits.overrides": frozenset({"errors", "audits.positions"}),
    "audits.sources": frozenset({"errors", "audits.faults", "audits.overrides", "audits.positions"}),
    "audits.settings": frozenset(),
    "audits.spec": frozenset({"tokens", "audits.overrides", "audits.positions", "audits.settings"}),
    "audits.interrupts": frozenset(),
    "audits.files": frozenset({"errors"}),
    "audits.lock": frozenset({"errors", "audits.files"}),
    "training": frozenset(
        {
            "errors",
            "seeds",
            "bottleneck",
            "clients",
            "defenses",
            "updates",
            "tasks",
            "tensorfiles",
            "threads",
            "tokens",
            "zoo",
            "audits.by_name.data",
            "audits.by_name.defenses",
            "audits.by_name.models",
            "audits.by_name.spaces",
            "audits.faults",
            "audits.files",
            "audits.interrupts",
            "audits.lock",
            "audits.overrides",
            "audits.positions",
            "audits.sources",
            "audits.spec",
        }
    ),
    # Inverters are trained on public examples, of which captures and scores are made as a client and a judge would.
    "learning": frozenset(
        {
            "errors",
            "seeds",
            "tasks",
            "updates",
            "clients",
            "defenses",
            "captures",
            "scoring",
            "tensorfiles",
            "threads",
            "zoo",
            "inverters",
            "audits.files",
            "audits.interrupts",
            "audits.lock",
        }
    ),
    "inspection": frozenset(
        {"errors", "seeds", "bottleneck", "tasks", "tokens", "updates", "clients", "defenses", "threat", "attacks"}
    ),
    "audits.report": frozenset({"errors", "audits.store"}),  # reports read the store and nothing else
}
# Of what names things for specs, only these parts know nothing of attacks.
MAY_IMPORT.update(
    {
        "audits.by_name.plugins": frozenset({"errors"}),
        "audits.by_name.references": frozenset({"errors"}),
        "audits.by_name.settings": frozenset({"audits.faults"}),
        "audits.by_name.resolving": frozenset(
            {"errors", "audits.by_name.plugins", "audits.by_name.references", "audits.faults"}
        ),
        "audits.by_name.spaces": frozenset({"errors", "tasks", "tokens", "audits.faults"}),
        "audits.by_name.texts": frozenset(
            {"errors", "adapters", "zoo", "audits.by_name.resolving", "audits.by_name.settings", "audits.faults"}
        ),
        "audits.by_name.parts": frozenset({"audits.by_name.resolving", "audits.by_name.settings", "audits.faults"}),
        "audits.by_name.defenses": frozenset({"defenses", "tasks", "audits.by_name.parts"}),
        "audits.by_name.data": frozenset(
            {
                "seeds",
                "tokens",
                "zoo",
                "audits.by_name.plugins",
                "audits.by_name.references",
                "audits.by_name.resolving",
                "audits.by_name.settings",
                "audits.by_name.texts",
                "audits.faults",
            }
        ),
        "audits.by_name.models": frozenset(
            {
                "seeds",
                "tokens",
                "adapters",
                "zoo",
                "audits.by_name.references",
                "audits.by_name.resolving",
                "audits.by_name.settings",
                "audits.faults",
            }
        ),
    }
)
MAY_IMPORT_EVERYTHING = frozenset({"audits.store", "audits", "adapters", "bench", "cli", "__main__", PUBLIC_NAMES})

# ---- reading the imports -----------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """`src/gradleak/a/b.py` is `gradleak.a.b`, and `src/gradleak/a/__init__.py` is `gradleak.a`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room that a module belongs to: the longest dotted name in the table that it starts with."""
    inside = module.split(".")[1:]
    for length in range(len(inside), 0, -1):
        name = ".".join(inside[:length])
        if name in MAY_IMPORT or name in MAY_IMPORT_EVERYTHING:
            return name
    return PUBLIC_NAMES if not inside else inside[0]


def from_targets(node: ast.ImportFrom, module: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """The modules that one `from ... import ...` reaches, relative or not, submodules told from plain names."""
    base = node.module or ""
    if node.level:
        package = module.split(".") if is_package else module.split(".")[:-1]
        above = package[: len(package) - (node.level - 1)]
        base = ".".join([*above, *base.split(".")]) if base else ".".join(above)
    for name in node.names:
        submodule = f"{base}.{name.name}"
        yield submodule if submodule in known else base


def imported_modules(source: str, module: str, *, is_package: bool, known: set[str]) -> set[str]:
    """Every module of ours that a source imports, at module level, in functions and under TYPE_CHECKING alike."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found.update(name.name for name in names)
            case ast.ImportFrom():
                found.update(from_targets(node, module, is_package, known))
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
            case _:
                pass
    return {name for name in found if name.split(".")[0] == "gradleak"}


def violations(source: str, module: str, *, is_package: bool = False, known: set[str] | None = None) -> list[str]:
    """One line per import that the table forbids."""
    room = room_of(module)
    if room in MAY_IMPORT_EVERYTHING:
        return []
    allowed = MAY_IMPORT.get(room, frozenset[str]())
    reached = imported_modules(source, module, is_package=is_package, known=set(MODULES) if known is None else known)
    return [
        f"{module} (room {room}) imports {target} (room {room_of(target)}); it may import {sorted(allowed)}"
        for target in sorted(reached)
        if room_of(target) not in allowed | {room}
    ]


# ---- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


def test_every_file_belongs_to_a_room_of_the_table() -> None:
    assert {room_of(module) for module in MODULES} <= set(MAY_IMPORT) | MAY_IMPORT_EVERYTHING


def test_the_table_has_no_circle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def test_attacks_and_truth_are_on_two_sides_of_the_wall() -> None:
    assert not MAY_IMPORT["attacks"] & {"captures", "scoring", "bounds", "audits", "zoo", "cli"}
    assert "attacks" not in MAY_IMPORT["scoring"]


def test_only_audits_and_the_command_line_see_bounds() -> None:
    assert [room for room, others in MAY_IMPORT.items() if "bounds" in others] == []


KNOWN = {"gradleak", "gradleak.captures", "gradleak.attacks", "gradleak.attacks.labels", "gradleak.errors"}


@pytest.mark.parametrize(
    "source",
    [
        "import gradleak.captures",
        "import gradleak.captures as innocent",
        "import gradleak",
        "from gradleak import Truth",
        "from gradleak import captures",
        "from gradleak.captures import Truth",
        "from ..captures import Truth",
        "from .. import captures",
        "def f():\n    from gradleak.captures import Truth",
        "if TYPE_CHECKING:\n    from gradleak.captures import Truth",
        "import importlib\nimportlib.import_module('gradleak.captures')",
        "__import__('gradleak.captures')",
        "from gradleak.errors import refuse\nfrom gradleak.scoring import score",
    ],
)
def test_a_forbidden_import_is_caught(source: str) -> None:
    (problem,) = violations(source, "gradleak.attacks.labels", known=KNOWN)
    assert problem.startswith("gradleak.attacks.labels (room attacks) imports gradleak")


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from gradleak.errors import refuse",
        "from gradleak import errors",
        "from ..errors import refuse",
        "from . import labels",
        "from .labels import recover",
        "import gradleak_of_somebody_else",
    ],
)
def test_an_allowed_import_passes(source: str) -> None:
    assert violations(source, "gradleak.attacks.labels", known=KNOWN) == []


def test_a_relative_import_counts_from_the_package_in_its_init_file() -> None:
    assert violations("from .labels import recover", "gradleak.attacks", is_package=True, known=KNOWN) == []
    assert violations("from ..captures import Truth", "gradleak.attacks", is_package=True, known=KNOWN) != []


def test_reports_read_the_store_and_nothing_else() -> None:
    report = "gradleak.audits.report.tables"
    assert violations("from gradleak.audits.store import Trial", report) == []
    assert violations("from gradleak.audits.report import figures", report) == []
    for other in ("gradleak.audits.run", "gradleak.scoring", "gradleak.tasks"):
        assert len(violations(f"import {other}", report)) == 1


# ---- what an import costs and changes ----------------------------------------------------------------------------


def in_a_new_interpreter(script: str) -> None:
    """Run a script where nothing has been imported yet; a failing assertion there fails the test here."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(  # the script is a constant of this file
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_gradleak_leaves_global_state_alone() -> None:
    in_a_new_interpreter("""
import random
import numpy, torch

def state():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": repr(numpy.random.get_state()[1:]),
        "random state": random.getstate(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "float32 products": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
    }

before = state()
import gradleak
changed = [name for name, value in state().items() if value != before[name]]
assert not changed, changed
""")


def test_importing_gradleak_loads_no_slow_or_optional_package() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    slow: list[str] = rules["flake8-tidy-imports"]["banned-module-level-imports"]
    assert "matplotlib" in slow
    # torch may load some of these itself, which is not ours to judge.
    in_a_new_interpreter(f"""
import sys
import torch
before = set(sys.modules)
import gradleak
loaded = [name for name in {slow!r} if name in sys.modules and name not in before]
assert not loaded, loaded
""")
