"""Reading `.safetensors` files; anything else is recognized by its first bytes and refused, never opened."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gradleak.errors import BadInput

_HEADER_BYTES = 8  # a safetensors file opens with the length of its JSON header, then the header itself
_FOREIGN_FORMATS = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes (a pickle inside, which is never opened)"),
    (b"\x80", "a pickle, which is never opened"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x1f\x8b", "a gzip file"),
)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a safetensors file, with an error that says what the file is instead.

    Args:
        path: the file.

    Returns:
        Tensors by name in the file's order, on the CPU, and its metadata.

    Raises:
        BadInput: when it is missing, a folder, truncated, or in another format, which is named.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise BadInput([f"{path}: expected a .safetensors file, got {got}; check the path"])
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES + 1)
    # The length of the header may begin with any byte, so its brace is looked for before foreign marks.
    if start[_HEADER_BYTES:] != b"{":
        format_name = next((name for mark, name in _FOREIGN_FORMATS if start.startswith(mark)), "another format")
        raise BadInput(
            [
                f"{path}: expected a safetensors file, got {format_name}; convert it where you trust its origin, "
                "with safetensors.torch.save_file(tensors, 'name.safetensors')"
            ]
        )
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput([f"{path}: expected a whole safetensors file, got: {error}; copy or export it again"]) from error
