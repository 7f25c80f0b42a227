"""What position and colour alone say about the classes of `scenes`: the figures in docs/datasets.md.

Run by hand: `python benchmarks/chance.py`. Labels are the most frequent class of 8 x 8 pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from densebench.datasets.scenes import CLASSES
from densebench.datasets.scenes.dataset import Scenes
from densebench.ops.confusion import confusion, counts, mean_iou
from densebench.ops.sampling import soft_labels
from densebench.ops.search import search

PATCH = 8


def patches(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean colours (N, 400, 3) and labels (N, 400) of a split."""
    data = Scenes(None, split)
    images = torch.stack([torch.from_numpy(np.array(data.image(i))).float() for i in range(len(data))])
    masks = torch.stack([torch.from_numpy(data.mask(i)) for i in range(len(data))])
    colors = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2), PATCH).flatten(2).mT
    return colors, soft_labels(masks, PATCH, len(CLASSES)).flatten(1, 2).argmax(-1)


def main() -> None:
    """Print the share of class entropy that position explains, and mIoU of 30 nearest neighbours in RGB."""
    n = len(CLASSES)
    bank, known = patches("train")
    queries, truth = patches("val")
    places = torch.nn.functional.one_hot(known, n).sum(0).double()  # (400, classes)
    joint = places / places.sum()
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    information = torch.special.xlogy(joint, joint / (rows @ columns).clamp_min(1e-30)).sum()
    print(f"position: {information / -torch.special.xlogy(columns, columns).sum():.3f} of the class entropy")
    near = search(bank.flatten(0, 1), queries.flatten(0, 1), 30, metric="l2").indices
    labels = known.flatten()
    for name, voters in (("labels", labels), ("shuffled labels", labels[torch.randperm(len(labels))])):
        votes = torch.nn.functional.one_hot(voters[near], n).sum(1).argmax(1)
        tp, fp, fn = counts(confusion(votes, truth.flatten(), n, n))
        print(f"30 neighbours in RGB, {name}: mIoU {100 * float(mean_iou(tp, fp, fn)):.1f} %")


if __name__ == "__main__":
    main()
