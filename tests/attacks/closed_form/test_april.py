from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.april import april
from gradleak.attacks.closed_form.patch_tokens import PatchTokens, find_patch_tokens
from gradleak.reconstructions import Reconstruction
from gradleak.zoo.models.building import seeded
from tests.problems import TinyTransformer, images

SPACE = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
Style = Literal["packed", "separate", "joint"]


class Attention(nn.Module):
    """Self-attention with separate query, key and value layers, or a joint one."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.joint = nn.Linear(width, 3 * width)
        self.style = style

    def forward(self, tokens: Tensor) -> Tensor:
        if self.style == "joint":
            query, key, value = self.joint(tokens).chunk(3, dim=-1)
        else:
            query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        return torch.softmax(query @ key.transpose(1, 2) / query.shape[-1] ** 0.5, dim=-1) @ value


class Transformer(nn.Module):
    """A small vision transformer whose first attention may or may not satisfy the closed form's assumption."""

    def __init__(
        self,
        style: Style = "packed",
        *,
        width: int = 64,
        patch: int = 4,
        class_token: bool = True,
        convolution: bool = True,
        norm_first: bool = False,
        skip: bool = False,
        position: bool = True,
        depth: int = 2,
    ) -> None:
        super().__init__()
        tokens = (16 // patch) ** 2 + class_token
        self.embed = nn.Conv2d(3, width, patch, stride=patch) if convolution else nn.Linear(3 * patch**2, width)
        self.extra = nn.Parameter(torch.randn(1, 1, width)) if class_token else None
        # More rows than tokens, as for larger images.
        self.where = nn.Parameter(0.1 * torch.randn(1, tokens + 2, width)) if position else None
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        packed = (nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.layers = nn.ModuleList(packed if style == "packed" else (Attention(width, style) for _ in range(depth)))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 10)
        self.patch, self.skip = patch, skip

    def forward(self, pixels: Tensor) -> Tensor:
        if isinstance(self.embed, nn.Linear):
            cut = nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
            tokens = self.embed(cut)
        else:
            tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        if self.extra is not None:
            tokens = torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.where is not None:
            tokens = tokens + self.where[:, : tokens.shape[1]]
        for index, layer in enumerate(self.layers):
            entering = self.norm(tokens)
            attention = isinstance(layer, nn.MultiheadAttention)
            mixed: Tensor = layer(entering, key=entering, value=entering)[0] if attention else layer(entering)
            tokens = tokens + mixed if self.skip or index else mixed
            tokens = tokens + self.mlp(tokens)
        return self.head(tokens[:, 0] if self.extra is not None else tokens.mean(dim=1))


def observe(model: nn.Module, dtype: torch.dtype = torch.float64, count: int = 1) -> tuple[gl.Observation, gl.Truth]:
    task = gl.Task(model.to(dtype), SPACE, num_classes=10)
    return gl.capture(task, images(count).to(dtype), torch.arange(count) + 3)


def refusal(build: Callable[[], nn.Module]) -> str:
    result = april()(observe(seeded(0, build))[0])
    assert result.status == "not_applicable"
    return result.message


def psnr(result: Reconstruction, truth: gl.Truth) -> float:
    return float(gl.score(result, truth).psnr[0])


@pytest.mark.parametrize("style", ["packed", "separate", "joint"])
@pytest.mark.parametrize("class_token", [True, False])
def test_single_image_is_exact_in_both_precisions(style: Style, class_token: bool) -> None:
    for dtype, decibels in ((torch.float32, 60), (torch.float64, 150)):
        observation, truth = observe(seeded(0, lambda: Transformer(style, class_token=class_token)), dtype)
        result = april()(observation)
        assert psnr(result, truth) > decibels
        assert result.status == "converged"
        assert result.targets.tolist() == [3]
        assert result.evaluations == 2


def test_how_patches_are_cut_makes_no_difference() -> None:
    observation, truth = observe(seeded(0, lambda: Transformer(convolution=False)))
    assert psnr(april()(observation), truth) > 150


def test_structure_is_read_from_what_the_model_computes() -> None:
    model = seeded(0, Transformer)
    observation, _ = observe(model)
    found = find_patch_tokens(observation)
    assert isinstance(found, PatchTokens)
    assert (found.layer, found.weights) == ("layers.0", ("layers.0.in_proj_weight",))
    assert [len(patch) for patch in found.patches] == [0] + [48] * 16
    # The second patch of the first row: channels 0 to 2, rows 0 to 3, columns 4 to 7.
    corners = [0, 256, 512]
    expected = [corner + 16 * row + column for corner in corners for row in range(4) for column in range(4, 8)]
    assert found.patches[2].tolist() == expected
    assert isinstance(model.embed, nn.Conv2d)
    spread = torch.tensor(SPACE.std, dtype=torch.float64).repeat_interleave(16)
    assert torch.allclose(found.maps[2], model.embed.weight.flatten(1) / spread, atol=1e-12)
    assert {place.name for place in found.places} <= {"where", "extra"}
    position = found.position_gradient(observation.update.tensors)
    assert torch.equal(position, observation.update.tensors["where"][0, :17])


def test_a_scaled_negated_delta_gives_the_same_image() -> None:
    observation, truth = observe(seeded(0, Transformer))
    delta = gl.Update({name: -0.3 * g for name, g in observation.update.tensors.items()}, "delta")
    result = april()(gl.Observation(observation.task, observation.state, delta, batch_size=1))
    assert psnr(result, truth) > 150


def test_of_patches_wider_than_a_token_the_part_that_tokens_see_is_exact() -> None:
    observation, truth = observe(seeded(0, lambda: Transformer(width=32)))
    result = april()(observation)
    assert "determine 512 of 768 entries" in result.message
    found = find_patch_tokens(observation)
    assert isinstance(found, PatchTokens)
    for patch, weights in zip(found.patches, found.maps, strict=True):
        error = (result.variable - truth.inputs).flatten()[patch]
        assert torch.allclose(weights @ error, torch.zeros(32, dtype=torch.float64), atol=1e-9)
        # Nearest to gray among all that fit.
        assert float(error.norm()) <= float((truth.inputs.flatten()[patch] - 0.5).norm())


def test_models_without_the_assumption_are_refused_with_numbers() -> None:
    assert "depart from an affine function of the input by" in refusal(lambda: Transformer(norm_first=True, skip=True))
    message = refusal(lambda: Transformer(skip=True))
    assert "departs by" in message
    assert "skip connection" in message
    assert "16 of the 16 tokens" in refusal(lambda: Transformer(position=False, class_token=False))
    assert "64 patches are more than the width 32" in refusal(lambda: Transformer(width=32, patch=2))
    # One attention that is read at the class token: two directions for each of 4 heads.
    assert "rank 8, and 16 patches need rank 16" in refusal(lambda: Transformer(depth=1))
    assert "no attention" in refusal(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))
    assert "position embedding" in refusal(TinyTransformer)


def test_frozen_parameters_are_refused_by_name() -> None:
    for name, reason in (
        ("where", "position embedding where"),
        ("layers.0.in_proj_weight", "weights layers.0.in_proj"),
    ):
        model = seeded(0, Transformer)
        model.get_parameter(name).requires_grad_(False)
        result = april()(observe(model)[0])
        assert result.status == "not_applicable"
        assert reason in result.message


def test_batches_are_refused_also_when_their_size_is_withheld() -> None:
    observation, _ = observe(seeded(0, Transformer), count=2)
    assert "batch of 2" in april()(observation).message
    withheld = gl.Observation(observation.task, observation.state, observation.update, client=observation.client)
    result = april()(withheld)
    assert result.status == "not_applicable"
    assert "no single example fits" in result.message
