"""Settings of CBFE and communities: see `densebench.protocols.unsupervised_segmentation.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from densebench.core.bounds import AtLeastOne, Auto, Chance, Count, Natural, Positive, Seed, Share
from densebench.core.config import Preset, known
from densebench.ops.choices import AbsentRule
from densebench.protocols.common.kmeans_config import KMeansConfig


@dataclass(frozen=True, kw_only=True)
class UnsupervisedSegmentationConfig(KMeansConfig):
    """Settings of CBFE and community detection, with the names of the published code where it has one."""

    presets = {
        "paper": Preset(source="NeCo A.2: 70 % of the attention's mass; k_community 189, threshold 0.07, time 1.2"),
        "embedded": Preset(
            source="preset paper with stuff (sky, floor) of the embedded scenes as background; objects are left, as in "
            "VOC",
            settings={"background": "stuff"},
        ),
        "neco": Preset(
            source="NeCo experiments/fully_unsup_seg: 65 % of the mass; the rest as NeCo A.2",
            settings={"attention_mass": 0.65},
        ),
        "leopart": Preset(
            source="Leopart README, ViT-S/16. There the attention is DINO ViT-S/16's, here the backbone's own",
            settings={"attention_mass": 0.65, "k_community": 149, "weight_threshold": 0.09, "markov_time": 2.0},
        ),
        "leopart_vitb8": Preset(
            source="Leopart README, ViT-B/8. There the attention is DINO ViT-S/16's, here the backbone's own",
            settings={"attention_mass": 0.65, "k_community": 109, "weight_threshold": 0.07, "markov_time": 0.4},
        ),
    }
    background: Literal["dataset", "stuff"] | Annotated[tuple[Natural, ...], AtLeastOne] = "dataset"
    """Labels that are background, one class together in all that follows. "dataset": what it calls so, VOC's 0.
    "stuff": that, and its classes that are not objects, such as sky and floor."""
    train_split: str = "auto"
    """Split clustered beside the validation images; "auto": "train" where the dataset has one, else its own training
    split. On VOC these are the 1,464 images of `train`, with the masks of `trainaug` (NeCo A.2; LEO, NeCo code)."""
    attention_mass: Share = 0.7
    """Share of the attention's mass that is foreground: NeCo A.2 says 0.7, the code has 0.65."""
    blur_sigma: Positive = 0.6
    """Deviation in patches of the Gaussian, 7 patches wide, that attention is blurred with."""
    min_component: Natural = 3
    """Attention's components of fewer patches are background."""
    k_fg_extraction: Annotated[int, Ge(2)] = 200
    """Clusters of all tokens, spherical k-means."""
    threshold: Chance | None = None
    """Precision from which a cluster is foreground; none: the best of 55 % to 75 % background on the **ground truth**
    of the training images, rounded to a multiple of 0.05."""
    objects: Count | Auto = "auto"
    """Clusters of the foreground for `miou_cbfe`, and the communities to aim at; "auto": the classes but background.
    With background they are matched to classes one to one if there are as many, else by precision (LEO, NeCo code)."""
    object_seeds: Annotated[tuple[Seed, ...], AtLeastOne] = (0, 1, 2, 3, 4)
    """Of the k-means for `miou_cbfe`; scores are means over them."""
    community_detection: Literal["infomap"] | None = "infomap"
    """How clusters become objects; none stops at `miou_cbfe` and needs no further package."""
    k_community: Count = 189
    """Clusters of the foreground that become communities. 189, 0.07 and 1.2 are NeCo's, tuned on the ground truth of
    VOC `train` for NeCo's ViT-S/14."""
    weight_threshold: Chance = 0.07
    """Share of each other's neighbours from which two clusters are linked."""
    markov_time: Positive = 1.2
    """Of Infomap: the longer, the fewer communities."""
    community_seeds: Annotated[tuple[Count, ...], AtLeastOne] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Of Infomap. Published: 0 to 9; the package has since come to refuse 0."""
    clustering_seed: Seed = 0
    """Of the k-means of all tokens and of the clusters that become communities."""
    absent: AbsentRule = "zero"
    """IoU of a class that is neither in the ground truth nor predicted: 0, or left out of the mean."""

    @property
    def background_labels(self) -> tuple[int, ...]:
        """`background` as labels; raises ValueError for a config that was not resolved."""
        return known(None if isinstance(self.background, str) else self.background, "background")

    @property
    def n_objects(self) -> int:
        """`objects` as a number; raises ValueError for a config that was not resolved."""
        return known(self.objects, "objects")
