"""Settings of in-context segmentation: see `densebench.protocols.hummingbird`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from densebench.bounds import AtLeastOne, Count, Natural, Seed
from densebench.config import no_score
from densebench.ops.choices import AbsentRule
from densebench.protocols.configs.retrieval import RetrievalConfig


@dataclass(frozen=True, kw_only=True)
class HummingbirdConfig(RetrievalConfig):
    """Settings of in-context segmentation beside those of the memory (`memory.RetrievalConfig`)."""

    void_to: Natural = 0
    """The class that void pixels of memory images join."""
    absent: AbsentRule = "zero"
    """What a class scores that is neither in ground truth nor predicted."""
    ignore: Literal["dataset", "void"] = "dataset"
    """Labels that are not evaluated: the dataset's own, or void alone, with ADE20K's "other" as a class (DIP)."""
    fractions: Annotated[tuple[Count, ...], AtLeastOne] = (1, 8, 64, 128)
    """Memories of 1/f of the images; f > 1 is averaged over `subset_seeds`."""
    subset_seeds: Annotated[tuple[Seed, ...], AtLeastOne] = (42, 400, 783, 1293, 4019)
    """Of the images drawn for each smaller memory, as published."""
    subset_dir: Path | None = None
    """Folder of image lists `1_div_F/*_F_SEED.txt` to use instead of drawing subsets by the published rule."""
    examples: Natural = no_score(6)
    """Images in each picture; 0 draws none."""
