"""From the words of a spec to objects: attacks, clients, defenses, models and data.

A name is, in this order, what comes with the package, `package.module:factory` of the user's own, or a plugin that an
installed distribution announces by an entry point.
"""

from gradleak.audits.by_name.components import attack_named, client_named, threat_named
from gradleak.audits.by_name.data import dataset_named
from gradleak.audits.by_name.defenses import defense_named
from gradleak.audits.by_name.models import model_digest, model_named
from gradleak.audits.by_name.plugins import KINDS, Plugin, plugins
from gradleak.audits.by_name.references import code_digest, import_reference

__all__ = [
    "KINDS",
    "Plugin",
    "attack_named",
    "client_named",
    "code_digest",
    "dataset_named",
    "defense_named",
    "import_reference",
    "model_digest",
    "model_named",
    "plugins",
    "threat_named",
]
