"""Networks with ReLU: a derivative for their masks, exact peeling, and the attack made of both."""

from gradleak.attacks.relu.attack import ReluInversion, relu_inversion
from gradleak.attacks.relu.mask_derivative import MaskDerivative

__all__ = ["MaskDerivative", "ReluInversion", "relu_inversion"]
