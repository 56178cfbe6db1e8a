"""The loss that is trained holds what the model adds to it."""

import torch
from torch import nn
from torch.nn import functional

from gradleak.bottleneck import bottlenecks, with_bottleneck
from gradleak.seeds import torch_seed
from gradleak.training.losses import training_loss
from gradleak.zoo.models.building import seeded


def test_a_bottleneck_adds_its_divergence_once() -> None:
    inputs, targets = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    base = seeded(0, lambda: nn.Sequential(nn.Linear(6, 3)))
    plain, weighted = (with_bottleneck(base, width=5, beta=beta) for beta in (0.0, 2.0))
    for _ in range(2):
        with torch_seed(1):
            without = training_loss(plain, inputs, targets)
        with torch_seed(1):
            whole = training_loss(weighted, inputs, targets)
        with torch_seed(1):
            assert torch.equal(without, functional.cross_entropy(weighted(inputs), targets))
        divergence = next(iter(bottlenecks(weighted).values())).divergence
        assert divergence is not None
        assert divergence > 0
        torch.testing.assert_close(whole, without + 2.0 * divergence)
