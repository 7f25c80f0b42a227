"""densebench: how good are a vision encoder's dense features?

The public names are imported on first use, so that `import densebench` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Backbone": "densebench.model_zoo.backbone",
    "BackboneInfo": "densebench.model_zoo.backbone",
    "DenseDataset": "densebench.datasets.dataset",
    "DatasetInfo": "densebench.datasets.dataset",
    "Protocol": "densebench.protocols.protocol",
    "load_dataset": "densebench.datasets",
    "load_model": "densebench.model_zoo",
    "register_model": "densebench.model_zoo",
    "run": "densebench.runner.grid",
}

__all__ = ["Backbone", "BackboneInfo", "DatasetInfo", "DenseDataset", "Protocol", "__version__"]
__all__ += ["load_dataset", "load_model", "register_model", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'densebench' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
