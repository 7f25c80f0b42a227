"""How models differ: one line per metric of each cell that two of them have, paired where their images are the same.

`compare` is what `densebench compare` prints. Nothing imports torch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from densebench.core.errors import DensebenchError, UsageError
from densebench.core.text import plain
from densebench.leaderboard.comparison import Compared, Comparison
from densebench.leaderboard.differences import Difference, differences, published_differences
from densebench.leaderboard.sources import Entry, Filter, Source, find_sources, printed_of
from densebench.results.compare import AS_STORED, Paired, paired
from densebench.results.kept import side_of
from densebench.results.schema import Key


def compare(
    *names: str | Path,
    results: str | Path = "results",
    protocol: str | Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    preset: str | Iterable[str] | None = None,
    published: bool = False,
    every: bool = False,
) -> Compared:
    """Return how models differ on the cells that they have in common, and whether that is noise.

    Examples:
        >>> import tempfile, densebench
        >>> small = {"hummingbird": {"input_size": 64, "fractions": 1}}
        >>> asked = {"protocol": "hummingbird", "dataset": "scenes", "limit": 8, "settings": small}
        >>> folder = tempfile.mkdtemp()
        >>> outcome = densebench.run(model=["pico", "pico?random"], out=folder, **asked)
        >>> found = compare("pico?random", "pico", results=folder)
        >>> found
        Compared(pico?random / pico: 1 value, 0 told apart)
        >>> found.lines[0].metric, found.lines[0].paired.n, found.lines[0].verdict
        ('miou@1', 8, 'not to be told apart')
        >>> found.frame()[["a", "b", "difference", "low", "high", "p"]].shape
        (1, 6)

    Args:
        *names: of each a model of `results`, the beginning of a record's hash or its path, a folder of results or
            FOLDER:MODEL, or a model as papers print it, such as "PaKA ViT-S/14". Two, or more, of which each is
            compared with each; or one with `published`.
        results: the folder that names are of.
        protocol: which are compared, one or several; None: all.
        dataset: the same of datasets.
        preset: the same of presets.
        published: compare each model with what papers print of it, too.
        every: compare all metrics, not the main ones alone.

    Raises UsageError for a name that means nothing.
    """
    asked = list(map(str, names))
    if len(asked) < 2 and not (published and asked):
        raise UsageError(
            f"{f'one name, {asked[0]!r}' if asked else 'nothing'} to compare; give two, as in `densebench compare pico "
            "paka_pico`, or one with --published, for what papers print of it."
        )
    wanted = Filter(*map(_names, (protocol, dataset, preset)))
    problems: list[str] = []
    lines: list[Comparison] = []
    shown: dict[str, Source] = {}
    for sources in find_sources(asked, results, wanted, problems):
        pairs = list(itertools.combinations(sources, 2))
        if published:
            printed = ((printed_of(source, wanted), source) for source in sources if source.entries)
            pairs += [(theirs, ours) for theirs, ours in printed if theirs]
        shown |= {source.name: source for source in (*sources, *itertools.chain(*pairs))}
        for one, two in pairs:
            lines += _between(one, two, every)
    for problem in problems:
        logging.getLogger(__name__).warning(problem)
    nothing = "; ".join(f"{source.name} has {source.text}" for source in shown.values())
    return Compared(tuple(shown), len(asked) > 2, tuple(lines), tuple(problems), "" if lines else nothing)


def _between(a: Source, b: Source, every: bool) -> Iterator[Comparison]:
    """Yield the lines of two sources: cells of one table first, then what differs in more than the model."""
    if a.printed and b.printed:
        yield from _both_printed(a, b)
    elif a.printed or b.printed:
        ours, theirs = (b, a) if a.printed else (a, b)
        for entry in ours.entries:
            yield from _with_printed(entry, theirs, first=bool(b.printed))
    else:
        for one, two in _matched(a, b):
            yield from _lines(one, two, every)


def _matched(a: Source, b: Source) -> Iterator[tuple[Entry, Entry]]:
    """Yield entries that stand in one table; of a protocol and dataset that has none, the newest of both."""
    if a.single and b.single:
        yield from itertools.product(a.entries, b.entries)
        return
    for cell in dict.fromkeys(entry.cell for entry in a.entries):
        mine, theirs = ([entry for entry in source.entries if entry.cell == cell] for source in (a, b))
        alike = [(one, two) for one in mine for two in theirs if one.like == two.like]
        if not alike and theirs:
            one, two = (max(each, key=lambda entry: entry.record.created) for each in (mine, theirs))
            alike = [(one, two)]
        yield from alike


def _lines(one: Entry, two: Entry, every: bool) -> Iterator[Comparison]:
    apart = differences(one.record, two.record)
    if len(one.records) > 1 or len(two.records) > 1:
        apart = tuple(each for each in apart if each.field != "seed")
    apart = tuple(each for each in apart if each.field != "densebench")
    shared = [key for key in one.rows if key in two.rows]
    chosen = [key for key in shared if every or one.rows[key].main] or shared
    for key in chosen:
        a, b = one.rows[key], two.rows[key]
        found, reason = _paired(one, two, key)
        yield Comparison.of(
            a,
            model_a=one.name,
            model_b=two.name,
            main=a.main,
            a=a.value,
            b=b.value,
            paired=found,
            reason=reason,
            apart=_apart((a.ci95_low, a.ci95_high), (b.ci95_low, b.ci95_high)),
            differences=apart,
        )


def _paired(one: Entry, two: Entry, key: Key) -> tuple[Paired | None, str]:
    """Return what the images say that two entries share, None with the reason in words where there are none."""
    first, second = one.record, two.record
    splits = [(record.data.name, record.data.val.split) for record in (first, second)]
    if first.data.val.digest != second.data.val.digest and splits[0] != splits[1]:
        return None, "other images"
    classes = []
    for entry in (one, two):
        metric = next(metric for metric in entry.record.metrics if metric.key == key)
        classes.append(tuple(metric.per_class))
    if all(classes) and classes[0] != classes[1]:
        return None, "their classes have other names"
    try:
        found = paired(side_of(one.records, key), side_of(two.records, key), classes=tuple(map(plain, classes[0])))
    except DensebenchError as error:
        return None, plain(str(error))
    for value, entry, left_out in zip((found.a, found.b), (one, two), found.left_out, strict=True):
        if not left_out and not abs(value - entry.rows[key].value) <= AS_STORED * max(1, abs(value)):
            return None, f"what is kept of the images of {entry.name} gives {value:.3f}: not the value of its record"
    return found, ""


def _with_printed(entry: Entry, theirs: Source, first: bool) -> Iterator[Comparison]:
    """Yield our values beside printed ones of the same protocol, dataset and metric; `first`: ours is a."""
    for row in theirs.printed:
        ours = entry.rows.get(row.key)
        if ours is None or (row.protocol, row.dataset) != entry.cell:
            continue
        apart = published_differences(entry.record, row)
        if not first:
            apart = tuple(Difference(each.field, each.b, each.a) for each in apart)
        pair = [(entry.name, ours.value), (f"{theirs.name} ({row.source})", row.value)]
        (model_a, a), (model_b, b) = pair if first else pair[::-1]
        inside = None if ours.ci95_low is None or ours.ci95_high is None else (ours.ci95_low, ours.ci95_high)
        yield Comparison.of(
            ours,
            model_a=model_a,
            model_b=model_b,
            main=True,
            a=a,
            b=b,
            paired=None,
            reason="a printed value says nothing of single images",
            apart=inside and not inside[0] <= row.value <= inside[1],
            differences=apart,
            printed=True,
        )


def _both_printed(a: Source, b: Source) -> Iterator[Comparison]:
    raise UsageError(f"{a.name} and {b.name} are both printed values; name a model that was measured here.")


def _names(asked: str | Iterable[str] | None) -> frozenset[str] | None:
    return None if asked is None else frozenset([asked] if isinstance(asked, str) else asked)


def _apart(a: tuple[float | None, float | None], b: tuple[float | None, float | None]) -> bool | None:
    (low, high), (other_low, other_high) = a, b
    if low is None or high is None or other_low is None or other_high is None:
        return None
    return high < other_low or other_high < low
