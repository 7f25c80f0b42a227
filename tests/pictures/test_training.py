"""Logs of trainings, features in a plane, information by class."""

import json
import math

import numpy as np
import pytest
import torch

from densebench.pictures.classwise_mi import by_class
from densebench.pictures.training import losses, plane_of, relative, variation


def test_losses_are_read_by_step_and_lines_without_one_left_out():
    rows = [{"step": 10, "loss": 2.0}, {"step": 20}, {"step": 30, "loss": float("nan")}, {"step": 40, "loss": 1.0}]
    found = losses([*map(json.dumps, rows), ""])
    assert found == {10: 2.0, 40: 1.0}
    assert relative(found) == {10: 1.0, 40: 0.5}
    assert relative({}) == {}
    assert relative({1: 0.0, 2: 3.0}) == {1: 0.0, 2: 3.0}
    for line in ("{", "[]", "3"):
        with pytest.raises(ValueError):  # noqa: PT011  (JSON's own, or ours)
            losses([line])


def test_the_coefficient_of_variation_does_not_depend_on_scale():
    values = [1.0, 2.0, 3.0]
    assert variation(values) == pytest.approx(np.std(values) / 2)
    assert variation([-10 * v for v in values]) == pytest.approx(variation(values))
    assert variation([4.0, 4.0]) == 0
    assert math.isnan(variation([]))
    assert math.isnan(variation([1.0, -1.0]))


def test_two_sides_share_a_plane():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(50, 6, generator=generator)
    student = torch.randn(30, 6, generator=generator) + torch.tensor([9.0, 0, 0, 0, 0, 0])
    one, other = plane_of(teacher, student)
    assert (one.shape, other.shape) == ((50, 2), (30, 2))
    assert abs(one[:, 0].mean() - other[:, 0].mean()) > 8  # the gap is the first component
    assert np.array_equal(one, plane_of(teacher, student)[0])


def test_clusters_of_a_class_add_up():
    facts = {"classwise_mi": {"0:tree": 0.25, "1:sky": 0.5, "2:tree": 0.125, "3:a:b": 1.0}}
    assert by_class(facts) == {"tree": 0.375, "sky": 0.5, "a:b": 1.0}
