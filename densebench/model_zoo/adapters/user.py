"""Adapters in a user's own file: `--model path/to/file.py:MyBackbone`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from densebench.core.errors import DensebenchError, ModelError, UsageError
from densebench.core.paths import file_digest
from densebench.core.user_files import import_file, lines_in, raised
from densebench.model_zoo.adapters.foreign import file_of, is_ours, with_digest_of
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.model_zoo.families import MODELS
from densebench.model_zoo.spec import ModelSpec, check_name


def load(spec: ModelSpec) -> Backbone:
    """Import the file and build the class without arguments.

    The class's name and the bytes of the file enter the weights digest: with the same weights, other code gives other
    features, and neither cache nor results may take them for each other. Whatever else is imported does not enter, but
    for the file that defines the class (see `foreign`).

    Raises UsageError for names that are not there, ModelError for whatever the file itself raises.
    """
    if spec.weights is not None or spec.random:
        raise UsageError(f"{spec.text!r} builds its own weights: --weights and ?random do not apply.")
    file, _, name = spec.name.rpartition(":")
    path = Path(file)
    if not os.path.isfile(path):
        raise UsageError(f"{file} does not exist; --model takes FILE.py:Class.")
    try:
        module = import_file(path)
        adapter = getattr(module, name, None)
        backbone = adapter() if adapter is not None else None
    except DensebenchError:
        raise
    except (Exception, SystemExit) as error:
        raise _failure(spec.text, path, error) from error
    if backbone is None:
        found = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, Backbone)]
        adapters = ", ".join(n for n in found if n != "Backbone") or "none"
        raise UsageError(f"{file} has no {name!r}; its adapters (subclasses of densebench.Backbone) are: {adapters}.")
    if not isinstance(backbone, Backbone):
        raise ModelError(
            f"{spec.name} is a {type(backbone).__name__}; "
            "expected a subclass of densebench.Backbone (docs/adapters.md)."
        )
    if not isinstance(getattr(backbone, "info", None), BackboneInfo):
        raise ModelError(f"{spec.name} declares no `info`; give it a BackboneInfo (docs/adapters.md).")
    if not {"info"} & (vars(type(backbone)).keys() | vars(backbone).keys()):  # inherited: the name is another's
        backbone.info = replace(backbone.info, name=type(backbone).__name__)
    if not spec.label:
        check_name(backbone.info.name, f"the name in the info of {spec.name}")
    return with_digest_of(backbone, f"{name},{file_digest(path)}")


def registered(name: str) -> Backbone:
    """Return the adapter that is registered under a name; raises ModelError for whatever its package raises."""
    try:
        return MODELS[name]()
    except DensebenchError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} {raised(error, Path())}. --debug shows the traceback.") from error


def adapter_error(name: str, backbone: Backbone, error: BaseException) -> ModelError | None:
    """Return what an adapter outside this package raised as an error of the model; None where it had no part in it."""
    file = file_of(backbone)
    if file is None or is_ours(backbone) or not lines_in(file, error):
        return None
    return _failure(name, file, error)


def _failure(name: str, file: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"{name} {raised(error, file)}. `densebench check-model {name}` tries it by itself; "
        "--debug shows the traceback."
    )
