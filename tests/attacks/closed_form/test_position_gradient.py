import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form import position_gradient
from gradleak.attacks.closed_form.patch_embedding import PatchEmbedding, find_patch_embedding
from gradleak.reconstructions import Reconstruction
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import lenet, mlp, resnet
from gradleak.zoo.models.building import seeded

SPACE = gl.ImageSpace((3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


class Block(nn.Module):
    """An ordinary block: LayerNorm first, with skip connections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        entering = self.norms[0](tokens)
        tokens = tokens + self.attention(entering, entering, entering)[0]
        return tokens + self.mlp(self.norms[1](tokens))


class ViT(nn.Module):
    """A small vision transformer with trained positions, as they are usually made."""

    def __init__(
        self,
        width: int = 96,
        depth: int = 2,
        *,
        patch: int = 8,
        stride: int = 8,
        padding: int = 0,
        class_token: bool = False,
        convolution: bool = True,
        patch_norm: bool = False,
        token_norm: bool = False,
        position: bool = True,
    ) -> None:
        super().__init__()
        tokens = ((32 + 2 * padding - patch) // stride + 1) ** 2 + class_token
        self.embed = nn.Conv2d(3, width, patch, stride, padding) if convolution else nn.Linear(3 * patch**2, width)
        self.extra = nn.Parameter(torch.randn(1, 1, width)) if class_token else None
        self.where = nn.Parameter(0.02 * torch.randn(1, tokens, width)) if position else None
        self.patch_norm = nn.LayerNorm(3 * patch**2) if patch_norm else nn.Identity()
        self.token_norm = nn.LayerNorm(width) if token_norm else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        self.patch = patch

    def forward(self, pixels: Tensor) -> Tensor:
        if isinstance(self.embed, nn.Linear):
            cut = nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
            tokens = self.embed(self.patch_norm(cut))
        else:
            tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        tokens = self.token_norm(tokens)
        if self.extra is not None:
            tokens = torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.where is not None:
            tokens += self.where
        tokens = self.norm(self.blocks(tokens))
        return self.head(tokens[:, 0] if self.extra is not None else tokens.mean(dim=1))


class PositionedMap(nn.Module):
    """Positions in the shape of a feature map, `[d, rows, columns]`, and a patch embedding without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 96, 8, stride=8, bias=False)
        self.where = nn.Parameter(0.02 * torch.randn(96, 4, 4))
        self.rest = nn.Sequential(Block(96), Block(96), nn.LayerNorm(96), nn.Linear(96, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.rest((self.embed(pixels) + self.where).flatten(2).transpose(1, 2)).mean(dim=1)


@functools.cache
def photographs() -> Dataset:
    return load("photographs")


def observe(
    model: nn.Module, dtype: torch.dtype = torch.float64, *, count: int = 1, seed: int = 0
) -> tuple[gl.Observation, gl.Truth]:
    inputs, _ = photographs().sample(count, seed=seed)
    task = gl.Task(model.to(dtype), SPACE, num_classes=10)
    return gl.capture(task, inputs.to(dtype), torch.arange(count) + 3)


def refusal(build: Callable[[], nn.Module]) -> str:
    result = position_gradient()(observe(seeded(0, build))[0])
    assert result.status == "not_applicable"
    return result.message


def psnr(result: Reconstruction, truth: gl.Truth) -> float:
    # By hand and before the decoding, which clamps to the bounds and would hide errors at saturated pixels.
    assert result.variable is not None
    return float(-10 * torch.log10((result.variable - truth.inputs.double()).square().mean()))


# One block suffices also where the model is read at the class token, since a LayerNorm mixes in the tokens themselves.
@pytest.mark.parametrize(("class_token", "depth"), [(False, 2), (True, 2), (True, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_photograph_is_exact_in_both_precisions(class_token: bool, depth: int, seed: int) -> None:
    for dtype, decibels in ((torch.float32, 90), (torch.float64, 200)):
        observation, truth = observe(seeded(0, lambda: ViT(depth=depth, class_token=class_token)), dtype, seed=seed)
        result = position_gradient()(observation)
        assert psnr(result, truth) > decibels
        assert result.status == "converged"
        assert result.targets.tolist() == [3]
        assert result.evaluations == 2
        assert result.variable is not None
        assert result.variable.dtype == torch.float64
        assert "16 patches solved from embed.weight and where of rank 16;" in result.message


def test_how_patches_are_cut_and_positions_are_kept_makes_no_difference() -> None:
    for build in (lambda: ViT(convolution=False), PositionedMap, lambda: ViT(patch=10, padding=1, stride=8)):
        observation, truth = observe(seeded(0, build))
        assert psnr(position_gradient()(observation), truth) > 200


def test_pixels_between_the_patches_stay_gray() -> None:
    observation, truth = observe(seeded(0, lambda: ViT(patch=6, stride=8)))
    result = position_gradient()(observation)
    assert "which hold 1728 of 3072 entries of the input" in result.message
    assert result.variable is not None
    error = (result.variable - truth.inputs)[0].reshape(3, 4, 8, 4, 8)
    assert float(error[:, :, :6, :, :6].abs().max()) < 1e-10
    assert bool((result.variable[0].reshape(3, 4, 8, 32)[:, :, 6:] == 0.5).all())


def test_structure_is_read_from_what_the_model_computes() -> None:
    observation, _ = observe(seeded(0, lambda: ViT(class_token=True)))
    found = find_patch_embedding(observation)
    assert isinstance(found, PatchEmbedding)
    assert (found.weight, found.positions) == ("embed.weight", "where")
    assert [place.row for place in found.places] == list(range(1, 17))
    pixels = torch.arange(3072).reshape(1, 3, 32, 32).double()
    cut = nn.functional.unfold(pixels, 8, stride=8)[0].T.long()
    assert torch.equal(found.order, cut)
    assert torch.allclose(found.scale[5], 1 / torch.tensor(SPACE.std).double().repeat_interleave(64))
    assert torch.equal(found.position_gradient(observation.update.tensors), observation.update.tensors["where"][0, 1:])


def test_a_delta_of_unknown_scale_gives_the_same_image() -> None:
    observation, truth = observe(seeded(0, ViT))
    delta = gl.Update({name: -0.3 * g for name, g in observation.update.tensors.items()}, "delta")
    result = position_gradient()(gl.Observation(observation.task, observation.state, delta, batch_size=1))
    assert psnr(result, truth) > 200


class Bare(ViT):
    """Without any LayerNorm, and with an attention around which nothing skips."""

    def __init__(self, *, class_token: bool) -> None:
        super().__init__(class_token=class_token)
        self.attention = nn.MultiheadAttention(96, 4, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        assert self.where is not None
        tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        if self.extra is None:
            return self.head((tokens + self.where).mean(dim=1))
        tokens = torch.cat([self.extra, tokens], dim=1) + self.where
        return self.head(self.attention(tokens, tokens, tokens)[0][:, 0])


def test_rank_below_the_patches_is_refused_with_numbers() -> None:
    # One attention that is read at the class token: two directions for each of 4 heads.
    message = refusal(lambda: Bare(class_token=True))
    assert "where has rank 8, but 16 patches need rank 16; it gives 8 of their 16 combinations" in message
    assert "and 0 of them singly" in message
    # A mean sends the same to each.
    assert "has rank 1, but 16 patches" in refusal(lambda: Bare(class_token=False))
    # Behind a LayerNorm all rows have sum zero, which costs one of the 12 directions.
    message = refusal(lambda: ViT(12, class_token=True))
    assert "has rank 11, and 16 patches are more than the width 12 of a token, but 16 patches need rank 16" in message


def test_patches_that_the_equations_determine_are_counted() -> None:
    class Half(ViT):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(torch.cat([pixels[:, :, :16], 0 * pixels[:, :, 16:]], dim=2))

    class FirstRow(PositionedMap):
        """Of the 4 rows of patches only the first is used."""

        def forward(self, pixels: Tensor) -> Tensor:
            tokens = (self.embed(pixels) + self.where)[:, :, :1].flatten(2).transpose(1, 2)
            return self.rest(tokens).mean(dim=1)

    assert (
        "has rank 4, but 16 patches need rank 16; it gives 4 of their 16 combinations, and 4 of them singly"
        in refusal(FirstRow)
    )
    # What never enters the model is no entry of a patch.
    assert "hold 1536 of 3072" in position_gradient()(observe(seeded(0, Half))[0]).message


def test_a_network_with_normalization_by_running_statistics_is_refused_and_does_not_crash() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 1024, 10)
    )
    assert "of the 1024 patches behind 0" in refusal(lambda: network)


def test_models_without_the_assumption_are_refused_with_numbers() -> None:
    assert "directly to 16 of the 16 patches behind embed" in refusal(lambda: ViT(position=False))
    assert "directly to 16 of the 16 patches behind embed" in refusal(lambda: ViT(token_norm=True))
    assert "no linear layer or convolution" in refusal(lambda: ViT(convolution=False, patch_norm=True))
    assert "no linear layer or convolution" in refusal(lambda: nn.Sequential(nn.Flatten(), mlp(3072, (8,), 10)))
    assert "directly to 256 of the 256 patches" in refusal(lambda: lenet(10))


def test_a_weight_that_is_used_twice_is_refused() -> None:
    class Twice(ViT):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels) + self.embed(0.5 * pixels).mean(dim=(2, 3))[:, :10]

    assert "embed.weight departs by" in refusal(Twice)


def test_frozen_parameters_are_refused_by_name() -> None:
    for name, reason in (
        ("where", "position embedding where is not"),
        ("embed.weight", "patch embedding embed.weight"),
    ):
        model = seeded(0, ViT)
        model.get_parameter(name).requires_grad_(False)
        result = position_gradient()(observe(model)[0])
        assert result.status == "not_applicable"
        assert reason in result.message


def test_batches_are_refused_also_when_their_size_is_withheld() -> None:
    observation, _ = observe(seeded(0, ViT), count=2)
    assert "batch of 2" in position_gradient()(observation).message
    withheld = gl.Observation(observation.task, observation.state, observation.update, client=observation.client)
    result = position_gradient()(withheld)
    assert result.status == "not_applicable"
    assert "no single example fits" in result.message


def test_batch_norm_in_a_network_without_positions_is_no_obstacle() -> None:
    task = gl.Task(resnet(8), gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, _ = gl.capture(task, torch.rand(1, 3, 32, 32), torch.tensor([3]))
    found = position_gradient()(observation)
    assert found.status == "not_applicable"
    assert "no position embedding" in found.message
