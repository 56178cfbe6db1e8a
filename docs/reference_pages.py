"""Documentation hook: one API reference page per room of the package, written from its docstrings.

A page that had to be added by hand would be forgotten, so none is: a new file under `src/gradleak` appears by itself.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "src" / "gradleak"


def rooms() -> list[str]:
    """The names of the modules and packages directly under `gradleak`, sorted."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(name for name in modules | packages if not name.startswith("_"))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add `reference/<room>.md` for every room; called by mkdocs once the hand-written pages are known.

    Returns:
        The same collection, longer.
    """
    for room in rooms():
        page = f"---\ntitle: {room}\n---\n\n::: gradleak.{room}\n"
        files.append(File.generated(config, f"reference/{room}.md", content=page))
    return files
