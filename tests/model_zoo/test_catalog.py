"""Every entry of the catalogue: declared geometry, architecture, and the keys that its authors' code saves."""

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.data
import torch

from densebench.cli import listing
from densebench.core.config import apply_overrides
from densebench.core.errors import ModelError, UsageError
from densebench.methods import METHODS
from densebench.model_zoo import load_model, parse_spec
from densebench.model_zoo import published as loading
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.catalog.pages import page, status
from densebench.model_zoo.files import fetch as fetching
from densebench.model_zoo.files.checkpoint import by_timm
from tests.model_zoo import layouts
from tests.model_zoo.layouts import capi, dino, dinov2, fill, linear, optimiser, prefixed

HUB = [name for name, entry in ENTRIES.items() if entry.hub]
FILES = [name for name, entry in ENTRIES.items() if entry.file]
MADE = [name for name, entry in ENTRIES.items() if entry.make]
KINDS = (
    "dino_vits16", "ibot_vits16", "mocov3_vits16", "mugs_vits16", "croc_vits16", "selfpatch_vits16", "leopart_vits16",
    "timet_vits16", "dinov2_vits14", "dinov2r_vits14", "dinov2xr_vits14", "neco_vits14", "dip_vits14", "franca_vitb14",
    "capi_vitl14_lvd",
)  # fmt: skip
"""One per block of rules."""
SIZES = {"s": (384, 12), "b": (768, 12), "l": (1024, 24), "g": (1536, 40)}
HEADS = fill({"mlp.0.weight": (8, 8), "last_layer.weight_g": (8, 1)})
ARGUMENTS = argparse.Namespace(arch="vit_small", lr=5e-4)


