"""ADE20K scene parsing: 150 classes, numbered as published code numbers them, or without the class "other".

Expected below the data root (the root itself, `ADEChallengeData2016/`, `ade/ADEChallengeData2016/` or
`ade20k/ADEChallengeData2016/`), or ADEChallengeData2016.zip as it is:

    images/{training,validation}/ID.jpg   annotations/{training,validation}/ID.png

A stored value of 0 is whatever none of the 150 classes is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from densebench.datasets.dataset import VOID, DatasetInfo
from densebench.datasets.files import FileDataset, find_tree, table
from densebench.datasets.voc import voc_palette

FOLDERS = {"train": "training", "val": "validation"}
PLACES = ("ADEChallengeData2016", "ade/ADEChallengeData2016", "ade20k/ADEChallengeData2016", "ade20k", ".")

CLASSES = tuple(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """.replace("\n   ", "")
    .strip()
    .split(", ")
)
"""The first of the names that objectInfo150.txt gives each class."""


class ADE20K(FileDataset):
    """151 classes as HBIRD and NeCo have them: 0 is "other", kept in memory and training, not evaluated."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="ade20k",
        title="ADE20K, 150 classes and other",
        classes=("other", *CLASSES),
        palette=voc_palette(151),
        splits={"train": 20_210, "val": 2000},
        ignored=(0, VOID),
        licence="images: non-commercial research and education; annotations: BSD 3-clause",
        citation="Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017",
        how_to_get="Run `densebench data fetch ade20k`, or download ADEChallengeData2016.zip (967 MB) from the MIT "
        "Scene Parsing Benchmark (sceneparsing.csail.mit.edu) and put it, packed or not, below the data root.",
    )
    labels = table(151)

    def __init__(
        self, root: str | Path | None, split: str = "val", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        super().__init__(root, split, transforms)
        images, masks = (
            find_tree(self.info, root, PLACES, f"{kind}/{FOLDERS[split]}", ("ADEChallengeData2016.zip",))
            for kind in ("images", "annotations")
        )
        stems = [name.removesuffix(".jpg") for name in images.names(".jpg")]
        self.pair(images, masks, ((stem, f"{stem}.jpg", f"{stem}.png") for stem in stems))


class ADE20K150(ADE20K):
    """The 150 classes alone, from 0 on; "other" is void everywhere, in the memory too."""

    info = replace(
        ADE20K.info,
        name="ade20k_150",
        variant_of="ade20k",
        title="ADE20K, 150 classes",
        classes=CLASSES,
        palette=voc_palette(151)[1:],
        ignored=(VOID,),
        background=(),
    )
    labels = table(150, {i + 1: i for i in range(150)}, void=(0,))
