"""Pipes, devices, sockets and absurd texts where a file is expected: a sentence at once, no hang and no full memory."""

import io
import os
import socket
import struct
import subprocess
import tomllib
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from densebench.cli import listing
from densebench.core import paths, regular
from densebench.core.config import read_toml
from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.datasets import DATASETS, dataset
from densebench.datasets.io import decode
from densebench.datasets.io.decode import read_image, read_mat
from densebench.datasets.io.id_lists import read_ids
from densebench.datasets.sets.nyu.mat import hdf5


@pytest.fixture
def odd(tmp_path):
    """Return what is no regular file, by what it is called."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket is short
        listening.bind("socket")
        os.chdir(before)
    return {
        "a pipe": [tmp_path / "pipe", tmp_path / "link"],
        "a device": [Path("/dev/zero")],
        "a folder": [tmp_path],
        "a socket": [tmp_path / "socket"],
    }


def test_only_regular_files_are_read(odd):
    for kind, files in odd.items():
        for path in files:
            for reads in (regular.read, regular.read_text, paths.file_digest):
                with pytest.raises(OSError, match=f"it is {kind}; expected a regular file"):
                    reads(path)
            with pytest.raises(UsageError, match=f"cannot be read .it is {kind}"):
                read_toml(path)
            with pytest.raises(DatasetError, match=f"the list cannot be read .it is {kind}"):
                read_ids(path, "the list")
            with pytest.raises(CorruptFileError, match=f"cannot be decoded as an image .it is {kind}"):
                read_image(path)
            with pytest.raises(CorruptFileError, match=f"MATLAB file .it is {kind}"):
                read_mat(path, 0)
            with pytest.raises(DatasetError, match=f"it is {kind}|needs h5py"), hdf5(path):
                pass


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="Linux")
def test_a_file_of_the_system_without_a_size_is_an_empty_one():
    assert regular.read(Path("/proc/self/environ")) == b""
    with pytest.raises(CorruptFileError, match="it is empty"):
        read_image(Path("/proc/kmsg"))  # no read of it would ever end


def test_a_file_has_a_bound(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(regular.MOST_BYTES + 1)  # takes no room
    for reads, bound in ((regular.read, "2,147"), (regular.read_text, "67")):
        with pytest.raises(OSError, match=rf"it has 2,147\.5 MB; expected at most {bound}"):
            reads(tmp_path / "large")
    with pytest.raises(UsageError, match=r"cannot be read .it has 2,147\.5 MB"):
        read_toml(tmp_path / "large")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a." * 50_000 + "a = 1", "line 1 has more than 200 dots"),
        ('x = 1\n"a"' + '."a"' * 201 + " = 1", "line 2 has more than 200 dots"),
        ("a = " + "[" * 50_000, "nested too deep"),
        ("a = " + "{a = " * 40_000, "nested too deep"),
        ("a = 1\n" * 100_000, "more than 262,144 characters"),
    ],
)
def test_toml_is_bounded_in_depth_and_size(text, said):
    with pytest.raises(tomllib.TOMLDecodeError, match=said):
        regular.parse_toml(text)


def test_json_is_bounded_in_depth():
    assert regular.parse_json(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deep"):
        regular.parse_json("[" * 100_000)


def promised(width, height):
    """Return a PNG whose header promises a picture of this size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "found"),
    [((9000, 8900), "9000 x 8900"), ((10_000, 9000), "10000 x 9000"), ((20_000, 15_000), "300000000")],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_has_a_bound_in_pixels(size, found, tmp_path):
    (tmp_path / "x.png").write_bytes(promised(*size))
    with pytest.raises(CorruptFileError, match=f"it has {found} pixels; at most 80 million are decoded: scale it down"):
        read_image(tmp_path / "x.png")


def test_pictures_are_decoded_in_formats_that_start_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(
        CorruptFileError, match=r"x\.png cannot be decoded as an image .it is empty or torn, or none of PNG, JPEG"
    ):
        read_image(tmp_path / "x.png")


@pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF")
def test_a_damaged_avif_is_a_broken_file_whatever_its_decoder_raises(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "AVIF")
    data = bytearray(buffer.getvalue())
    start = data.find(b"mdat") + 12
    data[start : start + 32] = b"\xff" * 32
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"x\.jpg cannot be decoded as an image"):
        read_image(tmp_path / "x.jpg")


def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path):
    first, second = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    for format_ in ("PNG", "TIFF", "MPO", "GIF"):
        first.save(tmp_path / "x", format_, save_all=True, append_images=[second])
        red, _, blue = read_image(tmp_path / "x").getpixel((1, 1))
        assert red > 250
        assert blue < 5


def test_data_check_of_a_dataset_with_a_pipe_for_an_image_names_it(tmp_path, capsys, monkeypatch):
    for entries in ("_entries", "_loaded"):  # the dataset is registered for this test alone
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / split / kind / "0.png")
    os.mkfifo(tmp_path / "val" / "images" / "1.png")
    (tmp_path / "val" / "masks" / "1.png").symlink_to("/dev/zero")
    (tmp_path / "d.toml").write_text(
        'name = "odd"\nclasses = ["a", "b"]\nimages = "{split}/images/*.png"\nmasks = "{split}/masks/*.png"\n'
    )
    assert listing.data_report(str(tmp_path / "d.toml"), None, None) == 1
    said = capsys.readouterr().err
    assert f"there is no digest: {tmp_path}/val/images/1.png cannot be read (it is a pipe" in said
    assert f"{tmp_path}/val/images/1.png cannot be decoded as an image (it is a pipe" in said


def test_a_broken_orientation_tag_is_nothing_to_warn_of(tmp_path):
    torn = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=torn)
    with warnings.catch_warnings(record=True) as said:
        decode._formats.cache_clear()  # where they are turned off
        read_image(tmp_path / "x.jpg")
        dataset._is_sideways(Image.open(tmp_path / "x.jpg"))
    decode._formats.cache_clear()
    assert not said
