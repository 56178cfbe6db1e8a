"""The released Inverting Gradients loop, written plainly: `torch.optim.Adam`, `MultiStepLR`, autograd, one batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def released_inverting_gradients_loop(
    model: nn.Module,
    observed: list[Tensor],
    targets: Tensor,
    start: Tensor,
    *,
    iterations: int,
    total_variation: float,
    signed: bool,
    run: int,
) -> tuple[Tensor, list[float]]:
    """The first `run` of `iterations` optimizer steps, pixel units, box [0, 1].

    Args:
        model: the public model.
        observed: the shared gradient, in parameter order.
        targets: class indices `[N]`, as the published attack is given them.
        start: first images `[N, C, H, W]`.
        iterations: length of the schedule.
        total_variation: weight of the total variation.
        signed: whether Adam gets the sign of the gradient.
        run: how many steps to make.

    Returns:
        The images after them, and the objective before each.
    """
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.1)
    milestones = [iterations // 2.667, iterations // 1.6, iterations // 1.142]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=0.1)  # pyright: ignore[reportArgumentType]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values: list[float] = []
    for _ in range(run):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), targets)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        cost = torch.zeros((), dtype=start.dtype)
        norms = [torch.zeros((), dtype=start.dtype), torch.zeros((), dtype=start.dtype)]
        for simulated, true in zip(gradients, observed, strict=True):
            cost = cost - (simulated * true).sum()
            norms[0] = norms[0] + simulated.pow(2).sum()
            norms[1] = norms[1] + true.pow(2).sum()
        cost = 1 + cost / norms[0].sqrt() / norms[1].sqrt()
        across = torch.mean(torch.abs(images[:, :, :, :-1] - images[:, :, :, 1:]))
        down = torch.mean(torch.abs(images[:, :, :-1, :] - images[:, :, 1:, :]))
        cost = cost + total_variation * (across + down)
        cost.backward()
        values.append(float(cost.detach()))
        if signed and images.grad is not None:
            images.grad.sign_()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach(), values
