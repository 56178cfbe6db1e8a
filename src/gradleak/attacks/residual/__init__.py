"""Residual networks, a single example: peeled exactly from the classifier down, and a short search for the rest."""

from gradleak.attacks.residual.attack import ResidualPeeling, residual_peeling

__all__ = ["ResidualPeeling", "residual_peeling"]
