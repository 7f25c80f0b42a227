"""Pictures from models: one model at a time shows what each kind needs, then all are drawn side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densebench.core.errors import DensebenchError
from densebench.core.paths import write_new
from densebench.core.progress import Progress
from densebench.model_zoo import parse_models
from densebench.pictures.asked import Asked
from densebench.pictures.view import Kind, Model, View
from densebench.protocols.protocol import Context, Data
from densebench.runner.failures import FOREIGN, to_user_error
from densebench.runner.models import Models
from densebench.runner.splits import Splits


def draw(asked: Asked, progress: Progress) -> Iterator[Path | DensebenchError]:
    """Yield the path of each picture, or why a model is not in one, or why there is none."""
    view = View(_data(asked, progress), asked.images, asked.options)
    kinds = [info.load() for info in asked.kinds]
    shown: dict[str, dict[str, Any]] = {kind.name: {} for kind in kinds}
    models = Models(asked.request, progress)
    for spec in parse_models(asked.request.model, asked.request.weights):
        try:
            source = models.get(spec)
        except DensebenchError as error:
            yield error
            continue
        name = _free_name(source.info.name, spec.text, shown)
        model = Model(name, spec.text, Context(source, progress, pictures=0), view.data, asked.options)
        for kind in kinds:
            try:
                shown[kind.name][name] = kind.show(view, model)
            except FOREIGN as error:
                known = to_user_error(error, spec.text, source.backbone)
                yield _named(known, f"{kind.name} of {name}")
    for kind in kinds:
        if shown[kind.name]:
            yield from _drawn(asked, kind, view, shown[kind.name])


def _data(asked: Asked, progress: Progress) -> Data:
    info, request = asked.val.info, asked.request
    splits = Splits(request.data_root, request.limit, False, progress)
    trained = any(info.reads_train for info in asked.kinds)
    found = splits.data(
        [(asked.dataset, info.train), (asked.dataset, info.val)] if trained else [(asked.dataset, info.val)]
    )
    if isinstance(found, DensebenchError):
        raise found
    return found


def _drawn(asked: Asked, kind: Kind[Any], view: View, shown: dict[str, Any]) -> Iterator[Path | DensebenchError]:
    try:
        pictures = kind.draw(view, shown)
    except FOREIGN as error:
        yield _named(to_user_error(error), kind.name)
        return
    for name, content in pictures.items():
        path = asked.path(name)
        write_new(path, content, asked.overwrite)
        yield path


def _free_name(name: str, text: str, shown: dict[str, dict[str, Any]]) -> str:
    """Return what a model is called, by its full text where another has its name."""
    taken = {each for found in shown.values() for each in found}
    return name if name not in taken else text


def _named(error: DensebenchError, what: str) -> DensebenchError:
    """Return an error that says which picture it is of."""
    error.args = (f"{what}: {error}", *error.args[1:])
    return error
