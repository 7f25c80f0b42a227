"""Mutual information, soft labels, patch sampling and resizing."""

import pytest
import torch

from densebench.ops.information import (
    PositionCounts,
    aggregate_map,
    attention_mutual_information,
    mutual_information,
)
from densebench.ops.resize import nearest_index, resize_labels, resize_maps
from densebench.ops.sampling import patch_scores, patchify_labels, sample_patches, soft_labels


@pytest.mark.golden("g_nmi_*")
def test_position_information(vectors, close):
    labels, n_classes = vectors["labels"], int(vectors["num_classes"])
    size = tuple(labels.shape[1:])
    stream = PositionCounts(size[0] * size[1], n_classes, n_groups=5)
    for image, label_map in enumerate(labels):
        stream.update(image, label_map)
    counts = stream.total()
    assert torch.equal(counts, vectors["counts"].long())
    found = mutual_information(counts)
    close(found.classwise, vectors["classwise_mi"], 1e-10)
    for value, name in zip(found[1:], ("mi", "entropy", "nmi"), strict=True):
        assert value == pytest.approx(float(vectors[name]), rel=1e-10, abs=1e-10)
    close(aggregate_map(counts, vectors["palette"], size), vectors["aggregate_map"], 1e-10)


@pytest.mark.golden("g_locality_mi")
def test_locality(vectors, close):
    attention = vectors["attention"]
    close(attention_mutual_information(attention), vectors["mi_per_head"], 1e-10)
    close(attention_mutual_information(attention.mean(0)), vectors["mi_head_averaged"], 1e-10)


@pytest.mark.golden("h_*")
def test_soft_labels(vectors, close):
    masks, patch = vectors["masks"], int(vectors["patch_size"])
    pixels = patchify_labels(masks, patch)
    assert torch.equal(pixels.masked_fill(pixels == 255, 0), vectors["patchified"])  # the reference fills first
    close(soft_labels(masks, patch, int(vectors["num_classes"])), vectors["soft_labels"], 1e-7)


@pytest.mark.golden("i_*")
def test_patch_sampling(vectors):
    scores = patch_scores(vectors["masks"], int(vectors["patch_size"]), int(vectors["num_classes"]))
    assert torch.equal(scores, vectors["scores"])
    n_images, n_patches = vectors["noise"].shape
    torch.manual_seed(int(vectors["torch_seed"]))
    noise = torch.rand(n_images, n_patches)
    assert torch.equal(noise, vectors["noise"])
    chosen = sample_patches(scores, int(vectors["K"]), noise)
    assert torch.equal(chosen, vectors["sampled_indices"])
    assert torch.equal(vectors["features"][torch.arange(n_images)[:, None], chosen], vectors["sampled_features"])


@pytest.mark.golden("l_*")
def test_resizing(vectors, close):
    clusters = vectors["cluster_map"]
    size = tuple(vectors["cluster_map_100"].shape[-2:])
    assert torch.equal(resize_labels(clusters, size), vectors["cluster_map_100"])
    assert torch.equal(nearest_index(448, 100), vectors["nearest_index_448_to_100"])
    assert torch.equal(nearest_index(clusters.shape[-1], 100), vectors["nearest_index_grid_to_100"])
    close(resize_maps(vectors["feature_map"], 100), vectors["feature_map_bilinear_100"], 1e-6)
