"""Linear algebra with structure. Knows nothing of attacks."""

from gradleak.linalg.block_low_rank import BlockLowRankInverse
from gradleak.linalg.conjugate_gradients import Operator, Solution, conjugate_gradients
from gradleak.linalg.convolution_equations import ConvolutionEquations
from gradleak.linalg.convolution_solver import ConvolutionSolution, solve_convolution
from gradleak.linalg.rank import singular_values_above_rounding

__all__ = [
    "BlockLowRankInverse",
    "ConvolutionEquations",
    "ConvolutionSolution",
    "Operator",
    "Solution",
    "conjugate_gradients",
    "singular_values_above_rounding",
    "solve_convolution",
]
