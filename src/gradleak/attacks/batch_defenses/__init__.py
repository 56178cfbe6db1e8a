"""Defenses of the batch: find the changed batch, then what it was before MixUp, InstaHide or an augmentation."""

from gradleak.attacks.batch_defenses.restoration import batch_restoration

__all__ = ["batch_restoration"]
