"""The model that `--model` names: from a factory of the user's own, or from the zoo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradleak.audits.by_name.defenses import with_built_in
from gradleak.audits.by_name.models import model_named
from gradleak.audits.by_name.references import failed, import_reference
from gradleak.defenses import ChangesTask, Defense
from gradleak.defenses.applying import changed_task
from gradleak.errors import BadInput
from gradleak.tasks import Classified, InputSpace, Task
from gradleak.tensorfiles import read_safetensors
from gradleak.tokens import TokenSpace
from gradleak.training.checkpoints import Checkpoint
from gradleak.zoo.models import REFERENCE_MODELS, TEXT_MODELS, load_weights


def load_model(
    reference: str,
    weights: Path | None,
    seed: int,
    space: InputSpace,
    num_classes: int,
    defenses: Sequence[Defense] = (),
    classified: Classified = "example",
) -> nn.Module:
    """A model from the user's factory or from the zoo, with weights from a file if there is one.

    Args:
        reference: `package.module:factory`, importable from the current directory too, or a name of the zoo.
        weights: a `.safetensors` file, or None.
        seed: seed of a zoo model's weights.
        space: gives the input shape of a zoo model.
        num_classes: number of classes of a zoo model.
        defenses: those that are a part of the model are built in, unless it has them already; the weights may be
            those from before or after.
        classified: what has a class; a model of texts from the zoo is a language model where every token has one.

    Returns:
        The model.

    Raises:
        BadInput: when there is no such factory, it raises, returns no module or other weights at each call, or the
            weights do not fit.
    """
    if ":" in reference:
        model = _from_factory(reference, fixed=weights is None)
    else:
        model = _from_zoo(reference, seed, space, num_classes, classified)
    changed = _built_in(model, defenses, space, num_classes)
    if weights is None:
        return changed
    names = read_safetensors(weights)[0].keys() if changed is not model else set[str]()
    if names - model.state_dict().keys() and not names - changed.state_dict().keys():
        return load_weights(changed, weights)
    return _built_in(load_weights(model, weights), defenses, space, num_classes)


def _built_in(model: nn.Module, defenses: Sequence[Defense], space: InputSpace, num_classes: int) -> nn.Module:
    """The model with the defenses that are a part of it; the model itself where there are none."""
    if not any(isinstance(defense, ChangesTask) for defense in defenses):
        return model
    return changed_task(defenses, Task(model, space, num_classes)).model


def checkpointed_model(
    checkpoint: Checkpoint, weights: Path, space: InputSpace, num_classes: int, defenses: Sequence[Defense] = ()
) -> nn.Module:
    """The model that a checkpoint says it is of, with its weights.

    Args:
        checkpoint: what the file says.
        weights: the file.
        space: gives the input shape of a zoo model.
        num_classes: number of classes of a zoo model.
        defenses: those that are a part of the model are built in, unless it has them already.

    Returns:
        The model.

    Raises:
        BadInput: when there is no such model here, or the weights do not fit.
    """
    name, settings = checkpoint.model.name, checkpoint.model.settings
    model = model_named(
        name,
        settings,
        shape=space.shape,
        num_classes=num_classes,
        seed=0,
        tokens=space if isinstance(space, TokenSpace) else None,
        objective=checkpoint.objective,
    )
    trained = load_weights(with_built_in(model, checkpoint.model.defenses, space, num_classes), weights)
    return _built_in(trained, defenses, space, num_classes)


def _from_zoo(name: str, seed: int, space: InputSpace, num_classes: int, classified: Classified) -> nn.Module:
    if isinstance(space, TokenSpace):
        return _of_texts(name, seed, space, num_classes, classified)
    card = next((card for card in REFERENCE_MODELS if card.name == name), None)
    if card is None:
        known = ", ".join(card.name for card in REFERENCE_MODELS)
        raise BadInput([f"--model: expected package.module:factory or one of {known}, got {name!r}; see list models"])
    if len(space.shape) != 3:
        raise BadInput([f"--model {name}: expected images as inputs, got shape {list(space.shape)}; add --input-shape"])
    return card.factory(space.shape, num_classes, seed)


def _of_texts(name: str, seed: int, space: TokenSpace, num_classes: int, classified: Classified) -> nn.Module:
    card = next((card for card in TEXT_MODELS if card.name == name), None)
    if card is None:
        known = ", ".join(card.name for card in TEXT_MODELS)
        raise BadInput([f"--model: expected package.module:factory or one of {known}, got {name!r}; see list models"])
    objective = "classification" if classified == "example" else "masked" if "masked" in card.objectives else "causal"
    if objective not in card.objectives:
        raise BadInput([f"--model {name}: expected a language model, got one that tells texts apart; use another"])
    settings: dict[str, Any] = {"length": space.length} if card.positions else {}
    classes = num_classes if classified == "example" else None
    return card.factory(vocabulary=space.vocabulary, num_classes=classes, padding=space.padding, seed=seed, **settings)


def _from_factory(reference: str, *, fixed: bool) -> nn.Module:
    """Import and call; with `fixed`, refuse a factory that returns other weights each time."""
    before = torch.default_generator.get_state()
    model = _call(reference)
    # Only a factory that draws random numbers can vary, so only such a one is called a second time.
    if fixed and not torch.equal(before, torch.default_generator.get_state()):
        again = _call(reference)
        if not _same(model.state_dict(), again.state_dict()):
            raise BadInput(
                [
                    f"--model {reference}: expected the weights that the client had, got a factory that draws new ones "
                    "at each call; add --weights FILE.safetensors, or seed it inside"
                ]
            )
    return model


def _call(reference: str) -> nn.Module:
    try:
        model = import_reference(reference, "a model")()
    except BadInput as error:
        raise BadInput(f"--model {reference}: {problem}" for problem in error.problems) from error
    # Foreign code may raise anything, and all of it means the same here: this model cannot be had.
    except (Exception, SystemExit) as error:
        raise BadInput([f"--model {reference}: {failed('a model', error)}"]) from error
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise BadInput(
            [f"--model {reference}: expected a torch.nn.Module from the factory, got {got}; return the model"]
        )
    return model


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
