"""A request on its way: checked, planned, run, recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densebench.core.progress import Progress
    from densebench.runner.grid import Outcome


def run(*, progress: Progress | None = None, dry_run: bool = False, **asked: Any) -> Outcome:
    """Measure models and return what became of it: `.records`, `.failed`, `.frame()`.

    Finished results in the folder `out` are not made again; an error fails its own cell only.

    Args:
        progress: where it is told how far the run is; None: bars and lines on stderr.
        dry_run: only plan and estimate.
        **asked: the fields of `densebench.runner.request.Request`, which are the command line's: `model` (needed),
            `protocol`, `dataset` (one name, or several), `preset`, `settings`, `seed`, `data_root`, `limit`, `device`,
            `precision`, `batch_size`, `workers`, `out` and others.

    Raises UsageError for a request that cannot mean anything.

    Examples:
        >>> import tempfile
        >>> small = {"hummingbird": {"input_size": 64, "fractions": 1}}
        >>> folder = tempfile.mkdtemp()
        >>> outcome = run(model="pico", protocol="hummingbird", dataset="scenes", limit=4, settings=small, out=folder)
        >>> outcome
        <Outcome: 1 new>
        >>> outcome.records[0].protocol.label
        'embedded + fractions=[1], input_size=64'
        >>> outcome.frame().metric.tolist()
        ['miou@1', 'miou_hungarian@1', 'miou_present@1']
    """
    from densebench.runner.grid import run_request
    from densebench.runner.request import make_request

    return run_request(make_request(**asked), progress, dry_run)
