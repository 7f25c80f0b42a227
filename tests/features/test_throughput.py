"""Images per second are of the forward pass alone, and measuring them leaves no trace."""

import itertools

import torch

from densebench.features.source import FeatureSource
from densebench.features.throughput import BATCH, LONG_ENOUGH, images_per_second
from densebench.model_zoo import load_model


def clock(monkeypatch, *seconds):
    """Make passes take so many seconds, one after the other."""
    ticks = itertools.chain.from_iterable((0.0, each) for each in seconds)
    monkeypatch.setattr("densebench.features.throughput.time.perf_counter", lambda: next(ticks))


def test_the_fastest_pass_counts(monkeypatch):
    clock(monkeypatch, LONG_ENOUGH / 4, 4.0, 2.0, 3.0)  # one image, then passes of four
    assert images_per_second(FeatureSource(load_model("pico")), (32, 32)) == 4 / 2.0


def test_a_fast_model_is_timed_on_batches(monkeypatch):
    clock(monkeypatch, LONG_ENOUGH / 1000, 1.0, 1.0, 1.0)
    assert images_per_second(FeatureSource(load_model("pico")), (32, 32)) == BATCH


def test_a_slow_model_is_timed_on_one_image(monkeypatch):
    clock(monkeypatch, 2.0)
    assert images_per_second(FeatureSource(load_model("pico")), (32, 32)) == 0.5


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
