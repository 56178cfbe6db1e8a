"""Inverters as `.safetensors` files: tensors, and facts as JSON in the metadata. Nothing is ever unpickled."""

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from gradleak.errors import BadInput
from gradleak.inverters.facts import KIND, InverterFacts
from gradleak.inverters.network import Features, Inverter
from gradleak.tensorfiles import read_safetensors

KEY = "gradleak"
"""Where the metadata hold the facts."""

_FEATURES = ("indices", "mean", "scale")


def inverter_bytes(inverter: Inverter, facts: InverterFacts) -> bytes:
    """The content of an inverter's file."""
    return save(inverter_tensors(inverter), metadata={KEY: facts.model_dump_json()})


def inverter_tensors(inverter: Inverter) -> dict[str, Tensor]:
    """Everything that an inverter consists of, by name."""
    features = {f"features.{name}": getattr(inverter.features, name) for name in _FEATURES}
    return {
        **features,
        **{name: tensor.detach().contiguous() for name, tensor in inverter.weights.items()},
    }


def read_inverter(path: Path) -> tuple[Inverter, InverterFacts]:
    """Read what `gradleak learn` wrote.

    Args:
        path: the file.

    Returns:
        The inverter and its facts.

    Raises:
        BadInput: when it is missing, in another format, no inverter, or its tensors do not fit together.
    """
    tensors, metadata = read_safetensors(path)
    text = metadata.get(KEY, "")
    if f'"kind":"{KIND}"' not in text.replace(" ", ""):
        raise BadInput([f"{path}: expected an inverter of gradleak learn, got other tensors; check the path"])
    try:
        facts = InverterFacts.model_validate_json(text)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_url=False))
        raise BadInput(
            [f"{path}: expected facts of this version, got others at {keys}; train again with this version"]
        ) from None
    return inverter_of(path, tensors, facts), facts


def inverter_of(path: Path, tensors: dict[str, Tensor], facts: InverterFacts) -> Inverter:
    """The inverter that tensors make up.

    Args:
        path: where they were read.
        tensors: by name; others than the inverter's are passed over.
        facts: shape, bounds and classes.

    Returns:
        The inverter.

    Raises:
        BadInput: when one is missing, does not fit, or is not finite.
    """
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("layers.")}
    missing = [name for name in (f"features.{part}" for part in _FEATURES) if name not in tensors]
    if missing or not weights:
        raise BadInput(
            [f"{path}: expected the tensors of an inverter, got none named {missing or 'layers'}; copy again"]
        )
    inverter = Inverter(
        Features(*(tensors[f"features.{part}"] for part in _FEATURES)),
        weights,
        facts.shape,
        facts.bounds,
        facts.num_classes,
    )
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise BadInput([f"{path}: expected finite weights, got others; train again with a smaller --lr"])
    try:
        with torch.no_grad():
            inverter.outputs(torch.zeros(1, len(inverter.features.indices)))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput([f"{path}: expected tensors that fit together, got {reason}; copy or train again"]) from None
    return inverter
