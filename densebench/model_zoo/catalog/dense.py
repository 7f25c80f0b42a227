"""Encoders trained, or trained further, on dense objectives; those nobody published are made here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from densebench.model_zoo.catalog import pretrained
from densebench.model_zoo.catalog.entry import (
    BASE,
    LETTER,
    SMALL,
    Entry,
    Published,
    dinov2_vit,
    plain_vit,
)  # fmt: skip

CITATIONS = {
    "neco": "Pariza et al., Near, far: Patch-ordering enhances vision foundation models' scene understanding, "
    "ICLR 2025",
    "dip": "Sirko-Galouchenko et al., DIP: Unsupervised Dense In-Context Post-training of Visual Representations, "
    "ICCV 2025",
    "paka": "Patch-level Kernel Alignment for Dense Self-Supervised Learning",
}


def _earlier() -> Iterator[Entry]:
    """Yield what came before NeCo."""
    leopart = "https://github.com/MkuuWaUjinga/leopart"
    for size, patch, link in (
        (SMALL, 16, "0kjy61jh4i3vbnh/leopart_vits16"),
        (BASE, 8, "ieyuqfv8get50cy/leopart_vitb8"),
    ):
        yield Entry(
            name=link.rpartition("/")[2],
            title=f"Leopart ViT-{LETTER[size].upper()}/{patch}",
            architecture=plain_vit(size, patch),
            patch=patch,
            prefix=1,
            licence="MIT (of the code; nothing is said of the weights)",
            citation="Ziegler and Asano, Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022",
            data="ImageNet-100 (as its configs have it), no labels, after DINO",
            objective="clustering of patches, from DINO's weights",
            file=Published(
                url=f"https://www.dropbox.com/s/{link}.ckpt?dl=1",
                page=leopart,
                entry="state_dict?",
                prefix="model.",
                others=True,
                drop=("head*", "prototypes*", "projection_head*"),
                inferred="that the first component of the names is 'model'; the README drops it whatever it is",
            ),
        )
    yield Entry(
        name="timet_vits16",
        title="TimeT ViT-S/16",
        architecture=plain_vit(SMALL),
        patch=16,
        prefix=1,
        licence="BSD-3-Clause-Clear (of the code; nothing is said of the weights)",
        citation="Salehi et al., Time Does Tell: Self-Supervised Time-Tuning of Dense Image Representations, ICCV 2023",
        data="videos of YouTube-VOS (the default of its code), no labels, after DINO",
        objective="agreement of patch clusters over time, from DINO's weights",
        file=Published(
            url="https://www.dropbox.com/scl/fi/nnx2mm8ian9w49vstpgz0/TimeT.pth?rlkey=w9q3hvxd51nb63ammy33qhry0&dl=1",
            page="https://github.com/SMSD75/Timetuning",
            prefix="*.*.",
            others=True,
            drop=("head*",),
            inferred="what else the file holds; the README drops two components and loads what fits",
        ),
    )
    rdr = "https://rdr.kuleuven.be/api/access/datafile"
    croc = Entry(
        name="croc_vits16",
        title="CrOC ViT-S/16, ImageNet-1k",
        architecture=plain_vit(SMALL),
        patch=16,
        prefix=1,
        licence="MIT (of the code; nothing is said of the weights)",
        citation="Stegmüller et al., CrOC: Cross-View Online Clustering for Dense Visual Representation Learning, "
        "CVPR 2023",
        data="ImageNet-1k, no labels",
        objective="clustering of patches across views",
        file=Published(
            url=f"{rdr}/28925",
            page="https://github.com/stegmuel/CrOC",
            entry="teacher",
            prefix="**",
            others=True,
            drop=("head*",),
            inferred="the prefix (NeCo's loader finds it by its class token)",
        ),
        notes="NeCo's list of addresses gives this file for a DINO trained on ImageNet-1k as well.",
    )
    yield croc
    assert croc.file is not None
    for tag, number, data in (("coco", 31383, "COCO"), ("cocoplus", 31400, "COCO+")):
        yield replace(
            croc,
            name=f"croc_vits16_{tag}",
            title=f"CrOC ViT-S/16, {data}",
            data=f"{data}, no labels",
            file=replace(croc.file, url=f"{rdr}/{number}"),
            notes="",
        )
    for tag, number, size, data in (
        ("cribo_vits16", 159665, SMALL, "ImageNet-1k"),
        ("cribo_vitb16", 159666, BASE, "ImageNet-1k"),
        ("cribo_vits16_coco", 159667, SMALL, "COCO"),
    ):
        yield replace(
            croc,
            name=tag,
            title=f"CrIBo ViT-{LETTER[size].upper()}/16, {data}",
            architecture=plain_vit(size),
            licence="Apache-2.0 (of the code; nothing is said of the weights)",
            citation="Lebailly et al., CrIBo: Self-Supervised Learning via Cross-Image Object-Level Bootstrapping, "
            "ICLR 2024",
            data=f"{data}, no labels",
            objective="agreement of objects across images",
            file=replace(croc.file, url=f"{rdr}/{number}", page="https://github.com/tileb1/CrIBo"),
            notes="",
        )
    yield Entry(
        name="selfpatch_vits16",
        title="SelfPatch ViT-S/16 (with DINO)",
        architecture=plain_vit(SMALL, class_token=False, global_pool="", final_norm=False),
        patch=16,
        prefix=0,
        licence="Apache-2.0 (of the code; nothing is said of the weights)",
        citation="Yun et al., Patch-level Representation Learning for Self-supervised Vision Transformers, CVPR 2022",
        data="ImageNet-1k, no labels",
        objective="self-distillation of images and of neighbouring patches",
        file=Published(
            page="https://drive.google.com/file/d/19eeQrK-nl4B9ksFQ_QnewGHVKYDQF4Yw",
            entry="teacher?",
            prefix="**",
            others=True,
            inferred="entry and prefix are those of its evaluation script",
        ),
        notes="Class token and final norm belong to its head: the trunk has neither, so `norm` changes nothing.",
    )


def _neco() -> Iterator[Entry]:
    page = "https://github.com/vpariza/NeCo"
    rows = [
        (
            f"neco_{tag}{arch}",
            size,
            f"dinov2-architectures/neco_on_{there}_vit14",
            dinov2_vit(size, there == "dinov2r"),
            14,
            base,
        )
        for size, arch in ((SMALL, "vits14"), (BASE, "vitb14"))
        for tag, there, base in (
            ("", "dinov2r_xr", "DINOv2-XR"),
            ("dinov2_", "dinov2", "DINOv2"),
            ("dinov2r_", "dinov2r", "DINOv2R, registers kept"),
        )
    ] + [
        (f"neco_{tag}_vits16", SMALL, f"dino-architectures/neco_on_{there}_vit16", plain_vit(SMALL), 16, base)
        for tag, there, base in (
            ("dino", "dino", "DINO"),
            ("timet", "timetuning", "TimeT"),
            ("leopart", "leopart", "Leopart"),
        )
    ]
    for name, size, path, net, patch, base in rows:
        for suffix, branch, file in (("", "student", "model"), ("_teacher", "teacher", "teacher")):
            yield Entry(
                name=name + suffix,
                title=f"NeCo ViT-{LETTER[size].upper()}/{patch} on {base} ({branch})",
                architecture=net,
                patch=patch,
                prefix=5 if "kept" in base else 1,
                licence="MIT (of the code; the DINOv2 parts Apache-2.0)",
                citation=CITATIONS["neco"],
                data=f"COCO train2017, no labels, after {base}",
                objective="patches rank reference patches as the teacher does",
                file=Published(
                    url=f"https://huggingface.co/FunAILab/NeCo/resolve/main/vit-{size}/{path}_{file}.ckpt",
                    page=page,
                    layout="dinov2" if patch == 14 else "timm",
                    drop=("mask_token", "head*", "projection_head*", "mlp_head*"),
                    inferred="that heads have one of these names, if the file has any; the README loads what fits",
                ),
                notes="The README shows which net to load it into; that of the base row with registers names a ViT-S."
                if "kept" in base and size == BASE
                else "",
            )
    for title, base in (("iBOT", "ibot_vits16"), ("CrIBo", "cribo_vits16")):
        yield _made(
            f"neco_{base}",
            f"NeCo ViT-S/16 on {title}",
            base,
            "global_size=224 local_size=96",
            notes="In NeCo's table 3; nobody published the weights. Crops of 224 and 96 pixels, for a patch of 16.",
        )


def _dip() -> Iterator[Entry]:
    for size in (SMALL, BASE):
        letter = LETTER[size]
        yield Entry(
            name=f"dip_vit{letter}14",
            title=f"DIP ViT-{letter.upper()}/14 on DINOv2R",
            architecture=dinov2_vit(size, registers=True),
            patch=14,
            prefix=5,
            licence="MIT (of the code; nothing is said of the weights)",
            citation=CITATIONS["dip"],
            data="COCO train2017 with pseudo-labels, after DINOv2R",
            objective="in-context segmentation with pseudo-labels",
            file=Published(
                url=f"https://github.com/sirkosophia/DIP/releases/download/v0.0.0/dip_coco_{size}checkpoint-4.pth",
                page="https://github.com/sirkosophia/DIP",
                entry="model",
                prefix="**feats_extractor.encoder.",
                others=True,
                layout="dinov2",
                drop=("mask_token",),
                inferred="the prefix, from the names of the modules",
            ),
        )
    rows = (
        ("dip_vitl14", "DIP ViT-L/14 on DINOv2R", "dinov2r_vitl14"),
        ("dip_mae_vitb16", "DIP ViT-B/16 on MAE", "mae_vitb16"),
        ("dip_clip_vitb16", "DIP ViT-B/16 on CLIP", "clip_vitb16"),
    )
    for name, title, base in rows:
        yield _made(
            name,
            title,
            base,
            "labels=LABELS",
            notes="In DIP's tables; nobody published the weights. LABELS: `densebench pseudolabel --model "
            f"{base} --data coco --out LABELS`.",
        )


def _paka() -> Iterator[Entry]:
    crops = "global_size=224 local_size=96 lr=1e-6"
    rows = (
        ("paka_vits14", "PaKA ViT-S/14 on DINOv2-XR", "dinov2xr_vits14", ""),
        ("paka_vitb14", "PaKA ViT-B/14 on DINOv2-XR", "dinov2xr_vitb14", "lr=1e-6"),
        ("paka_dino_vits16", "PaKA ViT-S/16 on DINO", "dino_vits16", crops),
        ("paka_ibot_vits16", "PaKA ViT-S/16 on iBOT", "ibot_vits16", crops),
        ("paka_cribo_vits16", "PaKA ViT-S/16 on CrIBo", "cribo_vits16", crops),
    )
    for name, title, base, settings in rows:
        assumed = (
            " The paper does not state the crops of this base; 224 and 96 pixels are NeCo's." if "16" in name else ""
        )
        yield _made(name, title, base, settings, notes=f"Nobody published the weights.{assumed}")


def _bases() -> dict[str, Entry]:
    return {entry.name: entry for family in (*pretrained.FAMILIES, _earlier) for entry in family()}


def _made(name: str, title: str, base: str, settings: str, notes: str) -> Entry:
    """Return what a method of ours makes of another entry, with that one's net and preprocessing."""
    method, found = name.partition("_")[0], _bases()[base]
    command = [f"densebench train {method} --base {base} --data coco --name {name}"]
    return Entry(
        name=name,
        title=title,
        architecture=found.architecture,
        patch=found.patch,
        prefix=found.prefix,
        licence="that of the base and of the images",
        citation=CITATIONS[method],
        data=f"COCO train2017, no labels, after {base} ({found.data})",
        objective=f"see `densebench show method {method}`",
        embedding=found.embedding,
        make=" ".join(command + [f"--set {setting}" for setting in settings.split()]),
        notes=notes,
    )


FAMILIES = (_earlier, _neco, _dip, _paka)
