"""Distances of each layer's gradient, for layers that the attack saw and for those that it did not."""

import gradleak as gl
from gradleak.audits.layer_course import layer_course
from gradleak.zoo.models import mlp
from tests.problems import images, labels, small_lenet


def test_layers_that_were_not_seen_are_there_too() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    attack = gl.attacks.using_layers(attack=gl.attacks.staged, layers="last", max_evaluations=60, restarts=1)
    course = layer_course(observation, attack(observation))
    assert course.names == tuple(observation.update.tensors)
    assert len(course.evaluations) > 1
    first, last = (
        dict(zip(course.names, moment, strict=True)) for moment in course.distances[:: len(course.distances) - 1]
    )
    assert last["linear.weight"] < first["linear.weight"] / 10
    assert last["conv1.weight"] > 10 * last["linear.weight"]  # nobody matched it


def test_an_attack_without_snapshots_has_its_result() -> None:
    task = gl.Task(mlp(48, (12,), 10, seed=0).double(), gl.TabularSpace(48), num_classes=10)
    observation, _ = gl.capture(task, images(1, (1, 6, 8)).flatten(1), labels(1))
    result = gl.attacks.linear_layer()(observation)
    assert not result.history.snapshots
    course = layer_course(observation, result)
    assert course.evaluations == (result.evaluations,)
    assert max(course.distances[0]) < 1e-9


def test_no_result_has_no_distances() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    result = gl.attacks.linear_layer()(observation)
    assert result.status == "not_applicable"
    assert layer_course(observation, result).names == ()
