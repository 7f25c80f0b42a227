"""The models of a run: built when they are needed, one held at a time."""

from __future__ import annotations

from densebench.core.environment import pick_device
from densebench.core.errors import DensebenchError, ModelError
from densebench.core.paths import cache_dir
from densebench.core.progress import Progress
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource, Precision
from densebench.model_zoo import ModelSpec, load_model
from densebench.runner.failures import FOREIGN, to_user_error
from densebench.runner.request import Request


class Models:
    """Feature sources by model, with the device, precision and cache of a request."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self.device = pick_device(request.device)
        self.precision: Precision = "float32" if request.precision == "auto" else request.precision
        limit = int(request.cache_size * 1e9)
        self.cache = FeatureCache(cache_dir() / "features", limit, progress) if limit > 0 else None
        self._held: tuple[ModelSpec, FeatureSource | DensebenchError] | None = None

    def hold(self, spec: ModelSpec, source: FeatureSource) -> None:
        """Keep a model that is built for the first call of `get`, where no other is held."""
        self._held = self._held or (spec, source)

    def get(self, spec: ModelSpec) -> FeatureSource:
        """Return the source of a model; the last one is held, whether it could be built or not."""
        if self._held is None or self._held[0] != spec:
            self._held = None  # room for the next
            try:
                self._held = spec, self.build(spec)
            except FOREIGN as error:
                self._held = spec, to_user_error(error)
        found = self._held[1]
        if isinstance(found, DensebenchError):
            raise found
        return found

    def build(self, spec: ModelSpec) -> FeatureSource:
        """Build a model; raises ModelError, and whatever else an adapter raises."""
        try:
            return FeatureSource(
                load_model(spec),
                cache=self.cache,
                progress=self.progress,
                device=self.device,
                precision=self.precision,
                dtype=self.request.feature_dtype,
                batch_size=self.request.batch_size,
                workers=self.request.workers,
            )
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"{spec.text} cannot be built: {error}") from error
