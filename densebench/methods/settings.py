"""Settings of a training before it begins: checked without torch, and fitted to base and data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from densebench.core.config import apply_overrides, find_preset
from densebench.core.errors import UsageError
from densebench.methods.configs.train import TrainConfig
from densebench.methods.names import METHODS

if TYPE_CHECKING:
    from densebench.model_zoo.backbone import BackboneInfo

C = TypeVar("C", bound=TrainConfig)


def check_settings(method: str, preset: str, overrides: Mapping[str, Any]) -> str | None:
    """Return the split that settings ask for; raises UsageError for those that no preset, or not this one, can have.

    Nothing is imported for it but where settings are declared; those of a plugin are left to its method.
    """
    kind: Any = METHODS.config(method) or METHODS[method].Config
    presets = {preset: find_preset(method, kind.presets, preset)} if preset else kind.presets
    refused: list[UsageError] = []
    for each in presets.values():
        try:
            return apply_overrides(kind(), {**each.settings, **overrides}).split
        except UsageError as error:
            refused.append(error)
    raise refused[0]


def fitted(config: C, base: BackboneInfo, n_images: int, asked: Collection[str]) -> C:
    """Return a config whose sizes and images fit base and data wherever they are not among the settings `asked`.

    A side that is not a multiple of the base's patch becomes the nearest multiple or, if that is less, the one nearest
    to the base's native size; of local crops, nearest to at most half of the global ones. All images are taken where
    there are fewer.
    """

    def side(name: str, most: float) -> int:
        size: int = getattr(config, name)
        if name in asked or size % base.patch == 0:
            return size
        return max(1, round(min(size, most) / base.patch)) * base.patch

    side_of_globals = side("global_size", base.native_size)
    fits: dict[str, int | None] = {"global_size": side_of_globals}
    if config.local_crops:
        fits["local_size"] = side("local_size", side_of_globals / 2)
    if "images" not in asked and config.images is not None and config.images > n_images:
        fits["images"] = None
    return replace(config, **{name: value for name, value in fits.items() if value != getattr(config, name)})  # type: ignore[arg-type]
