"""What every optimization attack shares: layouts, stages, priors, precision, chunks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import gradleak as gl
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.layout import Layout
from gradleak.attacks.objectives import normalized_squared_distance
from gradleak.attacks.precision import in_precision
from gradleak.attacks.priors import Weighted, total_variation
from gradleak.attacks.spectrum import cosine_matrix, weighted_frequencies
from gradleak.attacks.squash import squashed
from gradleak.attacks.starts import grey
from gradleak.optim import WolfeLBFGS
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from gradleak.zoo.models import lenet, mlp
from tests.problems import images, labels, normed_net, small_lenet


def attack(**changes: object) -> Inversion:
    base = Inversion(
        name="test",
        objective=normalized_squared_distance,
        optimizer=lambda _count: WolfeLBFGS(),
        labels="bias_sign",
        start=grey,
        max_evaluations=40,
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


def smooth_images(count: int) -> Tensor:
    coarse = torch.rand((count, 3, 4, 4), generator=stage_generator(1, "coarse"), dtype=torch.float64)
    return interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)


def layout(observation: Observation, joint: bool = True) -> Layout:
    targets = None if joint else observation.task.target_probabilities(labels(2))
    return Layout.of(observation, 2, targets)


@pytest.fixture
def pair() -> Observation:
    return gl.capture(small_lenet(), images(2), labels(2))[0]


def test_layout_round_trip(pair: Observation) -> None:
    variable, logits = images(2), torch.randn((2, 10), generator=stage_generator(0, "logits"), dtype=torch.float64)
    flat = layout(pair).pack(variable, logits)
    assert flat.shape == (2 * (768 + 10),)
    assert torch.equal(flat[:768], variable[0].flatten())
    assert torch.equal(flat[768:778], logits[0])
    back, probabilities = layout(pair).unpack(flat)
    assert torch.equal(back, variable)
    torch.testing.assert_close(probabilities, torch.softmax(logits, dim=1))


def test_box_leaves_logits_free(pair: Observation) -> None:
    low, high = layout(pair).box(0.0, 1.0)
    assert bool((low[:768] == 0).all())
    assert bool((high[:768] == 1).all())
    assert bool((low[768:778] == -torch.inf).all())
    assert bool((high[-10:] == torch.inf).all())


def test_resizing_keeps_flat_images_and_logits(pair: Observation) -> None:
    full = layout(pair)
    coarse = full.coarser((4, 4))
    logits = torch.arange(20, dtype=torch.float64).view(2, 10)
    candidate = full.pack(torch.full((2, 3, 16, 16), 0.3, dtype=torch.float64), logits)
    small = full.resized(candidate, coarse)
    assert small.shape == (2 * (48 + 10),)
    torch.testing.assert_close(coarse.resized(small, full), candidate)
    ends = full.box(0.0, 1.0)
    torch.testing.assert_close(full.resized(ends[1], coarse), coarse.box(0.0, 1.0)[1])


def test_cosine_matrix_is_orthonormal_and_its_first_row_is_the_mean() -> None:
    rows = cosine_matrix(7, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(rows @ rows.T, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(rows[0], torch.full((7,), 7**-0.5, dtype=torch.float64))


def test_weighted_frequencies_are_a_change_of_coordinates(pair: Observation) -> None:
    full = layout(pair)
    expand, restrict = weighted_frequencies(full, 1.0)
    candidate = full.pack(images(2), torch.zeros(2, 10))
    torch.testing.assert_close(expand(restrict(candidate)), candidate)
    # One unit along a frequency of length f moves the image by 1 / (1 + f).
    unit = torch.zeros_like(candidate)
    unit[3 * 16 + 4] = 1  # first image, first channel, frequency (3, 4)
    assert float(expand(unit).norm()) == pytest.approx(1 / 6)
    assert torch.equal(expand(unit)[778:], torch.zeros(778, dtype=torch.float64))


def test_precision_converts_everything_and_changes_no_value() -> None:
    model = normed_net(nn.BatchNorm2d).float()
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, _ = gl.capture(task, images(2).float(), labels(2))
    double = in_precision(observation, torch.float64)
    assert in_precision(double, torch.float64) is double
    assert double.task.dtype == torch.float64
    assert task.dtype == torch.float32
    for name, value in observation.update.tensors.items():
        assert torch.equal(double.update.tensors[name], value.double())
    counters = [value.dtype for name, value in double.state.constants.items() if name.endswith("tracked")]
    assert counters == [torch.int64]
    result = attack(precision="double", labels="joint")(observation)
    assert result.variable.dtype == torch.float64
    assert result.objective < 0.5 * result.history.objective[0]


def test_a_pyramid_begins_on_the_coarse_grid_and_ends_on_the_fine_one() -> None:
    observation, _ = gl.capture(small_lenet(), smooth_images(1), labels(1))
    pyramid = attack(pyramid=((4, 12), (8, 12)))(observation)
    assert pyramid.evaluations == 40
    early = next(s for s in pyramid.history.snapshots if s.evaluations == 12).inputs
    basis = interpolate(torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4), (16, 16), mode="bilinear").flatten(1).T
    nearest = basis @ torch.linalg.lstsq(basis, early[0].flatten(1).T).solution
    torch.testing.assert_close(nearest, early[0].flatten(1).T)
    # The coarse family holds the truth nearly, so few evaluations find it.
    plain = attack()(observation)
    assert pyramid.history.objective[11] < plain.history.objective[11]


def test_weighted_frequencies_need_fewer_evaluations_than_pixels() -> None:
    observation, truth = gl.capture(small_lenet(), smooth_images(1), labels(1))
    pixels, frequencies = (
        float((attack(spectrum=exponent)(observation).inputs - truth.inputs).square().mean()) for exponent in (None, 1)
    )
    assert frequencies < 0.5 * pixels


def test_stages_leave_rows_alone() -> None:
    task = gl.Task(mlp(12, (8,), 10, seed=0).double(), gl.TabularSpace(12), num_classes=10)
    observation, _ = gl.capture(task, images(1, (3, 2, 2)).flatten(1), labels(1))
    runs = [attack(pyramid=pyramid, spectrum=s)(observation) for pyramid, s in (((), None), (((4, 5),), 1.0))]
    assert runs[0].history.objective == runs[1].history.objective


def test_objective_includes_the_priors_and_belongs_to_the_candidate() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    plain, weighted = attack(max_evaluations=1), attack(max_evaluations=1, priors=(Weighted(0.5, total_variation),))
    assert weighted(observation).objective == plain(observation).objective  # grey has no variation
    result = attack(priors=(Weighted(0.5, total_variation),))(observation)
    step = gl.clients.Gradient().bind(observation.task, observation.state)
    simulated = step(result.variable, result.target_probabilities)
    distance = normalized_squared_distance(simulated, observation.update.tensors)
    variation = total_variation(observation)(result.variable, result.target_probabilities)
    assert result.objective == pytest.approx(float(distance + 0.5 * variation))


def test_a_boxed_search_stays_in_the_bounds() -> None:
    observation, _ = gl.capture(small_lenet(initialization="uniform"), images(1).round(), labels(1))
    free, boxed = attack()(observation).variable, attack(boxed=True)(observation).variable
    assert float(free.max()) > 1
    assert 0 <= float(boxed.min()) <= float(boxed.max()) <= 1


def test_chunks_of_restarts_change_nothing() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    runs = [attack(restarts=3, labels="joint", chunk_size=size)(observation, seed=1) for size in (None, 1, 2)]
    for run in runs[1:]:
        torch.testing.assert_close(run.variable, runs[0].variable, rtol=1e-6, atol=1e-8)


def test_bias_sign_falls_back_to_the_row_sum_without_a_bias() -> None:
    model = lenet(10, input_size=16).double()
    model.linear = nn.Linear(192, 10, bias=False, dtype=torch.float64)
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, _ = gl.capture(task, images(1), torch.tensor([6]))
    assert attack(max_evaluations=1)(observation).targets.tolist() == [6]


def test_a_squashed_variable_never_leaves_its_bounds(pair: Observation) -> None:
    plan = layout(pair)
    expand, restrict = squashed(plan, -1.0, 3.0)
    candidate = plan.pack(images(2) * 3.9 - 0.95, torch.zeros((2, 10), dtype=torch.float64))
    torch.testing.assert_close(expand(restrict(candidate)), candidate)
    wild = expand(plan.pack(images(2) * 1e6, torch.ones((2, 10), dtype=torch.float64)))
    variable, logits = plan.split(wild)
    assert float(variable.min()) >= -1.0
    assert float(variable.max()) <= 3.0
    assert bool((logits == 1).all())


def test_the_search_through_a_squashed_variable_finds_the_image() -> None:
    observation, truth = gl.capture(small_lenet(), smooth_images(1), labels(1))
    found = attack(squashed=True, max_evaluations=250)(observation)
    assert bool((found.variable > 0).all() & (found.variable < 1).all())
    assert gl.score(found, truth).median("psnr") > 30


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own parts
def test_a_compiled_search_takes_the_same_way() -> None:
    observation, _ = gl.capture(small_lenet(), smooth_images(1), labels(1))
    plain, compiled = (attack(compiler=name, max_evaluations=15)(observation) for name in (None, "aot_eager"))
    torch.testing.assert_close(compiled.variable, plain.variable)
