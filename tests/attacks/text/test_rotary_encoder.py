"""Encoders that know positions inside attention only."""

import math

import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.text.encoder_search import recover_encoder
from gradleak.attacks.text.span import span_test
from gradleak.zoo.models.building import seeded
from tests.attacks.text.models import VOCABULARY, ids


class Rotating(nn.Module):
    """Attention that knows positions by rotated queries and keys only, far from linear in the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 64)
        self.layers = nn.ModuleList([nn.Linear(64, size) for size in (192, 64, 192, 64)])
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.words(tokens)
        for into, out in (self.layers[:2], self.layers[2:]):
            query, key, value = into(self.norm(hidden)).chunk(3, dim=-1)
            scores = rotated(query) @ rotated(key).transpose(1, 2) / 8
            hidden = hidden + out(torch.softmax(scores, dim=-1) @ value)
        return self.head(torch.tanh(hidden).mean(dim=1))


def rotated(rows: Tensor) -> Tensor:
    angles = torch.arange(rows.shape[1])[:, None] / 10 ** (torch.arange(32) / 8)
    even, odd = rows[..., ::2], rows[..., 1::2]
    return torch.cat([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], dim=-1)


def test_positions_inside_attention_give_the_order() -> None:
    task = gl.Task(seeded(0, Rotating).eval(), gl.TokenSpace(VOCABULARY, 7), num_classes=3)
    inputs = ids(task, 2, seed=7)
    observation, _ = gl.capture(task, inputs, torch.tensor([2, 1]))
    test = span_test(observation)
    found = recover_encoder(observation, test, name="dager", seed=0, restarts=20, deadline=math.inf)
    assert found.status == "converged"
    assert sorted(found.inputs.tolist()) == sorted(inputs.tolist())
