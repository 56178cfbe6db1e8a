"""The Jacobian of a function that `torch.func` cannot follow, by plain automatic differentiation."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradleak.linalg.jacobian import JacobianOperator

# Of central differences in float64: the step, the error from which a derivative is taken for a wrong one, and what
# rounding adds to it, as shares of the size of the derivative and of the function.
_STEP, _WRONG, _ROUNDING = 1e-6, 1e-3, 1e-7


class RecordedJacobian(JacobianOperator):
    """J by reverse mode alone, from one recorded evaluation.

    `J^T u` goes back through the record. It is linear in u, so that going back through it in turn gives `J v`. Needs
    neither a rule for forward mode nor one for `vmap`; where batches of vectors do not run, they go one by one.

    Args:
        function: from `[d]` to `[P]`, pure, and twice differentiable as far as the functions of torch know.
        at: the point `[d]`.
        chunk: vectors of a block; None for up to 128, as memory allows.

    Raises:
        Exception: what an operation raises that cannot be differentiated.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], at: Tensor, *, chunk: int | None = None) -> None:
        super().__init__(function, at, chunk=chunk)
        # Not autograd.grad by the point: that passes by Functions marked once_differentiable, which cut the graph,
        # without a word.
        function(self.at.clone().requires_grad_()).sum().backward()
        self._point = self.at.clone().requires_grad_()
        self._recorded = function(self._point)
        self._dual = torch.zeros_like(self.value).requires_grad_()
        (self._pulled,) = torch.autograd.grad(
            self._recorded, self._point, self._dual, create_graph=True, materialize_grads=True
        )
        self._batches = self._run_in_batches()

    def matvec(self, vector: Tensor) -> Tensor:
        """See `JacobianOperator`."""
        return _back(self._pulled, self._dual, vector)

    def rmatvec(self, cotangent: Tensor) -> Tensor:
        """See `JacobianOperator`."""
        return _back(self._recorded, self._point, cotangent)

    def matmat(self, vectors: Tensor) -> Tensor:
        """See `JacobianOperator`."""
        return self._many(self._pulled, self._dual, vectors)

    def rmatmat(self, cotangents: Tensor) -> Tensor:
        """See `JacobianOperator`."""
        return self._many(self._recorded, self._point, cotangents)

    def agrees_with_differences(self) -> bool:
        """Whether the derivative in one direction is that of the function, by central differences.

        It is not where an operation has a backward pass of its own that is not its derivative, or that cannot be
        differentiated again and does not say so.

        Returns:
            False also at a kink that lies in that direction.
        """
        direction = torch.arange(len(self.at)).to(self.at).cos()
        with torch.no_grad():
            ahead, behind = (self.function(self.at + step * direction) for step in (_STEP, -_STEP))
        measured, product = (ahead - behind) / (2 * _STEP), self.matvec(direction)
        allowed = _WRONG * float(measured.norm()) + _ROUNDING * float(self.value.norm())
        return float((measured - product).norm()) <= allowed

    def _many(self, outputs: Tensor, inputs: Tensor, columns: Tensor) -> Tensor:
        if not self._batches:
            return torch.stack([_back(outputs, inputs, column) for column in columns.unbind(dim=1)], dim=1)
        blocks = [_back(outputs, inputs, block.T, batched=True).T for block in columns.split(self.chunk, dim=1)]
        return torch.cat(blocks, dim=1)

    def _run_in_batches(self) -> bool:
        try:
            for outputs, inputs in ((self._pulled, self._dual), (self._recorded, self._point)):
                _back(outputs, inputs, torch.ones(1, len(outputs)).to(outputs), batched=True)
        # An operation may raise anything where it has no rule.
        except Exception:  # noqa: BLE001
            return False
        return True


def _back(outputs: Tensor, inputs: Tensor, cotangents: Tensor, *, batched: bool = False) -> Tensor:
    """Through the record; zero where nothing depends on the inputs."""
    if not outputs.requires_grad:
        return torch.zeros((*cotangents.shape[:-1], len(inputs))).to(inputs)
    (found,) = torch.autograd.grad(
        outputs, inputs, cotangents, retain_graph=True, is_grads_batched=batched, materialize_grads=True
    )
    return found
