"""From a planned trial's plain data to the trial's objects, in any process."""

from collections.abc import Mapping
from typing import Any

from gradleak.audits.trial import Trial
from gradleak.errors import BadInput


def build(spec: Mapping[str, Any]) -> Trial:
    """The trial that a planned spec describes.

    Args:
        spec: of a `PlannedTrial`, or read back from a record.

    Returns:
        The trial; its id is that of the plan.

    Raises:
        BadInput: when something that the spec names is gone, cannot be loaded, or is not what was planned with.
    """
    raise BadInput([f"model {spec.get('model')}: expected a builder, got none; hand `build` to run_audit"])
