"""Cosine k-means with learned centroids, as unsupervised segmentation uses it.

Source: STEGO ``src/modules.py`` (``ClusterLookup``, alpha=None) and "Unsupervised Semantic Segmentation Facilitates
Model Understanding", 2.1: centroids are parameters, Adam minimises the mean negative cosine to the nearest one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops import ties
from densebench.ops.clustering import StreamingMoments, leading_eigenvectors
from densebench.ops.retrieval import upsample_argmax


def principal_directions(moments: StreamingMoments, k: int) -> Tensor:
    """Return the (k, D) float32 unit eigenvectors of the centred covariance, strongest first: initial centroids.

    The paper leaves centring and sign open; here features are centred, and the greatest entry is positive.
    """
    if not 1 <= k <= len(moments.mean):
        raise ValueError(f"{len(moments.mean)} dimensions have no {k} principal directions")
    return leading_eigenvectors(moments.covariance, k).float()


def cosine_kmeans_step(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, a scalar in [-1, 1], and its gradient (K, D) with respect to the centroids (K, D).

    With unit rows u of x (N, D) and unit centroids v, the loss is -mean_i max_k u_i.v_k. Its gradient is
    -sum of the u_i of each cluster / N, less the part along v (the norm has no say), over the centroid's norm.
    """
    units = F.normalize(x, dim=1)
    norms = centroids.norm(dim=1, keepdim=True).clamp(min=1e-12)
    directions = centroids / norms
    nearest, lead = torch.empty(len(x), dtype=torch.int64, device=x.device), x.new_empty(len(x))
    ties.leader(units @ directions.T, nearest, lead)
    rows = (lead <= ties.margin(torch.ones_like(lead), x.shape[1], x.dtype)).nonzero().squeeze(1)
    if len(rows):
        exact = units[rows].double() @ directions.double().T
        nearest[rows] = ties.first_greatest(exact, exact.new_ones(len(rows), 1))
    cosine = (units * directions[nearest]).sum(1)
    pull = -torch.zeros_like(centroids).index_add_(0, nearest, units) / len(x)
    along = (pull * directions).sum(1, keepdim=True)
    return -cosine.mean(), (pull - along * directions) / norms


class CosineKMeans:
    """Centroids (K, D) that take one Adam step per batch of rows.

    Args:
        init: (K, D) initial centroids, left as they are.
        lr: Adam's learning rate; 5e-3 published.
    """

    def __init__(self, init: Tensor, lr: float = 5e-3) -> None:
        self._centroids = init.clone().requires_grad_()
        self._adam = torch.optim.Adam([self._centroids], lr=lr)

    def step(self, x: Tensor) -> Tensor:
        """Take one step on rows (N, D) and return the loss before it, a scalar."""
        centroids = self._centroids
        loss, centroids.grad = cosine_kmeans_step(x.to(centroids.device, centroids.dtype), centroids.detach())
        self._adam.step()
        return loss

    @property
    def centroids(self) -> Tensor:
        """The centroids (K, D) after the last step."""
        return self._centroids.detach()


def assign_cosine(maps: Tensor, centroids: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return the nearest centroid by cosine of each pixel, (B, H, W) int64, of features (B, D, h, w).

    Published: features are upsampled bilinearly to ``size``, then compared. The product with the unit centroids
    commutes with the upsampling, and dividing by the feature's norm does not move the argmax, so K maps of
    products are upsampled instead of D maps of features.
    """
    products = torch.einsum("bdhw,kd->bkhw", maps, F.normalize(centroids, dim=1).to(maps))
    return upsample_argmax(products, size)
