"""Several workers on this machine: one per GPU where there are any, and followed by the records they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densebench.core.environment import visible_gpus
from densebench.core.leases import holder
from densebench.core.paths import write_atomically
from densebench.core.progress import Progress
from densebench.results.store import ResultStore
from densebench.runner.job import Job
from densebench.runner.request import Request, to_json

FOLDER = ".workers"
"""Of requests and logs, below the folder of results."""
POLL = 1.0
"""Seconds between looks."""
EVERY = 30.0
"""Seconds between lines on how far they are."""
LIVES = 3
"""How often workers that were killed are replaced, all together."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    gpu: str
    log: Path


def run_workers(request: Request, jobs: Sequence[Job], n_workers: int, progress: Progress) -> Path:
    """Have workers make the records of `jobs`, wait until they end, and return the folder of their logs.

    A worker that a signal ended is replaced, `LIVES` times in all. Whatever ends this process ends the workers too.

    Args:
        request: what they are asked for.
        jobs: what of it has no record yet.
        n_workers: how many; 0: one per GPU, one where there is none.
        progress: where it is said how far they are.
    """
    gpus, store = visible_gpus(), ResultStore(request.out)
    folder = store.root / FOLDER / time.strftime("%Y%m%d-%H%M%S")
    asked = folder / "request.json"
    write_atomically(asked, to_json(request))
    count = min(n_workers or len(gpus) or 1, len(jobs))
    workers = [_start(asked, number, gpus[number % len(gpus)] if gpus else "") for number in range(count)]
    progress.say(f"{count} workers for {len(jobs)} cells; logs in {folder}")
    lives, told = LIVES, time.monotonic()
    try:
        while any(worker.process.poll() is None for worker in workers):
            time.sleep(POLL)
            for worker in [each for each in workers if (each.process.poll() or 0) < 0]:
                workers.remove(worker)
                progress.say(f"a worker was ended by signal {-worker.process.returncode}; its log is {worker.log}")
                if lives:
                    lives -= 1
                    workers.append(_start(asked, count + LIVES - lives, worker.gpu))
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                progress.say(_line(store, jobs))
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.wait()
    progress.say(_line(store, jobs))
    return folder


def _start(asked: Path, number: int, gpu: str) -> _Worker:
    log = asked.with_name(f"worker-{number}.log")
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
    command = [sys.executable, "-m", "densebench", "work", "--request", str(asked)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return _Worker(process, gpu, log)


def _line(store: ResultStore, jobs: Sequence[Job]) -> str:
    """Return how many cells are done, and who is at which."""
    paths = {str(job): store.path(**job.place, score_hash=job.score_hash) for job in jobs}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    now = [f"{name} ({who})" for name, path in missing.items() if (who := holder(store.lease(path).path))]
    said = f"{len(paths) - len(missing)} of {len(paths)} cells done"
    return said + (f"; at work: {', '.join(now)}" if now else "")
