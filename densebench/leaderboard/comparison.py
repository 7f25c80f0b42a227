"""One line of a comparison, two numbers for one metric, and all lines of one, as frames and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densebench.leaderboard.differences import Difference
from densebench.leaderboard.row import Row
from densebench.results.compare import ALPHA, Paired
from densebench.results.schema import Key

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two numbers for one metric."""

    model_a: str
    model_b: str
    protocol: str
    data: str
    setting: str
    """Of both, or of the first."""
    metric: str
    """What tables call it: "miou@1/8"."""
    key: Key
    unit: str
    higher_is_better: bool
    main: bool
    a: float
    b: float
    paired: Paired | None
    """What the images that both saw say; None where there are none, as `reason` says."""
    reason: str
    apart: bool | None
    """Not paired: whether the intervals of both lie apart; None where one has none."""
    differences: tuple[Difference, ...]
    """What else differs than the model, by its known effect."""
    printed: bool = False
    """Whether one of the two is a paper's."""

    @classmethod
    def of(cls, row: Row, **rest: Any) -> Comparison:
        """Return a comparison in the cell and metric of a row; `rest` are the other fields."""
        shared = ("protocol", "data", "setting", "metric", "key", "unit", "higher_is_better")
        return cls(**{name: getattr(row, name) for name in shared}, **rest)

    @property
    def difference(self) -> float:
        """b - a, in the metric's unit; of the shared images where these are fewer."""
        return self.paired.difference if self.paired else self.b - self.a

    @property
    def cell(self) -> tuple[str, str, str]:
        """Data, protocol and setting."""
        return self.data, self.protocol, self.setting

    @property
    def winner(self) -> str:
        """ "a" or "b" where the images say that it is better, in the same setting; else ""."""
        if self.paired is None or not self.paired.differs or self.differences:
            return ""
        return "b" if (self.difference > 0) == self.higher_is_better else "a"

    @property
    def verdict(self) -> str:
        """What it comes to, in plain words."""
        better = self.model_b if (self.difference > 0) == self.higher_is_better else self.model_a
        if self.paired is None:
            return self._unpaired()
        if self.paired.low is None:
            return "one image says nothing" if self.paired.n == 1 else "no image has a value"
        if self.paired.low == self.paired.high == 0:
            return "the same on every image"
        significant = self.paired.p is None or self.paired.p < ALPHA
        if self.differences:
            return f"{better if self.paired.differs else 'neither'} scores better; settings differ"
        if self.paired.differs and significant:
            return f"{better} is better"
        if self.paired.differs or (self.paired.p is not None and significant):
            return f"{better} may be better: interval and p disagree"
        return "not to be told apart"

    def _unpaired(self) -> str:
        if self.differences:
            return "not the same measurement"
        if self.apart is None:
            return "nothing says whether that is noise"
        return "intervals lie apart" if self.apart else "intervals overlap: may be as good"


@dataclass(frozen=True, eq=False)
class Compared:
    """What `densebench.compare` returns."""

    names: tuple[str, ...]
    """Of the models, in the order that was asked for."""
    several: bool
    """Whether more than two were asked for."""
    lines: tuple[Comparison, ...]
    problems: tuple[str, ...] = ()
    """Files that could not be read."""
    nothing: str = ""
    """Where there is no line: what each has."""

    def frame(self) -> pd.DataFrame:
        """Return a row per line: models, cell, metric, values, difference, interval, p, verdict, what differs."""
        import pandas as pd

        return pd.DataFrame([as_dict(line) for line in self.lines], columns=COLUMNS).drop(columns="classes")

    def classes(self) -> pd.DataFrame:
        """Return a row per line and class: difference, interval, p, and p for as many classes as are tested."""
        import pandas as pd

        head = ("model_a", "model_b", "protocol", "data", "setting", "metric")
        rows = [
            {name: getattr(line, name) for name in head} | vars(each)
            for line in self.lines
            if line.paired
            for each in line.paired.classes
        ]
        names = [*head, "name", "a", "b", "difference", "low", "high", "p", "adjusted", "n"]
        return pd.DataFrame(rows, columns=names).rename(columns={"name": "class"})

    def __repr__(self) -> str:
        told = sum(bool(line.winner) for line in self.lines)
        values = f"{len(self.lines)} value{'' if len(self.lines) == 1 else 's'}"
        return f"Compared({' / '.join(self.names)}: {values}, {told} told apart)"


COLUMNS = (
    *("model_a", "model_b", "protocol", "data", "setting", "metric", "unit", "higher_is_better", "a", "b"),
    *("difference", "low", "high", "p", "n", "unit_of_n", "seeds_a", "seeds_b", "seed_sd", "winner", "verdict"),
    *("reason", "differences", "classes"),
)


def as_dict(line: Comparison) -> dict[str, Any]:
    """Return a line as JSON has it, flat but for what differs and classes."""
    found = line.paired
    low, high = (None, None) if found is None else (found.low, found.high)
    flat = {
        **{name: getattr(line, name) for name in COLUMNS[:10]},
        "difference": line.difference,
        "low": low,
        "high": high,
        "p": found.p if found else None,
        "n": found.n if found else None,
        "unit_of_n": found.unit if found else None,
        "seeds_a": found.seeds[0] if found else None,
        "seeds_b": found.seeds[1] if found else None,
        "seed_sd": found.seed_sd if found else None,
        "winner": {"a": line.model_a, "b": line.model_b, "": ""}[line.winner],
        "verdict": line.verdict,
        "reason": line.reason or (found.reason if found else ""),
        "differences": [
            {"field": each.field, "a": each.a, "b": each.b, "text": each.text, "effect": each.effect}
            for each in line.differences
        ],
        "classes": [vars(each) for each in found.classes] if found else [],
    }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in flat.items()
    }
