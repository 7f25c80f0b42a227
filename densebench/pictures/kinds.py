"""The kinds of pictures by name, each imported when it is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from densebench.core.errors import UsageError
from densebench.core.registry import unknown_name

if TYPE_CHECKING:
    from densebench.pictures.view import Kind


@dataclass(frozen=True)
class KindInfo:
    """What a kind of picture needs, known before torch is imported."""

    name: str
    summary: str
    needs: frozenset[str] = frozenset()
    """Ground truth a dataset must have."""
    reads_train: bool = False
    """Whether training images are read."""

    def load(self) -> Kind[Any]:
        """Return the kind itself."""
        return import_module(f"densebench.pictures.{self.name.replace('-', '_')}").KIND


MASK, KEYPOINTS = frozenset({"mask"}), frozenset({"keypoints"})
KINDS = {
    info.name: info
    for info in (
        KindInfo("pca", "patch features as colours: their first three principal components"),
        KindInfo("similarity", "the cosine of one patch with all others, of its own and of another image"),
        KindInfo("segmentation", "what a memory of labelled patches predicts, beside the truth", MASK, True),
        KindInfo("clusters", "clusters of patches in the colours of the classes they are matched with", MASK),
        KindInfo("retrieval", "the labelled patches nearest to a patch", MASK, True),
        KindInfo("depth", "the depth that a memory of patches predicts, beside the truth", frozenset({"depth"}), True),
        KindInfo("attention", "attention matrices, and maps of one patch, over the layers"),
        KindInfo("keypoints", "where a keypoint is found in another image, over layers and facets", KEYPOINTS),
        KindInfo("training", "losses of models trained here, and their features beside those of their base"),
        KindInfo("classwise-mi", "what a position says of each class, from results of positional_effect"),
    )
}
DEFAULT = "pca,similarity"


def choose(names: Sequence[str], dataset: str, targets: Collection[str]) -> list[KindInfo]:
    """Return kinds by name, "all" those that a dataset has the ground truth for.

    Raises UsageError for unknown names, and for a kind whose ground truth the dataset lacks.
    """
    for name in names:
        if name not in (*KINDS, "all"):
            raise unknown_name("kind of picture", name, [*KINDS, "all"])
    chosen = [info for info in KINDS.values() if "all" in names or info.name in names]
    lacking = {info.name: sorted(info.needs - set(targets)) for info in chosen if info.needs - set(targets)}
    for name in names:
        if name in lacking:
            raise UsageError(f"--kind {name} needs {', '.join(lacking[name])}, which {dataset} does not have.")
    if not names:
        raise UsageError(f"--kind is empty; there are {', '.join(KINDS)}.")
    return [info for info in chosen if info.name not in lacking]
