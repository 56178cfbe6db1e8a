"""The input space that follows from the shape of the data."""

from gradleak.audits.faults import BadSettings, Fault
from gradleak.errors import BadInput
from gradleak.tasks import ImageSpace, InputSpace, TabularSpace

IMAGE_RANK = 3
NO_SCALING = ((0.0,), (1.0,))


def space_for(shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> InputSpace:
    """The input space of data with inputs of a shape.

    Returns:
        Images or rows.

    Raises:
        BadSettings: when the inputs are neither, or mean and std do not fit them.
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
        text = f"expected images or rows of numbers, got inputs of shape {list(shape)}; use other data"
        raise BadSettings("models", [Fault((), text)])
    if (mean, std) != NO_SCALING:
        text = f"expected images to normalize, got inputs of shape {list(shape)}; leave mean and std out"
        raise BadSettings("models", [Fault(("mean",), text)])
    return TabularSpace(shape[0])
