"""Depth: decoding of bins, losses, metrics, and DIP's retrieval of depth patches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from densebench.ops import retrieval, sampling
from densebench.ops.depth import (
    ERRORS,
    ImageMean,
    concat_tokens,
    decode_bins,
    depth_errors,
    eigen_crop,
    finish_depth,
    gradient_loss,
    histogram_bins,
    linear_logits,
    sig_loss,
    uniform_bins,
    unpatchify,
    valid_depth,
)

PLACES = (Path(__file__).parents[1] / "golden", Path(__file__).parents[2].parent / "shared" / "golden")


def read(name: str) -> dict:
    """Read a golden file from the tests, or from where the originals lie; strings stay numpy's."""
    path = next((place / f"{name}.npz" for place in PLACES if (place / f"{name}.npz").exists()), None)
    if path is None:
        pytest.skip(f"{name}.npz is neither in tests/golden nor beside this checkout")
    with np.load(path) as arrays:
        found = {key: np.asarray(arrays[key]) for key in arrays.files}
    return {key: value if value.dtype.kind == "U" else torch.from_numpy(value) for key, value in found.items()}


@pytest.mark.parametrize("name", ["linear1_UD", "linear4_UD", "sigmoid_UD", "softmax_UD"])
def test_bins(name, close):
    vectors = read(f"f_bins_{name}")
    x = concat_tokens(list(vectors["patch_maps"]), list(vectors["cls_tokens"]))
    logits = linear_logits(x, vectors["weight"], vectors["bias"], int(vectors["upsample"]))
    close(logits, vectors["logits"], 1e-4)
    low, high = float(vectors["min_depth"]), float(vectors["max_depth"])
    assert str(vectors["bins"]) == "UD"
    depth = decode_bins(logits, uniform_bins(int(vectors["n_bins"]), low, high), str(vectors["norm"]))
    close(depth, vectors["depth"], 1e-4)
    finished = finish_depth(depth, low, high, tuple(vectors["out_size"].tolist()))
    close(finished, vectors["depth_clamped_resized"], 1e-4)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("sigloss", lambda p, t, most: sig_loss(p, t, most)),
        ("sigloss_nomax", lambda p, t, most: sig_loss(p, t)),
        ("sigloss_warmup", lambda p, t, most: sig_loss(p, t, most, warm_up=True)),
        ("gradloss", lambda p, t, most: gradient_loss(p, t, most, dims=(0, 1))),
    ],
)
def test_losses(name, loss, close):
    vectors = read("f_depth_losses")
    pred = vectors["pred"].requires_grad_()
    found = loss(pred, vectors["gt"], float(vectors["max_depth"]))
    close(found, vectors[name], 1e-9)
    (gradient,) = torch.autograd.grad(found, pred)
    close(gradient, vectors[f"{name}_grad"], 1e-9)


def test_metrics_of_pixels(close):
    vectors = read("f_depth_metrics_flat")
    assert tuple(vectors["metric_names"]) == ERRORS
    close(depth_errors(vectors["pred"], vectors["gt"]), vectors["values"], 1e-5)


def test_metrics_of_images_with_the_eigen_crop(close):
    vectors = read("f_depth_metrics_eigen")
    assert tuple(vectors["metric_names"]) == ERRORS
    rows, columns = eigen_crop(480, 640)
    assert [rows.start, rows.stop, columns.start, columns.stop] == vectors["eigen_crop"].tolist()
    target = torch.from_numpy(vectors["gt_mm"].numpy().astype(np.float32)) / float(vectors["depth_scale"])
    valid = valid_depth(target, float(vectors["min_depth"]), float(vectors["max_depth"]), eigen=True)
    assert torch.equal(valid.sum((1, 2)), vectors["n_valid"])
    errors = [depth_errors(*image) for image in zip(vectors["pred"], target, valid, strict=True)]
    close(torch.stack(errors), vectors["per_image"], 1e-5)
    mean = ImageMean((len(ERRORS),))
    for image, values in enumerate(errors):
        mean.update(image, values)
    close(mean.mean(), vectors["mean"], 1e-5)
    close(depth_errors(vectors["pred"], target, valid), vectors["pooled"], 1e-5)


def test_retrieval_of_depth_patches(close):
    vectors = read("p_dip_retrieval_depth")
    side, patch, k = (int(vectors[name]) for name in ("S", "patch_size", "k"))
    patches = sampling.patchify_labels(vectors["train_depth"], patch)
    assert torch.equal(patches, vectors["patchified"])
    bins = histogram_bins(patches, int(vectors["num_bins"]))
    assert torch.equal(bins, vectors["binned"].long())
    ids = unpatchify(bins, patch)
    scores = sampling.patch_scores(ids, patch, int(vectors["num_bins"]) + 1, void=-1)
    assert torch.equal(scores.flatten(1), vectors["sampling_scores"])
    keys, labels = vectors["train_feats"].flatten(0, 1), patches.flatten(0, 2)
    queries = vectors["val_feats"].flatten(0, 1)
    found = retrieval.make_index(keys, "exact", "torch", "l2", k).search(queries, k)
    assert torch.equal(found.indices, vectors["nn_index"])
    label_hat = retrieval.attend(queries, found.indices, labels, keys=keys, temperature=float(vectors["beta"]))
    label_hat = label_hat.unflatten(0, (-1, side * side))
    close(label_hat, vectors["label_hat"], 1e-5)
    grid = label_hat.unflatten(1, (side, side))
    depth = unpatchify(grid, patch)
    close(depth, vectors["unpatchified"], 1e-5)
    size = tuple(vectors["val_depth"].shape[1:])
    as_found = torch.nn.functional.interpolate(grid.permute(0, 3, 1, 2), size, mode="bilinear").mean(1)
    close(as_found, vectors["resized_channel_mean"], 1e-5)
    for pred, name in ((depth, "rmse_unpatchified"), (as_found, "rmse_channel_mean")):
        pooled = depth_errors(pred, vectors["val_depth"])[ERRORS.index("rmse")]
        close(pooled, vectors[name], 1e-5)
