"""Settings of in-context segmentation: see `densebench.protocols.hummingbird.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from densebench.core.bounds import AtLeastOne, Count, Natural, Seed
from densebench.core.config import AS_PAPER, Preset
from densebench.ops.choices import AbsentRule
from densebench.protocols.common.memory_config import RetrievalConfig


@dataclass(frozen=True, kw_only=True)
class HummingbirdConfig(RetrievalConfig):
    """Settings of in-context segmentation beside those of the memory (`memory.RetrievalConfig`)."""

    presets = {
        "paper": Preset(source="PaKA A.2, NeCo A.2, with the code they ran (open-hummingbird-eval)"),
        "embedded": AS_PAPER,
        "paper-scann": Preset(
            source="PaKA A.2 and NeCo A.2 as written: ScaNN's approximate search, with the parameters of "
            "open-hummingbird-eval. Exact is the default: it is what ScaNN approximates, has the same neighbours on "
            "every machine and needs no package; a record states ScaNN's recall",
            settings={"search": "scann"},
        ),
        "open-hummingbird-v2": Preset(
            source="open-hummingbird-eval 2.0.0, README results: std 0.255 in blue, two augmentation passes",
            settings={"std": (0.229, 0.224, 0.255), "augmentation_epochs": 2, "fractions": (1,)},
        ),
        "dip": Preset(
            source="DIP README and hummingbird/src: L2 on raw features in a float16 memory, temperature 0.07, absent "
            "classes skipped, ADE20K's other a class; fractions of DIP Tab. 1 and 9, whose images and repeats are not "
            "said and are NeCo's",
            settings={
                "similarity": "l2",
                "temperature": 0.07,
                "memory_dtype": "float16",
                "augmentation_epochs": 2,
                "std": (0.229, 0.224, 0.255),
                "absent": "skip",
                "ignore": "void",
            },
        ),
    }
    void_to: Natural = 0
    """The class that void pixels of memory images join."""
    absent: AbsentRule = "zero"
    """IoU of a class that is neither in the ground truth nor predicted: 0, or left out of the mean."""
    ignore: Literal["dataset", "void"] = "dataset"
    """Labels that are not evaluated: the dataset's own, or void alone, with ADE20K's "other" as a class (DIP)."""
    fractions: Annotated[tuple[Count, ...], AtLeastOne] = (1, 8, 64, 128)
    """Memories of 1/f of the images; f > 1 is averaged over `subset_seeds`."""
    subset_seeds: Annotated[tuple[Seed, ...], AtLeastOne] = (42, 400, 783, 1293, 4019)
    """Of the images drawn for each smaller memory, as published."""
    subset_dir: Path | None = None
    """Folder of image lists `1_div_F/*_F_SEED.txt` to use instead of drawing subsets by the published rule."""
