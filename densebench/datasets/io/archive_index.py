"""What zip and tar archives hold and where the bytes of each file lie, read once per process.

An archive inside an archive is looked into as well where it is not compressed there: its bytes lie in the outer one as
they are. Names that lead out of an archive are refused, whatever they would be used for. Links, hard or symbolic, are
what they lead to inside the archive, files or folders; one that leads elsewhere is listed and cannot be read.
"""

from __future__ import annotations

import io
import os
import posixpath
import shlex
import stat
import tarfile
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

from densebench.core.errors import DatasetError

SUFFIXES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of archives that are compressed as a whole, so that no file has a place of its own in them."""
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
"""What these begin with."""
MOST_MEMBERS = 4_000_000
LONGEST_LINK = 4096
LINKS_ON_A_WAY = 40
"""As Linux has it."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of a file lie in the archive on disk."""

    offset: int
    """Of the data in a tar, of the local header in a zip."""
    packed: int
    size: int
    zipped: bool
    deflated: bool = False
    crc: int | None = None
    unread: str = ""
    """Why its bytes are not here, if they are not: "is a link to ..."."""

    def data(self, archive: BinaryIO) -> int:
        """Return where the packed bytes begin."""
        if not self.zipped:
            return self.offset
        archive.seek(self.offset)
        header = archive.read(30)  # names and extra fields may be of another length here than in the index
        return self.offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


class ArchiveLink(NamedTuple):
    """A member that stands for another one."""

    target: str
    """Path from the archive's folder on; one that leads out of it begins with `..` or a slash."""


class ArchiveIndex(NamedTuple):
    """All that can be read in an archive."""

    files: Mapping[str, Member]
    """By name; those of an archive inside it by INNER.zip/NAME."""
    folders: frozenset[str]
    """That they lie in, "." and the archives among them."""


def members(archive: Path) -> Mapping[str, Member]:
    """Return the files of an archive by name; an archive inside it is a file like others.

    Raises DatasetError for a file that is no archive, for compressed tars, encrypted zips and names that lead out of
    it.
    """
    return _members(*_version(archive))


def index(archive: Path) -> ArchiveIndex:
    """Return all that can be read in an archive; raises as `members` does. Archives inside it that cannot are files."""
    return _index(*_version(archive))


def inner_members(archive: Path, name: str) -> dict[str, Member]:
    """Return the files of the archive `name` inside another; raises as `members` does, and where it is compressed."""
    member = members(archive)[name]
    if member.deflated:
        raise DatasetError(
            f"{archive} holds {name} compressed, so that nothing in it can be read in place. {unpacking(archive)}"
        )
    with open(archive, "rb") as file:
        start = member.data(file)
        return _listed(io.BufferedReader(_FileRange(file, start, member.packed)), archive / name, start, member.packed)


def holder(path: Path) -> Path | None:
    """Return the archive on disk that a path is or leads through, None where there is none."""
    through = (part for part in (path, *path.parents) if part.suffix.lower() in SUFFIXES)
    return next((part for part in through if part.is_file()), None)


def unpacking(archive: Path) -> str:
    """Return, as a sentence, how to unpack an archive on disk beside itself."""
    unpack, to = ("unzip -n", "-d") if archive.suffix.lower() == ".zip" else ("tar -xf", "-C")
    return f"Unpack it once: `{unpack} {shlex.quote(str(archive))} {to} {shlex.quote(str(archive.parent))}`."


def _version(archive: Path) -> tuple[Path, int, int]:
    """Return an archive with what tells it from one that replaced it."""
    try:
        state = archive.stat()
    except OSError as error:
        raise DatasetError(f"{archive} cannot be read ({error.strerror}).") from error
    return archive, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=64)  # 7-Scenes has 43 sequences, each an archive
def _members(archive: Path, size: int, modified: int) -> Mapping[str, Member]:
    try:
        with open(archive, "rb") as file:
            return _listed(file, archive, 0, size)
    except OSError as error:
        raise DatasetError(f"{archive} cannot be read ({error.strerror}).") from error


@lru_cache(maxsize=64)
def _index(archive: Path, size: int, modified: int) -> ArchiveIndex:
    top = _members(archive, size, modified)
    files = dict(top)
    for name in top:
        if name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith("."):
            try:
                inside = inner_members(archive, name)
            except DatasetError:  # to be said when it is asked for, see `archives.is_folder`
                continue
            files.update((f"{name}/{inner}", member) for inner, member in inside.items())
            _bounded(files, archive)
    folders = {"."}
    for folder in {name.rpartition("/")[0] for name in files}:
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return ArchiveIndex(files, frozenset(folders))


