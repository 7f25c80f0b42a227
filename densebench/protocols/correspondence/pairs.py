"""What each pair of images adds to the percentage of correct keypoints, kept beside the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from densebench.protocols.common.image_tables import MAX_TABLE_BYTES
from densebench.protocols.common.scoring import Scored
from densebench.protocols.correspondence.matches import Link
from densebench.results.counts import ImageStatistics
from densebench.results.schema import Metric

Per = Literal["point", "pair"]


@dataclass
class Pairs:
    """Holds the hits of every pair, a few bytes per pair, alpha and read, up to a bound."""

    categories: Sequence[str]
    max_bytes: int = MAX_TABLE_BYTES
    """Above it, nothing is kept."""
    n_bytes: int = 0
    _links: list[Link] = field(default_factory=list)
    _points: list[int] = field(default_factory=list)
    _hits: list[bytes] = field(default_factory=list)

    def add(self, link: Link, hits: Tensor) -> None:
        """Add `hits` (A, K) of one pair: which of its K keypoints are right, by alpha and read."""
        self.n_bytes += 200 + 4 * len(hits)
        if self.n_bytes > self.max_bytes:
            self._links, self._points, self._hits = [], [], []
            return
        self._links.append(link)
        self._points.append(hits.shape[1])
        self._hits.append(hits.cpu().numpy().sum(1, dtype=np.uint32).tobytes())

    def scored(self, metric: Metric, column: int, per: Per) -> Scored:
        """Return a metric with the pairs' hits of one row of `hits`, in the order of their images."""
        if self.n_bytes > self.max_bytes:
            return Scored(metric, too_large=True)
        order = sorted(range(len(self._links)), key=self._links.__getitem__)
        links = [self._links[i] for i in order]
        index = {category: i for i, category in enumerate(self.categories)}
        hits = np.frombuffer(b"".join(self._hits), np.uint32).reshape(len(links), -1)
        arrays = {
            "source": np.asarray([link.source for link in links]),
            "target": np.asarray([link.target for link in links]),
            "category": np.asarray([index[link.category] for link in links]),
            "points": np.asarray(self._points)[order],
            "hits": hits[order, column],
        }
        settings = {"per": per, "categories": list(self.categories)}
        entry = ImageStatistics(kind="keypoints", name=metric.name, at=metric.at, settings=settings, arrays=arrays)
        return Scored(metric, (entry,))
