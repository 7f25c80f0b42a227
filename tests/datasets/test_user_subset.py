"""Lists of ids cut any dataset to some of its images, for every protocol and for training."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from densebench.cli import main
from densebench.core.errors import DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.pairs import listed_pairs
from densebench.datasets.tools.checks import check
from densebench.datasets.user.images import load_images
from tests import toys
from tests.datasets.writers import export

TOML = """\
name = "voc_few"
base = "voc"

[lists]
val = "few.txt"
"""


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


@pytest.fixture
def few(tmp_path: Path) -> Callable[..., str]:
    """Write VOC's layout and a subset of it, with a change; return what --dataset takes."""
    toys.write_voc(tmp_path)
    (tmp_path / "few.txt").write_text("2007_val_0004\n2007_val_0001 1\r\n\n")

    def write(before: str = "", after: str = "") -> str:
        assert before in TOML
        (tmp_path / "few.toml").write_text(TOML.replace(before, after, 1))
        return f"{tmp_path}/few.toml"

    return write


def test_a_list_cuts_its_split_and_leaves_the_others_whole(few: Callable[..., str], tmp_path: Path) -> None:
    whole, data = load_dataset("voc", "val", tmp_path), load_dataset(few(), "val", tmp_path)
    assert data.ids == ["2007_val_0001", "2007_val_0004"]
    assert (data.mask(1) == whole.mask(4)).all()
    assert data.digest() == whole.select([1, 4]).digest() != whole.digest()  # the numbers that --limit would give
    assert load_dataset(few(), "trainaug", tmp_path).digest() == load_dataset("voc", "trainaug", tmp_path).digest()
    again = pickle.loads(pickle.dumps(data))
    assert (again.ids, again.digest(), again.split) == (data.ids, data.digest(), "val")
    info = DATASETS["voc_few"].info
    assert (info.variant_of, info.train, info.val, info.splits["val"]) == ("voc", "trainaug", "val", 0)
    assert data.info.name == "voc_few"
    assert replace(data.info, name="voc", title=whole.info.title, variant_of="") == whole.info  # protocols go by it
    assert check(data, Progress(quiet=True)).n_images == 2


def test_what_it_is_trained_on_may_be_listed_too(few: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("2007_trainaug_0003\n")
    data = load_images(few('val = "few.txt"', 'trainaug = "train.txt"'), root=tmp_path)
    assert (data.split, data.ids) == ("trainaug", ["2007_trainaug_0003"])
    assert len(load_dataset("voc_few", "val", tmp_path)) == 6


def test_any_kind_of_ground_truth_will_do(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("val_000007\nval_000002\n")
    (tmp_path / "few.toml").write_text(TOML.replace('"voc"', '"scenes"'))
    arguments = ["run", "--model", "pico", "--dataset", str(tmp_path / "few.toml"), "--protocol", "in_context_depth"]
    arguments += ["--set", "in_context_depth.input_size=56", "--train-dataset", str(tmp_path / "few.toml")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(tmp_path / "results"), "--quiet", "--workers", "0"])
    assert end.value.code == 0
    (record,) = (tmp_path / "results" / "records" / "voc_few" / "in_context_depth").glob("*.json")
    assert '"n_images": 2' in record.read_text()


def test_pairs_of_images_stay_where_both_are_listed(tmp_path: Path) -> None:
    assert export(load_dataset("scenes", "val").select(range(12)), "spair", tmp_path) == 12
    whole = load_dataset("spair", "test", tmp_path)
    pairs = listed_pairs(whole) or []
    both = [whole.ids[i] for i in pairs[0]]
    (tmp_path / "few.txt").write_text("\n".join(both))
    (tmp_path / "few.toml").write_text(TOML.replace('"voc"', '"spair"').replace("val =", "test ="))
    assert len(pairs) > 1
    assert listed_pairs(load_dataset(str(tmp_path / "few.toml"), "test", tmp_path)) == [
        (sorted(both).index(both[0]), sorted(both).index(both[1]))
    ]


def test_the_example_of_the_docs_is_this_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    assert f"```toml\n{TOML}```" in text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('base = "voc"\n', 'base = "vco"\n', "unknown dataset 'vco'; did you mean 'voc'"),
        ("name", "nmae", r"describes no subset: nmae = 'voc_few' \(it knows name, base, lists\); name is missing"),
        ('"voc_few"', '"voc few"', "name = 'voc few': expected letters"),
        ('"voc_few"', '"voc"', "is called 'voc', which is another dataset's name"),
        (
            '[lists]\nval = "few.txt"',
            'lists = "few.txt"',
            r"lists = 'few\.txt' is not a table. It takes name, base, and",
        ),
        ('val = "few.txt"', "", r"lists no split; expected a file of ids for one or more of train, trainaug"),
        ("val =", "vla =", "lists vla; expected a file of ids for one or more of train, trainaug"),
        ('"few.txt"', '["a"]', "lists val; expected a file of ids"),
    ],
)
def test_a_file_that_describes_no_subset_is_refused(
    few: Callable[..., str], before: str, after: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_dataset(few(before, after))


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (None, r"few\.txt cannot be read \(No such file or directory\)"),
        (b"\n \n", r"few\.txt is empty; expected one image id per line"),
        (b"caf\xe9\n", r"few\.txt lists 1 of 1 ids that voc val does not have .first: café"),
        (b"a\0b\n", r"few\.txt is not text; expected one image id per line"),
        (b"2007_val_0001\n2007_val_0001\n", r"few\.txt lists 1 ids twice \(first: 2007_val_0001\)"),
        (b"2007_val_0001\n2008_1\n", r"few\.txt lists 1 of 2 ids that voc val does not have .first: 2008_1.; .*2007"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_is_said(
    few: Callable[..., str], tmp_path: Path, listed: bytes | None, message: str
) -> None:
    path = tmp_path / "few.txt"
    path.unlink() if listed is None else path.write_bytes(listed)
    with pytest.raises(DatasetError, match=message):
        load_dataset(few(), "val", tmp_path)


def test_a_subset_of_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nfrom densebench.datasets.scenes.dataset import Scenes\n"
        "class Mine(Scenes):\n    info = replace(Scenes.info, name='own', embedded=False)\n"
    )
    (tmp_path / "few.toml").write_text(TOML.replace('"voc"', '"own.py:Mine"'))
    (tmp_path / "few.txt").write_text("val_000003\n")
    data = load_dataset(str(tmp_path / "few.toml"), "val")
    assert (data.info.name, data.ids, pickle.loads(pickle.dumps(data)).ids) == (
        "voc_few",
        ["val_000003"],
        ["val_000003"],
    )
    assert listed_pairs(data) is None
