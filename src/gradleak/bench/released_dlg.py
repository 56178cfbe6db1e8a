"""The released DLG loop, line by line in spirit: plain autograd, `torch.optim.LBFGS`, one batch, no extras."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def released_dlg_loop(
    model: nn.Module,
    observed: list[Tensor],
    dummy_inputs: Tensor,
    dummy_logits: Tensor,
    *,
    outer_steps: int,
    watch: Callable[[int, Tensor], bool] | None = None,
) -> tuple[Tensor, Tensor, list[float]]:
    """Run the published loop from a given start.

    Args:
        model: the public model.
        observed: the shared gradient, in parameter order.
        dummy_inputs: start `[N, ...]`.
        dummy_logits: start of the target logits `[N, C]`.
        outer_steps: calls of the optimizer.
        watch: called after each of them with the evaluations so far and the present inputs; true ends the loop.

    Returns:
        Final inputs, final logits, and the objective at every evaluation.
    """
    dummy_inputs = dummy_inputs.clone().requires_grad_()
    dummy_logits = dummy_logits.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([dummy_inputs, dummy_logits], lr=1.0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        prediction = model(dummy_inputs)
        probabilities = torch.softmax(dummy_logits, dim=-1)
        loss = torch.mean(torch.sum(-probabilities * torch.log_softmax(prediction, dim=-1), 1))
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        difference = torch.zeros((), dtype=dummy_inputs.dtype)
        for simulated, true in zip(gradients, observed, strict=True):
            difference = difference + ((simulated - true) ** 2).sum()
        difference.backward()
        values.append(float(difference.detach()))
        return difference

    for _ in range(outer_steps):
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]  # the stub wants a float, the code a tensor
        if watch is not None and watch(len(values), dummy_inputs.detach()):
            break
    return dummy_inputs.detach(), dummy_logits.detach(), values
