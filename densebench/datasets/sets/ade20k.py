"""ADE20K scene parsing: 150 classes, numbered as published code numbers them, or without the class "other".

Expected below the data root (the root itself, `ADEChallengeData2016/`, `ade/ADEChallengeData2016/` or
`ade20k/ADEChallengeData2016/`), or ADEChallengeData2016.zip as it is:

    images/{training,validation}/ID.jpg   annotations/{training,validation}/ID.png

A stored value of 0 is whatever none of the 150 classes is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from densebench.datasets.dataset import VOID, DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, find_tree, table

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

_CHANNELS = bytes.fromhex(
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
)
PALETTE = tuple(zip(_CHANNELS[::3], _CHANNELS[1::3], _CHANNELS[2::3], strict=True))
"""The benchmark's own colours, CSAILVision/sceneparsing `color150.mat`; road and skyscraper have the same."""


class ADE20K(FileDataset):
    """151 classes as HBIRD and NeCo have them: 0 is "other", kept in memory and training, not evaluated."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="ade20k",
        family="ade20k",
        title="ADE20K, 150 classes and other",
        classes=("other", *CLASSES),
        palette=((0, 0, 0), *PALETTE),
        splits={"train": 20_210, "val": 2000},
        ignored=(0, VOID),
        licence="images: non-commercial research and education; annotations: BSD 3-clause",
        citation="Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017",
        how_to_get="Run `densebench data fetch ade20k`, or download ADEChallengeData2016.zip (967 MB) from the MIT "
        "Scene Parsing Benchmark (sceneparsing.csail.mit.edu) and put it, packed or not, below the data root.",
    )
    labels = table(151, stores_255=False)
    renumbered = (
        "In the published files 0 is other and 1 to 150 are the classes; where they were reduced by one, 0 is wall and "
        "255 other. Get the original files."
    )

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        images, masks = (
            find_tree(self.info, root, PLACES, f"{kind}/{FOLDERS[split]}", ("ADEChallengeData2016.zip",))
            for kind in ("images", "annotations")
        )
        stems = [name.removesuffix(".jpg") for name in images.names(".jpg")]
        self.pair(images, masks, ((stem, f"{stem}.jpg", f"{stem}.png") for stem in stems), (".jpg", ".png"))


class ADE20K150(ADE20K):
    """The 150 classes alone, from 0 on; "other" is void everywhere, in the memory too."""

    info = replace(
        ADE20K.info,
        name="ade20k_150",
        variant_of="ade20k",
        title="ADE20K, 150 classes",
        classes=CLASSES,
        palette=PALETTE,
        ignored=(VOID,),
        background=(),
    )
    labels = table(150, {i + 1: i for i in range(150)}, void=(0,), stores_255=False)
