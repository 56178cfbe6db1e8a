"""Reading `.safetensors` files; pickles are recognized by their first bytes and refused, never opened."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from gradleak.errors import BadInput

HEADER_BYTES = 8
"""A safetensors file opens with the length of its JSON header, then the header itself."""

FOREIGN_FORMATS = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes (a pickle inside)"),
    (b"\x80", "a pickle"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x1f\x8b", "a gzip file"),
)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file by name, on the CPU.

    Raises:
        BadInput: when the file is missing, truncated, or in another format, which is named.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise BadInput([f"{path}: expected a .safetensors file, got {got}; check the path"])
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES + 1)
    # The length of a safetensors header may begin with any byte, so its brace is looked for before foreign marks.
    if start[HEADER_BYTES:] != b"{":
        format_name = next((name for mark, name in FOREIGN_FORMATS if start.startswith(mark)), "another format")
        raise BadInput(
            [
                f"{path}: expected a safetensors file, got {format_name}; convert it where you trust its origin, "
                "with safetensors.torch.save_file(tensors, 'name.safetensors')"
            ]
        )
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise BadInput([f"{path}: expected a whole safetensors file, got: {error}; copy or export it again"]) from error
