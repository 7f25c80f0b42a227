"""The schedule of weight decay and momentum, and DIP's training loss."""

import pytest
import torch

from densebench.methods.trainer import cosine, warm_cosine
from densebench.ops.dip import add_distractors, in_context_loss, patch_labels, predict_in_context


@pytest.mark.golden("j_cosine_scheduler")
def test_cosine_schedule(vectors, close):
    """The final value would be reached one step after the last."""
    steps = int(vectors["epochs"] * vectors["niter_per_ep"])
    for base, final, expected in zip(
        vectors["base"].tolist(), vectors["final"].tolist(), vectors["values"], strict=True
    ):
        for schedule in (
            [cosine(base, final, step, steps) for step in range(steps)],
            [warm_cosine(base, final, step, steps, 0) for step in range(steps)],
        ):
            close(torch.tensor(schedule, dtype=torch.float64), expected, 1e-12)


@pytest.mark.golden("p_dip_train_loss")
def test_dip_loss(vectors, close):
    query, reference = (vectors[name].requires_grad_() for name in ("query_feats", "ref_feats"))
    patch, n_classes, side = (int(vectors[name]) for name in ("patch_size", "num_classes", "S"))
    permutations = vectors["distractor_permutations"]
    assert len(permutations) == vectors["n_distractors"]
    labels = patch_labels(vectors["ref_labels"], patch, n_classes)
    prediction = predict_in_context(
        query, add_distractors(reference, permutations), add_distractors(labels, permutations), float(vectors["beta"])
    )
    close(prediction.mT.unflatten(-1, (side, side)), vectors["prediction"], 1e-10)
    loss = in_context_loss(prediction, patch_labels(vectors["query_labels"], patch, n_classes))
    close(loss, vectors["loss"], 1e-10)
    for found, name in zip(torch.autograd.grad(loss, (query, reference)), ("grad_query", "grad_ref"), strict=True):
        close(found, vectors[name], 1e-10)
