"""What an image processor of Hugging Face does to pixels, as the preprocessing that a backbone declares. Pure.

A processor computes (f x - mean) / std of pixels x in 0..255, with f = rescale_factor where it rescales. A backbone is
given i = x / 255 and computes (i - m) / s, so m = mean / (255 f) and s = std / (255 f).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from densebench.core.errors import ModelError

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers, which processors keep."""
SETTINGS = (
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample", "size", "crop_size",
    "do_center_crop",
)  # fmt: skip
"""What is read of a processor."""


def preprocessing(processor: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return mean, std, interpolation and native_size of a processor's settings, and sentences on them as `loading`.

    Settings that are absent are those of most processors: rescale by 1/255, normalise, bilinear. Raises ModelError
    where the processor cannot work as it stands: it normalises by nothing, or by what is not a number.
    """
    factor = 1.0
    if processor.get("do_rescale", True):
        given = processor.get("rescale_factor")
        (factor,) = _numbers(1 / 255 if given is None else given, "rescale_factor", name, 1)
        if factor <= 0:
            raise ModelError(f"{name} has an image processor with rescale_factor {factor:g}; expected more than 0.")
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if processor.get("do_normalize", True):
        mean, std = (_numbers(processor.get(key), key, name, 3) for key in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise ModelError(f"{name} has an image processor with image_std {std}; expected more than 0.")
    scale = 255 * factor
    scale = 1.0 if math.isclose(scale, 1) else scale  # to the last digit, in the usual case
    size, said = _native_size(processor, name)
    return {
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
        "interpolation": _resampling(processor.get("resample"), name),
        "native_size": size,
        "loading": said,
    }


def refuse_oblong(config: Any, name: str) -> None:
    """Raise ModelError for a network whose patches, or the images it was made for, are not square."""
    for key in ("patch_size", "image_size"):
        value = getattr(config, key, None)
        if isinstance(value, (list, tuple)) and len(set(value)) > 1:
            sides = " x ".join(str(side) for side in value)
            what = "patches" if key == "patch_size" else "position embeddings for images"
            raise ModelError(
                f"{name} has {what} of {sides} px; square ones alone are read. Wrap it in an adapter of your own "
                "(docs/adapters.md)."
            )


def _numbers(value: Any, key: str, name: str, count: int) -> tuple[float, ...]:
    """Return so many finite numbers; one stands for all."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    good = len(values) == count and all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) for each in values
    )
    if not good:
        raise ModelError(
            f"{name} has an image processor with {key} {value!r}; expected {count} numbers. Write them into its "
            "preprocessor_config.json, or switch off do_rescale or do_normalize there, whichever it belongs to."
        )
    return tuple(float(each) for each in values)


def _resampling(number: Any, name: str) -> str:
    """Return the name of PIL's resampling of a number; bilinear where none is given."""
    if number is None:
        return "bilinear"
    try:
        return RESAMPLING[int(number)]
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{name} has an image processor with resample {number!r}; expected 0 to 5.") from None


def _native_size(processor: Mapping[str, Any], name: str) -> tuple[int, tuple[str, ...]]:
    """Return the side of what a processor hands over, and a sentence where that is not square.

    It is the crop where it crops, else the size it resizes to.
    """
    size = (processor.get("crop_size") if processor.get("do_center_crop") else None) or processor.get("size")
    if isinstance(size, Mapping):
        sides = [side for side in size.values() if isinstance(side, int) and side > 0]
    else:
        sides = [side for side in (size if isinstance(size, (list, tuple)) else [size]) if isinstance(side, int)]
    if not sides:
        raise ModelError(f"{name} has an image processor with size {size!r}; expected pixels.")
    height, width = (size.get(key) for key in ("height", "width")) if isinstance(size, Mapping) else (None, None)
    if height and width and height != width:
        said = f"{name}: its image processor makes images of {height} x {width} px; the native size here is the less."
        return min(sides), (said,)
    return max(sides), ()
