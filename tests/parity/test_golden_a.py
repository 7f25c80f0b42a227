"""Hummingbird end to end: open-hummingbird-eval's numbers from its inputs, on every exact backend."""

import pytest
import torch
from torch import Tensor

from densebench.ops.confusion import confusion, counts, iou, mean_iou
from densebench.ops.matching import hungarian
from densebench.ops.retrieval import ExactIndex, attend, normalise_keys, upsample_argmax
from densebench.ops.sampling import patch_scores, patches_per_image, sample_patches, soft_labels

pytestmark = pytest.mark.golden("a_hbird_*")


@pytest.fixture(params=["torch", "torch-blocks-7x32", "torch-blocks-1x96", "faiss"])
def search(request, vectors):
    """Return a function (keys) -> neighbours of all validation patches."""
    name, _, blocks = request.param.partition("-blocks-")
    if name == "faiss":
        pytest.importorskip("faiss")
    rows, columns = map(int, blocks.split("x")) if blocks else (None, None)
    queries = vectors["val_feats"].flatten(0, 1)
    return lambda keys: ExactIndex(keys, name, query_block=rows, key_block=columns).search(queries, int(vectors["k"]))


def memory(vectors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return unit keys (N, D) and soft labels (N, C), sampled with the reference's draws where it samples."""
    masks, patch, n_classes = vectors["train_masks"], int(vectors["patch_size"]), int(vectors["num_classes"])
    features, labels = vectors["train_feats"], soft_labels(masks, patch, n_classes).flatten(1, 2)
    n_images, n_patches, _ = features.shape
    if "memory_size" in vectors:
        share = patches_per_image(int(vectors["memory_size"]), n_images, 1, n_patches)
        assert share == int(vectors["num_sampled_features"])
        torch.manual_seed(int(vectors["torch_seed"]))
        chosen = sample_patches(patch_scores(masks, patch, n_classes), share, torch.rand(n_images, n_patches))
        image = torch.arange(n_images)[:, None]
        features, labels = features[image, chosen], labels[image, chosen]
    return normalise_keys(features.flatten(0, 1)), labels.flatten(0, 1)


def test_memory(vectors, close):
    keys, labels = memory(vectors)
    close(keys, vectors["memory_features"], 1e-6)
    close(labels, vectors["memory_labels"], 1e-6)


def test_retrieval_and_scores(vectors, search, close):
    grid, patch, n_classes = (int(vectors[name]) for name in ("S", "patch_size", "num_classes"))
    keys, labels = memory(vectors)
    found = search(keys)
    assert torch.equal(found.indices, vectors["nn_index"])
    close(found.scores, vectors["nn_score"], 1e-5)

    queries, temperature = vectors["val_feats"].flatten(0, 1), float(vectors["beta"])
    fast = attend(queries, found.indices, labels, scores=found.scores, temperature=temperature)
    gathered = attend(queries, found.indices, labels, keys=keys, temperature=temperature, chunk=31)
    close(fast.view(vectors["label_hat"].shape), vectors["label_hat"], 1e-5)
    close(gathered.view(vectors["label_hat"].shape), vectors["label_hat"], 1e-5)

    assert float(vectors["argmax_margin_min"]) > 0
    maps = fast.view(-1, grid, grid, n_classes).permute(0, 3, 1, 2)
    pred = upsample_argmax(maps, (grid * patch, grid * patch))
    assert torch.equal(pred, vectors["argmax"].long())

    table = confusion(pred, vectors["val_masks"], n_classes, n_classes, int(vectors["ignore_index"]))
    assert torch.equal(table, vectors["confusion"])
    for tag, mapping in ("identity", None), ("hungarian", hungarian(table)):
        scored = counts(table, mapping)
        for name in scored._fields:
            assert torch.equal(getattr(scored, name), vectors[f"{name}_{tag}"])
        close(iou(*scored), vectors[f"iou_{tag}"], 1e-12)
        close(mean_iou(*scored), vectors[f"miou_{tag}"], 1e-12)
    scored = counts(table)
    torch.testing.assert_close(iou(*scored, absent="skip"), vectors["iou_nan_identity"], equal_nan=True)
    close(mean_iou(*scored, absent="skip"), vectors["miou_nanmean_identity"], 1e-12)
