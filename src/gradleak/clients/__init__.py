"""Clients: the ways of turning a private batch into an update. One file each, and one line here."""

from gradleak.clients.gradient import Gradient
from gradleak.clients.protocol import Client, Simulate

CLIENTS: tuple[type[Client], ...] = (Gradient,)
"""Every client that comes with the package, for listings and update files."""

__all__ = ["CLIENTS", "Client", "Gradient", "Simulate"]
