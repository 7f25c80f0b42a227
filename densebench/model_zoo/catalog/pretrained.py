"""Encoders trained from scratch: on images alone, with labels, with captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from densebench.model_zoo.catalog.entry import (
    BASE,
    CLIP,
    GIANT,
    HALF,
    HUGE,
    LARGE,
    LETTER,
    SINES,
    SMALL,
    Entry,
    Published,
    dinov2_vit,
    hub_entry,
    plain_vit,
)  # fmt: skip

TANH = (
    "timm computes GELU exactly, the authors' JAX code approximates it by a tanh; with random weights that moves "
    "features by 2e-4 of their norm."
)


def _dino() -> Iterator[Entry]:
    for size, patch, arch in (
        (SMALL, 16, "deitsmall"),
        (SMALL, 8, "deitsmall"),
        (BASE, 16, "vitbase"),
        (BASE, 8, "vitbase"),
    ):
        folder = f"dino_{arch}{patch}_pretrain"
        yield Entry(
            name=f"dino_vit{LETTER[size]}{patch}",
            title=f"DINO ViT-{LETTER[size].upper()}/{patch}",
            architecture=plain_vit(size, patch),
            patch=patch,
            prefix=1,
            licence="Apache-2.0",
            citation="Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
            data="ImageNet-1k, no labels",
            objective="self-distillation between crops (image level)",
            paradigm="CL",
            file=Published(
                url=f"https://dl.fbaipublicfiles.com/dino/{folder}/{folder}.pth",
                page="https://github.com/facebookresearch/dino",
            ),
        )


def _ibot() -> Iterator[Entry]:
    rows = (
        ("ibot_vits16", SMALL, "vits_16/checkpoint_teacher", "ImageNet-1k", "block-wise masks (teacher)"),
        ("ibot_vitb16", BASE, "vitb_16/checkpoint_teacher", "ImageNet-1k", "block-wise masks (teacher)"),
        ("ibot_vitb16_rand", BASE, "vitb_16_rand_mask/checkpoint_teacher", "ImageNet-1k", "random masks (teacher)"),
        ("ibot_vitl16", LARGE, "vitl_16/checkpoint_teacher", "ImageNet-1k", "block-wise masks (teacher)"),
        ("ibot_vitl16_rand", LARGE, "vitl_16_rand_mask/checkpoint_teacher", "ImageNet-1k", "random masks (teacher)"),
        ("ibot_vitb16_in22k", BASE, "vitb_16_pt22k/checkpoint_student", "ImageNet-22k", "student"),
        ("ibot_vitl16_in22k", LARGE, "vitl_16_pt22k/checkpoint_student", "ImageNet-22k", "student"),
    )
    for name, size, path, data, masks in rows:
        yield Entry(
            name=name,
            title=f"iBOT ViT-{LETTER[size].upper()}/16, {data}, {masks}",
            architecture=plain_vit(size),
            patch=16,
            prefix=1,
            licence="Apache-2.0",
            citation="Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022",
            data=f"{data}, no labels",
            objective="self-distillation and masked image modelling",
            paradigm="MIM",
            file=Published(
                url=f"https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/{path}.pth",
                page="https://github.com/bytedance/ibot",
                entry="state_dict?",
                prefix="**",
                drop=("masked_embed", "head.*"),
            ),
            notes="The papers do not say whether their iBOT had block-wise or random masks."
            if size != SMALL and data == "ImageNet-1k"
            else "",
        )


def _mae() -> Iterator[Entry]:
    for size, patch in ((BASE, 16), (LARGE, 16), (HUGE, 14)):
        yield hub_entry(
            f"mae_vit{LETTER[size]}{patch}",
            f"MAE ViT-{LETTER[size].upper()}/{patch}",
            f"vit_{size}_patch{patch}_224.mae",
            prefix=1,
            licence="CC-BY-NC-4.0",
            citation="He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022",
            data="ImageNet-1k, no labels",
            objective="reconstruction of masked pixels; this is the encoder",
            paradigm="MIM",
            embedding=SINES,
        )


def _moco() -> Iterator[Entry]:
    for size in (SMALL, BASE):
        letter = LETTER[size]
        yield Entry(
            name=f"mocov3_vit{letter}16",
            title=f"MoCo v3 ViT-{letter.upper()}/16, 300 epochs",
            # 12 heads also in the small one
            architecture=replace(plain_vit(size, positions="antialias", num_heads=12), interpolation="bilinear"),
            patch=16,
            prefix=1,
            licence="CC-BY-NC-4.0",
            citation="Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021",
            data="ImageNet-1k, no labels",
            objective="contrast of augmented views with a momentum encoder",
            paradigm="CL",
            embedding=SINES,
            file=Published(
                url=f"https://dl.fbaipublicfiles.com/moco-v3/vit-{letter}-300ep/vit-{letter}-300ep.pth.tar",
                page="https://github.com/facebookresearch/moco-v3/blob/main/CONFIG.md",
                entry="state_dict",
                prefix="module.base_encoder.",
                others=True,
                drop=("head.*",),
            ),
            notes="Its code takes images of 224 x 224 only: positions on other grids are ours to choose.",
        )


def _mugs() -> Iterator[Entry]:
    for size, epochs in ((SMALL, 800), (BASE, 400), (LARGE, 250)):
        folder = f"vit_{size}_{epochs}ep"
        yield Entry(
            name=f"mugs_vit{LETTER[size]}16",
            title=f"Mugs ViT-{LETTER[size].upper()}/16, {epochs} epochs",
            architecture=plain_vit(size),
            patch=16,
            prefix=1,
            licence="Apache-2.0",
            citation="Zhou et al., Mugs: A Multi-Granular Self-Supervised Learning Framework, 2022",
            data="ImageNet-1k, no labels",
            objective="instance, local-group and group discrimination",
            paradigm="CL",
            file=Published(
                url="https://huggingface.co/zhoupans/Mugs/resolve/main/pretrained%20models/"
                f"{folder}/vit_{size}_backbone_{epochs}ep.pth",
                page="https://github.com/sail-sg/mugs",
                entry="state_dict",
                drop=("relation_blocks*",),
            ),
            notes="File names and the modules left out as a loader of another project states them; P-POS has B and L.",
        )


def _supervised() -> Iterator[Entry]:
    for size in (SMALL, BASE, LARGE):
        yield hub_entry(
            f"augreg_vit{LETTER[size]}16",
            f"supervised ViT-{LETTER[size].upper()}/16 (AugReg)",
            f"vit_{size}_patch16_224.augreg_in21k",
            prefix=1,
            colour=HALF,
            licence="Apache-2.0",
            citation="Steiner et al., How to train your ViT?, TMLR 2022; Dosovitskiy et al., ICLR 2021",
            data="ImageNet-21k with labels",
            objective="classification",
            paradigm="supervised",
            notes="The supervised ViT of P-POS is one trained on ImageNet-21k; which of them it does not say. " + TANH,
        )
    citation = "Touvron et al., Training data-efficient image transformers, ICML 2021"
    for size in (SMALL, BASE):
        yield hub_entry(
            f"deit_vit{LETTER[size]}16",
            f"DeiT ViT-{LETTER[size].upper()}/16",
            f"deit_{size}_patch16_224.fb_in1k",
            prefix=1,
            licence="Apache-2.0",
            citation=citation,
            data="ImageNet-1k with labels",
            objective="classification",
        )
    for size in (SMALL, BASE, LARGE):
        yield hub_entry(
            f"deit3_vit{LETTER[size]}16",
            f"DeiT III ViT-{LETTER[size].upper()}/16",
            f"deit3_{size}_patch16_224.fb_in22k_ft_in1k",
            prefix=1,
            licence="Apache-2.0",
            citation="Touvron et al., DeiT III: Revenge of the ViT, ECCV 2022",
            data="ImageNet-22k, then ImageNet-1k, with labels",
            objective="classification",
        )


def _language() -> Iterator[Entry]:
    citation = "Cherti et al., Reproducible scaling laws for contrastive language-image learning, CVPR 2023"
    rows = (
        ("openclip_vitb16", "B/16", "vit_base_patch16_clip_224", CLIP),
        ("openclip_vitl14", "L/14", "vit_large_patch14_clip_224", HALF),
        ("openclip_vith14", "H/14", "vit_huge_patch14_clip_224", CLIP),
        ("openclip_vitbigg14", "bigG/14", "vit_gigantic_patch14_clip_224", CLIP),
    )
    for name, title, timm, colour in rows:
        yield hub_entry(
            name,
            f"OpenCLIP ViT-{title}",
            f"{timm}.laion2b",
            prefix=1,
            colour=colour,
            licence="Apache-2.0",
            citation=citation,
            data="LAION-2B (images with captions)",
            objective="contrast of images and captions; this is the image tower",
            paradigm="supervised",
            notes="Mean and deviation are 0.5 for L/14 alone, in open_clip as in timm." if title == "L/14" else "",
        )
    yield hub_entry(
        "clip_vitb16",
        "CLIP ViT-B/16 (OpenAI)",
        "vit_base_patch16_clip_quickgelu_224.openai",
        prefix=1,
        colour=CLIP,
        licence="as timm gives it: Apache-2.0 (the original repository: MIT)",
        citation="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
        data="400 M images with captions, unpublished",
        objective="contrast of images and captions; this is the image tower",
        notes="With the activation it was trained with (QuickGELU).",
    )
    siglip = (
        ("siglip_vitb16", "SigLIP ViT-B/16", "vit_base_patch16_siglip_224.webli", 224),
        ("siglip_vitl16", "SigLIP ViT-L/16", "vit_large_patch16_siglip_256.webli", 256),
        ("siglip2_vitb16", "SigLIP 2 ViT-B/16", "vit_base_patch16_siglip_224.v2_webli", 224),
        ("siglip2_vitl16", "SigLIP 2 ViT-L/16", "vit_large_patch16_siglip_256.v2_webli", 256),
    )
    for name, title, timm, size in siglip:
        second = "siglip2" in name
        yield hub_entry(
            name,
            title,
            timm,
            prefix=0,
            size=size,
            colour=HALF,
            licence="Apache-2.0",
            citation="Tschannen et al., SigLIP 2, 2025"
            if second
            else "Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023",
            data="WebLI (images with captions), unpublished",
            objective="sigmoid loss on images and captions"
            + (", self-distillation, masked prediction" if second else ""),
            notes="No class token. " + TANH,
        )


def _dinov2() -> Iterator[Entry]:
    base = "https://dl.fbaipublicfiles.com/dinov2"
    for size in (SMALL, BASE, LARGE, GIANT):
        letter = LETTER[size]
        arch = f"dinov2_vit{letter}14"
        plain = Entry(
            name=arch,
            title=f"DINOv2 ViT-{letter if letter == 'g' else letter.upper()}/14",
            architecture=dinov2_vit(size, registers=False),
            patch=14,
            prefix=1,
            licence="Apache-2.0",
            citation="Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024",
            data="LVD-142M, no labels, unpublished",
            objective="self-distillation, masked image modelling and KoLeo"
            + ("" if letter == "g" else "; distilled from the ViT-g"),
            paradigm="MIM",
            file=Published(
                url=f"{base}/{arch}/{arch}_pretrain.pth",
                page="https://github.com/facebookresearch/dinov2",
                layout="dinov2",
                drop=("mask_token",),
            ),
        )
        yield plain
        assert plain.file is not None
        registers = replace(
            plain,
            name=f"dinov2r_vit{letter}14",
            title=f"{plain.title} with 4 registers (DINOv2R)",
            architecture=dinov2_vit(size, registers=True),
            prefix=5,
            citation="Darcet et al., Vision Transformers Need Registers, ICLR 2024",
            file=replace(plain.file, url=f"{base}/{arch}/{arch}_reg4_pretrain.pth"),
        )
        yield registers
        assert registers.file is not None
        yield replace(
            plain,
            name=f"dinov2xr_vit{letter}14",
            title=f"{plain.title}, registers removed (DINOv2-XR)",
            citation=registers.citation,
            paradigm="",
            file=replace(registers.file, drop=("mask_token", "register_tokens")),
            notes="The checkpoint with registers in a net without: where PaKA and the main NeCo models begin. It is "
            "not plain DINOv2: all its other weights were trained beside registers.",
        )


def _dinov3() -> Iterator[Entry]:
    rows = (
        (SMALL, "vits16", "S/16"),
        (BASE, "vitb16", "B/16"),
        (LARGE, "vitl16", "L/16"),
        ("huge_plus", "vithplus16", "H+/16"),
    )
    for size, short, title in rows:
        yield hub_entry(
            f"dinov3_{short}",
            f"DINOv3 ViT-{title}",
            f"vit_{size}_patch16_dinov3.lvd1689m",
            prefix=5,
            size=256,
            positions=None,
            licence="DINOv3 License (Meta); read it before use",
            citation="Siméoni et al., DINOv3, 2025",
            data="LVD-1689M, no labels, unpublished",
            objective="self-distillation, masked image modelling and Gram anchoring; distilled from the 7B model",
            paradigm="MIM",
            embedding="rotary, along both axes",
            notes="4 registers. The authors' own files need a request; timm has converted them.",
        )


FAMILIES = (_dino, _ibot, _mae, _moco, _mugs, _supervised, _language, _dinov2, _dinov3)
