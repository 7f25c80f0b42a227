"""Adapters in a user's own file: `--model path/to/file.py:MyBackbone`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from densebench.errors import ModelError, UsageError
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import Backbone
from densebench.registry import unknown_name


def load(spec: ModelSpec) -> Backbone:
    """Import the file and build the class without arguments."""
    if spec.weights is not None or spec.random:
        raise UsageError(f"{spec.text!r} builds its own weights: --weights and ?random do not apply.")
    file, _, name = spec.name.rpartition(":")
    path = Path(file)
    if not path.exists():
        raise UsageError(f"{file} does not exist; --model takes FILE.py:Class.")
    module_spec = importlib.util.spec_from_file_location(f"densebench_user_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    adapter = getattr(module, name, None)
    if adapter is None:
        raise unknown_name("model", f"{file}:{name}", [f"{file}:{n}" for n in vars(module) if not n.startswith("_")])
    backbone = adapter()
    if not isinstance(backbone, Backbone):
        raise ModelError(
            f"{spec.name} is a {type(backbone).__name__}; expected a subclass of densebench.Backbone (docs/models.md)."
        )
    if not hasattr(backbone, "info"):
        raise ModelError(f"{spec.name} declares no `info`; give it a BackboneInfo (docs/models.md).")
    return backbone
