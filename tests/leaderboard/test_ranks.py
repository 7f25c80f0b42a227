"""Ranks with ties: from paired differences where images are kept, else from intervals; damaged files cost no table."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from densebench.leaderboard import write_leaderboard
from densebench.leaderboard.ranks import Contender, rank_column, ranks
from densebench.results.compare import paired
from densebench.results.counts import value
from tests.leaderboard.test_compared import Folder
from tests.results.test_compare import confusions, keypoints, links, means, segmentation, side


def row(value, half=None, higher=True):
    low, high = (None, None) if half is None else (value - half, value + half)
    return SimpleNamespace(value=value, ci95_low=low, ci95_high=high, higher_is_better=higher)


def contender(found, higher=True):
    return Contender(row(value(found.entries), 1.0, higher), lambda: found)


def test_a_rank_is_one_more_than_those_that_are_better():
    better = np.zeros((4, 4), bool)
    assert ranks(better) == [1, 1, 1, 1]
    better[0, 2] = better[0, 3] = better[1, 3] = True
    assert ranks(better) == [1, 1, 2, 3], "1 can be told from neither 0 nor 2"


def test_ranks_are_what_paired_differences_say():
    rng = np.random.default_rng(0)
    _, truth = confusions(80, 6, rng)
    own = rng.normal(0, 1, truth.shape)
    sides = []
    for ease in np.linspace(0, 0.6, 9):
        right = np.floor(truth / (1 + np.exp(-ease - own - rng.normal(0, 0.5, truth.shape)))).astype(int)
        tables = np.zeros((80, 6, 6), int)
        tables[:, range(6), range(6)] = right
        tables[:, range(6), (np.arange(6) + 1) % 6] += truth - right
        sides.append(side(segmentation(tables)))
    found, rule = rank_column([contender(each) for each in sides])
    assert rule == "images"
    for j, theirs in enumerate(sides):
        pairs = [paired(theirs, ours, swaps=0) for ours in sides]
        assert found[j] == 1 + sum(each.differs and each.difference > 0 for each in pairs)
    assert len(set(found)) > 3


def test_lower_values_rank_first_where_lower_is_better():
    rng = np.random.default_rng(0)
    errors = rng.random(50)
    sides = [side(means(errors + shift + rng.random(50) / 50)) for shift in (0.3, 0.0, 0.3)]
    assert rank_column([contender(each, higher=False) for each in sides]) == ([2, 1, 2], "images")


def test_keypoints_rank_by_pairs():
    source, target, category, points, hits = links(np.random.default_rng(0), gap=1.5)
    sides = [side(keypoints(source, target, category, points, h), ids=range(30)) for h in (*hits, hits[0])]
    assert rank_column([contender(each) for each in sides]) == ([2, 1, 2], "images")


def test_without_images_intervals_decide():
    column = [
        Contender(row(value, half), None) for value, half in ((80.0, 1.0), (79.0, 1.0), (77.5, 1.0), (60.0, None))
    ]
    assert rank_column(column) == ([1, 1, 2, 4], "intervals")
    assert rank_column([Contender(row(1.0), None), Contender(row(float("nan")), None)]) == ([1, 1], "intervals")
    errors = np.random.default_rng(0).random(50)
    kept = [contender(side(means(errors + shift)), higher=False) for shift in (0.0, 0.01)]
    mixed = [*kept, Contender(row(kept[0].row.value + 5, 1.0, higher=False), None)]
    assert rank_column(mixed) == ([1, 2, 3], "some"), "pairs tell what intervals would not"


@pytest.fixture
def folder(tmp_path, record):
    made = Folder(tmp_path / "results", record)
    for model, ease in (("one", 0.0), ("two", 0.02), ("three", 3.0)):
        made.add(model, ease)
    return made


def read(folder):
    write_leaderboard(folder.store.root, ["csv", "md"])
    with (folder.store.root / "leaderboard.csv").open() as file:
        return {line["model"]: (line["rank"], line["rank_by"]) for line in csv.DictReader(file)}


def test_the_leaderboard_has_ranks_and_says_where_they_come_from(folder):
    assert read(folder) == {"three": ("1", "images"), "one": ("2", "images"), "two": ("2", "images")}
    text = (folder.store.root / "leaderboard.md").read_text()
    assert "ranks by paired differences on the same images." in text
    assert "#2" in text


def test_a_damaged_file_costs_its_pairs_alone(folder):
    for file in folder.store.root.glob("records/*/*/two--*/statistics.npz"):
        file.write_bytes(b"torn")
    found = read(folder)
    assert found["three"] == ("1", "some")
    assert found["one"][0] == "2"
