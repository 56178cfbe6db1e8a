"""PRECODE's latent noise: read exactly where the bottleneck's gradients tell it, searched with the images elsewhere."""

from gradleak.attacks.latents.attack import precode_inversion

__all__ = ["precode_inversion"]
