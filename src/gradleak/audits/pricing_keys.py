"""Which setting a group of trials or a training belongs to."""

import hashlib
import json
from collections.abc import Mapping

from gradleak.audits.summarizing import setting_of


def setting_key(settings: Mapping[str, object]) -> str:
    """16 hexadecimal digits for what the owner of the data chooses: all settings but those of the attacker.

    Args:
        settings: of a group of trials, or of one that is planned, by dotted path.

    Returns:
        The key.
    """
    text = json.dumps(setting_of(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
