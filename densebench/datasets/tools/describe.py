"""`densebench data init FOLDER`: a description of a user's images and masks, written after a look at them.

Pictures are grouped by folder and by what their names have before and after the id; masks are grey or palette pictures
of few numbers; images and masks with the same ids belong together. What is guessed is said in comments.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densebench.core.errors import DatasetError, UsageError
from densebench.core.paths import write_new
from densebench.core.progress import Progress
from densebench.datasets.dataset import VOID
from densebench.datasets.io.decode import decoding, read_labels
from densebench.datasets.io.id_lists import ids_of, read_lines
from densebench.datasets.io.label_files import color_of
from densebench.datasets.names import DATASETS
from densebench.datasets.user.folder import SUFFIXES

TRAIN, VAL = ("train", "training", "trn", "fit"), ("val", "valid", "validation", "dev", "test", "testing", "eval")
"""Names of folders that are splits, the likeliest first."""
MASK_WORDS = r"masks?|labels?|labelIds|labelTrainIds|gt|gtFine|seg|segmentations?|annotations?|annot"
WORDS = rf"images?|imgs?|rgb|photos?|leftImg8bit|{MASK_WORDS}"
AFFIXES = re.compile(rf"((?:{WORDS})[-_. ])?(.+?)((?:[-_. ](?:{WORDS}))*)", re.IGNORECASE)
"""What a name may have before and after the id."""
NAME_FILES = ("classes.txt", "labels.txt", "names.txt", "class_names.txt")
NO_CLASS = ("void", "ignore", "ignored", "unlabelled", "unlabeled", "unknown", "unclassified")
"""Names of what is not a class."""
MOST_FILES = 200_000
PROBED, MOST_NUMBERS = 6, 64
"""Pictures of a group that are looked at, and the numbers that a mask among them has at most."""
COUNTED = 1000
"""Masks whose numbers are counted, spread over all."""
EVERY = 5
"""Of images in no splits, one in so many is for validation."""


class Group(NamedTuple):
    """Pictures of one folder whose names differ in the id alone."""

    folder: str
    before: str
    after: str

    @property
    def pattern(self) -> str:
        """How a TOML file names them, from the folder that is described on."""
        return f"{self.folder}{self.before}*{self.after}"


@dataclass
class Found:
    """Images and masks that belong together, and what the masks hold."""

    images: str
    masks: str
    splits: dict[str, list[str]]
    """Ids of each split that have both."""
    whole: bool
    """Whether the folders hold nothing else, so that no lists are needed."""
    pixels: dict[int, int] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    """Pixels of each number, and masks that hold it."""
    counted: int = 0
    palette: bytes = b""


def describe(folder: Path, progress: Progress) -> tuple[Path, list[str]]:
    """Write FOLDER/NAME.toml, with lists of ids where there are no folders per split; return it and what was found.

    Raises UsageError for a folder without images and masks that belong together, and for files that are there already.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}; expected a folder of images and masks.")
    name = re.sub(r"[^\w-]+", "_", folder.resolve().name).strip("_") or "mine"
    name += "_own" * (name in DATASETS)
    path = folder / f"{name}.toml"
    if os.path.lexists(path):
        raise UsageError(f"{path} exists and stays as it is; move it away, or fix it by hand.")
    found = _paired(folder)
    _count(folder, found, progress)
    lists = {} if found.whole else {f"{name}_{split}.txt": ids for split, ids in found.splits.items()}
    for file, ids in lists.items():
        write_new(folder / file, "".join(f"{id_}\n" for id_ in ids))
    write_new(path, _toml(name, folder, found))
    said = [f"{split}: {len(ids)} images with masks" for split, ids in found.splits.items()]
    return path, [*said, *(f"listed in {folder / file}" for file in lists)]


def _paired(folder: Path) -> Found:
    """Return the images and masks of a folder that belong together."""
    groups = _groups(folder)
    masks = {group for group, ids in groups.items() if _are_masks(folder, group, ids)}
    if masks == groups.keys():  # pictures of few greys, too: then their names tell
        masks = {group for group in masks if re.search(rf"(^|[^a-z])({MASK_WORDS})([^a-z]|$)", group.pattern, re.I)}
    best: dict[Group, tuple[int, int, Group]] = {}
    for image, mask in itertools.product(groups.keys() - masks, masks):
        both = len(groups[image] & groups[mask])
        if both:
            near = _likeness(image.folder, mask.folder)  # ids may repeat from split to split
            best[image] = max(best.get(image, (0, 0, mask)), (both, near, mask))
    if not best:
        raise UsageError(_why_none(folder, groups, masks))
    kept = {image: mask for image, (both, _, mask) in best.items() if 2 * both >= len(groups[image] | {""}) or both > 9}
    kept = kept or {image: mask for image, (_, _, mask) in best.items()}
    by_split: dict[tuple[str, str], dict[str, tuple[Group, Group]]] = {}
    for image, mask in kept.items():
        for split in {part for part in image.folder.split("/") if part.lower() in (*TRAIN, *VAL)}:
            key = tuple(_with_split(group.pattern, split) for group in (image, mask))
            if all("{split}" in pattern for pattern in key):
                by_split.setdefault((key[0], key[1]), {})[split] = image, mask
    if by_split:
        (images, labels), pairs = max(by_split.items(), key=lambda item: len(item[1]))
        splits = {s: sorted(groups[pairs[s][0]] & groups[pairs[s][1]]) for s in _two(pairs)}
        whole = all(groups[pairs[s][0]] == groups[pairs[s][1]] for s in splits)
        return Found(images, labels, splits, whole)
    image, mask = max(kept.items(), key=lambda pair: len(groups[pair[0]] & groups[pair[1]]))
    return Found(image.pattern, mask.pattern, _listed(folder, sorted(groups[image] & groups[mask])), whole=False)


