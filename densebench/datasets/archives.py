"""Files inside zip and tar archives, read in place: nothing is extracted, and a worker needs nothing but the path.

A file in an archive has a path like any other, `.../val2017.zip/val2017/000000000139.jpg`. The index of an archive is
read once per process and never changes; a read opens the archive, takes its bytes and closes it, so threads and worker
processes share no position. Names that lead out of the archive are refused, whatever they would be used for.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from densebench.errors import CorruptFileError, DatasetError

SUFFIXES = (".zip", ".tar")
MOST_MEMBERS = 4_000_000
BLOCK = 1 << 20
LARGEST_MEMBER = 1 << 30
"""Bytes of a file that is read in place; images and label maps have a few million at most."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of a file lie in its archive."""

    offset: int
    """Of the data in a tar, of the local header in a zip."""
    packed: int
    size: int
    zipped: bool
    deflated: bool = False
    crc: int | None = None


def members(archive: Path) -> Mapping[str, Member]:
    """Return the files of an archive by name, read once per process.

    Raises DatasetError for a file that is no archive, for compressed tars, encrypted zips and names that lead out of
    it.
    """
    try:
        state = archive.stat()
    except OSError as error:
        raise DatasetError(f"{archive} cannot be read ({error.strerror}).") from error
    return _index(str(archive), state.st_size, state.st_mtime_ns)


def read_member(path: Path) -> bytes:
    """Return the bytes of a file at a path through an archive; raises DatasetError, or CorruptFileError with the path.

    Unpacks no more than the size that the archive's index states, checks the zip's CRC.
    """
    archive, name = split(path)
    member = members(archive).get(name)
    if member is None:
        raise DatasetError(f"{archive} has no file {name}. Run `densebench data check` on its dataset.")
    if member.size > LARGEST_MEMBER:
        raise DatasetError(f"{path} is {member.size / 1e9:.1f} GB, too large to be read in place; extract {archive}.")
    with open(archive, "rb") as file:
        return b"".join(_unpacked(file, member, path))


def _unpacked(file: BinaryIO, member: Member, path: Path) -> Iterator[bytes]:
    """Yield the bytes of a member, never more than it has; raises CorruptFileError where they are not what they were.

    `file` is the archive.
    """
    file.seek(member.offset)
    if member.zipped:
        header = file.read(30)  # names and extra fields may be of another length here than in the index
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
    left, packed, crc = member.size, member.packed, 0
    try:
        while packed > 0 and (block := file.read(min(packed, BLOCK))):
            packed -= len(block)
            data = unpacker.decompress(block, left + 1) if unpacker else block
            left, crc = left - len(data), zlib.crc32(data, crc)
            if left < 0:
                break
            yield data
    except zlib.error as error:
        raise CorruptFileError(f"{path} cannot be unpacked ({error}). Get its archive again.", str(path)) from None
    if left or member.crc not in (None, crc):
        raise CorruptFileError(f"{path} is not what its archive says it is. Get the archive again.", str(path))


def split(path: Path) -> tuple[Path, str]:
    """Return the archive of a path that leads through one, and the name in it; raises DatasetError where none does."""
    for parent in path.parents:
        if parent.suffix.lower() in SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    raise DatasetError(f"{path} is missing. Run `densebench data check` on its dataset.")


class _Named(io.BytesIO):
    """Bytes of a file that prints as its path."""

    def __init__(self, path: Path) -> None:
        super().__init__(read_member(path))
        self.path = path

    def __str__(self) -> str:
        return str(self.path)


def opened(path: Path) -> Path:
    """Return what an image reader opens for a path: the path, or the bytes that lie at it inside an archive."""
    return path if path.exists() else cast(Path, _Named(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, on disk or in an archive; raises DatasetError where there is none."""
    return path.read_bytes() if path.exists() else read_member(path)


@lru_cache(maxsize=16)
def _index(archive: str, size: int, modified: int) -> Mapping[str, Member]:
    """`size` and `modified` tell a file from one that replaced it."""
    listed = _zip_members if archive.lower().endswith(".zip") else _tar_members
    found: dict[str, Member] = {}
    try:
        for name, member in listed(archive):
            found[_checked(name, archive)] = member
            if len(found) > MOST_MEMBERS:
                raise DatasetError(f"{archive} holds more than {MOST_MEMBERS} files.")
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        hint = " A compressed tar has to be unpacked first." if "tar" in type(error).__module__ else ""
        raise DatasetError(f"{archive} cannot be read as an archive ({error}).{hint} Get the original file.") from None
    return found


def _zip_members(archive: str) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if entry.is_dir():
                continue
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DatasetError(f"{archive} is encrypted or packed in a rare way ({entry.filename}); extract it.")
            yield (
                entry.filename,
                Member(
                    entry.header_offset,
                    entry.compress_size,
                    entry.file_size,
                    True,
                    entry.compress_type == zipfile.ZIP_DEFLATED,
                    entry.CRC,
                ),
            )


def _tar_members(archive: str) -> Iterator[tuple[str, Member]]:
    with tarfile.open(archive, "r:") as file:
        for entry in file:
            if entry.isreg() and not entry.issparse():
                yield entry.name, Member(entry.offset_data, entry.size, entry.size, False)


def _checked(name: str, archive: str | Path) -> str:
    """Return a member's name as a clean relative path; raises DatasetError for one that leaves the archive's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise DatasetError(f"{archive} has a path that leaves its folder ({name!r}); it is not used. Get the original.")
    return path.as_posix()


def extract(archive: Path, folder: Path, most_bytes: int) -> int:
    """Write all files of an archive below `folder`, and return how many; files already there are replaced.

    Nothing is written before everything is checked: paths stay inside the folder, links and devices are left out, and
    all files together have at most `most_bytes`. Raises DatasetError where they do not, or where the disk is too small.
    """
    found = members(archive)
    total = sum(member.size for member in found.values())
    if total > most_bytes:
        raise DatasetError(f"{archive} unpacks to {total} bytes, expected at most {most_bytes}; nothing was written.")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < total:
        raise DatasetError(f"{archive} unpacks to {total / 1e9:.1f} GB, more than {folder} has free.")
    within = folder.resolve()
    for name in found:
        target = folder / name
        if within not in target.resolve().parents:
            raise DatasetError(f"{target} leads out of {folder} by a link; nothing was written.")
    with open(archive, "rb") as file:
        for name, member in found.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "wb") as out:
                out.writelines(_unpacked(file, member, archive / name))
    return len(found)
