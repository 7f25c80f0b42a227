"""The command line: verbs only. Nothing heavy is imported before a verb needs it.

stdout carries results, stderr progress and errors. Exit 0 only if every requested result exists, 1 if a cell failed,
2 for arguments that cannot mean anything, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from densebench.errors import DensebenchError, UsageError

if TYPE_CHECKING:
    from densebench.plan import Cell
    from densebench.runner import Outcome, Request

Names = Annotated[str, arg(metavar="A[,B,...]")]
Debug = Annotated[bool, arg(help="Show the traceback of errors.")]
Images = Annotated[
    str, arg(metavar="A[,B,...]", help="Images: a dataset, with its split (voc:train) or without, or any folder.")
]


@dataclass
class Run:
    """Measure models: every protocol asked for, on every dataset asked for. Finished results are not run again."""

    model: Annotated[
        Names, arg(help="Zoo names, timm/NAME, FILE.py:Class or CHECKPOINT.safetensors; '?random' after it.")
    ]
    protocol: Annotated[Names, arg(help="Protocols, or all.")] = "all"
    dataset: Annotated[Names | None, arg(help="Datasets; by default all that are ready, scenes when none is.")] = None
    train_dataset: Annotated[
        str, arg(metavar="NAME", help="Take memories and heads from this dataset's training images: domain shift.")
    ] = ""
    preset: Annotated[str, arg(help="A published setting of the protocols.")] = "paper"
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="PROTOCOL.FIELD=VALUE", help="Change one setting; may be repeated."),
    ] = ()
    config: Annotated[Path | None, arg(help="TOML file with a table of settings per protocol; --set wins.")] = None
    weights: Annotated[Path | None, arg(help="A safetensors file for a timm/NAME.")] = None
    data_root: Annotated[Path | None, arg(help="Folder the datasets lie in; default DENSEBENCH_DATA.")] = None
    limit: Annotated[
        int | None, arg(help="Use the first N images of each split; the result stays off leaderboards.")
    ] = None
    seed: int = 0
    skip_corrupt: Annotated[bool, arg(help="Leave out images that cannot be decoded, and say which.")] = False
    out: Annotated[Path, arg(help="Folder of results.")] = Path("results")
    overwrite: Annotated[bool, arg(help="Run finished cells again.")] = False
    dry_run: Annotated[bool, arg(help="Print the plan with memory, cache and time estimates; run nothing.")] = False
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:1, ...")] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    feature_dtype: Annotated[
        Literal["float16", "float32"], arg(help="Features are rounded to it before protocols read them.")
    ] = "float16"
    batch_size: int = 16
    workers: Annotated[int, arg(help="Processes that decode images.")] = 2
    cache_size: Annotated[float, arg(help="Gigabytes of features kept on disk; 0 keeps none.")] = 20.0
    json: Annotated[bool, arg(help="Print records as JSON instead of a table.")] = False
    quiet: Annotated[bool, arg(help="No progress.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Run the request and print its results."""
        from densebench.progress import Progress
        from densebench.runner import run

        outcome = run(self._request(), Progress(self.quiet), dry_run=self.dry_run)
        _report(outcome, as_json=self.json, out=self.out)
        if outcome.done:
            from densebench.leaderboard import write_leaderboard

            write_leaderboard(self.out)
        if not outcome.failed:
            return 0
        misused = all(isinstance(error, UsageError) for _, error in outcome.failed)
        return 2 if misused and not outcome.records else 1

    def _request(self) -> Request:
        from densebench.config import read_toml, split_settings
        from densebench.runner import Request

        settings: dict[str, dict[str, Any]] = dict(read_toml(self.config)) if self.config else {}
        for protocol, fields in split_settings(list(self.settings)).items():
            settings[protocol] = {**settings.get(protocol, {}), **fields}
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: expected at least 1.")
        return Request(
            models=_names(self.model),
            protocols=_names(self.protocol),
            datasets=_names(self.dataset),
            settings=settings,
            **{
                name: getattr(self, name)
                for name in (
                    "train_dataset", "preset", "weights", "data_root", "limit", "seed", "skip_corrupt", "out",
                    "overwrite", "device", "precision", "feature_dtype", "batch_size", "workers", "cache_size",
                )
            },
        )  # fmt: skip


@dataclass
class Train:
    """Make a zoo checkpoint: `densebench train dino --base 'pico?random' --data scenes --name mine`."""

    method: Positional[str]
    base: Annotated[str, arg(help="The model to start from; '?random' after it for its random initialisation.")]
    name: Annotated[str, arg(help="The name the checkpoint has from then on.")]
    data: Images = "scenes"
    data_root: Path | None = None
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="FIELD=VALUE", help="Change one setting of the method; may be repeated."),
    ] = ()
    config: Annotated[Path | None, arg(help="TOML file with a table of settings per method; --set wins.")] = None
    out: Annotated[Path | None, arg(help="Zoo folder to write to; default the user's zoo.")] = None
    resume: bool = False
    overwrite: bool = False
    weights: Annotated[Path | None, arg(help="A safetensors file for a timm/NAME base.")] = None
    dry_run: Annotated[bool, arg(help="Print memory per image and the largest batch that fits; train nothing.")] = False
    device: str = "auto"
    workers: int = 1
    debug: Debug = False

    def __call__(self) -> int:
        """Train, then print where the checkpoint is."""
        from densebench.config import read_toml

        table = read_toml(self.config).get(self.method, {}) if self.config else {}
        overrides: dict[str, Any] = {**table, **dict(_pair(s) for s in self.settings)}
        if self.dry_run:
            return _print_cost(self.method, self.base, self.data, overrides, self.device, self.data_root, self.weights)
        from densebench.methods import train

        result = train(
            method=self.method,
            base=self.base,
            data=self.data,
            name=self.name,
            data_root=self.data_root,
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            overrides=overrides,
            device=self.device,
            workers=self.workers,
            weights=self.weights,
        )
        print(result)
        return 0


