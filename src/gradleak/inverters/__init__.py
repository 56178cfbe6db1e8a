"""Networks that map a defended update to the input behind it, and their files."""

from gradleak.inverters.facts import (
    InverterFacts,
    QualityFacts,
    input_mismatches,
    mismatches,
    plain_components,
    state_digest,
)
from gradleak.inverters.files import inverter_bytes, read_inverter
from gradleak.inverters.network import Features, Inverter

__all__ = [
    "Features",
    "Inverter",
    "InverterFacts",
    "QualityFacts",
    "input_mismatches",
    "inverter_bytes",
    "mismatches",
    "plain_components",
    "read_inverter",
    "state_digest",
]
