"""What a defense with error feedback remembers from round to round, as plain tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Memory:
    """Named tensors in named parts, such as a velocity and a residual for each tensor of the update.

    Attributes:
        parts: tensors by name, by the part's name; part names hold no slash.
    """

    parts: Mapping[str, Mapping[str, Tensor]]

    def flat(self) -> dict[str, Tensor]:
        """All tensors by `part/name`, as a safetensors file holds them."""
        return {f"{part}/{name}": tensor for part, tensors in self.parts.items() for name, tensor in tensors.items()}

    @classmethod
    def of_flat(cls, flat: Mapping[str, Tensor]) -> "Memory":
        """The memory that `flat` gave.

        Args:
            flat: tensors by `part/name`.

        Returns:
            The same tensors by part and name.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        return cls(parts)
