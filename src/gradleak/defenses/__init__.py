"""Defenses: what a client does on purpose to leak less. One file for each family, and one line here."""

from gradleak.defenses.gaussian_noise import GaussianNoise
from gradleak.defenses.protocol import Defense

DEFENSES: tuple[type[Defense], ...] = (GaussianNoise,)
"""Every defense that comes with the package, for listings and update files."""

__all__ = ["DEFENSES", "Defense", "GaussianNoise"]
