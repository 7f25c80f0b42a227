"""Looking at every file of a dataset: `data check`, `--skip-corrupt`, and which image holds which class.

The answers are remembered in the cache by the dataset's digest, so that a dataset is read through once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import CorruptFileError, DatasetError
from densebench.core.memo import remembered
from densebench.core.progress import Progress
from densebench.datasets.dataset import VOID, DenseDataset, check_same_size
from densebench.datasets.tools.ground_truth import GroundTruthCheck


@dataclass
class CheckReport:
    """What reading every file of one split found."""

    name: str
    split: str
    n_images: int
    n_published: int
    digest: str
    pixels: dict[str, int] = field(default_factory=dict)
    """Pixels per class, and of "ignored"; empty where there are no masks."""
    images: dict[str, int] = field(default_factory=dict)
    """Images that hold the class."""
    depth: tuple[float, float] | None = None
    """Nearest and farthest metres of all measured pixels; None where there is no depth."""
    measured: int = 0
    """Pixels with a depth."""
    objects: int = 0
    """Annotated objects, and the keypoints that are seen of them."""
    points: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What may be wrong."""

    def add_depth(self, depth: NDArray[np.float32]) -> None:
        """Count one depth map, (H, W) in metres, 0 = not measured."""
        seen = depth[depth > 0]
        if seen.size:
            low, high = self.depth or (np.inf, 0.0)
            self.depth = min(low, float(seen.min())), max(high, float(seen.max()))
            self.measured += seen.size


def check(data: DenseDataset, progress: Progress) -> CheckReport:
    """Decode everything that a split has, count labels, depths and points; problems are collected, not raised."""
    info = data.info
    report = CheckReport(info.name, data.split, len(data), info.splits[data.split], "")
    try:
        report.digest = data.digest()
    except DatasetError as error:
        report.problems.append(f"there is no digest: {error}")
    except OSError as error:  # a link that leads nowhere, a file that may not be read
        report.problems.append(f"there is no digest: {error.filename} cannot be read ({error.strerror}).")
    pixels, images = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    check = GroundTruthCheck(info, info.targets)
    for index in progress.track(range(len(data)), f"checking {info.name} {data.split}", len(data)):
        try:
            sample = data.sample(index)
        except (DatasetError, OSError) as error:
            report.problems.append(str(error))
            continue
        for name, target in (("mask", sample.mask), ("depth", sample.depth)):
            try:
                if target is not None:
                    check_same_size(data, index, sample.image, target, name)
            except DatasetError as error:
                report.problems.append(str(error))
        check.add(data, index, sample)
        if sample.mask is not None:
            counts = np.bincount(sample.mask.ravel(), minlength=256)
            pixels += counts
            images += counts > 0
        if sample.depth is not None:
            report.add_depth(sample.depth)
        report.points += sum(int(thing.visible.sum()) for thing in sample.keypoints)
        report.objects += len(sample.keypoints)
    if "mask" in info.targets:
        names = {**dict(enumerate(info.classes)), VOID: "ignored"}
        report.pixels = {name: int(pixels[label]) for label, name in names.items()}
        report.images = {name: int(images[label]) for label, name in names.items()}
    found = check.findings()
    report.notes.extend(found.notes)
    if not report.problems:  # what files that can be decoded may lack altogether
        report.problems.extend(found.problems)
    report.problems += data.left_out()
    return report


def without_corrupt(data: DenseDataset, progress: Progress) -> tuple[DenseDataset, tuple[str, ...]]:
    """Return the samples whose files can be decoded, and the ids of those that cannot."""

    def find() -> list[int]:
        bad = []
        for index in progress.track(range(len(data)), f"looking for corrupt files in {data.split}", len(data)):
            try:
                data.sample(index)
            except CorruptFileError:
                bad.append(index)
        return bad

    bad = set(json.loads(remembered(f"corrupt/{data.digest()}.json", lambda: json.dumps(find()))))
    if not bad:
        return data, ()
    left_out = tuple(data.ids[i] for i in sorted(bad))
    progress.say(f"left out {len(bad)} of {len(data)} images of {data.info.name} {data.split}: {', '.join(left_out)}")
    return data.select(i for i in range(len(data)) if i not in bad), left_out


def label_presence(data: DenseDataset, progress: Progress) -> NDArray[np.bool_]:
    """Return which image holds which class, (N, C) bool, at the masks' own resolution."""
    n_classes = data.info.n_classes

    def find() -> str:
        present = np.zeros((len(data), n_classes), dtype=bool)
        for index in progress.track(range(len(data)), f"labels of {data.info.name} {data.split}", len(data)):
            present[index] = np.bincount(data.mask(index).ravel(), minlength=256)[:n_classes] > 0
        return json.dumps([np.flatnonzero(row).tolist() for row in present])

    presence = np.zeros((len(data), n_classes), dtype=bool)
    for row, classes in zip(presence, json.loads(remembered(f"presence/{data.digest()}.json", find)), strict=True):
        row[classes] = True
    return presence
