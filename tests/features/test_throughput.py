"""Images per second are of the forward pass alone, and measuring them leaves no trace."""

import torch

from densebench.features.source import FeatureSource
from densebench.features.throughput import BATCH, LONG_ENOUGH, images_per_second
from densebench.model_zoo import load_model


def test_seconds_are_those_of_the_clock(monkeypatch):
    source, clock = FeatureSource(load_model("pico")), iter(range(1000))
    monkeypatch.setattr("densebench.features.throughput.time.perf_counter", lambda: next(clock) * LONG_ENOUGH / 2)
    assert images_per_second(source, (32, 32)) == 2 * BATCH / LONG_ENOUGH  # two passes of half the time


def test_a_slow_model_is_timed_on_single_images(monkeypatch):
    source, clock = FeatureSource(load_model("pico")), iter(range(1000))
    monkeypatch.setattr("densebench.features.throughput.time.perf_counter", lambda: next(clock) * 2.0)
    assert images_per_second(source, (32, 32)) == 0.5


def test_no_batch_is_larger_than_asked_for_and_no_random_number_is_spent(monkeypatch):
    source, sizes = FeatureSource(load_model("pico"), batch_size=2), []
    dense = source.backbone.dense

    def counted(images, *other):
        torch.rand(3)
        sizes.append(len(images))
        return dense(images, *other)

    monkeypatch.setattr(type(source.backbone), "dense", lambda self, *given: counted(*given))
    before = torch.get_rng_state()
    assert images_per_second(source, (32, 32)) > 0
    assert max(sizes) <= 2
    assert torch.equal(before, torch.get_rng_state())
