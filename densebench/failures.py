"""What a cell of a run may fail of: errors in words, so that it costs its own cell and the others go on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from densebench.datasets.checks import label_presence
from densebench.errors import DatasetError, DensebenchError, ModelError, StorageError
from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.user import adapter_error
from densebench.plan import Cell
from densebench.progress import Progress
from densebench.protocols.protocol import Data, Measurement


def as_known(error: BaseException, cell: Cell, backbone: Backbone) -> DensebenchError | None:
    """Return an error that only its cell shall fail of in words; None for what is a mistake of this package."""
    if isinstance(error, DensebenchError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        known: DensebenchError | None = ModelError(
            f"the GPU has too little memory. Try a smaller --batch-size or --precision bfloat16. "
            f"{cell.protocol.shrink_hint}"
        )
    else:
        known = adapter_error(cell.spec.text, backbone, error)
        if known is None and isinstance(error, OSError):
            known = unusable(error)
        elif known is None and isinstance(error, SystemExit):
            known = ModelError(f"code that is not of this package called exit({error.code!r}); --debug shows where.")
    if known is not None:
        known.__cause__ = error  # for --debug
    return known


def unusable(error: OSError) -> StorageError:
    """Return what the system says of a file, in words."""
    reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return StorageError(
        f"{error.filename or 'a file'} cannot be used ({reason}). Run again when that is mended: finished results are "
        "kept."
    )


def finite(measurement: Measurement, data: Data, progress: Progress) -> Measurement:
    """Return a measurement without the metrics that have no value, which a note names.

    Raises DatasetError where a main metric is among them, or where no validation pixel has a class: such a record would
    say nothing.
    """
    without = [metric for metric in measurement.metrics if not math.isfinite(metric.value)]
    if not without:
        return measurement
    named, val = ", ".join(metric.name for metric in without), data.val
    then = f"Run `densebench data check {getattr(val, 'source', val.info.name)}`."
    if "mask" in val.info.targets and not label_presence(val, progress).any():
        raise DatasetError(f"no pixel of the {len(val)} validation images of {val.info.name} has a class. {then}")
    if any(metric.main for metric in without):
        raise DatasetError(f"there is nothing in {val.info.name} {val.split} to compute {named} from. {then}")
    note = f"No value, for want of anything to compute it from: {named}."
    kept = tuple(metric for metric in measurement.metrics if math.isfinite(metric.value))
    return replace(measurement, metrics=kept, notes=(*measurement.notes, note))