def _listed(file: IO[bytes], archive: Path, start: int, size: int) -> dict[str, Member]:
    """Return the files of the archive that `file` is, `size` bytes from `start` of the file on disk on."""
    listed = _zip_members if archive.suffix.lower() == ".zip" else _tar_members
    found: dict[str, Member] = {}
    links: dict[str, str] = {}
    try:
        for name, member in listed(file, archive, start):
            if isinstance(member, ArchiveLink):
                links[_checked(name, archive)] = posixpath.normpath(member.target)
                continue
            if not start <= member.offset <= start + size - member.packed:
                raise ValueError(f"it ends before {name} does")
            found[_checked(name, archive)] = member
            _bounded(found, archive)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, NotImplementedError) as error:
        file.seek(0)
        if listed is _tar_members and file.read(6).startswith(MAGIC):
            raise DatasetError(f"{archive} is compressed as a whole. {unpacking(holder(archive) or archive)}") from None
        raise DatasetError(f"{archive} cannot be read as an archive ({error}). Get the original file.") from None
    return _linked(found, links, archive) if links else found


def _linked(files: Mapping[str, Member], links: Mapping[str, str], archive: Path) -> dict[str, Member]:
    """Return the files and what links lead to: a file's bytes, or all files below a folder."""
    found, names = dict(files), sorted(files)
    for name in links:
        target = _followed(name, links)
        if target in files:
            found[name] = files[target]
            continue
        below = names[bisect_left(names, f"{target}/") : bisect_left(names, f"{target}0")]  # "0" comes after "/"
        found.update((name + inner.removeprefix(target), files[inner]) for inner in below)
        if not below:
            unread = f"is a link to {links[name]}, which {archive.name} does not hold"
            found[name] = Member(0, 0, 0, False, unread=unread)
        _bounded(found, archive)
    return found


def _followed(path: str, links: Mapping[str, str]) -> str:
    """Return where a path leads to once no part of it is a link; itself where links run in circles."""
    for _ in range(LINKS_ON_A_WAY):
        parts = path.split("/")
        ways = ("/".join(parts[: i + 1]) for i in range(len(parts)))
        link = next((way for way in ways if way in links), None)
        if link is None:
            break
        path = posixpath.normpath(links[link] + path.removeprefix(link))
    return path


def _bounded(found: Mapping[str, Member], archive: Path) -> None:
    if len(found) > MOST_MEMBERS:
        raise DatasetError(f"{archive} holds more than {MOST_MEMBERS} files.")


def _zip_members(file: IO[bytes], archive: Path, start: int) -> Iterator[tuple[str, Member | ArchiveLink]]:
    with zipfile.ZipFile(file) as opened:
        for entry in opened.infolist():
            name = entry.filename.replace("\\", "/")  # as some archivers of Windows write it
            if name.endswith("/"):
                continue
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                how = "is encrypted" if entry.flag_bits & 1 else "is packed in a rare way"
                command = unpacking(holder(archive) or archive)
                raise DatasetError(f"{archive} {how} ({name}) and cannot be read in place. {command}")
            if stat.S_ISLNK(entry.external_attr >> 16) and entry.file_size <= LONGEST_LINK:
                target = opened.read(entry).decode(errors="replace")
                yield name, ArchiveLink(posixpath.join(posixpath.dirname(name), target))
                continue
            deflated = entry.compress_type == zipfile.ZIP_DEFLATED
            offset = start + entry.header_offset
            yield name, Member(offset, entry.compress_size, entry.file_size, True, deflated, entry.CRC)


def _tar_members(file: IO[bytes], archive: Path, start: int) -> Iterator[tuple[str, Member | ArchiveLink]]:
    with tarfile.open(fileobj=file, mode="r:") as opened:
        for entry in opened:
            if entry.issym():
                yield entry.name, ArchiveLink(posixpath.join(posixpath.dirname(entry.name), entry.linkname))
            elif entry.islnk():
                yield entry.name, ArchiveLink(entry.linkname)
            elif entry.issparse():
                yield entry.name, Member(0, 0, 0, False, unread="is stored with holes, which is not read in place")
            elif entry.isreg():
                yield entry.name, Member(start + entry.offset_data, entry.size, entry.size, False)


def _checked(name: str, archive: Path) -> str:
    """Return a member's name as a clean relative path; raises DatasetError for one that leaves the archive's folder."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or "\\" in name or "\0" in name
    if leaves or not path.parts:
        raise DatasetError(f"{archive} has a path that leaves its folder ({name!r}); it is not used. Get the original.")
    return path.as_posix()


class _FileRange(io.RawIOBase):
    """Some bytes of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.at)
        data = self.file.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
