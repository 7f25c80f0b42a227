"""The same numbers in every way that a label file can store them: read as they were meant, or refused in words."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import DatasetError
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.io.decode import read_labels
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.scenes.dataset import Scenes
from tests.datasets.writers import export

COLORS = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


def few_bits(numbers, bits, kind):
    """Return a PNG of grey (kind 0) or palette (3) with 1, 2 or 4 bits per pixel, which Pillow does not write so."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = numbers.shape
    packed = np.packbits(np.unpackbits(numbers[..., None], axis=2)[..., 8 - bits :].reshape(height, -1), axis=1)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", COLORS[: 1 << bits].tobytes()) if kind == 3 else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(("bits", "kind"), list(itertools.product((1, 2, 4), (0, 3))))
def test_grey_and_palette_of_few_bits_are_the_numbers_that_were_stored(bits, kind, tmp_path):
    numbers = np.random.default_rng(0).integers(0, 1 << bits, (5, 16), dtype=np.uint8)
    numbers[0, 0] = (1 << bits) - 1
    (tmp_path / "m.png").write_bytes(few_bits(numbers, bits, kind))
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png").numbers, numbers)


def picture(numbers, palette=None):
    image = Image.fromarray(numbers)
    if palette is not None:
        image.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
    return image


@pytest.mark.parametrize("palette", [None, COLORS])
@pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP"])
def test_files_that_keep_numbers_are_read(format_, palette, tmp_path):
    numbers = np.random.default_rng(0).integers(0, 256, (9, 16), dtype=np.uint8)
    picture(numbers, palette).save(tmp_path / "m.png", format_)
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png").numbers, numbers)


@pytest.mark.parametrize(
    ("format_", "options"),
    [("JPEG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG2000", {}), ("TIFF", {"compression": "jpeg"})],
)
def test_files_that_may_not_keep_numbers_are_refused_whatever_they_are_called(format_, options, tmp_path):
    numbers = np.random.default_rng(0).integers(0, 4, (16, 16), dtype=np.uint8)
    Image.fromarray(numbers).save(tmp_path / "m.png", format_, **options)
    with pytest.raises(DatasetError, match=rf"m\.png is stored as {format_}.*changes numbers; expected PNG"):
        read_labels(tmp_path / "m.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "F"])
def test_pixels_that_are_no_numbers_of_8_bits_are_refused(mode, tmp_path):
    image = Image.fromarray(np.eye(8, dtype=np.uint8))
    image = Image.fromarray(np.eye(8, dtype=np.uint16)) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "m.tif")
    with pytest.raises(DatasetError, match=rf"m\.tif has pixels of mode {mode}; expected a grey or palette PNG"):
        read_labels(tmp_path / "m.tif")


def test_grey_that_counts_in_another_way_is_refused(tmp_path):
    (tmp_path / "m.pgm").write_bytes(b"P5 2 1 15\n\x01\x0f")
    with pytest.raises(DatasetError, match="stores numbers of its own largest value"):
        read_labels(tmp_path / "m.pgm")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m.tif", tiffinfo={262: 0})
    with pytest.raises(DatasetError, match="stores white as 0"):
        read_labels(tmp_path / "m.tif")