def published(name: str):
    """What the file of an entry holds, by its authors' code, on the meta device."""
    family, letter, patch = re.match(r"([a-z0-9]+)_(?:[a-z0-9]+_)?vit([sblg])(\d+)", name).groups()
    width, depth = SIZES[letter]
    plain = fill(dino(width, depth, int(patch), 224 // int(patch)))
    student = prefixed("module.backbone.", plain) | prefixed("module.head.", HEADS)
    teacher = prefixed("backbone.", plain) | prefixed("head.", HEADS)
    trained = {"student": student, "teacher": teacher, "epoch": 800, "optimizer": optimiser(student), "args": ARGUMENTS}
    if family in ("dinov2", "dinov2r", "dinov2xr"):
        return fill(dinov2(width, depth, 37, registers=0 if family == "dinov2" else 4, gated=letter == "g"))
    if family == "neco":
        head = fill({"projection_head.0.weight": (8, width)})
        own = plain if patch == "16" else fill(dinov2(width, depth, 37, registers=4 if "dinov2r_" in name else 0))
        return own | head
    if family == "dip":
        encoder = fill(dinov2(width, depth, 37, registers=4))
        heads = fill({"projector.fc1.weight": (8, 8), "enc_norm.weight": (8,)})
        return {"model": prefixed("module.feats_extractor.encoder.", encoder) | prefixed("module.", heads), "epoch": 4}
    if family == "franca":
        grid = 16 if name.endswith("_224") or letter == "g" else 37
        teacher = fill(dinov2(width, depth, grid, gated=True, chunks=4))
        # the files of v1.1.0 hold the backbone alone, without a prefix; their loader knows more
        bare = name in ("franca_vitb14_224", "franca_vitl14")
        heads = prefixed("dino_head.", HEADS) | fill({"rasa_head.pos_pred.weight": (2, width)})
        return {
            "teacher": teacher | heads if bare else prefixed("module.backbone.", teacher) | prefixed("module.", heads)
        }
    if family == "capi":
        return prefixed("backbone.", fill(capi())) | fill({"head.last_layer.weight_g": (8, 1)})
    if family == "mocov3":
        momentum = prefixed("module.momentum_encoder.", plain)
        mlp = fill({"head.0.weight": (8, width), "head.1.weight": (8,), "head.1.running_mean": (8,)})
        both = prefixed("module.base_encoder.", plain | mlp) | momentum
        return {"state_dict": both | fill({"module.predictor.0.weight": (8, 8)}), "epoch": 300, "arch": "vit_small"}
    if family == "mugs":
        return {"state_dict": plain | fill({"relation_blocks.0.norm1.weight": (width,)})}
    if family == "ibot":
        return {"state_dict": plain | (fill({"masked_embed": (1, width)}) if "in22k" in name else {})}
    if family in ("croc", "cribo"):
        return trained
    if family == "selfpatch":
        trunk = fill(dino(width, depth, 16, 14, class_token=False))
        head = fill({"cls_token": (1, 1, width), "norm.weight": (width,), "cls_blocks.0.attn.q.weight": (8, 8)})
        return {**trained, "teacher": prefixed("backbone.", trunk) | prefixed("head.", head)}
    if family == "leopart":
        whole = plain | fill({"projection_head.0.weight": (8, width), "prototypes.weight": (8, 8)})
        return prefixed("teacher.", whole) | prefixed("model.", whole)
    if family == "timet":
        heads = fill({"feature_extractor.head.0.weight": (8, width), "prototypes": (200, 256)})
        return heads | prefixed("feature_extractor.backbone.", plain)
    assert family == "dino"
    return plain


@pytest.mark.parametrize("name", FILES)
def test_published_keys_reach_the_architecture(name, monkeypatch, tmp_path):
    entry = ENTRIES[name]
    monkeypatch.setattr(loading, "read", lambda path: published(name))
    backbone = load_model(name, tmp_path / "file.pth")
    info = backbone.info
    assert (info.patch, info.prefix, info.native_size) == (entry.patch, entry.prefix, entry.architecture.native_size)
    assert info.width, info.depth == SIZES[re.search(r"vit([sblg])\d", name)[1]]
    assert info.licence == entry.licence
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())  # each came from the file


@pytest.mark.parametrize("name", KINDS)
def test_a_key_too_few_or_too_many_is_an_error(name, monkeypatch, tmp_path):
    entry = ENTRIES[name]
    whole = published(name)
    state = whole.get((entry.file.entry or "?").removesuffix("?"), whole)
    last = "blocks.0.residual2.fn.fc2.weight" if "capi" in name else "blocks.0.norm2.bias"
    last = last.replace("blocks.0", "blocks.0.0") if "franca" in name else last
    weight = next(key for key in state if key.endswith(last) and not key.startswith("teacher."))
    monkeypatch.setattr(loading, "read", lambda path: whole)
    value = state.pop(weight)
    with pytest.raises(ModelError, match=r"1 missing \("):
        load_model(name, tmp_path / "file.pth")
    state[weight] = torch.empty(7, 9, device="meta")
    with pytest.raises(ModelError, match=r"1 of another shape \(.* \(7, 9\) for \("):
        load_model(name, tmp_path / "file.pth")
    state[weight] = value
    state[re.sub(r"norm2\.bias|residual2\.fn\.fc2\.weight", "new.weight", weight)] = value
    with pytest.raises(ModelError, match=r"1 unexpected \("):
        load_model(name, tmp_path / "file.pth")


@pytest.mark.parametrize("name", HUB)
def test_hub_entries_are_what_timm_says(name):
    entry = ENTRIES[name]
    net = entry.architecture
    assert net.timm in timm.list_pretrained()
    with torch.device("meta"):
        backbone = load_model(f"{name}?random")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(net.timm).to_dict())
    assert (tuple(net.mean), tuple(net.std)) == (tuple(config["mean"]), tuple(config["std"]))
    assert (net.interpolation, net.native_size) == (config["interpolation"], config["input_size"][-1])
    info = backbone.info
    assert (info.patch, info.prefix, info.native_size) == (entry.patch, entry.prefix, net.native_size)
    assert (info.mean, info.std, info.licence) == (tuple(net.mean), tuple(net.std), entry.licence)
    assert entry.hub == timm.get_pretrained_cfg(net.timm).hf_hub_id
    said = timm.get_pretrained_cfg(net.timm).license.lower()
    assert said in re.sub("[ -]+", "-", entry.licence.lower()) or said == "nvidia-open-model-license"


