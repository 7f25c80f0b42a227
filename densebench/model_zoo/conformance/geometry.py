"""Checks of geometry: what is declared, input sizes, the order of patches, attention, the class token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from densebench.core.errors import DensebenchError
from densebench.core.resampling import RESAMPLING
from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.conformance.probe import GRID, Failed, NotApplicable, Probe, differ, difference, said

RANK = 0.7
"""Mean rank of the patch whose image changed, from which positions count as right: chance has 0.5 ± 0.06 on 24."""
MARGIN = 0.05
"""By how much another arrangement must fit better: on 3 x 4 patches, a wide receptive field is worth 0.03."""


def declaration(probe: Probe) -> str:
    """What is declared fits together."""
    info = probe.info
    wrong = [
        text
        for bad, text in (
            (max(info.mean) > 1, "the mean is that of images in [0, 1], not in 0..255"),
            (info.interpolation not in RESAMPLING, f"interpolation {info.interpolation!r}"),
            ("token" not in info.facets, "every backbone has the facet 'token'"),
            (len(info.facets) > 1 and info.width % info.heads != 0, "heads divide the width"),
        )
        if bad
    ]
    if wrong:
        raise Failed("; ".join(wrong), "Correct the adapter's BackboneInfo.")
    return f"patch {info.patch}, width {info.width}, depth {info.depth}, prefix {info.prefix}"


def sizes(probe: Probe) -> str:
    """Images of any height and width that are multiples of the patch give prefix + h*w tokens of the declared width."""
    rows, columns = GRID
    height, width = probe.native
    beyond = (height + probe.info.patch, width)
    wanted = [probe.pixels((rows, columns)), probe.pixels((columns, rows)), probe.native, beyond]
    works: list[tuple[int, int]] = []
    refused: dict[tuple[int, int], Exception] = {}
    for size in dict.fromkeys([probe.asked] if probe.asked else wanted):
        try:
            probe.features(probe.images(1, size))
            works.append(size)
        except Exception as error:
            refused[size] = error
    probe.usable = bool(works)
    if works:
        probe.size = works[0]
        probe.native = probe.native if probe.native in works else probe.size
    named = ", ".join(f"{h}x{w}" for h, w in works)
    if refused:
        size, why = next(iter(refused.items()))
        if isinstance(why, DensebenchError):
            fix = (
                "Correct `prefix` (class token + registers), `patch` (the stride) or `width`; "
                "`x.flatten(2).transpose(1, 2)` makes tokens of a map (B, D, h, w)."
            )
        elif works:
            fix = "Interpolate the position embedding where a size is refused (timm: dynamic_img_size=True)."
        else:
            fix = "Let `tokens` run for one image first; whatever is looked at after this needs it."
        raise Failed(
            f"{'works for ' + named + ' only' if works else 'no size works'}; "
            f"{size[0]}x{size[1]}: {said(why, probe.backbone)}",
            fix,
        )
    return f"{named} pixels"


def order(probe: Probe) -> str:
    """The feature that moves most is that of the patch whose pixels changed, row by row, behind the prefix."""

    def read(images: Tensor, layer: int) -> Tensor:
        return probe.features(images, FeatureKey(layer)).flatten(2).transpose(1, 2)

    return "; ".join(_position(probe, read, layer) for layer in probe.ends)


def _position(probe: Probe, read: Callable[[Tensor, int], Tensor], layer: int) -> str:
    """Change one patch after the other, and say how `read` (n, h*w, D) moves; raise Failed where another one does."""
    patch = probe.info.patch
    h, w = probe.size[0] // patch, probe.size[1] // patch
    count = min(h * w, 24)
    if count < 4:
        raise NotApplicable(f"{h}x{w} patches are too few to tell places apart")
    places = [i * h * w // count for i in range(count)]
    base, other = probe.images(2)
    images = base.repeat(count, 1, 1, 1)
    for image, place in zip(images, places, strict=True):
        top, left = (i * patch for i in divmod(place, w))
        window = (slice(None), slice(top, top + patch), slice(left, left + patch))
        image[window] = 1 - other[window]
    old = read(base[None], layer)
    # relative, as some networks have a few tokens of much larger norm
    changes = [
        (new - old).norm(dim=2) / (new.norm(dim=2) + old.norm(dim=2) + 1e-12)
        for new in (read(chunk, layer) for chunk in images.split(4))
    ]
    arrangement, rank = _arrangement(torch.cat(changes), places, h, w)
    if arrangement or rank < RANK:
        raise Failed(
            f"layer {layer}: patches {'seem ' + arrangement if arrangement else 'move wherever the image changes'} "
            f"(mean rank of the changed patch {rank:.2f} of 1)",
            "Return tokens as (B, prefix + h*w, D): class token, registers, then patches, the first row from left to "
            "right first. `x.flatten(2).transpose(1, 2)` does it for a map (B, D, h, w).",
        )
    return f"layer {layer}: mean rank {rank:.2f} of 1"


def _arrangement(changes: Tensor, places: Sequence[int], h: int, w: int) -> tuple[str, float]:
    """Return in which arrangement, "" for the right one, changes (n, h*w) lie, and the mean rank of the right place."""
    guesses: dict[str, Callable[[int, int], int | None]] = {
        "": lambda r, c: r * w + c,
        "transposed: columns come before rows": lambda r, c: c * h + r,
        "upside down": lambda r, c: (h - 1 - r) * w + c,
        "mirrored": lambda r, c: r * w + w - 1 - c,
        "in reverse order": lambda r, c: h * w - 1 - (r * w + c),
    }

    def shifted(by: int) -> Callable[[int, int], int | None]:
        return lambda r, c: r * w + c + by if 0 <= r * w + c + by < h * w else None

    for by in range(1, min(9, h * w // 2)):
        guesses[f"late by {by}: {by} more tokens lie before them than are dropped"] = shifted(by)
        guesses[f"early by {by}: {by} fewer tokens lie before them than are dropped"] = shifted(-by)
    n = changes.shape[1]
    ranks = (changes[:, :, None] > changes[:, None, :]).sum(2) / (n - 1)  # share of places that moved less

    def score(guess: Callable[[int, int], int | None]) -> float:
        hits = [(k, guess(*divmod(place, w))) for k, place in enumerate(places)]
        found = [float(ranks[k, at]) for k, at in hits if at is not None]
        return sum(found) / len(found)

    scores = {name: score(guess) for name, guess in guesses.items()}
    best = max(scores, key=lambda name: scores[name] + (MARGIN if name == "" else 0))
    return (best if scores[best] >= RANK else ""), scores[""]


def attention(probe: Probe) -> str:
    """Attention is (B, heads, N, N) with N = prefix + h*w, rows sum to 1, and patches lie as in the tokens."""
    info = probe.info
    if not probe.backbone.has_attention:
        raise NotApplicable("no attention is declared")
    images = probe.images(2)
    n = info.prefix + (probe.size[0] // info.patch) * (probe.size[1] // info.patch)
    maps = []
    for layer in sorted({0, probe.last}):
        maps.append(probe.attention(images, layer))
        want = (2, info.heads, n, n)
        if maps[-1].shape != want:
            raise Failed(f"layer {layer} has {tuple(maps[-1].shape)}; expected {want}", "Correct heads and prefix.")
        off = float((maps[-1].sum(-1) - 1).abs().max())
        if not off < 1e-3 or float(maps[-1].min()) < 0:
            raise Failed(f"layer {layer}: rows miss the sum 1 by {off:.1e}", "Return softmax(dim=-1) of the scores.")
    if probe.last and not differ(maps[0], maps[1], 1e-6):
        raise Failed(f"layers 0 and {probe.last} are the same", "`attention` must yield the layers asked for.")

    def read(chunk: Tensor, layer: int) -> Tensor:
        return probe.attention(chunk, layer)[:, :, info.prefix :].transpose(1, 2).flatten(2)

    return f"{info.heads} heads of {n} x {n}; {_position(probe, read, 0)}"


def class_token(probe: Probe) -> str:
    """The class token differs from image to image."""
    if not probe.info.has_class_token:
        raise NotApplicable("no class token is declared")
    with torch.inference_mode():
        token = probe.backbone.dense(probe.images(2)).class_tokens[0]
    if token is None:
        raise NotApplicable("no prefix is declared, so that there is no class token")
    if torch.equal(token[0], token[1]):
        raise Failed(
            "it is the same for two images", "Prefix token 0 must be the class token; else has_class_token=False."
        )
    return f"two images differ by {difference(token[0], token[1]):.0e}"
