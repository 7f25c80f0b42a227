"""Published weights onto this machine: never unchecked.

Where no digest is published, that of the first fetch is recorded and held against the file ever after: trust on first
use. How a file is fetched is `densebench.core.download`'s business.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path

from densebench.core.download import DownloadFailure, download, offline, record_of
from densebench.core.errors import ModelError
from densebench.core.paths import file_digest, zoo_dir
from densebench.core.progress import Progress
from densebench.core.regular import parse_json, read_text

ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HANDSHAKE = 5.0
"""Seconds after which a host that neither answers nor refuses counts as slow, and is left to the library that asks."""


def weights_dir() -> Path:
    """Return the folder of fetched files, inside the zoo; no checkpoint with a card has this name."""
    return zoo_dir() / ".published"


def forbid_hub() -> None:
    """Keep huggingface_hub off the network: it reads its switch once, when imported, which may be behind us."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def mirror() -> str:
    """Return DENSEBENCH_WEIGHTS: a folder, or the address of a mirror, of files named after the catalogue."""
    return os.environ.get("DENSEBENCH_WEIGHTS", "")


def local_file(name: str) -> Path | None:
    """Return the file of a catalogue name that is on this machine: in DENSEBENCH_WEIGHTS, or fetched before."""
    folders = [weights_dir()]
    if mirror() and not is_web(mirror()):
        folders.insert(0, Path(urllib.parse.urlparse(mirror()).path if "://" in mirror() else mirror()).expanduser())
    for folder in folders:
        found = [path for path in sorted(folder.glob(f"{name}.*")) if path.suffix in ENDINGS]
        if found:
            return found[0]
    return None


def hub_file(repository: str, names: tuple[str, ...] = HUB_FILES, revision: str | None = None) -> Path | None:
    """Return the first file of a Hugging Face repository that is in its own cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def ask_hub(
    model: str, repository: str, by_hand: str, names: tuple[str, ...] = HUB_FILES, revision: str | None = None
) -> None:
    """Let a library take a model's weights from Hugging Face, or say at once why it cannot.

    huggingface_hub alone tries each file for half a minute where its host has no name or refuses. Raises ModelError
    where none of the files is here and DENSEBENCH_OFFLINE forbids fetching them or the host cannot be reached.
    """
    here = hub_file(repository, names, revision)
    if offline():
        if here is None:
            raise ModelError(
                f"{model} is not on this machine and DENSEBENCH_OFFLINE forbids fetching {repository}. {by_hand}"
            )
        forbid_hub()
    elif here is None and (reason := _out_of_reach(hub_address())):
        raise ModelError(
            f"the weights of {model} could not be fetched: {hub_address()} is out of reach ({reason}). {by_hand}"
        )


def ask_for_timm(model: str, name: str) -> None:
    """Do what `ask_hub` does for a network of timm; one whose weights lie elsewhere is timm's own business."""
    import timm
    import torch

    found = timm.get_pretrained_cfg(name)
    if found is None:
        return
    by_hand = f"Give a local file with --weights FILE, or ask for random weights with '{model}?random'."
    if found.hf_hub_id:
        ask_hub(model, found.hf_hub_id, by_hand, (found.hf_hub_filename,) if found.hf_hub_filename else HUB_FILES)
    elif found.url and offline():
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(found.url).path).name
        if not file.exists():
            raise ModelError(
                f"{model} is not on this machine and DENSEBENCH_OFFLINE forbids fetching {found.url}. {by_hand}"
            )


def hub_address() -> str:
    """Return the address of Hugging Face, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _out_of_reach(address: str) -> str:
    """Return why no connection to an address can be had; "" where one can, where it is slow, or where a proxy asks."""
    parts = urllib.parse.urlparse(address)
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), HANDSHAKE).close()
    except TimeoutError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def fetch(name: str, url: str, sha256: str = "", progress: Progress | None = None) -> Path:
    """Return the file of a catalogue name, fetching it first where it is not here.

    Args:
        name: the file is kept under this name, with the ending that `url` has.
        url: http, https or file; redirects are followed, but never from https to http.
        sha256: the published digest, where one is known.
        progress: where to show bytes, rate and time left.

    Raises ModelError where the network is forbidden or fails, or the file is not what it should be; StorageError
    where it cannot be kept.
    """
    here = local_file(name)
    if here is None:
        if urllib.parse.urlparse(url).scheme not in ("http", "https", "file"):
            raise ModelError(f"{url} is not an http, https or file address; nothing else is fetched from.")
        target = weights_dir() / (name + _suffix(url))
        address = f"{mirror().rstrip('/')}/{target.name}" if mirror() and is_web(mirror()) else url
        failure = DownloadFailure(
            ModelError,
            f"Put it as {target.name} into a folder, name that folder in DENSEBENCH_WEIGHTS, or give --weights FILE.",
            "set DENSEBENCH_ZOO to another folder",
        )
        here = download(address, target, sha256, progress or Progress(), failure)
    _check(here, name, sha256)
    return here


def _check(path: Path, name: str, sha256: str) -> None:
    """Raise ModelError where a file is not the published one, or no longer the one that was fetched."""
    expected = sha256 or recorded_digest(path)
    if expected and (found := file_digest(path)) != expected:
        what = "the published file" if sha256 else "the file that was fetched first"
        raise ModelError(
            f"{path} has SHA-256 {found[:16]}..., {what} of {name} has {expected[:16]}... "
            "Delete it to fetch it again; where you changed it on purpose, give it with --weights."
        )


def recorded_digest(path: Path) -> str:
    """Return the SHA-256 that was recorded when a file was fetched, "" where it was not.

    Raises ModelError where the record is damaged.
    """
    record = record_of(path)
    if not record.exists():
        return ""
    try:
        found = parse_json(read_text(record, 1 << 20))["sha256"]
        if not re.fullmatch("[0-9a-f]{64}", found):
            raise ValueError("no SHA-256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{record} is not the record of the fetch of {path.name} ({getattr(error, 'strerror', None) or error}). "
            "Delete both to fetch it again."
        ) from None
    return found


def is_web(address: str) -> bool:
    """Whether an address is one of a web server."""
    return address.startswith(("http://", "https://"))


def _suffix(url: str) -> str:
    """Return the ending of an address's file; `.pth` where it has none, as repositories with numbers do."""
    ending = re.search(r"(\.pth\.tar|\.[a-z]+)$", urllib.parse.urlparse(url).path.lower())
    return ending[1] if ending else ".pth"
