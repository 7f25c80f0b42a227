"""A dataset class in a user's file: what it raises, lacks and returns is said in a line, wherever it is met."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.tools.checks import check, without_corrupt
from densebench.datasets.user.images import load_images

QUIET = Progress(quiet=True)
SOURCE = """
from pathlib import Path
import numpy as np
from PIL import Image
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Keypoints

HERE = Path(__file__).parent

class Mine(DenseDataset):
    info = DatasetInfo(
        name="own",
        title="Own",
        classes=("ground", "cell"),
        palette=((0, 0, 0), (255, 0, 0)),
        splits={"train": 2, "val": 2},
        targets=frozenset({"mask", "depth", "keypoints"}),
    )

    def __init__(self, root, split="val", transforms=None):
        super().__init__(root, split, transforms)
        self.ids = ["0", "1"]

    def files(self, index):
        return (HERE / f"{self.split}-{self.ids[index]}.png",)

    def image(self, index):
        return Image.open(self.files(index)[0])

    def mask(self, index):
        return np.tile(np.uint8([0, 1]), (8, 6))

    def depth(self, index):
        return np.full((8, 12), 2, np.float32)

    def keypoints(self, index):
        xy, seen = np.float32([[1, 1], [9, 5]]), np.array([True, False])
        return [Keypoints("cat", xy, seen, (0, 0, 11, 7))]
