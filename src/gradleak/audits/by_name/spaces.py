"""The input space that follows from the data, and for texts from the embedding of the model too."""

from dataclasses import replace

from torch import nn

from gradleak.audits.faults import BadSettings, Fault
from gradleak.errors import BadInput
from gradleak.tasks import ImageSpace, InputSpace, TabularSpace
from gradleak.tokens import TokenSpace

IMAGE_RANK = 3
NO_SCALING = ((0.0,), (1.0,))


def space_for(
    shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...], tokens: TokenSpace | None = None
) -> InputSpace:
    """The input space of data with inputs of a shape.

    Args:
        shape: of one input.
        mean: subtracted from images.
        std: divided by after that.
        tokens: the space of texts; None for anything else.

    Returns:
        Images, rows or texts.

    Raises:
        BadSettings: when the inputs are none of these, or mean and std do not fit them.
    """
    if len(shape) == IMAGE_RANK:
        try:
            return ImageSpace((shape[0], shape[1], shape[2]), mean, std)
        except BadInput as error:
            keys = [problem.partition(":")[0] for problem in error.problems]
            faults = [
                Fault((key,) if key in {"mean", "std"} else (), problem.removeprefix(f"{key}: "))
                for key, problem in zip(keys, error.problems, strict=True)
            ]
            raise BadSettings("models", faults) from error
    if len(shape) != 1:
        text = f"expected images, texts or rows of numbers, got inputs of shape {list(shape)}; use other data"
        raise BadSettings("models", [Fault((), text)])
    if (mean, std) != NO_SCALING:
        got = f"inputs of shape {list(shape)}" if tokens is None else "texts"
        text = f"expected images to normalize, got {got}; leave mean and std out"
        raise BadSettings("models", [Fault(("mean",), text)])
    return TabularSpace(shape[0]) if tokens is None else tokens


def fitted_space(space: InputSpace, model: nn.Module) -> InputSpace:
    """The space with the vocabulary of a model of texts, whose embedding may have spare rows that no token uses.

    Args:
        space: of the data.
        model: that takes them.

    Returns:
        The same space for anything but such a model.
    """
    if not isinstance(space, TokenSpace):
        return space
    find = getattr(model, "get_input_embeddings", None)
    own = find() if callable(find) else None
    embeddings = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and (own is None or module is own)
    }
    sizes = [module.num_embeddings for module in embeddings.values()]
    if space.vocabulary in sizes or len(embeddings) != 1 or sizes[0] < space.vocabulary:
        return space  # what does not fit is told by the task
    return replace(space, vocabulary=sizes[0])
