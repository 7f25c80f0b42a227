"""The state of a training on disk, so that a cell that was killed goes on."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from densebench.core.config import score_hash
from densebench.core.errors import StorageError
from densebench.core.paths import write_atomically
from densebench.core.progress import Progress
from densebench.core.states import read_state

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset
    from densebench.protocols.protocol import Context


@dataclass
class Checkpoint:
    """One file in the workspace of a cell: loaded if it is whole and of these settings, written now and then."""

    path: Path | None
    """Where it is; None: nothing is kept."""
    settings: str
    """Digest of what must be the same."""
    seconds: float
    """How often it is written, at most."""
    progress: Progress
    _last: float = field(default_factory=time.monotonic)
    _full: bool = False

    @classmethod
    def of(cls, context: Context, config: Any, data: Sequence[DenseDataset], seconds: float) -> Checkpoint:
        """Return the checkpoint of a cell; another config, seed, backbone or data is another training."""
        settings = {"config": config, "seed": context.seed, "weights": context.features.weights_digest}
        digest = score_hash({**settings, "data": [some.digest() for some in data], "format": 3})
        path = context.workspace / "training.pt" if context.workspace is not None else None
        return cls(path, digest, seconds, context.progress)

    def load(self) -> dict[str, Any] | None:
        """Return the state on the CPU, None where there is none that can be gone on from."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state = read_state(self.path)
        except StorageError as error:
            self.progress.say(f"{error}; training starts again.")
            return None
        if state.get("settings") != self.settings:
            self.progress.say(f"{self.path} is of other settings; training starts again.")
            return None
        return state

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return self.path is not None and time.monotonic() - self._last >= self.seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state; a disk that is full costs the resume, not the run, and is said once."""
        if self.path is None:
            return
        buffer = io.BytesIO()
        torch.save({"settings": self.settings, **state}, buffer)
        try:
            write_atomically(self.path, buffer.getvalue())
        except StorageError as error:
            if not self._full:
                self.progress.say(
                    f"{error} Training goes on; after a kill it would go on from an older checkpoint, if any."
                )
            self._full = True
        self._last = time.monotonic()
