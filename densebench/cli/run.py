"""`densebench run`: measure models."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from densebench.cli.options import Debug, Device, Names, Quiet, split_names
from densebench.errors import UsageError

if TYPE_CHECKING:
    from densebench.plan import Cell
    from densebench.runner import Outcome, Request


@dataclass
class Run:
    """Measure models: every protocol asked for, on every dataset asked for. Finished results are not run again."""

    model: Annotated[
        Names,
        arg(
            help="Zoo names, timm/NAME, FILE.py:Class or CHECKPOINT.safetensors; '?random' or @WEIGHTS after it, and "
            "NAME= before it: what tables call it."
        ),
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
    weights: Annotated[
        Path | None, arg(help="A file of weights for the model, FILE@ENTRY where it holds several; also SPEC@FILE.")
    ] = None
    data_root: Annotated[Path | None, arg(help="Folder the datasets lie in; default DENSEBENCH_DATA.")] = None
    limit: Annotated[
        int | None, arg(help="Use the first N images of each split; the result stays off leaderboards.")
    ] = None
    seed: int = 0
    skip_corrupt: Annotated[bool, arg(help="Leave out images that cannot be decoded, and say which.")] = False
    out: Annotated[Path, arg(help="Folder of results.")] = Path("results")
    overwrite: Annotated[bool, arg(help="Run finished cells again.")] = False
    dry_run: Annotated[bool, arg(help="Print the plan with memory, cache and time estimates; run nothing.")] = False
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    feature_dtype: Annotated[
        Literal["float16", "float32"], arg(help="Features are rounded to it before protocols read them.")
    ] = "float16"
    batch_size: int = 16
    workers: Annotated[int, arg(help="Processes that decode images.")] = 2
    cache_size: Annotated[float, arg(help="Gigabytes of features kept on disk; 0 keeps none.")] = 20.0
    json: Annotated[bool, arg(help="Print records as JSON instead of a table.")] = False
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Run the request and print its results."""
        request = self._request()
        from densebench.progress import Progress
        from densebench.runner import run

        outcome = run(request, Progress(self.quiet), dry_run=self.dry_run)
        _report(outcome, as_json=self.json, out=self.out)
        if self.debug:
            for _, error in outcome.failed:
                traceback.print_exception(error)
        if outcome.done:
            from densebench.leaderboard import write_leaderboard

            write_leaderboard(self.out)
        if not outcome.failed:
            return 0
        misused = all(isinstance(error, UsageError) for _, error in outcome.failed)
        return 2 if misused and not outcome.records else 1

    def _request(self) -> Request:
        from densebench.config import read_toml, split_settings
        from densebench.model_zoo import parse_models, split_models

        models = split_models(self.model)
        parse_models(models, self.weights)  # before torch is imported: a typo shall cost no time
        from densebench.runner import Request

        settings: dict[str, dict[str, Any]] = dict(read_toml(self.config)) if self.config else {}
        for protocol, fields in split_settings(list(self.settings)).items():
            settings[protocol] = {**settings.get(protocol, {}), **fields}
        return Request(
            models=models,
            protocols=split_names(self.protocol),
            datasets=split_names(self.dataset),
            settings=settings,
            **{
                name: getattr(self, name)
                for name in (
                    "train_dataset", "preset", "weights", "data_root", "limit", "seed", "skip_corrupt", "out",
                    "overwrite", "device", "precision", "feature_dtype", "batch_size", "workers", "cache_size",
                )
            },
        )  # fmt: skip


def _report(outcome: Outcome, as_json: bool, out: Path) -> None:
    """Print results to stdout, and what happened otherwise to stderr."""
    if as_json:
        print(json.dumps([json.loads(r.model_dump_json()) for r in outcome.records], indent=1))
    elif outcome.records:
        from rich.console import Console

        from densebench.leaderboard import console_table

        console_table(outcome.records, Console())
    lines = [f"not run: {line}" for line in outcome.skipped]
    failed: dict[str, list[str]] = {}
    for cell, error in outcome.failed:
        failed.setdefault(str(error), []).append(cell)
    lines += [f"failed: {', '.join(cells)}: {error}" for error, cells in failed.items()]
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
