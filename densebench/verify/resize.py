"""Group l: how label maps and feature maps change size. Source of the vectors: torch, as Leopart and NeCo call it."""

from __future__ import annotations

from collections.abc import Iterator

from densebench.ops.resize import nearest_index, resize_labels, resize_maps
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind


def resizing(v: Golden) -> Iterator[GoldenCheck]:
    """Nearest indices, cluster maps and feature maps, at the sizes that the arrays' names and shapes give."""
    clusters, maps = v["cluster_map"], v["feature_map"]
    for match in v.matches(r"cluster_map_\d+"):
        height, width = v[match[0]].shape[-2:]
        yield v.exact(match[0], resize_labels(clusters, (height, width)))
    for match in v.matches(r"nearest_index_(\d+|grid)_to_(\d+)"):
        n_in = clusters.shape[-1] if match[1] == "grid" else int(match[1])
        yield v.exact(match[0], nearest_index(n_in, int(match[2])))
    for match in v.matches(r"feature_map_bilinear_\d+"):
        height, width = v[match[0]].shape[-2:]
        yield v.close(match[0], resize_maps(maps, (height, width)), 1e-5)


KINDS = (
    GoldenKind(
        "l_resize",
        "resizing",
        resizing,
        "cluster_map cluster_map_* nearest_index_*_to_* feature_map feature_map_bilinear_*",
    ),
)
