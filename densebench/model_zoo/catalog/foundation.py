"""Larger recent encoders: Franca, CAPI, RADIO, SAM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from densebench.model_zoo.catalog.entry import (
    BASE,
    CLIP,
    GIANT,
    HUGE,
    LARGE,
    LETTER,
    Entry,
    Published,
    hub_entry,
    vit,
)  # fmt: skip


def _franca() -> Iterator[Entry]:
    releases = "https://github.com/valeoai/Franca/releases/download"
    rows = (
        ("franca_vitb14", BASE, 518, "v1.0.0/franca_vitb14_In21K.pth", "ImageNet-21k"),
        ("franca_vitb14_224", BASE, 224, "v1.1.0/franca_vitb14_In21K_224.pth", "ImageNet-21k"),
        ("franca_vitl14", LARGE, 518, "v1.1.0/franca_vitl14_Laion_518.pth", "LAION-600M"),
        ("franca_vitl14_224", LARGE, 224, "v1.1.0/franca_vitl14_Laion600M_224.pth", "LAION-600M"),
        ("franca_vitg14", GIANT, 224, "", "LAION-600M"),
    )
    # gated MLPs at every size: 2/3 of four times the width, rounded up to a multiple of 8, twice (gate and value)
    shapes: dict[str, dict[str, Any]] = {
        BASE: {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 5.33334},
        LARGE: {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 5.34375},
        GIANT: {},
    }
    for name, size, side, path, data in rows:
        letter = LETTER[size]
        yield Entry(
            name=name,
            title=f"Franca ViT-{letter if letter == 'g' else letter.upper()}/14, {data}, {side} px",
            architecture=vit("vit_giant_patch14_dinov2", side, "offset", img_size=side, **shapes[size]),
            patch=14,
            prefix=1,
            licence="Franca RESEARCH-ONLY RAIL-AMS (non-commercial)",
            citation="Venkataramanan et al., Franca: Nested Matryoshka Clustering for Scalable Visual Representation "
            "Learning, 2025",
            data=f"{data}, no labels",
            objective="self-distillation and masked image modelling with nested clusters",
            file=Published(
                url=f"{releases}/{path}" if path else "",
                page="https://github.com/valeoai/Franca",
                entry="teacher",
                prefix="**",
                others=True,
                layout="dinov2",
                drop=("mask_token", "dino_head.*", "ibot_head.*", "rasa_head.*"),
            ),
            notes="The tokens before the RASA head."
            + ("" if path else " Published in three parts: join them, unpack, and give the file with --weights."),
        )


def _capi() -> Iterator[Entry]:
    rows = (
        ("lvd", "LVD-142M", "lvd"),
        ("in22k", "ImageNet-22k", "i22k"),
        ("in1k", "ImageNet-1k", "in1k"),
        ("p205", "Places205", "p205"),
    )
    for tag, data, file in rows:
        yield Entry(
            name=f"capi_vitl14_{tag}",
            title=f"CAPI ViT-L/14, {data}",
            architecture=vit("", 224, positions=None),
            patch=14,
            prefix=16,
            licence="Apache-2.0",
            citation="Darcet et al., Cluster and Predict Latent Patches for Improved Masked Image Modeling, 2025",
            data=f"{data}, no labels",
            objective="prediction of the clusters of masked patches",
            embedding="rotary, along both axes",
            file=Published(
                url=f"https://dl.fbaipublicfiles.com/capi/capi_vitl14_{file}.pth",
                page="https://github.com/facebookresearch/capi",
                prefix="backbone.",
                others=True,
                drop=("mask_token", "decoder.*"),
            ),
            adapter="capi",
            notes="16 registers, no class token; its own summary of an image needs the decoder, which is left out.",
        )


def _radio() -> Iterator[Entry]:
    for size, letter in ((BASE, "b"), (LARGE, "l"), (HUGE, "h")):
        yield hub_entry(
            f"radio_vit{letter}16",
            f"C-RADIOv3 ViT-{letter.upper()}/16",
            f"naflexvit_{size}_patch16_radio_v3.c_radio",
            prefix=8,
            size=512,
            colour=CLIP,
            positions=None,
            licence="NVIDIA Open Model License",
            citation="Heinrich et al., RADIOv2.5: Improved Baselines for Agglomerative Vision Foundation Models, "
            "CVPR 2025",
            data="not stated; its README calls it commercially viable",
            objective="distillation of CLIP, SigLIP 2, DINOv2 and SAM",
            embedding="learned on 128 x 128 places, bilinear to a square as wide as the longer side, then cut",
            notes="C-RADIO v3; DIP's table has RADIOv2.5, which timm does not have.",
        )


def _sam() -> Iterator[Entry]:
    for size, letter in ((BASE, "b"), (LARGE, "l"), (HUGE, "h")):
        yield replace(
            hub_entry(
                f"sam_vit{letter}16",
                f"SAM ViT-{letter.upper()}/16",
                f"samvit_{size}_patch16.sa1b",
                prefix=0,
                size=1024,
                positions=None,
                licence="Apache-2.0",
                citation="Kirillov et al., Segment Anything, ICCV 2023",
                data="SA-1B with masks",
                objective="masks from prompts; this is the image encoder, which began as an MAE",
                embedding="learned; relative ones in every attention besides",
                notes="Tokens of the last block, before the neck (256 channels) that feeds the mask decoder. "
                "No class token.",
            ),
            adapter="sam",
        )


FAMILIES = (_franca, _capi, _radio, _sam)
