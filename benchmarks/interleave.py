"""What the timing scripts share: options, threads, and rounds in which all contenders alternate.

Load from elsewhere then hits all of them, so that ratios within a round say more than seconds do.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def options(description: str | None, threads: int, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with --threads, --rounds and --clock."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--clock", choices=["wall", "process"], default="wall", help="process: CPU seconds, summed")
    return parser


def set_threads(n: int) -> None:
    """Give every library n threads; call it before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)
    import torch

    torch.set_num_threads(n)


def interleave(
    runs: Mapping[str, Callable[[], Any]], args: argparse.Namespace, warm_up: bool = False
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each round and the last result, by name; a warm-up round is not counted."""
    clock = {"wall": time.perf_counter, "process": time.process_time}[args.clock]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(args.rounds + warm_up):
        for name, run in runs.items():
            begin = clock()
            results[name] = run()
            seconds[name].append(clock() - begin)
    return {name: times[warm_up:] for name, times in seconds.items()}, results


def ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> float:
    """Return the median over rounds of one's seconds over another's of the same round."""
    return median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))
