"""Trainings side by side: loss and CKA by step (PaKA figure 2b), and features of teacher and student in a plane (2a).

The student is the trained model, the teacher its base, which is what the teacher starts as. A line of a log is the mean
over the steps since the one before (`log_every`), so the coefficient of variation is that of these means: less than the
one over single batches that PaKA states, and comparable between logs of one `log_every`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.errors import DensebenchError, ModelError
from densebench.core.regular import read
from densebench.figures import kit as figures
from densebench.model_zoo import load_model, parse_spec
from densebench.model_zoo.zoo import read_card, zoo_folders
from densebench.ops.clustering import StreamingMoments, leading_eigenvectors
from densebench.pictures.view import Kind, Model, View

POINTS = 5000
"""Patches of each side in a plane (PaKA figure 2a)."""


class Training(NamedTuple):
    """How a model was trained."""

    loss: dict[int, float]
    """By step."""
    alignment: dict[int, float]
    """CKA by step; empty where the loss was another."""
    plane: tuple[NDArray[np.floating], NDArray[np.floating]] | None
    """Patches of teacher and student, (N, 2) each; None where the teacher is not on this machine."""


def losses(lines: Sequence[str]) -> dict[int, float]:
    """Return the loss by step of a log, JSON in each line; lines without one are left out.

    Raises ValueError for a line that is no JSON object.
    """
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    numbers = {int(row["step"]): float(row["loss"]) for row in rows if "step" in row and "loss" in row}
    return {step: loss for step, loss in numbers.items() if math.isfinite(loss)}


def variation(values: Sequence[float]) -> float:
    """Return the coefficient of variation, deviation over |mean|; NaN where there is no mean to divide by."""
    mean = float(np.mean(values)) if values else 0.0
    return float(np.std(values)) / abs(mean) if mean else math.nan


def relative(loss: Mapping[int, float]) -> dict[int, float]:
    """Return a loss as shares of its first value, or as it is where that is 0."""
    first = loss[min(loss)] if loss else 0.0
    return {step: value / first if first else value for step, value in loss.items()}


def plane_of(teacher: Tensor, student: Tensor) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return rows (N, D) and (M, D) in the plane of their first two principal components, (N, 2) and (M, 2)."""
    moments = StreamingMoments(teacher.shape[1])
    moments.update(torch.cat([teacher, student]))
    components = leading_eigenvectors(moments.covariance, 2).T
    one, other = (((rows.double() - moments.mean) @ components).numpy() for rows in (teacher, student))
    return one, other


class Trainings(Kind[Training]):
    """Logs and features of models that `densebench train` made."""

    name = "training"

    def show(self, view: View, model: Model) -> Training:
        """Return log and features; raises ModelError for a model that no log is kept of."""
        name = parse_spec(model.spec_text).name
        folder = zoo_folders().get(name)
        if folder is None or not (folder / "log.jsonl").is_file():
            raise ModelError(f"{model.name} has no log of a training; models that `densebench train` made have one.")
        card = read_card(name)
        try:
            loss = losses(read(folder / "log.jsonl").decode().splitlines())
        except ValueError as error:
            raise ModelError(f"{folder / 'log.jsonl'} is no log of a training ({error}).") from error
        is_cka = card.get("method") == "paka" and card.get("config", {}).get("kernel", "cka") == "cka"
        aligned = {step: 1 - value for step, value in loss.items()} if is_cka else {}
        return Training(loss, aligned, self._plane(view, model, str(card.get("base", ""))))

    def _plane(self, view: View, model: Model, base: str) -> Any:
        try:
            teacher = Model(base, base, replace(model.context, features=model.beside(load_model(base))), model.data,
                            model.options)  # fmt: skip
            sides = [_some(each.maps(view.chosen)) for each in (teacher, model)]
        except DensebenchError as error:
            model.context.progress.say(f"no plane of teacher and student of {model.name}: {error}")
            return None
        return plane_of(*sides) if sides[0].shape[1] == sides[1].shape[1] else None

    def draw(self, view: View, shown: Mapping[str, Training]) -> Mapping[str, bytes]:
        """Return the curves of all, and a plane for each."""
        panels: dict[str, dict[str, dict[int, float]]] = {"loss / first loss": {}}
        for name, found in shown.items():
            spread = variation(list(found.loss.values()))
            panels["loss / first loss"][f"{name} (CV {spread:.2g})"] = relative(found.loss)
            if found.alignment:
                spread = variation(list(found.alignment.values()))
                panels.setdefault("CKA", {})[f"{name} (CV {spread:.2g})"] = found.alignment
        pictures = {f"{self.name}-curves": figures.curves(panels, "step")}
        planes = {name: found.plane for name, found in shown.items() if found.plane is not None}
        if planes:
            points = {
                name: {side: [(float(x), float(y)) for x, y in rows] for side, rows in zip(SIDES, plane, strict=True)}
                for name, plane in planes.items()
            }
            pictures[f"{self.name}-planes"] = figures.scatters(points, dict.fromkeys(planes, ("PC 1", "PC 2")))
        return pictures


SIDES = ("teacher (base)", "student")


def _some(maps: Tensor) -> Tensor:
    """Return at most POINTS patches (N, D) of maps (B, D, h, w), evenly spread."""
    rows = maps.movedim(1, -1).flatten(0, -2)
    return rows[:: -(-len(rows) // POINTS)]


KIND = Trainings()
