"""What the ground truth of a split must hold for a number to mean something: one check, of `run` and of `data check`.

A file at a time tells little: that all masks are void, or hold a single class, that colours of palettes change their
numbers from file to file, that depth ends too near, is told by the split. `data check` looks at every file, a run at as
many as it takes to know, which is a handful where nothing is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.core.memo import remembered
from densebench.core.progress import Progress
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset, Sample
from densebench.datasets.io.label_files import Color

DOZEN = 12
"""Images that hold one of a dataset's usual classes."""
FEW = 3
"""Images that are too few to tell a scale of depth by how far they reach."""
RULES = 1
"""Raised where the check says something else of the same files, so that they are checked again."""
PALETTES = 16
"""Label files with colours that a run looks at."""


class Findings(NamedTuple):
    """What the check found."""

    problems: tuple[str, ...] = ()
    """Why no number can be computed that means anything."""
    notes: tuple[str, ...] = ()
    """What may be wrong."""


class GroundTruthCheck:
    """What a split's ground truth holds, counted image by image."""

    def __init__(self, info: DatasetInfo, needs: Collection[str]) -> None:
        """`needs` is the ground truth that is asked for, of what the dataset has; see `DatasetInfo.targets`."""
        self.info, self.needs = info, frozenset(needs) & info.targets
        self.images = 0
        self.labelled = self.void = 0  # pixels
        self.present = np.zeros(256, dtype=bool)  # labels that occur
        self.depths, self.farthest = 0, 0.0  # images with a measured pixel, metres
        self.points = 0
        self.seen_as: dict[int, set[Color]] = {}  # the colours of each class
        self.used_for: dict[Color, dict[int, str]] = {}  # the classes of each colour, and an image of each

    def add(self, data: DenseDataset, index: int, sample: Sample | None = None) -> None:
        """Count one image; what is needed of it is decoded where it is not at hand."""
        self.images += 1
        if "mask" in self.needs:
            self._add_mask(data, index, data.mask(index) if sample is None or sample.mask is None else sample.mask)
        if "depth" in self.needs:
            depth = data.depth(index) if sample is None or sample.depth is None else sample.depth
            farthest = float(depth.max(initial=0))
            self.depths += farthest > 0
            self.farthest = max(self.farthest, farthest)
        if "keypoints" in self.needs:
            things = data.keypoints(index) if sample is None else sample.keypoints
            self.points += sum(int(thing.visible.sum()) for thing in things)

    def _add_mask(self, data: DenseDataset, index: int, mask: NDArray[np.uint8]) -> None:
        counts = np.bincount(mask.ravel(), minlength=256)
        self.void += int(counts[VOID])
        self.labelled += mask.size - int(counts[VOID])
        self.present |= counts > 0
        shown = data.class_colors(index, np.flatnonzero(counts[:VOID]).tolist())
        times = Counter(shown.values())
        for label, color in shown.items():
            if times[color] == 1:
                self.seen_as.setdefault(label, set()).add(color)
                self.used_for.setdefault(color, {}).setdefault(label, data.ids[index])

    @property
    def evaluated(self) -> list[int]:
        """The classes that a score is made of."""
        return [label for label in range(self.info.n_classes) if label not in self.info.ignored]

    @property
    def classes(self) -> list[int]:
        """Those that occur."""
        return [label for label in self.evaluated if self.present[label]]

    @property
    def usual(self) -> bool:
        """Whether a class occurs that does in any dozen images, where there are such."""
        return not self.info.usual or any(self.present[self.info.classes.index(name)] for name in self.info.usual)

    @property
    def settled(self) -> bool:
        """Whether more images can change nothing."""
        several = all(len(colors) == 1 for colors in self.seen_as.values())
        enough = not self.seen_as or (several and self.images >= PALETTES)
        return (
            ("mask" not in self.needs or (len(self.classes) > 1 and enough and self.usual))
            and ("depth" not in self.needs or (self.depths > 0 and self.farthest >= self.info.reach))
            and ("keypoints" not in self.needs or self.points > 0)
        )

    def findings(self, limited: bool = False) -> Findings:
        """Return what is wrong, in sentences; of a `limited` number of images a single class is no problem yet."""
        problems, notes = self._of_masks(limited) if "mask" in self.needs else ([], [])
        if "depth" in self.needs and not self.depths:
            problems.append("no pixel has a depth; 0 means not measured.")
        elif "depth" in self.needs and self.farthest < self.info.reach:
            (problems if self.depths >= FEW else notes).append(
                f"the farthest pixel of {self.depths} images is {self.farthest:.2f} m away; expected more than "
                f"{self.info.reach:.1f} m. Values that count in 256ths of a metre, or in centimetres, read so."
            )
        if "keypoints" in self.needs and not self.points:
            problems.append("no image has a keypoint that is seen.")
        return Findings(tuple(problems), tuple(notes))

    def _of_masks(self, limited: bool) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        notes: list[str] = []
        names = self.info.classes
        if len(self.evaluated) < 2:
            problems.append("one class alone is evaluated, so that whatever is predicted is right.")
        elif len(self.classes) < 2:
            present = f"only {names[self.classes[0]]}" if self.classes else "none"
            share = 100 * self.void / max(self.labelled + self.void, 1)
            hint = "A class is stored as its number, and 255 is none: masks of 0 and 255 have to be saved as 0 and 1."
            (notes if limited and self.classes else problems).append(
                f"of {len(names)} classes the masks hold {present}, and {share:.0f} % of their pixels are of no class."
                + (f" {hint}" if self.void else "")
            )
        elif not self.usual and self.images >= DOZEN:
            problems.append(
                f"of {self.images} masks none holds {', '.join(self.info.usual)}: their numbers are those of another "
                f"list, such as train ids. {self.info.how_to_get}"
            )
        twice = next((item for item in self.used_for.items() if len(item[1]) > 1), None)
        if twice:
            color, ((one, a), (other, b), *_) = twice[0], twice[1].items()
            problems.append(
                f"the masks show one colour, {color}, for {names[one]} in {a} and for {names[other]} in {b}: their "
                "numbers were given anew, file by file, when they were saved. Get the original files, or save the "
                "masks with one palette for all."
            )
        foreign = [names[label] for label, seen in self.seen_as.items() if seen - {self.info.palette[label]}]
        if self.info.palette_stored and foreign:
            some = ", ".join(foreign[:3])
            notes.append(f"masks show {some} in other colours than the published files: were they saved anew?")
        return problems, notes


def check_ground_truth(
    data: DenseDataset, needs: Collection[str], limited: bool, progress: Progress
) -> tuple[str, ...]:
    """Return what may be wrong with the ground truth that is needed, for a record; remembered by the digest.

    Raises DatasetError where nothing can be measured on it, and as decoding does.
    """
    info = data.info

    def find() -> str:
        found = GroundTruthCheck(info, needs)
        for index in progress.track(range(len(data)), f"labels of {info.name} {data.split}", len(data)):
            if found.settled:
                break
            found.add(data, index)
        return json.dumps(found.findings(limited))

    name = f"{data.digest()}-{'-'.join(sorted(needs))}{'-limited' if limited else ''}"
    problems, notes = json.loads(remembered(f"looks/{RULES}-{name}.json", find))
    if problems:
        said = " Also: ".join(problems)
        raise DatasetError(f"{info.name} {data.split}: {said} Run `densebench data check {data.cli_name}`.")
    return tuple(f"{info.name} {data.split}: {note}" for note in notes)
