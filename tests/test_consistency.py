"""Each cause is planted in an update that plain autograd computes, and must be told from all others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.consistency import Consistency, check_consistency
from gradleak.evidence import Evidence
from gradleak.seeds import stage_generator
from gradleak.updates import UpdateKind
from gradleak.zoo.models import lenet
from gradleak.zoo.models.building import seeded

N = 3
SPACE = gl.ImageSpace((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
MEAN = torch.tensor(SPACE.mean).view(-1, 1, 1)
STD = torch.tensor(SPACE.std).view(-1, 1, 1)
X = torch.rand((N, 3, 16, 16), generator=stage_generator(0, "inputs"))
Y = torch.tensor([1, 7, 4])

Tensors = dict[str, Tensor]


def smooth() -> nn.Module:
    return lenet(10, input_size=16, seed=1, initialization="default")


def normed() -> nn.Module:
    """BatchNorm whose running statistics are not the fresh ones."""
    generator = stage_generator(0, "statistics")
    net = seeded(
        0, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10))
    )
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator) * (2 if "var" in name else 1))
    return net


def dropping() -> nn.Module:
    layers = (nn.Linear(768, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    return seeded(0, lambda: nn.Sequential(nn.Flatten(), *layers))


def step(
    model: nn.Module,
    model_input: Tensor | None = None,
    targets: Tensor = Y,
    *,
    train: bool = False,
    total: bool = False,
) -> Tensors:
    """The client in plain PyTorch: `model_input` is what enters the model, normalized or not."""
    model.train(train)
    model_input = (X - MEAN) / STD if model_input is None else model_input
    loss = nn.functional.cross_entropy(model(model_input), targets, reduction="sum" if total else "mean")
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def verdict(
    tensors: Tensors, model: nn.Module | None = None, kind: UpdateKind = "gradient", **options: object
) -> Consistency:
    task = gl.Task(model if model is not None else smooth(), SPACE, 10)
    return check_consistency(gl.Update(tensors, kind), task, X, Y, **options)  # pyright: ignore[reportArgumentType]


def proven(found: Consistency) -> list[str]:
    assert not found.consistent
    assert all(cause.explanation for cause in found.causes)
    return [cause.name for cause in found.causes if cause.proven]


def perhaps(found: Consistency) -> list[str]:
    assert not found.consistent
    assert not any(cause.proven for cause in found.causes)
    return [cause.name for cause in found.causes]


def scaled(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: factor * tensor for name, tensor in tensors.items()}


# ---- consistent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [smooth, normed])
def test_the_true_update_is_consistent(make: Callable[[], nn.Module]) -> None:
    found = verdict(step(make()), make())
    assert found.consistent
    assert found.causes == ()
    assert found.relative_error < 1e-5
    assert found.scale == pytest.approx(1, abs=1e-5)
    assert set(found.per_layer) == set(dict(make().named_parameters()))
    assert max(found.per_layer.values()) < 1e-4


def test_float64_is_held_to_a_finer_tolerance() -> None:
    # Gradients of one double-precision model, changed by 1e-6: too much for float64, nothing for float32.
    task = gl.Task(smooth().double(), SPACE, 10)
    observation, _ = gl.capture(task, X.double(), Y)
    off = {name: tensor * (1 + 1e-6) for name, tensor in observation.update.tensors.items()}
    assert check_consistency(observation.update, task, X.double(), Y).consistent
    assert not check_consistency(gl.Update(off), task, X.double(), Y).consistent
    assert verdict(scaled(1 + 1e-6)(step(smooth()))).consistent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", ["narrow", "wide"])
def test_rounded_values_are_consistent_within_their_format(dtype: torch.dtype, stored: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in step(smooth()).items()}
    if stored == "wide":
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    found = verdict(tensors)
    assert found.consistent
    assert str(dtype).removeprefix("torch.") in found.precision
    assert ("every value fits" in found.precision) == (stored == "wide")
    assert found.relative_error > 1e-4
    assert found.tolerance < 0.01
    # The format excuses rounding and nothing else: this network hardly sees its images, and yet they are told apart.
    other = {name: tensor.to(dtype) for name, tensor in step(smooth(), -(X - MEAN) / STD).items()}
    assert not verdict(other).consistent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [smooth, normed])
def test_low_precision_arithmetic_is_recognized(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    everything = step(make().to(dtype), ((X - MEAN) / STD).to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        parts = step(make())
    for tensors in (everything, parts):
        # Unrounded, as an optimizer that keeps float32 copies leaves them.
        found = verdict({name: tensor.float() * 1.0000001 for name, tensor in tensors.items()}, make())
        assert found.consistent
        assert f"arithmetic in {str(dtype).removeprefix('torch.')}" in found.precision
        assert found.relative_error > 1e-4


def test_a_delta_has_a_free_learning_rate() -> None:
    found = verdict(scaled(-0.05)(step(smooth())), kind="delta")
    assert found.consistent
    assert found.scale == pytest.approx(0.05, rel=1e-4)
    assert "0.05" in found.precision


def test_stated_noise_is_expected_and_other_noise_is_not() -> None:
    task = gl.Task(smooth(), SPACE, 10)
    noise = gl.defenses.GaussianNoise(std=1e-3)
    observation, _ = gl.capture(task, X, Y, defenses=[noise], seed=11)
    assert check_consistency(observation.update, task, X, Y, defenses=[noise]).consistent
    less = check_consistency(observation.update, task, X, Y, defenses=[gl.defenses.GaussianNoise(std=1e-4)])
    assert not less.consistent
    evidence = Evidence(observation.update, gl.ThreatModel(), gl.clients.Gradient(), (noise,))
    assert check_consistency(evidence, task, X, Y).consistent


# ---- scale and sign ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "cause", "words"),
    [
        (-1.0, "sign", "-1"),
        (float(N), "sum", "summed over the 3 examples"),
        (-float(N), "sum", "the sign is wrong"),
        (1 / N, "averaged_twice", "1/3"),
        (-0.1, "delta_as_gradient", "learning rate 0.1;"),
        (0.37, "scale", "0.37"),
    ],
)
def test_factors(factor: float, cause: str, words: str) -> None:
    found = verdict(scaled(factor)(step(smooth())))
    assert proven(found) == [cause]
    assert words in found.causes[0].explanation
    assert found.scale == pytest.approx(factor, rel=1e-4)
    assert found.relative_error == pytest.approx(abs(1 - 1 / factor), rel=1e-3)


def test_a_summed_loss() -> None:
    assert proven(verdict(step(smooth(), total=True))) == ["sum"]


def test_a_gradient_called_a_delta() -> None:
    assert proven(verdict(step(smooth()), kind="delta")) == ["kind"]


def test_whole_weights() -> None:
    model = smooth()
    gradients = step(model)
    after = {name: value.detach() - 0.02 * gradients[name] for name, value in model.named_parameters()}
    for kind in ("delta", "gradient"):
        found = verdict(after, kind=kind)
        assert proven(found) == ["weights_sent"]
        assert "learning rate 0.02;" in found.causes[0].explanation


def test_a_model_from_after_the_step() -> None:
    model = normed()
    delta = scaled(-0.5)(step(model))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(delta[name])
    assert "weights_after" in proven(verdict(delta, model, "delta"))


def test_weight_decay() -> None:
    model = smooth()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    tensors = {name: tensor + 0.01 * weights[name] for name, tensor in step(model).items()}
    found = verdict(tensors)
    assert proven(found) == ["weight_decay"]
    assert "0.01" in found.causes[0].explanation


def test_a_scale_for_each_layer() -> None:
    tensors = {name: tensor / tensor.norm() for name, tensor in step(smooth()).items()}
    assert proven(verdict(tensors)) == ["layer_scales"]


# ---- the model's mode and state ----------------------------------------------------------------------------------


def test_modes_both_ways() -> None:
    in_train_mode = step(normed(), train=True)
    assert proven(verdict(in_train_mode, normed())) == ["mode"]
    assert verdict(in_train_mode, normed(), client=gl.clients.Gradient(mode="train")).consistent
    assert proven(verdict(step(normed()), normed(), client=gl.clients.Gradient(mode="train"))) == ["mode"]


def test_mode_and_summed_loss_together() -> None:
    assert sorted(proven(verdict(step(normed(), train=True, total=True), normed()))) == ["mode", "sum"]


def test_fresh_statistics_on_the_client() -> None:
    model = normed()
    layer = model.get_submodule("1")
    assert isinstance(layer, nn.BatchNorm2d)
    layer.reset_running_stats()
    found = verdict(step(model), normed())
    assert proven(found) == ["buffers"]
    assert "fresh" in found.causes[0].explanation


def test_statistics_that_moved_on_with_the_batch() -> None:
    model = normed().train()
    model((X - MEAN) / STD)
    found = verdict(step(model), normed())
    assert proven(found) == ["buffers"]
    assert "updated with this batch" in found.causes[0].explanation


def test_random_dropout_is_suspected_by_the_names_of_its_layers() -> None:
    model = seeded(5, dropping)
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(0)
        tensors = step(model, train=True)
    finally:
        torch.default_generator.set_state(before)
    found = verdict(tensors, model)
    assert perhaps(found)[0] == "dropout"
    assert "the layers 3 draw random dropout masks" in found.causes[0].explanation


def test_fixed_masks_both_ways() -> None:
    task = gl.Task(dropping(), SPACE, 10)
    fixed, off = gl.clients.Gradient(dropout="fixed_mask", dropout_seed=2), gl.clients.Gradient(dropout="off")
    masked, plain = (gl.capture(task, X, Y, client=client)[0].update for client in (fixed, off))
    assert check_consistency(masked, task, X, Y, client=fixed).consistent
    assert proven(check_consistency(masked, task, X, Y, client=off)) == ["dropout"]
    assert proven(check_consistency(plain, task, X, Y, client=fixed)) == ["dropout"]


def test_other_weights_are_not_explained_away() -> None:
    other = lenet(10, input_size=16, seed=2, initialization="default")
    found = verdict(step(other))
    assert perhaps(found)[-1] == "different_weights"
    assert "nothing that was tried fits" in found.causes[-1].explanation


# ---- names -------------------------------------------------------------------------------------------------------


def test_wrapped_names() -> None:
    found = verdict({f"module.{name}": tensor for name, tensor in step(smooth()).items()})
    assert proven(found) == ["renamed"]
    assert "module.conv1.weight looks like conv1.weight" in found.causes[0].explanation
    assert found.relative_error < 1e-5


def test_numbered_tensors_are_found_by_shape_and_direction() -> None:
    # conv2 and conv3 have the same shapes here, so the shape alone cannot tell them apart.
    tensors = {str(9 - position): tensor for position, tensor in enumerate(step(smooth()).values())}
    found = verdict(tensors)
    assert proven(found) == ["renamed"]
    assert found.relative_error < 1e-5


def test_missing_extra_and_misshaped_tensors_are_all_named() -> None:
    tensors = step(smooth())
    del tensors["conv1.bias"]
    tensors["conv2.bias"] = torch.ones(5)
    tensors["head.scale"] = torch.ones(2)
    found = verdict(tensors)
    assert sorted(proven(found)) == ["extra", "missing", "shape"]
    assert found.relative_error < 1e-5  # of the tensors that remain


def test_a_whole_state_dict() -> None:
    model = normed()
    tensors = {**step(model), **{name: buffer.clone() for name, buffer in model.named_buffers()}}
    found = verdict(tensors, normed())
    assert proven(found) == ["buffers_sent"]


def test_a_transposed_matrix() -> None:
    tensors = step(smooth())
    tensors["linear.weight"] = tensors["linear.weight"].T.contiguous()
    assert proven(verdict(tensors)) == ["transposed"]


# ---- labels and pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 4, 7], "belong to other examples"),
        ([2, 8, 5], "shifted by one class"),
        ([1, 7, 9], "others for 1 of 3 examples"),
    ],
)
def test_labels_that_fit_are_found(labels: list[int], words: str) -> None:
    found = verdict(step(smooth(), targets=torch.tensor(labels)))
    assert proven(found) == ["labels"]
    assert words in found.causes[0].explanation
    assert ", ".join(map(str, labels)) in found.causes[0].explanation


def test_labels_and_mode_together() -> None:
    found = verdict(step(normed(), targets=torch.tensor([0, 0, 9]), train=True), normed())
    assert proven(found) == ["mode", "labels"]
    assert "0, 0, 9" in found.causes[1].explanation


def test_smoothed_labels() -> None:
    smoothed = 0.8 * nn.functional.one_hot(Y, 10) + 0.02
    found = verdict(step(smooth(), targets=smoothed))
    assert proven(found) == ["soft_labels"]
    assert "0.82 on the largest class" in found.causes[0].explanation


BYTES = (255 * X - MEAN) / STD
INPUTS = {
    "un-normalized": (X, "pixels", "without normalization"),
    "bytes": (BYTES, "pixels", "0..255 instead"),
    "bytes, un-normalized": (255 * X, "pixels", "0..255 pixels without"),
    "normalized twice": (((X - MEAN) / STD - MEAN) / STD, "pixels", "twice"),
    "divided twice": ((X / 255 - MEAN) / STD, "pixels", "divided by 255 twice"),
    "other normalization": (2 * X - 1, "pixels", "[-1, 1]"),
    "negatives": ((1 - X - MEAN) / STD, "pixels", "negatives"),
    "BGR": ((X.flip(1) - MEAN) / STD, "channels", "BGR"),
    "flipped": ((X.flip(3) - MEAN) / STD, "augmentation", "flipped all images left to right"),
    "one flipped": ((torch.stack([X[0], X[1].flip(2), X[2]]) - MEAN) / STD, "augmentation", "flipped images 1 left"),
    "transposed": ((X.transpose(2, 3) - MEAN) / STD, "augmentation", "height and width"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_prepared_otherwise(name: str) -> None:
    model_input, cause, words = INPUTS[name]
    found = verdict(step(smooth(), model_input))
    assert proven(found) == [cause]
    assert words in found.causes[0].explanation


# ---- defenses that nobody named ----------------------------------------------------------------------------------


def noisy(draw: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensors:
    generator = stage_generator(0, "noise")
    return {name: tensor + 1e-3 * draw(tuple(tensor.shape), generator) for name, tensor in step(smooth()).items()}


def test_gaussian_noise() -> None:
    found = verdict(noisy(lambda shape, generator: torch.randn(shape, generator=generator)))
    assert perhaps(found) == ["noise"]
    assert "Gaussian noise of standard deviation 0.00101 " in found.causes[0].explanation  # 0.001 within 1 %


def test_laplace_noise() -> None:
    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        one, other = (-torch.rand(shape, generator=generator).clamp(min=1e-7).log() for _ in range(2))
        return one - other  # the difference of two exponential variables

    found = verdict(noisy(draw))
    assert perhaps(found) == ["noise"]
    assert "Laplace noise" in found.causes[0].explanation


def test_pruning() -> None:
    kept = {name: tensor.abs() >= tensor.abs().median() for name, tensor in step(smooth()).items()}
    found = verdict({name: tensor * kept[name] for name, tensor in step(smooth()).items()})
    assert proven(found) == ["sparsified"]
    assert "50 %" in found.causes[0].explanation


def test_signs() -> None:
    assert perhaps(verdict({name: tensor.sign() for name, tensor in step(smooth()).items()})) == ["signs"]


def test_quantized_to_few_values() -> None:
    steps = {name: tensor.abs().max() / 7 for name, tensor in step(smooth()).items()}
    tensors = {name: (tensor / steps[name]).round() * steps[name] for name, tensor in step(smooth()).items()}
    assert "quantized" in perhaps(verdict(tensors))


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_an_update_of_zeros_is_no_evidence() -> None:
    found = verdict({name: torch.zeros_like(tensor) for name, tensor in step(smooth()).items()})
    assert proven(found) == ["empty"]
    assert found.relative_error != found.relative_error


def test_a_batch_and_a_client_that_do_not_fit_are_refused_at_once() -> None:
    task = gl.Task(smooth(), SPACE, 10)
    with pytest.raises(gl.BadInput) as refused:
        check_consistency(
            gl.Update(step(smooth())),
            task,
            X[:, :1],
            Y + 5,
            client=gl.clients.Gradient(mode="test"),  # pyright: ignore[reportArgumentType]
            defenses=[gl.defenses.GaussianNoise(std=-1)],
        )
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "inputs",
        "targets",
        "client.mode",
        "GaussianNoise.std",
    ]


def test_the_search_ends_when_its_time_is_over() -> None:
    other = lenet(10, input_size=16, seed=2, initialization="default")
    found = verdict(step(other), max_seconds=0.0)
    assert "time ran out" in found.causes[-1].explanation


def test_the_task_is_left_as_it_was() -> None:
    model = normed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict(step(normed(), -X), model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