def voc_mask(root, numbers, palette):
    """Write a VOC of one image, and return its mask as it is read."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1]).save(folder / "JPEGImages" / "a.jpg")
    picture(numbers, palette).save(folder / "SegmentationClass" / "a.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    return load_dataset("voc", "val", root).mask(0)


NUMBERS = np.array([[0, 0, 8, 8], [0, 15, 15, 255]], dtype=np.uint8)  # background, cat, person, void


def test_published_palettes_trimmed_ones_grey_and_foreign_ones_say_nothing_wrong(tmp_path):
    voc = np.array(voc_palette(256))
    without_void = np.minimum(NUMBERS, 20)
    for numbers, palette in (
        (NUMBERS, voc),
        (without_void, voc[:21]),
        (NUMBERS, None),
        (NUMBERS, COLORS),
        (NUMBERS, np.arange(256).repeat(3)),
    ):
        np.testing.assert_array_equal(voc_mask(tmp_path, numbers, palette), numbers)


@pytest.mark.parametrize("void", [(224, 224, 192), (255, 255, 255)])
def test_a_palette_sorted_anew_is_refused(void, tmp_path):
    """As editors save it: colours by how many pixels have them, whatever the colour of void was."""
    voc = voc_palette(256)
    numbers, palette = np.array([[0, 0, 1, 1], [0, 2, 2, 3]], dtype=np.uint8), [voc[0], voc[8], voc[15], void]
    with pytest.raises(DatasetError, match=r"a\.png has the published colours in another order: 1 has the colour of 8"):
        voc_mask(tmp_path, numbers, palette)


def own(root, palette, text):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 2)).save(root / split / "images" / "0.png")
        picture(np.array([[0, 1, 2, 2], [255, 0, 1, 1]], dtype=np.uint8), palette).save(
            root / split / "masks" / "0.png"
        )
    (root / "d.toml").write_text(
        'name = "own"\nclasses = ["a", "b", "c"]\nimages = "{split}/images/*.png"\nmasks = "{split}/masks/*.png"\n'
        + text
    )
    return load_dataset(str(root / "d.toml"), "val")


def test_a_palette_of_ones_own_is_drawn_with_and_held_against_masks(tmp_path):
    colors = [[0, 0, 0], [220, 60, 40], [40, 90, 200]]
    text = f"palette = {colors}\n"
    data = own(tmp_path, COLORS, text)
    assert data.info.palette == ((0, 0, 0), (220, 60, 40), (40, 90, 200))
    data.mask(0)
    own(tmp_path, [*colors, *COLORS[3:]], text).mask(0)
    with pytest.raises(DatasetError, match="another order: 1 has the colour of 2"):
        own(tmp_path, [colors[0], colors[2], colors[1], *COLORS[3:]], text).mask(0)
    ignored = own(tmp_path, COLORS, f"{text}ignore = [1]\n")
    assert ignored.info.palette == ((0, 0, 0), (40, 90, 200))
    for wrong in ("[[0, 0, 0]]", "[[0, 0, 0], [0, 0, 256], [1, 1, 1]]", "[[0, 0], [0, 0, 1], [1, 1, 1]]", "[1, 2, 3]"):
        with pytest.raises(Exception, match=r"palette: expected 3 colours, \[red, green, blue\] of 0 to 255"):
            own(tmp_path, COLORS, f"palette = {wrong}\n")


@pytest.mark.parametrize(
    ("layout", "file", "renumber", "said"),
    [
        ("ade20k", "ADEChallengeData2016/annotations/*/*.png", lambda stored: stored - 1, "reduced by one"),
        ("ade20k_150", "ADEChallengeData2016/annotations/*/*.png", lambda stored: stored - 1, "reduced by one"),
        (
            "cityscapes", "cityscapes/gtFine/val/*/*_labelIds.png",
            lambda stored: np.asarray(DATASETS["acdc"].labels)[stored], "hold train ids",
        ),
    ],
)  # fmt: skip
def test_files_of_another_numbering_are_told_by_a_value_that_published_ones_never_hold(
    layout, file, renumber, said, tmp_path
):
    export(Scenes(None, "val", length=2, size=(32, 32)), layout, tmp_path)
    data = load_dataset(layout, "val", tmp_path)
    assert [data.mask(i).shape for i in range(2)] == [(32, 32)] * 2
    for path in tmp_path.glob(file):
        Image.fromarray(renumber(np.array(Image.open(path))).astype(np.uint8)).save(path)
    with pytest.raises(DatasetError, match=f"holds label 255 in .*{said}"):
        [data.mask(i) for i in range(2)]