@dataclass
class Pseudolabel:
    """Make pseudo-labels for DIP: `densebench pseudolabel --model pico --data scenes --out labels`."""

    model: Annotated[str, arg(help="Whose features make segments and classes: the model to be trained.")]
    out: Annotated[Path, arg(help="Folder of label maps; one that is partly filled is gone on with.")]
    data: Images = "scenes"
    data_root: Path | None = None
    split: Annotated[str | None, arg(help="By default unlabelled, or train where there is none.")] = None
    limit: Annotated[int | None, arg(help="Only the first N images.")] = None
    classes: Annotated[int, arg(help="Number of pseudo-classes.")] = 1000
    segmenter: Annotated[str, arg(help="How images are divided; see `densebench list segmenters`.")] = "features"
    size: Annotated[int | None, arg(help="Side in pixels that images are squashed to; by default some 224.")] = None
    share: Annotated[float, arg(help="Images are a pair if a class covers more than this share of both.")] = 0.05
    seed: int = 0
    weights: Annotated[Path | None, arg(help="A safetensors file for a timm/NAME.")] = None
    device: str = "auto"
    workers: int = 1
    quiet: Annotated[bool, arg(help="No progress.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Make labels and pairs, then print where they are."""
        from dataclasses import asdict

        from densebench.methods.pseudolabels import pseudolabel

        print(pseudolabel(**{key: value for key, value in asdict(self).items() if key != "debug"}))
        return 0


@dataclass
class Leaderboard:
    """Write leaderboard.csv, leaderboard.md and plots from all records of a results folder."""

    results: Path = Path("results")
    format: Annotated[Names, arg(help="Any of csv, md, json, png.")] = "csv,md,png"
    published: Annotated[bool, arg(help="Add the rows that the papers print.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Write the files and print their paths."""
        from densebench.leaderboard import write_leaderboard

        for path in write_leaderboard(self.results, formats=_names(self.format), published=self.published):
            print(path)
        return 0


@dataclass
class List:
    """List what there is: models, protocols, datasets, methods, segmenters or results; PATTERN may hold * and ?."""

    kind: Positional[Literal["models", "protocols", "datasets", "methods", "segmenters", "results"]]
    pattern: Positional[str] = "*"
    results: Path = Path("results")
    debug: Debug = False

    def __call__(self) -> int:
        """Print one line each."""
        from densebench import listing

        rows = listing.rows(self.kind, self.pattern, self.results)
        width = max((len(name) for name, _ in rows), default=0)
        for name, summary in rows:
            print(f"{name:<{width}}  {summary}".rstrip())
        return 0


@dataclass
class Show:
    """Show everything known of one model, protocol, dataset or method."""

    kind: Positional[Literal["model", "protocol", "dataset", "method"]]
    name: Positional[str]
    cost: Annotated[bool, arg(help="Of a method: measure images per second, memory per image and hours.")] = False
    base: Annotated[str, arg(help="With --cost: the model that would be trained.")] = "pico"
    data: Annotated[str, arg(help="With --cost: the images that it would be trained on, as for train.")] = "scenes"
    data_root: Path | None = None
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="FIELD=VALUE", help="With --cost: change one setting; may be repeated."),
    ] = ()
    steps: Annotated[int, arg(help="With --cost: whole steps to time.")] = 3
    device: str = "auto"
    debug: Debug = False

    def __call__(self) -> int:
        """Print a page of text."""
        if self.cost:
            if self.kind != "method":
                raise UsageError(f"--cost goes with a method; got {self.kind} {self.name}.")
            overrides = dict(_pair(s) for s in self.settings)
            return _print_cost(
                self.name, self.base, self.data, overrides, self.device, self.data_root, steps=max(1, self.steps)
            )
        from densebench import listing

        print(listing.page(self.kind, self.name))
        return 0


@dataclass
class Verify:
    """Compare the installed numerics with golden vectors: what public reference code made of the same inputs.

    Exit 1 if anything is off.
    """

    folder: Annotated[
        Positional[Path | None],
        arg(metavar="[DIR]", help="Folder of .npz files, or one; by default a set shipped with it."),
    ] = None
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:1, ...")] = "auto"
    backend: Annotated[
        Literal["all", "torch", "faiss"], arg(help="Library of exact search; all takes every one that runs here.")
    ] = "all"
    json: Annotated[bool, arg(help="Print every comparison as JSON instead of a line per file.")] = False
    quiet: Annotated[bool, arg(help="No progress.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print a line per file, and how many are ok."""
        from densebench.environment import pick_device
        from densebench.progress import Progress
        from densebench.verify import report
        from densebench.verify.folder import list_files, pick_backends, verify

        files, device = list_files(self.folder), pick_device(self.device)
        backends = pick_backends(self.backend, device)
        found = list(Progress(self.quiet).track(verify(files, device, backends), "verify", len(files), "files"))
        print(report.as_json(found, device, backends) if self.json else "\n".join(report.lines(found)))
        for line in (line for each in found for line in report.complaints(each)):
            print(line, file=sys.stderr)
        return 0 if all(each.ok for each in found) else 1


@dataclass
class DataCheck:
    """Decode every file of a dataset or folder, count labels, print a digest. Exit 1 if anything is wrong."""

    name: Positional[str]
    data_root: Path | None = None
    split: Annotated[str | None, arg(help="One split; by default train and val.")] = None
    debug: Debug = False

    def __call__(self) -> int:
        """Print a report per split."""
        from densebench.listing import data_report

        return data_report(self.name, self.data_root, self.split)


@dataclass
class DataWhere:
    """Print where a dataset is expected, and how to get it."""

    name: Positional[str]
    data_root: Path | None = None
    debug: Debug = False

    def __call__(self) -> int:
        """Print root, state and instructions."""
        from densebench.listing import data_where

        print(data_where(self.name, self.data_root))
        return 0


@dataclass
class DataSheet:
    """Draw a contact sheet of the embedded scenes: images, classes, depth, parts, key points."""

    path: Positional[Path] = Path("scenes.png")
    seed: int = 0
    debug: Debug = False

    def __call__(self) -> int:
        """Draw and print the path."""
        from densebench.datasets.scenes.sheet import contact_sheet

        contact_sheet(self.path, seed=self.seed)
        print(self.path)
        return 0


@dataclass
class Data:
    """Check datasets, find out how to get them, draw the embedded scenes."""

    verb: (
        Annotated[DataCheck, subcommand("check")]
        | Annotated[DataWhere, subcommand("where")]
        | Annotated[DataSheet, subcommand("sheet")]
    )

    @property
    def debug(self) -> bool:
        """Whether errors keep their traceback."""
        return self.verb.debug

    def __call__(self) -> int:
        """Run the verb below."""
        return self.verb()


Verb = (
    Annotated[Run, subcommand("run")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Pseudolabel, subcommand("pseudolabel")]
    | Annotated[Leaderboard, subcommand("leaderboard")]
    | Annotated[List, subcommand("list")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Data, subcommand("data")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the verb, exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        import densebench

        print(densebench.__version__)
        sys.exit(0)
    verb = tyro.cli(
        Verb,
        prog="densebench",
        description="How good are a vision encoder's dense features? One command, every protocol the papers use.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    sys.exit(_guarded(verb))


def _guarded(verb: Any) -> int:
    """Run a verb; a user's error becomes one line and its exit code."""
    try:
        return verb()
    except DensebenchError as error:
        if verb.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped. Finished results are kept; the same command goes on from here.", file=sys.stderr)
        return 130


def _print_cost(
    method: str,
    base: str,
    data: str,
    overrides: dict[str, Any],
    device: str,
    data_root: Path | None,
    weights: Path | None = None,
    steps: int = 0,
) -> int:
    """Print what a training run needs, as a table."""
    from densebench.methods.launch import cost

    found, config = cost(
        method=method,
        base=base,
        data=data,
        overrides=overrides,
        device=device,
        data_root=data_root,
        weights=weights,
        steps=steps,
    )
    print("\n".join(found.lines(config)))
    return 0


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _pair(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes FIELD=VALUE; got {setting!r}.")
    return key, value


def _report(outcome: Outcome, as_json: bool, out: Path) -> None:
    """Print results to stdout, and what happened otherwise to stderr."""
    if as_json:
        print(json.dumps([json.loads(r.model_dump_json()) for r in outcome.records], indent=1))
    elif outcome.records:
        from rich.console import Console

        from densebench.leaderboard import console_table

        console_table(outcome.records, Console())
    lines = [f"not run: {line}" for line in outcome.skipped]
    lines += [f"failed: {cell}: {error}" for cell, error in outcome.failed]
    if outcome.planned:
        lines += _plan_lines(outcome.planned)
    elif outcome.kept and not outcome.done and not outcome.failed:
        lines.append(
            f"nothing to do: all {len(outcome.kept)} results are in {out} already (--overwrite runs them again)."
        )
    elif outcome.kept:
        lines.append(f"{len(outcome.kept)} results were in {out} already; {len(outcome.done)} are new.")
    for line in lines:
        print(line, file=sys.stderr)


def _plan_lines(cells: Iterable[Cell]) -> list[str]:
    from densebench.plan import plan_line

    cells = list(cells)
    return [f"would run {len(cells)} cells:", *(plan_line(cell) for cell in cells)]


if __name__ == "__main__":
    main()
