import torch

import gradleak as gl
from gradleak.attacks.closed_form.cocktail_party import (
    cocktail_party,
    fit_to_bounds,
    independent_components,
    neighbor_differences,
    sizes_from_bias,
)
from gradleak.attacks.closed_form.linear_layer import Entry
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet, mlp


def test_sparse_sources_are_told_apart() -> None:
    generator = stage_generator(0, "sources")
    noise = torch.randn((5, 4000), generator=generator, dtype=torch.float64)
    sources = noise * (torch.rand((5, 4000), generator=generator) < 0.2)
    mixing = torch.randn((5, 5), generator=generator, dtype=torch.float64)
    found = independent_components(mixing @ sources, stage_generator(0, "start"))
    passed = (found.unmixing @ mixing).abs()
    passed = passed / passed.max(dim=1, keepdim=True).values
    assert sorted(passed.argmax(dim=1).tolist()) == [0, 1, 2, 3, 4]
    assert float(passed.sort(dim=1).values[:, -2].max()) < 0.1
    gaussian = independent_components(mixing @ noise, stage_generator(0, "start"))
    assert found.contrast > 10 * gaussian.contrast


def test_neighbor_differences_by_hand() -> None:
    image = torch.tensor([[[[1.0, 4.0], [2.0, 9.0]]]])
    assert neighbor_differences(image).tolist() == [[3.0, 7.0, 1.0, 5.0]]
    assert torch.equal(neighbor_differences(image + 5), neighbor_differences(image))


def test_sign_and_size_follow_from_the_bounds() -> None:
    images, _ = load("photographs").sample(6, seed=1)
    pixels = images.double().flatten(1)
    order = torch.arange(pixels.shape[1])
    entry = Entry("weight", "bias", order, torch.full((len(order),), 4.0), torch.full((len(order),), -0.5))
    factors = torch.tensor([-3.0, 0.1, 1.0, -0.5, 7.0, -1e-3], dtype=torch.float64)
    found = fit_to_bounds(entry, gl.ImageSpace((3, 32, 32)), factors[:, None] * entry.layer_inputs(images))
    for image, true in zip(found.flatten(1), pixels, strict=True):
        assert float(torch.corrcoef(torch.stack([image, true]))[0, 1]) > 0.999
        assert 0.5 < float(image.std() / true.std()) < 3
    exact = fit_to_bounds(entry, gl.ImageSpace((3, 32, 32)), factors[:, None] * entry.layer_inputs(images), 1 / factors)
    assert torch.allclose(exact.flatten(1), pixels, atol=1e-6)


def test_sizes_from_the_bias_are_exact_for_an_exact_separation() -> None:
    generator = stage_generator(0, "sizes")
    derivatives = torch.randn((30, 4), generator=generator, dtype=torch.float64)
    inputs = torch.rand((4, 50), generator=generator, dtype=torch.float64)
    mixing = torch.randn((4, 4), generator=generator, dtype=torch.float64)
    factors = torch.tensor([2.0, -0.5, 1.0, -3.0], dtype=torch.float64)
    # The mixtures are `mixing @ inputs`, and the unmixing returns every input times an unknown factor.
    unmixing = factors[:, None] * torch.linalg.inv(mixing)
    sizes = sizes_from_bias(derivatives @ torch.linalg.inv(mixing), unmixing, derivatives.sum(dim=1))
    assert torch.allclose(sizes[:, None] * (unmixing @ mixing @ inputs), inputs)


def test_a_batch_larger_than_the_number_of_classes_is_recognizable() -> None:
    inputs, targets = load("photographs").sample(16, seed=7)
    task = gl.Task(mlp(3072, (100,), 10, seed=1), gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets % 10)
    result = cocktail_party()(observation)
    scores = gl.score(result, truth)
    assert float(scores.correlation.median()) > 0.9
    assert float(scores.ssim.median()) > 0.5
    assert "16 independent components" in result.message
    again = cocktail_party()(observation)
    assert torch.equal(again.inputs, result.inputs)


def test_what_it_cannot_do_it_says() -> None:
    inputs = torch.rand((4, 3, 16, 16), generator=stage_generator(0, "images"))
    targets = torch.arange(4)
    observation, _ = gl.capture(gl.Task(lenet(10, input_size=16), gl.ImageSpace((3, 16, 16)), 10), inputs, targets)
    assert "receives the input" in cocktail_party()(observation).message
    narrow = gl.Task(mlp(768, (4,), 10), gl.ImageSpace((3, 16, 16)), 10)
    observation, _ = gl.capture(narrow, inputs, targets)
    assert "of 4, for 4 examples" in cocktail_party()(observation).message
    rows = gl.Task(mlp(768, (50,), 10), gl.TabularSpace(768), 10)
    observation, _ = gl.capture(rows, inputs.flatten(1), targets)
    assert "images only" in cocktail_party()(observation).message
