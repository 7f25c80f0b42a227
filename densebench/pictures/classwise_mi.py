"""Class-wise mutual information of position and class, from results of `positional_effect` (figure 6 of POS)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densebench.core.errors import StorageError, UsageError
from densebench.figures import kit as figures
from densebench.pictures.view import Kind, Model, View
from densebench.results.schema import Record
from densebench.results.store import ResultStore

PROTOCOL = "positional_effect"
TRUTH = "classwise_mi_ground_truth"


def by_class(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the information of each class in nats, summed over its clusters, which facts name "NUMBER:CLASS".

    Raises KeyError, ValueError or AttributeError for facts of another form.
    """
    found: dict[str, float] = {}
    for name, value in facts["classwise_mi"].items():
        label = name.partition(":")[2]
        found[label] = found.get(label, 0.0) + float(value)
    return found


class Classwise(Kind[tuple[dict[str, float], dict[str, float]]]):
    """A bar per class."""

    name = "classwise-mi"

    def show(self, view: View, model: Model) -> tuple[dict[str, float], dict[str, float]]:
        """Return the information by class of the model's newest record, and of the ground truth.

        Raises UsageError where there is no record of one layer and facet.
        """
        records = _records(model, view.data.val.info.name)
        if not records:
            raise UsageError(
                f"no result of {PROTOCOL} for one layer and facet of {model.name} on {view.data.val.info.name} is in "
                f"{model.options.results}: `densebench run --protocol {PROTOCOL}` makes one."
            )
        facts = max(records, key=lambda record: (record.created, record.score_hash)).facts
        try:
            return by_class(facts), {name: float(value) for name, value in facts[TRUTH].items()}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"the result of {model.name} has facts of another form ({error!r}).") from error

    def draw(self, view: View, shown: Mapping[str, tuple[dict[str, float], dict[str, float]]]) -> Mapping[str, bytes]:
        """Return a chart per model below that of the ground truth, classes in its order, greatest first."""
        truth = next(iter(shown.values()))[1]
        panels = {"ground truth": dict(sorted(truth.items(), key=lambda entry: -entry[1]))}
        panels |= {name: found for name, (found, _) in shown.items()}
        return {self.name: figures.bars(panels, "MI [nat]")}


def _records(model: Model, dataset: str) -> list[Record]:
    """Return the records of a model that hold what is drawn; those that cannot be read are left out."""
    store, found = ResultStore(model.options.results), []
    for path in store.paths():
        if path.parts[-2] != PROTOCOL:
            continue
        try:
            record = store.read(path)
        except StorageError:
            continue
        if record.model.name == model.name and record.data.name == dataset and "classwise_mi" in record.facts:
            found.append(record)
    return found


KIND = Classwise()
