"""What a cell of a run may fail of: errors in words, so that it costs its own cell and the others go on."""

from __future__ import annotations

import math
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from densebench.core.errors import DatasetError, DensebenchError, ModelError, StorageError, UnexpectedError
from densebench.core.package import PACKAGE
from densebench.model_zoo.adapters.user import adapter_error
from densebench.model_zoo.backbone import Backbone
from densebench.protocols.protocol import Data, Measurement
from densebench.views.loading import explain

FOREIGN = (Exception, SystemExit)
"""What code that is not ours may end a cell with: all but Ctrl-C and signals."""


def to_user_error(
    error: BaseException, model: str = "", backbone: Backbone | None = None, hint: str = ""
) -> DensebenchError:
    """Return any exception as an error in words, also one that nobody foresaw; `hint` helps where memory is too small.

    Its traceback is kept as text, since frames would keep the tensors of a failed cell in memory.
    """
    known = error if isinstance(error, DensebenchError) else _in_words(error, model, backbone, hint)
    known.trace = known.trace or "".join(traceback.format_exception(error))
    known.__cause__ = known.__context__ = None
    return known.with_traceback(None)


def _in_words(error: BaseException, model: str, backbone: Backbone | None, hint: str) -> DensebenchError:
    if isinstance(error, torch.OutOfMemoryError):
        return ModelError(
            f"the GPU has too little memory. Try a smaller --batch-size or --precision bfloat16. {hint}".rstrip()
        )
    if (lost := explain(error)) is not None:
        return lost
    if isinstance(error, MemoryError):
        return StorageError(f"main memory is too small. Try a smaller --batch-size. {hint}".rstrip())
    known: DensebenchError | None = adapter_error(model, backbone, error) if backbone is not None else None
    if known is None and isinstance(error, OSError) and error.errno is not None:
        known = unusable(error)
    return known or UnexpectedError(unexpected(error))


def unexpected(error: BaseException) -> str:
    """Return what nobody foresaw, in a line: what was raised, where, and what to do."""
    what = type(error).__name__
    said = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, SystemExit):
        what, said = "exit", f"code {error.code!r}; only the command line itself may end the process"
    frames = [(Path(f.filename), f.lineno, f.name) for f in traceback.extract_tb(error.__traceback__)]
    ours = [frame for frame in frames if PACKAGE in frame[0].parents]
    at = ""
    if frames:
        file, line, function = frames[-1]
        at = f" in {function} at {_short(file)}:{line}"
        if ours and ours[-1] != frames[-1]:
            at += f", called from {_short(ours[-1][0])}:{ours[-1][1]}"
    return f"unexpected {what}{at}{': ' if said else ''}{said}; --debug shows the traceback, please report it."


def _short(file: Path) -> str:
    return "/".join(file.parts[-2:])


def unusable(error: OSError) -> StorageError:
    """Return what the system says of a file, in words."""
    reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return StorageError(
        f"{error.filename or 'a file'} cannot be used ({reason}). Run again when that is fixed: finished results are "
        "kept."
    )


def finite(measurement: Measurement, data: Data) -> Measurement:
    """Return a measurement without the metrics that have no value, which a note names.

    Raises DatasetError where a main metric is among them: such a record would say nothing.
    """
    without = [metric for metric in measurement.metrics if not math.isfinite(metric.value)]
    if not without:
        return measurement
    named, val = ", ".join(metric.label for metric in without), data.val
    then = f"Run `densebench data check {getattr(val, 'source', val.info.name)}`."
    if any(metric.main for metric in without):
        raise DatasetError(f"there is nothing in {val.info.name} {val.split} to compute {named} from. {then}")
    note = f"No value, for want of anything to compute it from: {named}."
    kept = tuple(metric for metric in measurement.metrics if math.isfinite(metric.value))
    of_kept = tuple(entry for entry in measurement.statistics if entry.key in {metric.key for metric in kept})
    return replace(measurement, metrics=kept, statistics=of_kept, notes=(*measurement.notes, note))