def _groups(folder: Path) -> dict[Group, set[str]]:
    """Return the ids of each group of pictures below a folder; hidden files and links to folders are left out."""
    found: dict[Group, set[str]] = {}
    files = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += len(names)
        if files > MOST_FILES:
            raise UsageError(f"{folder} holds more than {MOST_FILES} files; give the folder of one dataset.")
        where = Path(place).relative_to(folder).as_posix()
        inside = "" if where == "." else f"{where}/"
        for name in names:
            stem, dot, ending = name.rpartition(".")
            parts = AFFIXES.fullmatch(stem)
            odd = name.startswith(".") or any(sign in inside + name for sign in '*{}\n\r"\\')
            if parts and not odd and f"{dot}{ending.lower()}" in SUFFIXES:
                before, id_, after = parts.groups()
                found.setdefault(Group(inside, before or "", f"{after}{dot}{ending}"), set()).add(id_)
    return found


def _are_masks(folder: Path, group: Group, ids: set[str]) -> bool:
    """Tell whether the pictures of a group look like masks: grey or palette, of few numbers, stored without loss."""
    for id_ in sorted(ids)[:: max(1, len(ids) // PROBED)][:PROBED]:
        path = folder / group.pattern.replace("*", id_)
        try:
            with decoding(path, "a picture") as image:
                if image.mode not in ("P", "L", "1"):
                    return False
            if len(np.unique(read_labels(path).numbers)) > MOST_NUMBERS:
                return False
        except DatasetError:
            return False
    return True


def _likeness(folder: str, other: str) -> int:
    """Return how many parts of a path are, or begin, parts of another."""
    return sum(any(there.startswith(part) for there in other.split("/")) for part in folder.split("/") if part)


def _with_split(pattern: str, split: str) -> str:
    """Return a pattern in which a folder `split`, or one that begins so, is that of any split."""
    parts = pattern.split("/")
    if split in parts:
        return "/".join("{split}" if part == split else part for part in parts)
    return "/".join(f"{{split}}{part.removeprefix(split)}" if part.startswith(split) else part for part in parts)


def _two(splits: Iterable[str]) -> list[str]:
    """Return the split to train on and the one to evaluate on, or the only one."""
    have = {split.lower(): split for split in splits}
    chosen = (next((have[name] for name in names if name in have), None) for names in (TRAIN, VAL))
    return [split for split in chosen if split is not None]


def _listed(folder: Path, ids: list[str]) -> dict[str, list[str]]:
    """Return the ids of each split: as train.txt and val.txt in the folder say, else every fifth for validation."""
    found = {}
    for names in (TRAIN, VAL):
        path = next((path for name in names if (path := folder / f"{name}.txt").is_file()), None)
        if path is not None:
            listed = set(ids_of(read_lines(path, f"the list {path}"), set(ids).__contains__))
            found[path.stem] = [id_ for id_ in ids if id_ in listed]
    if len(found) == 2 and all(found.values()):
        return found
    if len(ids) == 1:
        return {"all": ids}
    val = ids[:: max(2, min(EVERY, len(ids) - 1))]
    return {"train": [id_ for id_ in ids if id_ not in set(val)], "val": val}


def _count(folder: Path, found: Found, progress: Progress) -> None:
    """Count the numbers in the masks; raises UsageError for masks of 0 and 255 alone."""
    every = [
        folder / found.masks.replace("{split}", split).replace("*", id_)
        for split, ids in found.splits.items()
        for id_ in ids
    ]
    shown = every[:: max(1, -(-len(every) // COUNTED))]
    for path in progress.track(shown, "counting labels", len(shown)):
        stored = read_labels(path)
        found.palette = found.palette or stored.palette
        for number, pixels in zip(*np.unique(stored.numbers, return_counts=True), strict=True):
            found.pixels[int(number)] = found.pixels.get(int(number), 0) + int(pixels)
            found.held[int(number)] = found.held.get(int(number), 0) + 1
    found.counted = len(shown)
    if not found.pixels.keys() - {0, VOID} and VOID in found.pixels:
        raise UsageError(
            f"the masks {found.masks} hold 0 and 255 alone. A class is stored as its number, and 255 is none: "
            "save them as 0 and 1, as Image.fromarray((mask > 0).astype('uint8')).save(...) does, and run again."
        )


def _toml(name: str, folder: Path, found: Found) -> str:
    """Return the description, with what was seen in comments."""
    void = _void(sorted(found.pixels))
    numbers = [number for number in found.pixels if number not in void]
    if not numbers:
        raise UsageError(f"the masks {found.masks} hold {', '.join(map(str, sorted(found.pixels)))} alone, no class.")
    total, highest = sum(found.pixels.values()), max(numbers)
    sparse = 2 * len(numbers) < highest + 1  # as in masks drawn in greys: 0, 50, 100
    unused = [n for n in range(highest + 1) if n not in found.pixels] if sparse else []
    names, source = _names(folder, highest + 1)
    unused += [number for number, label in enumerate(names) if label.lower() in NO_CLASS]
    lines = [
        f"# Written by `densebench data init` after a look at {found.counted} masks. Change what is not as meant;",
        f"# `densebench data check {folder / name}.toml` reads everything, `densebench data sheet` draws it.",
        "",
        "# What results are called: letters, digits, _ and -.",
        f"name = {_text(name)}",
        "",
        f"# A name per number in the masks, from 0 on{source}.",
        "classes = [",
        *(f"    {_text(label)},  # {_seen(n, found, total)}" for n, label in enumerate(names)),
        "]",
        "",
        "# `*` is the image's id" + (", `{split}` one of `splits`." if "{split}" in found.images else "."),
        f"images = {_text(found.images)}",
        f"masks = {_text(found.masks)}",
        "",
        "# The split to train on, then the one to evaluate on" + ("." if len(found.splits) > 1 else "; one is both."),
        f"splits = [{', '.join(map(_text, found.splits))}]",
    ]
    if not found.whole:
        lines += ["", "# Where the ids of a split are listed, one per line.", f"lists = {_text(name + '_{split}.txt')}"]
    ignored = sorted({*(v for v in void if v in found.pixels), *unused})
    shares = [f"{v} in {100 * found.pixels[v] / total:.1f} % of pixels" for v in ignored if v in found.pixels]
    why = f", here {', '.join(shares)}" if shares else ""
    lines += [
        "",
        f"# Numbers that belong to no class; 255 never does{why}.",
        f"ignore = [{', '.join(map(str, ignored))}]",
    ]
    has_colors = len(found.palette) >= 3 * (highest + 1)
    colors = [color_of(found.palette, number) for number in range(highest + 1)] if has_colors else []
    if colors and len(set(colors)) == len(colors):
        lines += ["", "# Red, green and blue of each class, as the masks have them.", "palette = ["]
        lines += [f"    {list(one)}," for one in colors] + ["]"]
    largest = max(numbers, key=lambda number: found.pixels[number])
    lines += ["", "# Classes that are not things, if any: unsupervised segmentation needs to know."]
    lines += [f"# background = [{_text(names[largest])}]", ""]
    return "\n".join(lines)


def _void(numbers: Sequence[int]) -> set[int]:
    """Return which numbers are no classes: 255, and those near it with a wide gap below."""
    gaps = [high for low, high in itertools.pairwise([-1, *numbers]) if high >= 200 and high - low > 10]
    return {VOID, *(number for number in numbers if gaps and number >= gaps[-1])}


def _names(folder: Path, n: int) -> tuple[list[str], str]:
    """Return a name per number, and where they are from."""
    for path in (folder / name for name in NAME_FILES):
        if path.is_file():
            names = [re.sub(r"^\d+\s*[:,\t ]\s*", "", line) for line in read_lines(path, str(path))]
            if len(names) >= n and len(set(names[:n])) == n:
                return names[:n], f", from {path.name}"
    return [f"class_{number}" for number in range(n)], "; rename them"


def _seen(number: int, found: Found, total: int) -> str:
    pixels, held = found.pixels.get(number, 0), found.held.get(number, 0)
    return f"{number}: {100 * pixels / total:.1f} % of pixels, in {held} of {found.counted} masks"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _why_none(folder: Path, groups: dict[Group, set[str]], masks: set[Group]) -> str:
    """Return why nothing is described."""
    shown = "; ".join(f"{len(ids)} of {group.pattern}" for group, ids in itertools.islice(groups.items(), 6))
    if not groups:
        return f"{folder} holds no pictures ({', '.join(SUFFIXES)}). Give the folder of images and masks."
    if not masks:
        return (
            f"{folder} holds no masks: none of its pictures are grey or palette PNGs of at most {MOST_NUMBERS} class "
            f"numbers (found {shown}). Colours are not numbers, and JPEG changes them. Images alone need no "
            "description: --data takes the folder."
        )
    return (
        f"no image and mask below {folder} have an id in common (found {shown}). A mask is called as its image is, but "
        "for folder, ending and words such as _mask."
    )


__all__ = ["describe"]
