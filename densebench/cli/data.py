"""`densebench data`: check datasets, get them, export and draw them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from densebench.cli.options import DataRoot, Debug, Quiet


@dataclass
class DataCheck:
    """Decode every file of a dataset or folder, count labels, print a digest. Exit 1 if anything is wrong."""

    name: Annotated[
        Positional[str], arg(metavar="NAME", help="A dataset, FILE.toml, FILE.py:Class, or a folder of images.")
    ]
    data_root: DataRoot = None
    split: Annotated[str | None, arg(metavar="NAME", help="One split; by default train and val.")] = None
    debug: Debug = False

    def __call__(self) -> int:
        """Print a report per split."""
        from densebench.cli.listing import data_report

        return data_report(self.name, self.data_root, self.split)


@dataclass
class DataWhere:
    """Print where a dataset is expected, and how to get it."""

    name: Annotated[Positional[str], arg(metavar="NAME", help="A dataset; `densebench list datasets` names them.")]
    data_root: DataRoot = None
    debug: Debug = False

    def __call__(self) -> int:
        """Print root, state and instructions."""
        from densebench.cli.listing import data_where

        print(data_where(self.name, self.data_root))
        return 0


@dataclass
class DataSheet:
    """Draw a sheet of any dataset: `densebench data sheet voc --out voc.png`. Images, labels, depth, keypoints."""

    name: Annotated[
        Positional[str], arg(metavar="NAME", help="As --data takes it: a name, FILE.toml, FILE.py:Class, a folder.")
    ] = "scenes"
    out: Annotated[Path | None, arg(metavar="FILE", help="The PNG file; default NAME.png.")] = None
    split: Annotated[str | None, arg(metavar="NAME", help="By default the one that is evaluated.")] = None
    limit: Annotated[int, arg(metavar="N", help="So many images, spread over the split.")] = 12
    data_root: DataRoot = None
    overwrite: Annotated[bool, arg(help="Replace a file that is there.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Draw and print the path."""
        from densebench.datasets.tools.sheet import write_sheet

        print(write_sheet(self.name, self.out, self.split, self.limit, self.data_root, self.overwrite))
        return 0


@dataclass
class DataFetch:
    """Download what may be downloaded of a dataset; else say how to get it by hand."""

    name: Annotated[Positional[str], arg(metavar="NAME", help="A dataset; `densebench list datasets` names them.")]
    data_root: DataRoot = None
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print the files."""
        from densebench.core.progress import Progress
        from densebench.datasets.dataset import data_root
        from densebench.datasets.tools.fetch import fetch

        for path in fetch(self.name, data_root(self.data_root), Progress(self.quiet)):
            print(path)
        return 0


@dataclass
class DataExport:
    """Write a dataset, such as scenes, in the on-disk layout of another."""

    name: Annotated[Positional[str], arg(metavar="NAME", help="A dataset; `densebench list datasets` names them.")]
    folder: Annotated[Positional[Path], arg(metavar="DIR", help="The data root that is written below.")]
    layout: Annotated[str, arg(help="The dataset whose layout it is; docs/datasets.md lists them.")] = "voc"
    limit: Annotated[int | None, arg(metavar="N", help="Only the first N images of each split.")] = None
    data_root: DataRoot = None
    overwrite: Annotated[bool, arg(help="Replace files that are there.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print images per split."""
        from densebench.datasets.tools.export import export_splits

        splits = export_splits(self.name, self.layout, self.folder, self.limit, self.data_root, self.overwrite)
        for split, count in splits:
            print(f"{split}: {count} images")
        return 0


@dataclass
class DataInit:
    """Look at a folder of images and masks of your own, and write the file that describes it: FOLDER/NAME.toml."""

    folder: Annotated[Positional[Path], arg(metavar="DIR", help="Of images, and of masks if there are any.")]
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print the file, what was found, and what to do next."""
        from densebench.core.progress import Progress
        from densebench.datasets.tools.describe import describe

        path, found = describe(self.folder.expanduser(), Progress(self.quiet))
        print(path)
        print("\n".join(found))
        print(f"Read it, name the classes, then run `densebench data check {shlex.quote(str(path))}`.")
        return 0


@dataclass
class DataVerb:
    """Check datasets, get them, export them, draw them, describe your own.

    Examples:
      densebench data check voc --data-root DIR
      densebench data where cityscapes
      densebench data sheet scenes --out scenes.png
    """

    verb: (
        Annotated[DataCheck, subcommand("check")]
        | Annotated[DataWhere, subcommand("where")]
        | Annotated[DataFetch, subcommand("fetch")]
        | Annotated[DataExport, subcommand("export")]
        | Annotated[DataSheet, subcommand("sheet")]
        | Annotated[DataInit, subcommand("init")]
    )

    @property
    def debug(self) -> bool:
        """Whether errors keep their traceback."""
        return self.verb.debug

    def __call__(self) -> int:
        """Run the verb below."""
        return self.verb()
