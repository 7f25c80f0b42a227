"""Cards of checkpoints: what `card.json` may say, so that a folder of somebody else's runs no code and fetches nothing.

A card names a network of timm and its preprocessing. Of timm's arguments it may give those below, which are numbers and
switches of the architecture: none of them names a file, an address, a class or a function.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densebench.core.errors import ModelError
from densebench.core.regular import read_text

MOST_BYTES = 16 << 20
"""Of a card: training writes some kilobytes, and an id for each image it had to leave out."""
MOST_WEIGHTS = 3e10
"""Weights of a network: about those of the largest vision encoder there is."""

Pixels = Annotated[int, Field(ge=1, le=8192)]
Count = Annotated[int, Field(ge=1, le=512)]
Channels = Annotated[int, Field(ge=1, le=32768)]
Switch = bool | None
Deviation = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Kwargs(_Strict):
    """Arguments of timm's networks that a card may give, under timm's names; what it leaves out is timm's default."""

    img_size: Pixels = 0
    patch_size: Annotated[int, Field(ge=1, le=256)] = 0
    embed_dim: Channels = 0
    depth: Count = 0
    num_heads: Count = 0
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = 0
    init_values: float | None = None
    reg_tokens: Annotated[int, Field(ge=0, le=512)] = 0
    num_reg_tokens: Annotated[int, Field(ge=0, le=512)] = 0
    global_pool: Literal["", "avg", "avgmax", "max", "token", "map"] = ""
    pos_embed: Literal["", "none", "learn"] = ""
    class_token: bool = True
    no_embed_class: bool = False
    qkv_bias: bool = True
    qkv_fused: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: Switch = None
    use_fc_norm: Switch = None
    use_abs_pos_emb: bool = True
    use_rot_pos_emb: bool = False
    swiglu_mlp: bool = False
    scale_mlp: bool = False
    scale_attn_inner: bool = False
    dynamic_img_size: bool = True


class ArchitectureBlock(_Strict):
    """The block `architecture` of a card: the fields of `densebench.model_zoo.architecture.Architecture`."""

    # a name with its tag, as timm's registry has them: no `hf-hub:`, no `local-dir:`, no path
    timm: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)?$", max_length=100)]
    kwargs: Kwargs = Kwargs()
    stem: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=8)] = ()
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[Deviation, Deviation, Deviation] = (0.25, 0.25, 0.25)
    interpolation: Annotated[str, Field(pattern="^[a-z]{1,20}$")] = "bilinear"
    native_size: Pixels = 224
    positions: Literal["antialias", "offset"] | None = "antialias"


class _Weights(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]*$")] = ""


class _Card(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    architecture: ArchitectureBlock
    weights: _Weights = _Weights()
    licence: str = ""
    citation: str = ""


def read_card(path: Path) -> dict[str, Any]:
    """Return a card.

    Raises ModelError, in a sentence, for what is no regular file, no text, no JSON, nested absurdly deep, or says
    anything of its architecture that it may not.
    """
    try:
        text = read_text(path, MOST_BYTES)
        card = _Card.model_validate_json(text)
        described: dict[str, Any] = json.loads(text)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise _unusable(path, f"byte {error.start} is not UTF-8") from None
    except ValidationError as error:
        raise _unusable(path, _told(error)) from None
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from None
    width, depth = card.architecture.kwargs.embed_dim, card.architecture.kwargs.depth
    if (weights := 12 * width**2 * depth) > MOST_WEIGHTS:
        raise _unusable(path, f"embed_dim {width} and depth {depth} make {weights:.0e} weights")
    # what was checked, and not what another reader of the same text may have made of it
    return {**described, "architecture": card.architecture.model_dump(mode="json", exclude_unset=True)}


def _told(error: ValidationError) -> str:
    """Return the first thing that is wrong with a card, in words."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{field} is nothing that a card may say"
    if first["type"] == "json_invalid":
        return first["msg"].partition(": ")[2] or first["msg"]
    found = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
    what = f"{field}: " if field else ""
    return f"{what}{first['msg'][0].lower()}{first['msg'][1:]}{found}"


def _unusable(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is not a card of a checkpoint ({reason}). Copy the folder again, or make the checkpoint anew with "
        "`densebench train`."
    )
