"""What an audit runs: planned trials."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlannedTrial:
    """A trial before it has run.

    Attributes:
        id: content hash of the spec, see `records.record_id`.
        spec: the trial as plain data, as its record will hold it.
    """

    id: str
    spec: dict[str, Any]
