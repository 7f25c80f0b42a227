"""Progress on stderr: a bar with rate and time left on a terminal, one line per finished stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

T = TypeVar("T")


class _Rate(ProgressColumn):
    """Items per second over the whole task."""

    def render(self, task: RichTask) -> Text:
        """Return the rate, or dots before the first item."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields.get('unit', 'it')}/s" if speed else "...", style="dim")


class Progress:
    """Wraps iterables with a bar. `quiet` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print one line of fact to stderr."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def track(
        self, items: Iterable[T], label: str, total: int, unit: str = "images", size: str | None = None
    ) -> Iterator[T]:
        """Yield `items` under a bar of `total` steps; `size` names an attribute or len() that counts the steps."""
        start = time.perf_counter()
        done = 0
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
            )  # fmt: skip
            with RichProgress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(label, total=total, unit=unit)
                for item in items:
                    yield item
                    bar.advance(task, _steps(item, size))
                    done += _steps(item, size)
        else:
            for item in items:
                yield item
                done += _steps(item, size)
        seconds = time.perf_counter() - start
        if done:
            self.say(f"{label}: {done} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f}/s)")
        sys.stderr.flush()


def _steps(item: object, size: str | None) -> int:
    return 1 if size is None else len(getattr(item, size))
