"""R-GAP (Zhu and Blaschko, ICLR 2021)."""

from gradleak.attacks.closed_form.recursion import LayerRecursion


def r_gap(*, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None) -> LayerRecursion:
    """R-GAP: one example, layer by layer from the loss down, each layer's two sets of equations solved together.

    The paper's own setting is convolutions without bias, leaky ReLU or identity, and a logistic output without bias;
    two classes without bias are the same. This is `layer_recursion`, which also takes biases, strides, any padding,
    more classes and other invertible activations. Where the released code searches the margin for 30,000 steps of
    Adam and fixes the label beforehand, every root of the equation and both labels are tried here.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; each root of the margin is compared with the update once.
        max_seconds: likewise.

    Returns:
        The attack.
    """
    del restarts, max_evaluations, max_seconds
    return LayerRecursion(name="r_gap")
