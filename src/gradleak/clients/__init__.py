"""Clients: the ways of turning a private batch into an update. One file each, and one line here."""

from gradleak.clients.aggregate import Aggregate
from gradleak.clients.dp_sgd import DPSGD
from gradleak.clients.gradient import Gradient
from gradleak.clients.local_adam import LocalAdam
from gradleak.clients.local_sgd import LocalSGD
from gradleak.clients.local_training import LocalTraining
from gradleak.clients.protocol import ChecksBatch, Client, DrawsOrder, Simulate

CLIENTS: tuple[type[Client], ...] = (Gradient, LocalSGD, LocalAdam, Aggregate, DPSGD)
"""Every client that comes with the package, for listings and update files."""

__all__ = [
    "CLIENTS",
    "DPSGD",
    "Aggregate",
    "ChecksBatch",
    "Client",
    "DrawsOrder",
    "Gradient",
    "LocalAdam",
    "LocalSGD",
    "LocalTraining",
    "Simulate",
]
