"""Linear algebra with structure. Knows nothing of attacks."""

from gradleak.linalg.block_low_rank import BlockLowRankInverse
from gradleak.linalg.conjugate_gradients import Operator, Solution, conjugate_gradients
from gradleak.linalg.convolution_equations import ConvolutionEquations
from gradleak.linalg.convolution_solver import ConvolutionSolution, solve_convolution
from gradleak.linalg.jacobian import JacobianOperator
from gradleak.linalg.rank import singular_values_above_rounding
from gradleak.linalg.recorded_jacobian import RecordedJacobian
from gradleak.linalg.spectra import (
    Estimate,
    Spectrum,
    block_lanczos,
    dense_spectrum,
    gram_spectrum,
    hutchinson_trace,
)
from gradleak.linalg.tangent_rows import TangentRows

__all__ = [
    "BlockLowRankInverse",
    "ConvolutionEquations",
    "ConvolutionSolution",
    "Estimate",
    "JacobianOperator",
    "Operator",
    "RecordedJacobian",
    "Solution",
    "Spectrum",
    "TangentRows",
    "block_lanczos",
    "conjugate_gradients",
    "dense_spectrum",
    "gram_spectrum",
    "hutchinson_trace",
    "singular_values_above_rounding",
    "solve_convolution",
]
