"""densebench: how good are a vision encoder's dense features?

Everything that an author of a backbone, a dataset or a protocol needs is here; it is imported on first use, so that
`import densebench` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from densebench.core.package import __version__

_HOMES = {
    "datasets": ("load_dataset", "register_dataset"),
    "datasets.dataset": ("DatasetInfo", "DenseDataset"),
    "features.spec": ("FeatureSpec",),
    "leaderboard.compared": ("compare",),
    "model_zoo": ("load_model", "register_model"),
    "model_zoo.backbone": ("Backbone", "BackboneInfo"),
    "model_zoo.facets": ("FeatureKey",),
    "protocols": ("register_protocol",),
    "protocols.protocol": ("Context", "Data", "Estimate", "Measurement", "MetricInfo", "Preset", "Protocol"),
    "results.counts": ("ImageStatistics",),
    "results.frame": ("frame",),
    "results.schema": ("Metric",),
    "runner": ("run",),
    "views.squash": ("Labels",),
}
_PUBLIC = {name: f"densebench.{home}" for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from densebench.datasets import load_dataset, register_dataset
    from densebench.datasets.dataset import DatasetInfo, DenseDataset
    from densebench.features.spec import FeatureSpec
    from densebench.leaderboard.compared import compare
    from densebench.model_zoo import load_model, register_model
    from densebench.model_zoo.backbone import Backbone, BackboneInfo
    from densebench.model_zoo.facets import FeatureKey
    from densebench.protocols import register_protocol
    from densebench.protocols.protocol import Context, Data, Estimate, Measurement, MetricInfo, Preset, Protocol
    from densebench.results.counts import ImageStatistics
    from densebench.results.frame import frame
    from densebench.results.schema import Metric
    from densebench.runner import run
    from densebench.views.squash import Labels

__all__ = [
    "Backbone", "BackboneInfo", "Context", "Data", "DatasetInfo", "DenseDataset", "Estimate", "FeatureKey",
    "FeatureSpec", "ImageStatistics", "Labels", "Measurement", "Metric", "MetricInfo", "Preset", "Protocol",
    "__version__", "compare", "frame", "load_dataset", "load_model", "register_dataset", "register_model",
    "register_protocol", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'densebench' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