"""


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., str]:
    """Write four images and the class with a change; return what --dataset takes."""
    for i, name in enumerate(("train-0", "train-1", "val-0", "val-1")):
        Image.new("RGB", (12, 8), (60 * i, 10, 20)).save(tmp_path / f"{name}.png")

    def write(before: str = "", after: str = "") -> str:
        assert before in SOURCE
        (tmp_path / "mine.py").write_text(SOURCE.replace(before, after, 1))
        return f"{tmp_path}/mine.py:Mine"

    return write


def test_a_class_that_keeps_the_contract_is_as_it_was(own: Callable[..., str]) -> None:
    data = load_dataset(own(), "val")
    sample = data.sample(1)
    assert (sample.id, sample.image.getpixel((0, 0))) == ("1", (180, 10, 20))
    assert sample.mask is not None
    assert sample.depth is not None
    assert sample.mask.sum() == 48
    assert sample.depth[0, 0] == 2
    assert sample.keypoints[0].category == "cat"
    assert check(data, QUIET).problems == []
    again = pickle.loads(pickle.dumps(data.select([1])))
    assert (again.ids, again.digest()) == (["1"], data.select([1]).digest())


def test_its_code_and_its_files_are_in_the_digest(own: Callable[..., str], tmp_path: Path) -> None:
    before = load_dataset(own(), "val").digest()
    assert load_dataset(own(), "val").digest() == before
    assert load_dataset(own("(8, 6)", "(8, 6)[:]"), "val").digest() != before
    Image.new("RGB", (12, 8), (1, 2, 3)).save(tmp_path / "val-1.png")
    assert load_dataset(own(), "val").digest() != before


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("class Mine", "1 / 0\nclass Mine", r"mine\.py raised ZeroDivisionError: .*\(mine\.py, line 9\)"),
        ("class Mine", "raise SystemExit(4)\nclass Mine", r"raised SystemExit: 4 \(mine\.py, line 9\)"),
        ("class Mine(DenseDataset)", "class Mine", "is not a subclass of densebench.DenseDataset with an `info`"),
        ("class Mine", "class Yours", "has no class 'Mine'; its classes are Yours"),
        ("    def image", "    def picture", r"it has no method image\(index\)"),
        ("    def depth", "    def dpeth", r"it has no method depth\(index\)"),
        ("    def files", "    def paths", r"no method files\(index\).*results are made anew when they change"),
        ("info = DatasetInfo(", "info = dict(", "`info` is a dict; expected a densebench.datasets.dataset.DatasetInfo"),
        ('        title="Own",\n', "", "missing 1 required keyword-only argument: 'title'"),
        ('"own"', '"my own"', "name='my own': expected letters"),
        ('"own"', '"voc"', "is called 'voc', which is another dataset's name"),
        ("((0, 0, 0), (255, 0, 0))", "((0, 0, 0),)", r"palette: expected 2 colours, .*got \(\(0, 0, 0\),\)"),
        ("(255, 0, 0)", "(256, 0, 0)", "palette: expected 2 colours"),
        ("((0, 0, 0), (255, 0, 0))", '("#000000",)', "info.palette: input should be a valid tuple, got '#000000'"),
        ('("ground", "cell")', '("cell", "cell")', "classes: expected different names"),
        ('("ground", "cell")', "()", "classes: expected different names, 1 to 254"),
        ('{"mask", "depth"', '{"masks", "depth"', r"targets=\['depth', 'keypoints', 'masks'\]: expected some of"),
        ('{"train": 2, "val": 2}', '["train"]', "info.splits: input should be a valid dictionary"),
        ('{"train": 2, "val": 2}', '{"val": 2}', "train='train', val='val': expected splits, val"),
        ("splits=", "background=(2,), splits=", r"background=\(2,\): expected numbers of classes"),
        ("splits=", "ignored=(-1, 255), splits=", r"ignored=\(-1, 255\): expected labels of a mask, 0 to 255"),
    ],
)
def test_a_class_that_cannot_be_a_dataset_is_refused_when_it_is_named(
    own: Callable[..., str], before: str, after: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_dataset(own(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("        self.ids =", "        {}['x']\n        self.ids =", r"Mine\(root=.*split=val\) raised KeyError: 'x'"),
        ("root, split=", "root, *, split=", "raised TypeError: .* positional argument"),
        ('["0", "1"]', "[]", "split val: `ids` is empty"),
        ('["0", "1"]', "None", "`ids` is nothing; expected a list of texts"),
        ('["0", "1"]', "(str(i) for i in range(2))", "`ids` is a generator"),
        ('["0", "1"]', "[0, 1]", "`ids` is a list of a int"),
        ('["0", "1"]', '["0", "0"]', r"1 ids occur twice \(first: 0\)"),
        ('["0", "1"]', '["1", "0"]', "`ids` are not sorted .'1' is before '0'.; .*sort the names first"),
        ('["0", "1"]', '["0", "\\udce9"]', "is not UTF-8"),
        (
            "    def files",
            "    def __len__(self):\n        return 3\n\n    def files",
            r"len\(\) is 3 and there are 2 ids",
        ),
    ],
)
def test_what_is_wrong_when_it_is_made_is_said(own: Callable[..., str], before: str, after: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(own(before, after), "val")


def test_a_class_has_to_call_its_base(own: Callable[..., str]) -> None:
    spec = own("        super().__init__(root, split, transforms)\n", "")
    with pytest.raises(UsageError, match=r"__init__ has to call super\(\).__init__\(root, split, transforms\)"):
        load_dataset(spec, "val")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return Image.open", "raise KeyError('x')\n        return Image.open", r"image\(0\) raised KeyError: 'x'"),
        ("return Image.open(self.files(index)[0])", "return", r"image\(0\), id '0', returned nothing; expected"),
        ("(self.files(index)[0])", "(self.files(index)[0]).convert('L')", "returned a picture of PIL in L"),
        ("return np.tile", "return 1.0 * np.tile", r"an array \(8, 12\) of float64 from 0.0 to 1.0; expected"),
        ("(8, 6)", "(2, 8, 6)", r"returned an array \(2, 8, 12\) of uint8"),
        ("np.uint8([0, 1])", "np.uint8([0, 2])", r"mask of '0', holds label 2 in 48 pixels; expected 0\.\.1 or 255"),
        ("(8, 6)", "(4, 6)", "is 12x8 px but its mask 12x4; expected the same"),
        ("2, np.float32", "2", r"returned an array \(8, 12\) of int64 from 2 to 2; expected metres"),
        ("2, np.float32", "np.nan, np.float32", "from nan to nan; expected metres"),
        ("2, np.float32", "-1, np.float32", "from -1.0 to -1.0; expected metres"),
        ('[Keypoints("cat", xy, seen, (0, 0, 11, 7))]', "[(xy, seen)]", "a list of a tuple of an array"),
        ("np.array([True, False])", "np.array([1, 0])", r"visible an array \(2,\) of int64 .*expected a list of"),
        ("[1, 1]", "[np.nan, 5]", "from nan to nan"),
        ("(0, 0, 11, 7)", "(0, 0, 0, 0)", r"bbox \(0, 0, 0, 0\); expected a list of"),
        ("        return [Key", "        if index:\n            xy, seen = xy[:1], seen[:1]\n        return [Key",
         "'cat' has 1 keypoints in '1' and 2 in '0'; expected as many"),
        ('return (HERE / f"{self.split}-{self.ids[index]}.png",)', 'return HERE / "x"', "returned a PosixPath"),
        ("    def files", "    def digest(self):\n        pass\n\n    def files", r"digest\(\) returned nothing"),
    ],
)  # fmt: skip
def test_what_it_gives_is_checked_and_said(
    own: Callable[..., str], before: str, after: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "check", own(before, after), "--split", "val"])
    assert end.value.code == 1
    assert re.search(f"problem: .*{message}", capsys.readouterr().err)


def test_points_that_are_not_seen_may_lie_anywhere(own: Callable[..., str]) -> None:
    assert check(load_dataset(own("[9, 5]", "[np.nan, 5]"), "val"), QUIET).problems == []


def test_a_file_that_cannot_be_decoded_can_be_left_out(own: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "val-1.png").write_bytes((tmp_path / "val-1.png").read_bytes()[:45])
    data = load_dataset(own(), "val")
    with pytest.raises(CorruptFileError, match=r"mine\.py:Mine\.image\(1\) raised .*Error"):
        data.image(1)  # which PIL would only have read later
    kept, left_out = without_corrupt(data, QUIET)
    assert (kept.ids, left_out) == (["0"], ("1",))


def test_a_class_that_fails_costs_its_own_result_alone(
    own: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = own("return np.tile", "raise KeyError('x')\n        return np.tile")
    arguments = ["run", "--model", "pico", "--dataset", f"{spec},scenes", "--protocol", "hummingbird", "--limit", "2"]
    arguments += ["--set", "hummingbird.fractions=[1]", "--set", "hummingbird.input_size=56", "--workers", "0"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(tmp_path / "results"), "--quiet"])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert "hummingbird on scenes" in out
    assert "failed: pico / hummingbird / own: " in err
    assert "mask(0) raised KeyError: 'x'" in err


def test_the_class_of_the_docs_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    (tmp_path / "my_data.py").write_text(re.search(r"```python\n(from pathlib import Path\n.*?)```", text, re.S)[1])
    for split in ("train", "val"):
        (tmp_path / "rooms" / split).mkdir(parents=True)
        Image.new("RGB", (12, 8)).save(tmp_path / "rooms" / split / "a.jpg")
        np.save(tmp_path / "rooms" / split / "a.npy", np.full((8, 12), 1.5))
    data = load_dataset(f"{tmp_path}/my_data.py:Rooms", "train", tmp_path)
    assert check(data, QUIET).depth == (1.5, 1.5)
    assert check(data, QUIET).problems == []


def test_two_files_of_one_name_do_not_meet(own: Callable[..., str], tmp_path: Path) -> None:
    first = own()
    (tmp_path / "other").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "other" / path.name)
    (tmp_path / "other" / "mine.py").write_text(SOURCE.replace('"own"', '"other"').replace("[0, 1]", "[1, 1]"))
    for name in ("train-0", "train-1"):
        Image.new("RGB", (12, 8)).save(tmp_path / f"{name}.png")
    data = load_images(f"{first}:train,{tmp_path}/other/mine.py:Mine:val")
    again = pickle.loads(pickle.dumps(data))
    assert again.ids == ["own-train/0", "own-train/1", "other-val/0", "other-val/1"]
    assert [part.mask(0).sum() for part in again.parts] == [48, 96]
