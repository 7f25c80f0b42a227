"""`densebench data fetch NAME`: the archives of datasets that may be downloaded directly, checked by SHA-256.

Digests and sizes are those that tensorflow_datasets records (`url_checksums/{coco,ade20k,voc}.txt`). Archives that the
loaders read in place stay packed; one that holds archives itself is unpacked once. Datasets whose licence asks for an
agreement first, or whose files nobody has published a digest of, are not fetched: the reason and what to do by hand are
printed instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from densebench.core.download import DownloadFailure, download, record_of
from densebench.core.errors import DatasetError, UsageError
from densebench.core.paths import file_digest, write_atomically
from densebench.core.progress import Progress
from densebench.datasets.io.archives import extract
from densebench.datasets.names import DATASETS


@dataclass(frozen=True)
class Remote:
    """An archive on a server."""

    url: str
    sha256: str
    size: int
    place: str = "."
    """The folder below the data root that it is put in."""
    unpacked: int = 0
    """Unpack it there; it has at most this many bytes then."""


_COCO = "http://images.cocodataset.org"
COCO_IMAGES = (
    Remote(
        f"{_COCO}/zips/val2017.zip",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        815_585_330,
        "coco",
    ),
    Remote(
        f"{_COCO}/zips/train2017.zip",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_336_861_798,
        "coco",
    ),
)
PANOPTIC = Remote(
    f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip",
    "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    860_725_834,
    "coco",
    unpacked=4_000_000_000,
)
INSTANCES = Remote(
    f"{_COCO}/annotations/annotations_trainval2017.zip",
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    252_907_541,
    "coco",
    unpacked=2_000_000_000,
)
ADE = Remote(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
    967_382_037,
)
VOC2012 = Remote(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    1_999_639_040,
    "VOCdevkit/VOC2012",
)

REMOTES: Mapping[str, Sequence[Remote]] = {
    "coco": COCO_IMAGES,
    "coco_things": (*COCO_IMAGES, PANOPTIC),
    "coco_things80": (*COCO_IMAGES, PANOPTIC),
    "coco_things_instances": (*COCO_IMAGES, INSTANCES),
    "coco_things80_instances": (*COCO_IMAGES, INSTANCES),
    "ade20k": (ADE,),
    "ade20k_150": (ADE,),
    "voc": (VOC2012,),
}


def fetch(name: str, root: Path | None, progress: Progress, remotes: Sequence[Remote] | None = None) -> list[Path]:
    """Download what a dataset can be downloaded of, and return the files; finished ones are not fetched again.

    `remotes` replaces the archives of :data:`REMOTES`. Raises UsageError without a data root and for datasets that
    have to be fetched by hand, with how; DatasetError where the network fails or an archive is another than published.
    """
    info = DATASETS[name].info
    if info.embedded:
        raise UsageError(f"{name}: {info.how_to_get}.")
    remotes = REMOTES.get(name, ()) if remotes is None else remotes
    if not remotes:
        raise UsageError(
            f"{name} is not fetched: its licence asks for an agreement first, or nobody has published a digest of its "
            f"files (licence: {info.licence}). {info.how_to_get}"
        )
    if root is None:
        raise UsageError("no data root given. Use --data-root DIR or set DENSEBENCH_DATA.")
    total = sum(remote.size for remote in remotes)
    progress.say(f"{name}: {len(remotes)} archives, {total / 1e9:.1f} GB, to {root}. Licence: {info.licence}")
    files = [_fetch_one(remote, root / remote.place, progress) for remote in remotes]
    for split in dict.fromkeys((info.train, info.val)):
        try:
            progress.say(f"{split}: {len(DATASETS[name](root, split))} images")
        except DatasetError as error:
            progress.say(f"{split} is not complete: {error}")
    return files


def _fetch_one(remote: Remote, folder: Path, progress: Progress) -> Path:
    target = folder / remote.url.rpartition("/")[2]
    done = target.with_name(f".{target.name}.unpacked")
    if remote.unpacked and done.exists() and done.read_text() == remote.sha256:
        return target
    if target.exists():
        if file_digest(target) != remote.sha256:
            raise DatasetError(f"{target} is not the archive published at {remote.url}; move it away and run again.")
    else:
        by_hand = f"Run again to go on, or put the file at {target} yourself."
        failure = DownloadFailure(DatasetError, by_hand, "give another --data-root")
        download(remote.url, target, remote.sha256, progress, failure)
        record_of(target).unlink(missing_ok=True)
    if remote.unpacked:
        count = extract(target, folder, remote.unpacked)
        write_atomically(done, remote.sha256)
        target.unlink()
        progress.say(f"unpacked {count} files of {target.name} to {folder}")
    return target
