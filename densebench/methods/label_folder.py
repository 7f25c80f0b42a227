"""A folder of label maps: reading and writing them, and the list of pairs beside them.

A folder holds one map per image, `ID.png` (8 or 16 bit) or, as in the archives published with DIP, `ID.pt`, and
`pairs.txt` with a line `ID.png: OTHER.png` per pair of a query and a positive (published lists name the images
instead). Folders that were made here also hold `pseudolabels.json`, which says how.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.paths import write_atomically
from densebench.core.regular import parse_json, read_text
from densebench.datasets.io.decode import decoding
from densebench.datasets.io.label_files import read_stored

ABOUT = "pseudolabels.json"
PAIRS = "pairs.txt"
PUBLISHED_CLASSES = 1000


class LabelFolder:
    """Label maps by image id, and pairs of images that share something."""

    def __init__(self, folder: str | Path, hint: str = "") -> None:
        """`hint` ends the messages of errors; raises UsageError for a folder that is not there or not finished."""
        self.folder, self.hint = Path(folder), hint
        if not self.folder.is_dir():
            raise UsageError(f"labels={folder}: there is no such folder. {hint}")
        about = self.folder / ABOUT
        try:
            self.about: dict[str, Any] = parse_json(read_text(about)) if about.exists() else {}
            complete = not self.about or self.about["complete"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UsageError(f"{about} cannot be read ({error}); make the labels anew. {hint}") from None
        if not complete:
            raise UsageError(f"the labels in {folder} are half made; go on with `{self.about['command']}`.")

    @property
    def classes(self) -> int:
        """Number of pseudo-classes: as the folder says, else the 1000 of the published archives."""
        return self.about.get("settings", {}).get("classes", PUBLISHED_CLASSES)

    def find(self, id_: str) -> Path | None:
        """Return the file of an image's map, if there is one."""
        return next((p for p in (self.folder / f"{id_}.png", self.folder / f"{id_}.pt") if p.exists()), None)

    def read(self, id_: str, classes: int) -> Tensor:
        """Return an image's map (h, w) int32; raises DatasetError where it is absent or holds other labels."""
        path = self.find(id_)
        if path is None:
            raise DatasetError(f"{self.folder} has no label map of {id_}. {self.hint}")
        labels = read_map(path)
        low, high = (int(v) for v in labels.aminmax())
        if low < 0 or high >= classes:
            raise DatasetError(f"{path} holds labels {low} to {high}; expected 0 to {classes - 1} (see `classes`).")
        return labels

    def pairs(self, ids: Sequence[str], file: str | Path | None = None) -> list[tuple[int, int]]:
        """Return (query, positive) as positions in `ids`; lines with other images are left out.

        Raises UsageError for a list that is missing, broken or has no pair of these images, and where maps are missing.
        """
        path = self.folder / PAIRS if file is None else Path(file)
        if not path.is_file():
            raise UsageError(f"there is no list of pairs {path}; give one with pairs=FILE. {self.hint}")
        at = {id_: i for i, id_ in enumerate(ids)}
        found: list[tuple[int, int]] = []
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}); expected a text of pairs. {self.hint}") from None
        for number, line in enumerate(lines, start=1):
            query, _, positive = line.partition(":")
            if not line.strip():
                continue
            files = query.strip(), positive[1:].strip()  # as published: whatever comes after the colon is no name
            if not all(files):
                raise UsageError(f"{path}, line {number}: {line!r}; expected `QUERY.jpg: POSITIVE.jpg`.")
            names = [str(Path(file).with_suffix("")) for file in files]
            if names[0] in at and names[1] in at:
                found.append((at[names[0]], at[names[1]]))
        if not found:
            raise UsageError(f"{path} pairs none of these {len(ids)} images (such as {ids[0]}). {self.hint}")
        wanted = sorted({i for pair in found for i in pair})
        missing = [ids[i] for i in wanted if self.find(ids[i]) is None]
        if missing:
            raise UsageError(
                f"{self.folder} lacks {len(missing)} of {len(wanted)} label maps: {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}. {self.hint}"
            )
        return found

    def digest(self, file: str | Path | None = None) -> str:
        """Return a digest of maps and pairs; where the maps were not made here, of their names and sizes."""
        whole = hashlib.sha256((self.folder / PAIRS if file is None else Path(file)).read_bytes())
        if self.about:
            whole.update(self.about["maps_sha256"].encode())
        else:
            maps = sorted(p for p in self.folder.rglob("*") if p.suffix in (".png", ".pt"))
            whole.update("".join(f"{p.relative_to(self.folder)}:{p.stat().st_size};" for p in maps).encode())
        return whole.hexdigest()


def read_map(path: Path) -> Tensor:
    """Return the labels (h, w) int32 of a grey or palette PNG, or of a tensor in a `.pt` file; ids are kept."""
    try:
        if path.suffix == ".pt":
            labels = torch.load(path, map_location="cpu", weights_only=True).squeeze().to(torch.int32)
        else:
            with decoding(path, "a label map") as image:
                wide = image.format == "PNG" and image.mode.startswith("I")  # 16 bits, which label files never have
                numbers = np.array(image) if wide else read_stored(image, path).numbers
            labels = torch.from_numpy(numbers.astype(np.int32))
    except DatasetError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise CorruptFileError(f"{path} cannot be read as a label map ({error}).", str(path)) from error
    if labels.ndim != 2:
        raise DatasetError(f"{path} holds {tuple(labels.shape)} values; expected a map (height, width).")
    return labels


def write_map(path: Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write labels (h, w), 0 to 65535, as a grey PNG of 8 bits, or 16 where 8 are too few; whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16)).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
