"""What pictures are asked for, and what can be said against it before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densebench.core.errors import UsageError
from densebench.core.lists import split_list, split_names
from densebench.core.registry import unknown_name
from densebench.core.text import elide, plain
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.dataset import DenseDataset
from densebench.pictures.kinds import KindInfo, choose
from densebench.pictures.options import Options
from densebench.results.store import slug
from densebench.runner.request import Request, checked

MOST = 64
"""Images in one picture."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for pictures that has been checked."""

    request: Request
    kinds: tuple[KindInfo, ...]
    val: DenseDataset
    images: tuple[int, ...]
    """Positions in `val`."""
    options: Options
    out: Path
    overwrite: bool

    @property
    def dataset(self) -> str:
        """The registered name of the dataset."""
        return self.request.dataset[0]

    def path(self, name: str) -> Path:
        """Return where a picture belongs."""
        return self.out / f"{slug(self.dataset)}-{name}.png"


def ask(
    request: Request,
    kinds: str,
    images: str,
    first: int,
    options: Options,
    out: Path,
    overwrite: bool,
) -> Asked:
    """Return a request whose models, dataset, kinds, images and files have been looked at.

    Raises UsageError for what cannot mean anything and for pictures that are there already.
    """
    if len(request.dataset) != 1:
        raise UsageError("pictures are of one dataset: --dataset NAME.")
    options.check()
    request = checked(request)
    name = request.dataset[0]
    info = DATASETS[name].info
    chosen = choose(split_names(kinds), name, info.targets)
    val = load_dataset(name, info.val, request.data_root)
    total = len(val)
    if request.limit is not None:
        val = val.select(range(min(request.limit, len(val))))
    asked = Asked(
        request=request,
        kinds=tuple(chosen),
        val=val,
        images=_positions(val, images, first, total),
        options=options,
        out=out,
        overwrite=overwrite,
    )
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder.")
    if not overwrite:
        _refuse_existing(asked)
    return asked


def _positions(val: DenseDataset, images: str, first: int, total: int) -> tuple[int, ...]:
    """Return the positions of ids that commas part, each once, or the first few."""
    place = {id_: i for i, id_ in enumerate(val.ids)}
    if not images:
        if not 1 <= first <= MOST:
            raise UsageError(f"--first {first}: expected at least 1, at most {MOST}.")
        return tuple(range(min(first, len(val))))
    names = list(dict.fromkeys(split_list(images, place.__contains__)))
    for name in names:
        if name not in place:
            known = list(val.ids) if len(val) <= 20_000 else list(val.ids[:3])
            part = f" among the first {len(val)}" if len(val) < total else ""
            raise unknown_name(
                f"image of {val.info.name} {val.split}{part}", elide(plain(name), 60), _near(name, known)
            )
    if not 1 <= len(names) <= MOST:
        raise UsageError(f"--images names {len(names)} images; expected at least 1, at most {MOST}.")
    return tuple(place[name] for name in names)


def _near(name: str, known: Sequence[str]) -> list[str]:
    """Return a few ids that stand for all in a message: those alike, else the first."""
    import difflib

    return difflib.get_close_matches(name, known, 3) or list(known[:3])


def _refuse_existing(asked: Asked) -> None:
    """Raise UsageError where a picture of a kind that is asked for is there."""
    found = [
        path
        for info in asked.kinds
        for pattern in (info.name, f"{info.name}-*")
        for path in sorted(asked.out.glob(asked.path(pattern).name))
    ]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UsageError(f"{found[0]}{more} is there and stays; choose another --out, or give --overwrite.")
