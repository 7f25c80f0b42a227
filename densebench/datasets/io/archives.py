"""Files inside zip and tar archives, read in place: nothing is extracted, and a worker needs nothing but the path.

A file in an archive has a path like any other, `.../val2017.zip/val2017/000000000139.jpg`, and so has one in an archive
that lies in another and is not compressed there, `.../chess.zip/chess/seq-01.zip/seq-01/frame-000000.color.png`. A
read opens the archive, takes its bytes and closes it, so threads and worker processes share no position.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from densebench.core.errors import CorruptFileError, DatasetError, StorageError
from densebench.core.regular import MOST_BYTES, read, size_of
from densebench.datasets.io.archive_index import SUFFIXES, Member, holder, index, inner_members, members, unpacking

BLOCK = 1 << 20
LARGEST_MEMBER = 1 << 30
"""Bytes of a file that is read in place; images and label maps have a few million at most, COCO's JSON half of this."""


def is_folder(path: Path) -> bool:
    """Tell whether a path leads to a folder inside an archive, or to an archive.

    Raises DatasetError for an archive on the way that cannot be read, or that is compressed inside another.
    """
    archive = holder(path)
    if archive is None:
        return False
    inner = path.relative_to(archive).as_posix()
    if inner in index(archive).folders:
        return True
    if inner.lower().endswith(SUFFIXES) and inner in members(archive):
        inner_members(archive, inner)  # says why it cannot be read
    return False


def names(folder: Path) -> list[str]:
    """Return the names, with slashes, of all files below a folder that `is_folder` found."""
    archive, inner = split(folder)
    start = "" if inner == "." else f"{inner}/"
    return [name.removeprefix(start) for name in index(archive).files if name.startswith(start)]


def read_member(path: Path, most: int = LARGEST_MEMBER) -> bytes:
    """Return the bytes of a file at a path through an archive; raises DatasetError, or CorruptFileError with the path.

    Unpacks no more than the size that the archive's index states, checks the zip's CRC.
    """
    archive, name = split(path)
    member = index(archive).files.get(name)
    if member is None:
        raise DatasetError(f"{archive} has no file {name}. Run `densebench data check` on its dataset.")
    if member.unread:
        raise DatasetError(f"{path} {member.unread}. Get the original archive, or pack the files themselves.")
    if member.size > min(most, LARGEST_MEMBER):
        raise DatasetError(f"{path} has {member.size / 1e9:.1f} GB, too many to read in place. {unpacking(archive)}")
    with open(archive, "rb") as file:
        return b"".join(_unpacked(file, member, path))


def _unpacked(file: BinaryIO, member: Member, path: Path) -> Iterator[bytes]:
    """Yield the bytes of a member, never more than it has; raises CorruptFileError where they are not what they were.

    `file` is the archive.
    """
    file.seek(member.data(file))
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
    archive = holder(path)
    if archive is None:
        raise DatasetError(f"{path} is missing. Run `densebench data check` on its dataset.")
    return archive, path.relative_to(archive).as_posix()


def opened(path: Path, most: int = MOST_BYTES) -> Path | io.BytesIO:
    """Return what a reader opens for a path: the path, or the bytes that lie at it inside an archive.

    Raises OSError for what is no regular file, or larger than `most` bytes, and as `read_member` does.
    """
    try:
        return path if size_of(path, most) else io.BytesIO()  # a file of /proc has no size, and may have no end
    except (FileNotFoundError, NotADirectoryError):
        return io.BytesIO(read_member(path, most))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, on disk or in an archive; raises DatasetError where none can be read."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return read_member(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error


def extract(archive: Path, folder: Path, most_bytes: int) -> int:
    """Write all files of an archive below `folder`, and return how many; files already there are replaced.

    Nothing is written before everything is checked: paths stay inside the folder, links become copies of what they lead
    to in the archive, other links and devices are left out, and all files together have at most `most_bytes`. Raises
    DatasetError where they do not, or where the disk is too small; StorageError where a file cannot be written.
    """
    found = {name: member for name, member in members(archive).items() if not member.unread}
    total = sum(member.size for member in found.values())
    if total > most_bytes:
        raise DatasetError(f"{archive} unpacks to {total} bytes, expected at most {most_bytes}; nothing was written.")
    target = folder
    try:
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
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    out.writelines(_unpacked(file, member, archive / name))
    except OSError as error:
        raise StorageError(
            f"{archive} cannot be unpacked: {target} cannot be written ({error.strerror or error}). Free space, or "
            "give another folder, then run again: the archive is kept."
        ) from error
    return len(found)
