"""Histograms of oriented gradients around each patch: targets that no recolouring changes much."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def edge_layout(images: Tensor, patch: int, windows: tuple[int, ...], orientations: int, floor: float) -> Tensor:
    """Return the layout of edges around each patch: HOG (Dalal and Triggs, CVPR 2005) of windows in a 3 x 3 layout.

    Gradients are those of the channel where they are strongest; signs are dropped. For each width in `windows`, the
    histograms of the window at the patch and of its eight neighbours (a window's width apart) are joined, scaled to
    length one, clipped at 0.25 and scaled again; images are continued at their rims.

    Args:
        images: (N, 3, H, W) in [0, 1], sides multiples of `patch`.
        patch: side of a patch in pixels.
        windows: odd widths in patches.
        orientations: bins over half a turn; a gradient is shared by the two nearest.
        floor: gradient magnitude taken off everywhere.

    Returns:
        (N, len(windows) * 9 * orientations, H / patch, W / patch), mean square near one where there are edges.
    """
    across = F.pad(images[..., 2:] - images[..., :-2], (1, 1, 0, 0))
    down = F.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1))
    strongest = (across.square() + down.square()).argmax(1, keepdim=True)
    across, down = across.gather(1, strongest), down.gather(1, strongest)
    strength = (torch.hypot(across, down) - floor).clamp_min(0)
    angle = torch.atan2(down, across).remainder(math.pi) * (orientations / math.pi)
    low = angle.floor()
    share = angle - low
    low = low.long() % orientations
    votes = images.new_zeros(len(images), orientations, *images.shape[2:])
    votes.scatter_(1, low, strength * (1 - share))
    votes.scatter_add_(1, (low + 1) % orientations, strength * share)
    cells = F.avg_pool2d(votes, patch)  # (N, orientations, h, w)
    h, w = cells.shape[2:]
    layouts = []
    for width in windows:
        blurred = F.avg_pool2d(F.pad(cells, (width // 2,) * 4, mode="replicate"), width, stride=1)
        padded = F.pad(blurred, (width,) * 4, mode="replicate")
        steps = (0, width, 2 * width)
        layout = torch.cat([padded[:, :, y : y + h, x : x + w] for y in steps for x in steps], dim=1)
        layouts.append(_unit(_unit(layout).clamp(max=0.25)) * math.sqrt(9 * orientations))
    return torch.cat(layouts, dim=1)


def _unit(x: Tensor) -> Tensor:
    """Scale (N, C, h, w) to length one over C; what is nearly zero stays so."""
    return x / (x.norm(dim=1, keepdim=True) + 0.02)
