"""DIP: train features so that patches of other images, looked up softly, predict the labels of a query image.

Source: "DIP: Unsupervised Dense In-Context Post-training of Visual Representations", section 3; numbers as in DIP
``models/dipnet.py`` and ``models/criterion.py``.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.precision import full_precision
from densebench.ops.sampling import soft_labels


def patch_labels(labels: Tensor, patch: int, n_classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the mean of the pixels' one-hot labels per patch, (B, h w, C) in ``dtype`` with rows summing to 1.

    Args:
        labels: (B, H, W) integers in [0, n_classes); no value is void, 255 is a pseudo-class like any other.
        patch: pixels per patch side; H and W are multiples of it.
        n_classes: number of classes C.
        dtype: that of the features, if it is known; what takes labels rounds them to it where it is less.

    Raises:
        ValueError: a label lies outside the classes, or H or W is not a multiple of the patch.
    """
    return soft_labels(labels, patch, n_classes, void=-1, void_to=None, dtype=dtype).flatten(1, 2)


def add_distractors(support: Tensor, permutations: Tensor) -> Tensor:
    """Return each image's own support rows followed by those of K other images of the batch, (B, (1 + K) N, ...).

    Args:
        support: (B, N, ...) features or labels, one row per patch.
        permutations: (K, B) indices of images; the published code draws K permutations of the batch, in which an
            image can meet itself.
    """
    own = torch.arange(support.shape[0], device=support.device)
    images = torch.cat([own[None], permutations.to(support.device).long()])  # (1 + K, B)
    return support[images.t()].flatten(1, 2)


@full_precision
def predict_in_context(query: Tensor, support: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the labels that query patches take over from the support, (B, N, C): a mean weighted by softmax(cos / T).

    Args:
        query: (B, N, D), not normalised.
        support: (B, M, D), not normalised.
        labels: (B, M, C), such as :func:`patch_labels`.
        temperature: T > 0; 0.07 in DIP's configs.
    """
    cosine = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mT
    return torch.softmax(cosine / temperature, dim=-1) @ labels.to(cosine.dtype)


@full_precision
def in_context_loss(
    prediction: Tensor,
    target: Tensor,
    form: Literal["published", "corrected"] = "published",
    floor: float = 1e-8,
) -> Tensor:
    """Return the cross-entropy of predicted labels, a scalar: the mean over all pixels, at the cost of one per patch.

    DIP upsamples the prediction to the pixels by nearest neighbour. All pixels of a patch then share one prediction,
    and the mean of their losses is the loss of the mean of their one-hot labels; nothing (B, C, H, W) is built.

    Args:
        prediction: (B, N, C) from :func:`predict_in_context`, rows of probabilities.
        target: (B, N, C) :func:`patch_labels` of the query's own labels.
        form: ``"published"`` takes the probabilities for logits, as the code does, so that a second softmax flattens
            them; ``"corrected"`` is -log of the predicted probability, as the paper says.
        floor: in the corrected form, probabilities below it count as it and pass no gradient: a class that the
            support lacks has probability 0 whatever the features.

    Raises:
        ValueError: an unknown form.
    """
    target = target.to(prediction.dtype)
    if form == "published":
        log = F.log_softmax(prediction, dim=-1)
    elif form == "corrected":
        log = prediction.clamp(min=floor).log()
    else:
        raise ValueError(f"unknown form {form!r}; expected published or corrected")
    return -(target * log).sum(-1).mean()