def of_hub(name: str):
    """What the file of an entry holds whose weights timm has, by its authors' code; by timm where theirs is in JAX."""
    family, letter, patch = re.match(r"([a-z0-9]+)_vit([a-z]+?)(\d+)", name).groups()
    width, depth = {**SIZES, "h": (1280, 32), "bigg": (1664, 48), "hplus": (1280, 32)}[letter]
    heads = {"s": 6, "b": 12, "hplus": 20}.get(letter, 16)
    plain = dino(width, depth, int(patch), 224 // int(patch))
    if family == "mae":
        return {"model": fill(plain)}
    if family == "augreg":
        return fill(plain | linear("head", 21843, width))
    if family == "deit":
        return {"model": fill(plain | linear("head", 1000, width))}
    if family == "deit3":
        return {"model": fill(layouts.deit3(width, depth, 14))}
    if family in ("openclip", "clip"):
        return fill(layouts.clip(width, depth, int(patch), 224 // int(patch), 8192 if letter == "bigg" else 4 * width))
    if family in ("siglip", "siglip2"):
        return fill(layouts.siglip(width, depth, 16 if letter == "l" else 14))
    if family == "dinov3":
        state = fill(layouts.dinov3(width, depth, heads, gated=letter == "hplus"))
        zeros = {key: torch.zeros(value.shape) for key, value in state.items() if key.endswith("qkv.bias")}
        return state | zeros
    if family == "radio":
        return fill(layouts.radio(width, depth, scaled=letter != "h"))
    assert family == "sam"
    everywhere = {"b": (2, 5, 8, 11), "l": (5, 11, 17, 23), "h": (7, 15, 23, 31)}[letter]
    return fill(layouts.sam(width, depth, heads, everywhere=everywhere))


@pytest.mark.parametrize("name", HUB)
def test_keys_of_hub_entries_reach_the_architecture(name):
    with torch.device("meta"):
        net = timm.create_model(ENTRIES[name].architecture.timm, num_classes=0)
    named, left_out = by_timm(of_hub(name), net)
    assert {key: value.shape for key, value in named.items()} == {k: v.shape for k, v in net.state_dict().items()}
    classified = name.startswith(("augreg", "deit", "clip", "openclip"))
    beside = ["radio_model.input_conditioner.norm_mean", "radio_model.input_conditioner.norm_std"]
    beside = [*beside, "radio_model.summary_idxs"] if name.startswith("radio") else []
    assert sorted(left_out) == (["head.bias", "head.weight"] if classified else beside)


@pytest.mark.parametrize("name", MADE)
def test_what_nobody_published_names_a_command_that_works(name):
    entry = ENTRIES[name]
    words = shlex.split(entry.make)
    assert words[:2] == ["densebench", "train"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--name"] == name
    base = ENTRIES[options["--base"]]
    assert not base.make
    settings = dict(words[i + 1].split("=") for i, word in enumerate(words) if word == "--set")
    config = apply_overrides(METHODS[words[2]].Config(), settings)
    assert not config.global_size % base.patch
    assert not (config.local_crops and config.local_size % base.patch)
    with pytest.raises(ModelError, match=rf"nobody published the weights of {name}; make them with `densebench train"):
        load_model(name)


def test_a_file_of_weights_that_nobody_published_is_found_where_its_way_on_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "paka_vits14.pth").write_bytes(b"")
    assert status(ENTRIES["paka_vits14"]) == "ready"
    assert loading.published_file(ENTRIES["paka_vits14"]) == tmp_path / "paka_vits14.pth"


def test_every_entry_says_where_it_comes_from():
    for entry in ENTRIES.values():
        assert all((entry.title, entry.licence, entry.citation, entry.data, entry.objective)), entry.name
        assert sum(map(bool, (entry.hub, entry.file, entry.make))) == 1, entry.name
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*_vit[a-z]+\d+(_[a-z0-9]+)*", entry.name)
        if entry.file:
            assert entry.file.page.startswith("https://")
            assert not entry.file.url or entry.file.url.startswith("https://")


def test_the_papers_models_are_all_there():
    papers = """dino_vits16 dino_vitb16 ibot_vits16 ibot_vitb16 ibot_vitl16 mae_vitb16 mae_vitl16 mocov3_vitb16
    mugs_vitb16 mugs_vitl16 augreg_vitb16 augreg_vitl16 openclip_vitb16 openclip_vitl14 dinov2_vits14 dinov2_vitb14
    dinov2_vitl14 dinov2_vitg14 dinov2r_vits14 dinov2r_vitb14 dinov2r_vitl14 dinov2xr_vits14 dinov2xr_vitb14
    dinov3_vitb16 dinov3_vitl16 leopart_vits16 leopart_vitb8 timet_vits16 croc_vits16 cribo_vits16 cribo_vitb16
    selfpatch_vits16 neco_vits14 neco_vitb14 neco_dino_vits16 neco_timet_vits16 neco_leopart_vits16 neco_ibot_vits16
    neco_cribo_vits16 dip_vits14 dip_vitb14 dip_vitl14 dip_mae_vitb16 dip_clip_vitb16 paka_vits14 paka_vitb14
    paka_dino_vits16 paka_ibot_vits16 paka_cribo_vits16 clip_vitb16 radio_vitb16 sam_vitb16"""
    assert set(papers.split()) <= ENTRIES.keys()


P_POS = {
    "augreg": ("b l", "ImageNet-21k", "learned", "supervised"),
    "openclip": ("b l h bigg", "LAION-2B", "learned", "supervised"),
    "mae": ("b l h", "ImageNet-1k", "fixed sines and cosines", "MIM"),
    "mocov3": ("b", "ImageNet-1k", "fixed sines and cosines", "CL"),
    "mugs": ("b l", "ImageNet-1k", "learned", "CL"),
    "ibot": ("b l", "ImageNet-1k", "learned", "MIM"),
    "dino": ("b", "ImageNet-1k", "learned", "CL"),
    "dinov2": ("b l g", "LVD-142M", "learned", "MIM"),
    "dinov2r": ("b l g", "LVD-142M", "learned", "MIM"),
    "dinov3": ("b l hplus", "LVD-1689M", "rotary, along both axes", "MIM"),
}
"""Table 1 of the paper: sizes (but for DINOv3's 7B), training data, position embeddings, category."""


@pytest.mark.parametrize("family", P_POS)
def test_what_the_table_of_p_pos_says_of_a_model(family):
    sizes, data, embedding, paradigm = P_POS[family]
    for size in sizes.split():
        entry = next(entry for name, entry in ENTRIES.items() if re.fullmatch(rf"{family}_vit{size}\d+", name))
        assert (entry.data.partition(",")[0].partition(" ")[0], entry.embedding) == (data, embedding)
        assert entry.paradigm == paradigm
    text = page(entry)
    assert f"position embeddings: {embedding}" in text
    assert f"category in POS: {paradigm}" in text
    assert ("positions on other grids" in text) == (family != "dinov3")


def test_what_is_made_here_has_the_net_and_the_preprocessing_of_its_base():
    for name in MADE:
        entry = ENTRIES[name]
        base = ENTRIES[entry.make.split()[4]]
        assert (entry.architecture, entry.patch, entry.prefix) == (base.architecture, base.patch, base.prefix)


def test_list_and_show_need_no_torch_and_no_network():
    code = (
        "import sys; from pathlib import Path; from densebench.cli import listing; "
        "assert listing.rows('models', 'dino*', Path()); print(listing.page('model', 'neco_vits14')); "
        "assert not {'torch', 'timm'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "resolve/main/vit-small/dinov2-architectures/neco_on_dinov2r_xr_vit14_model.ckpt" in done.stdout
    assert "inferred" in done.stdout


def test_status_is_ready_fetchable_made_or_by_hand(monkeypatch, tmp_path):
    assert status(ENTRIES["dinov2_vits14"]) == "fetchable"
    assert status(ENTRIES["paka_vits14"]).startswith("make it with `densebench train paka --base dinov2xr_vits14 ")
    assert status(ENTRIES["selfpatch_vits16"]).startswith("by hand from https://drive.google.com/")
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", str(tmp_path))
    for name in ("dinov2_vits14", "selfpatch_vits16"):
        (tmp_path / f"{name}.pth").touch()
        assert status(ENTRIES[name]) == "ready"
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    assert status(ENTRIES["dino_vits16"]) == "fetchable, but DENSEBENCH_OFFLINE is set"
    monkeypatch.setattr(fetching, "hub_file", lambda repository, names, revision=None: None)
    with pytest.raises(ModelError, match=r"DENSEBENCH_OFFLINE forbids fetching timm/vit_base_patch16_224\.mae"):
        load_model("mae_vitb16")
    with pytest.raises(ModelError, match=r"DENSEBENCH_OFFLINE forbids fetching it from https://dl\.fbai"):
        load_model("dino_vits16")


def test_a_file_by_hand_is_asked_for():
    with pytest.raises(ModelError, match=r"only be fetched by hand, from https://drive.*--weights FILE"):
        load_model("selfpatch_vits16")


def test_pages_and_rows_name_what_is_known():
    text = page(ENTRIES["dinov2xr_vits14"])
    for fact in (
        "left out: mask_token, register_tokens",
        "patch: 14",
        "prefix tokens: 1",
        "native size: 518",
        "Apache",
    ):
        assert fact in text
    assert listing.page("model", "dinov2xr_vits14") == text
    rows = dict(listing.rows("models", "*", Path()))
    assert ENTRIES.keys() <= rows.keys()
    assert "open_clip/ARCH:TAG" in rows


def test_the_docs_name_every_entry():
    text = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert ENTRIES.keys() <= named, ENTRIES.keys() - named


def test_options_after_the_name():
    spec = parse_spec("dinov2_vits14?random=3&pos=antialias")
    assert (spec.family, spec.name, spec.random_seed, spec.positions) == ("zoo", "dinov2_vits14", 3, "antialias")
    with pytest.raises(UsageError, match=r"unknown option '\?pos=nearest'.*\?pos=offset"):
        parse_spec("dinov2_vits14?pos=nearest")
    with pytest.raises(UsageError, match=r"\?pos goes with names of the catalogue"):
        parse_spec("timm/vit_tiny_patch16_224?pos=offset")
    with pytest.raises(UsageError, match=r"\?pos goes with checkpoints in the layout of DINO"):
        load_model("mae_vitb16?pos=offset")


def test_a_trained_checkpoint_hides_the_entry_of_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_ZOO", str(tmp_path))
    shipped = Path(loading.__file__).parent / "weights" / "pico"
    (tmp_path / "paka_vits14").symlink_to(shipped)
    assert load_model("paka_vits14").info.patch == 8
    assert dict(listing.rows("models", "paka_vits14", tmp_path)) == {"paka_vits14": "ready"}


def test_a_base_for_training_brings_its_architecture_without_a_fetch():
    from densebench.methods.launch import _architecture

    net = _architecture("dinov2xr_vits14")
    assert (net.timm, net.positions, net.kwargs) == ("vit_small_patch14_dinov2", "offset", {"img_size": 518})
    assert dataclasses.asdict(_architecture("dinov2xr_vits14?pos=antialias"))["positions"] == "antialias"
    with pytest.raises(ModelError, match="capi_vitl14_lvd has no timm architecture"):
        _architecture("capi_vitl14_lvd")
