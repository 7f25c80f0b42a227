"""Some images of another dataset, by lists of ids, under a name of their own: `--dataset ./voc_small.toml`.

    name = "voc_small"
    base = "voc"

    [lists]
    val = "small.txt"

`base` is a dataset's name, or FILE.py:Class. A split that is listed is cut to the ids in the file, one per line; the
others are whole. Whatever a protocol does by its own rule for a dataset, it does for a subset of it.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from densebench.core.config import read_toml
from densebench.core.errors import DatasetError, UsageError
from densebench.datasets.dataset import DatasetView, Root, Transforms
from densebench.datasets.io.id_lists import read_ids
from densebench.datasets.names import DATASETS, register_own
from densebench.datasets.user.python import from_file

KEYS: Mapping[str, type] = {"name": str, "base": str, "lists": dict}
WORDS: Mapping[type, str] = {str: "text", list: "a list", dict: "a table"}


class Subset(DatasetView):
    """What a TOML file with `base` describes; `subset` makes the class, with the file's `info`.

    An instance has the `info` of the dataset that it shows, under its own name.
    """

    of: ClassVar[str]
    """The registered name of the dataset that it is a subset of."""
    lists: ClassVar[Mapping[str, Path]]
    """The file of ids of each split that is cut."""

    def __init__(self, root: Root, split: str | None = None, transforms: Transforms = None) -> None:
        """Raises DatasetError for a list that is missing, empty, repeats an id or names one that is not there."""
        base = DATASETS[self.of](root, self.info.val if split is None else split, transforms)
        self.whole = base.split not in self.lists
        where = {id_: i for i, id_ in enumerate(base.ids)}
        path = self.lists.get(base.split)
        ids = base.ids if path is None else read_ids(path, f"the list {path}", where.__contains__)
        unknown = [id_ for id_ in ids if id_ not in where]
        if unknown:
            raise DatasetError(
                f"{path} lists {len(unknown)} of {len(ids)} ids that {self.of} {base.split} does not have (first: "
                f"{unknown[0]}); expected ids such as {base.ids[0]}."
            )
        super().__init__(base, tuple(sorted(where[id_] for id_ in ids)))
        own = type(self).info
        self.info = replace(base.info, name=own.name, title=own.title, variant_of=own.variant_of)  # type: ignore[misc]

    def digest(self) -> str:
        """Return a digest of the dataset's and the ids; a split that is not listed keeps the dataset's."""
        return self.base.digest() if self.whole else super().digest()

    def __reduce__(self) -> tuple[object, ...]:  # a class made on the fly has no name that a worker could import
        return _again, (type(self).source, self.split, self.root), {"transforms": self.transforms}


def _again(source: str, split: str, root: Root) -> Subset:
    """Return a split of what the file at `source` describes, in a worker process."""
    path = Path(source)
    return subset(path, read_toml(path))(root, split)


def subset(path: Path, state: Mapping[str, Any]) -> type[Subset]:
    """Return the dataset that the contents of a TOML file with `base` describe.

    Raises UsageError for contents that describe none, and for a `base` that is none.
    """
    wrong = schema_errors(state, KEYS, tuple(KEYS))
    if not wrong and not re.fullmatch(r"[\w-]+", state["name"]):
        wrong = [f"name = {state['name']!r}: expected letters, digits, _ and -"]
    if wrong:
        raise UsageError(
            f"{path} describes no subset: {'; '.join(wrong)}. It takes name, base, and a table `lists` with a file of "
            "ids per split; see docs/datasets.md."
        )
    of, lists = state["base"], state["lists"]
    if ".py:" in of:
        own = str(path.parent / of)
        of = register_own(from_file(own), own)
    base = DATASETS[of].info
    wrong = [split for split, file in lists.items() if split not in base.splits or not isinstance(file, str)]
    if wrong or not lists:
        raise UsageError(
            f"{path} lists {', '.join(wrong) or 'no split'}; expected a file of ids for one or more of "
            f"{', '.join(base.splits)}, the splits of {of}."
        )
    info = replace(
        base,
        name=state["name"],
        title=f"a subset of {base.title}",
        splits={split: 0 if split in lists else n for split, n in base.splits.items()},
        variant_of=base.name,
    )
    path = path.absolute()
    files = {split: path.parent / file for split, file in lists.items()}
    return type(info.name, (Subset,), {"source": str(path), "info": info, "of": of, "lists": files})


def schema_errors(state: Mapping[str, Any], types: Mapping[str, type], needed: Sequence[str]) -> list[str]:
    """Return, in words, which keys of a TOML file are unknown, have a value of another type, or are missing."""
    wrong = []
    for key, value in state.items():
        if key not in types:
            wrong.append(f"{key} = {reprlib.repr(value)} (it knows {', '.join(types)})")
        elif not isinstance(value, types[key]):
            wrong.append(f"{key} = {reprlib.repr(value)} is not {WORDS[types[key]]}")
    return wrong + [f"{key} is missing" for key in needed if key not in state]
