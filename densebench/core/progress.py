"""Progress on stderr: on a terminal a bar with rate and time left, elsewhere a line per stage and a heartbeat."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

T = TypeVar("T")
HEARTBEAT = 30.0
"""Seconds."""


class _Rate(ProgressColumn):
    """Items per second over the whole task."""

    def render(self, task: RichTask) -> Text:
        """Return the rate, or dots before the first item."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields.get('unit', 'it')}/s" if speed else "...", style="dim")


@dataclass(eq=False)
class _Task:
    """What is being counted now."""

    label: str
    total: int
    unit: str
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """The time since it began."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """The time that is left at the rate so far, 0 before the first item."""
        return self.seconds / self.done * (self.total - self.done) if self.done else 0.0


class Progress:
    """Wraps iterables with a bar. `quiet` shows nothing; `every` is the seconds between lines of a heartbeat."""

    def __init__(self, quiet: bool = False, every: float = HEARTBEAT) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.every = every
        self._stages: list[_Task] = []

    @contextmanager
    def cell(self, name: str, number: int, of: int, seconds: float, later: float) -> Iterator[None]:
        """Say every so often, where there is no terminal, how far a cell of a run is, and how much is left.

        Args:
            name: what the cell measures.
            number: its place among all.
            of: all cells of the run.
            seconds: the estimate of its time.
            later: that of all cells behind it.
        """
        if self.console.is_terminal or self.console.quiet:
            yield
            return
        over = threading.Event()
        start = time.perf_counter()

        def beat() -> None:
            while not over.wait(self.every):
                self.say(self._state(f"{name} ({number} of {of})", time.perf_counter() - start, seconds, later))

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _state(self, name: str, past: float, seconds: float, later: float) -> str:
        stage = next(reversed(self._stages), None)  # which may be over meanwhile: this is another thread
        at = f": {stage.label} {stage.done} of {stage.total} {stage.unit}" if stage else ""
        left = max(seconds - past, stage.left if stage else 0.0)
        if not left:
            return f"{name}{at}; {duration(past)} so far"
        return f"{name}{at}; about {duration(left)} left of it, {duration(left + later)} of all"

    def say(self, text: str) -> None:
        """Print one line of fact to stderr."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def track(
        self, items: Iterable[T], label: str, total: int, unit: str = "images", size: str | None = None
    ) -> Iterator[T]:
        """Yield `items` under a bar of `total` steps; `size` names an attribute or len() that counts the steps."""
        stage = _Task(label, total, unit)
        self._stages.append(stage)
        try:
            if self.console.is_terminal:
                columns = (
                    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
                )  # fmt: skip
                with RichProgress(*columns, console=self.console, transient=True) as bar:
                    task = bar.add_task(label, total=total, unit=unit)
                    for item in items:
                        yield item
                        bar.advance(task, _steps(item, size))
                        stage.done += _steps(item, size)
            else:
                for item in items:
                    yield item
                    stage.done += _steps(item, size)
        finally:
            self._stages.remove(stage)
        if stage.done:
            rate = stage.done / max(stage.seconds, 1e-9)
            self.say(f"{label}: {stage.done} {unit} in {stage.seconds:.1f} s ({rate:.1f}/s)")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return a time in the unit that a reader would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.0f} min"
    if hours < 72:
        return f"{hours:.1f} h"
    days = hours / 24
    return f"{days:.0f} days" if days < 730 else f"{days / 365:.0f} years"


def _steps(item: object, size: str | None) -> int:
    return 1 if size is None else len(getattr(item, size))
