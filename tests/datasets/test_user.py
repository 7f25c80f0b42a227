import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.scenes.dataset import Scenes
from densebench.errors import DatasetError, UsageError

TOML = """\
name = "NAME"
classes = ["ground", "dirt", "unsure", "cell"]
images = "{split}/pictures/*.png"
masks = "{split}/labels/*_gt.png"
splits = ["fit", "judge"]
ignore = [2]
"""


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


@pytest.fixture
def written(tmp_path):
    """A dataset of four pictures and the TOML file that describes it."""
    rng = np.random.default_rng(0)
    for split, count in (("fit", 3), ("judge", 1)):
        for folder in ("pictures", "labels"):
            (tmp_path / split / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(
                tmp_path / split / f"pictures/{i}.png"
            )
            labels = rng.choice([0, 1, 2, 3, 255], (9, 12)).astype(np.uint8)
            Image.fromarray(labels).save(tmp_path / split / f"labels/{i}_gt.png")
    path = tmp_path / "mine.toml"
    path.write_text(TOML.replace("NAME", "mine"))
    return path


def test_six_lines_describe_a_dataset(written):
    name = resolve_dataset(str(written))
    assert name == "mine"
    info = DATASETS[name].info
    assert info.classes == ("ground", "dirt", "cell")  # what is ignored is no class
    assert (info.train, info.val) == ("fit", "judge")
    data = load_dataset(str(written), "fit")
    assert data.ids == ["0", "1", "2"]
    stored = np.array(Image.open(written.parent / "fit" / "labels" / "1_gt.png"))
    expected = np.array([0, 1, 255, 2, *[255] * 252], dtype=np.uint8)[stored]
    np.testing.assert_array_equal(data.mask(1), expected)
    assert data.image(1).size == (12, 9)
    assert resolve_dataset(str(written)) == name  # twice is once
    other = load_dataset(name, "judge", "/nowhere")  # by its name from now on, wherever the data root is
    assert len(other) == 1


def test_it_travels_to_worker_processes(written):
    data = load_dataset(str(written), "fit")
    again = pickle.loads(pickle.dumps(data))
    assert again.ids == data.ids
    np.testing.assert_array_equal(again.mask(2), data.mask(2))
    assert again.digest() == data.digest()


def test_ids_may_be_listed(written):
    text = written.read_text().replace("{split}/", "fit/") + 'lists = "lists/{split}.txt"\n'
    written.write_text(text)
    (written.parent / "lists").mkdir()
    (written.parent / "lists" / "fit.txt").write_text("2\n0\n")
    (written.parent / "lists" / "judge.txt").write_text("1\n1\n")
    assert load_dataset(str(written), "fit").ids == ["0", "2"]
    with pytest.raises(DatasetError, match="lists 1 ids twice"):
        load_dataset(str(written), "judge")


def test_the_check_takes_it(written, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "check", str(written)])
    assert not end.value.code
    out = capsys.readouterr().out
    assert "mine fit: 3 images, digest" in out
    assert "cell" in out


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('images = "{split}/pictures/*.png"\n', "", "images is missing"),
        ("ignore = [2]", "ignroe = [2]", "ignroe = .*it knows name, classes"),
        ("ignore = [2]", "ignore = 2", "ignore = 2 is no list"),
        ("ignore = [2]", "ignore = [256]", "ignore: expected integers from 0 to 255"),
        ("ignore = [2]", "ignore = [true]", "ignore: expected integers from 0 to 255"),
        ('"dirt"', '"ground"', "expected 1 to 254 different names"),
        ("pictures/*.png", "pictures/*/*.png", "exactly one \\* in each"),
        ("{split}/pictures", "fit/pictures", r"expected \{split\} in it, or `lists`"),
        ('name = "', 'name = "a/b', "expected letters, digits"),
        ('"fit", "judge"', '"a", "b", "c"', "expected one or two names"),
    ],
)
def test_nonsense_is_named(written, before, after, message):
    written.write_text(written.read_text().replace(before, after))
    with pytest.raises(UsageError, match=rf"mine\.toml describes no dataset: .*{message}"):
        resolve_dataset(str(written))


def test_paths_may_be_absolute(written, tmp_path):
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(written.read_text().replace('"{split}/', f'"{tmp_path}/{{split}}/'))
    (tmp_path / "sub").mkdir()
    moved = elsewhere.rename(tmp_path / "sub" / "mine.toml")
    assert load_dataset(str(moved), "fit").digest() == load_dataset(str(moved), "fit").digest()
    assert load_dataset("mine", "fit").ids == ["0", "1", "2"]
    moved.write_text(moved.read_text().replace("pictures", "pictrues").replace("mine", "other"))
    with pytest.raises(DatasetError, match=r"there is no file .*fit/pictrues"):
        load_dataset(str(moved), "fit")


def test_a_link_that_leads_nowhere_is_a_problem_of_the_check(written, capsys):
    picture = written.parent / "judge" / "pictures" / "0.png"
    picture.unlink()
    picture.symlink_to("nowhere.png")
    with pytest.raises(SystemExit) as end:
        main(["data", "check", str(written)])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "mine judge: 1 images, digest none" in out
    assert "problem: there is no digest: " in err


def test_a_file_that_raises_is_said(tmp_path):
    (tmp_path / "own.py").write_text("raise KeyError('x')\n")
    with pytest.raises(UsageError, match=r"own\.py raised KeyError: 'x'"):
        resolve_dataset(f"{tmp_path}/own.py:Mine")


def test_errors_name_the_file_to_check(written):
    written.write_text(written.read_text().replace("{split}/labels", "{split}/lables"))
    with pytest.raises(DatasetError, match=r"3 of 3 files of split fit .*lables .*data check \S+mine\.toml`"):
        load_dataset(str(written), "fit")
    written.write_text(written.read_text().replace("lables", "labels").replace('"dirt", "unsure", "cell"', '"dirt"'))
    with pytest.raises(DatasetError, match=r"holds label 3 in .*expected 0\.\.2 or 255 .*data check \S+mine\.toml`"):
        [load_dataset(str(written), "fit").mask(i) for i in range(3)]


def test_the_example_of_the_docs_is_one(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    path = tmp_path / "cells.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    assert len(path.read_text().splitlines()) == 6
    assert resolve_dataset(str(path)) == "cells"
    assert DATASETS["cells"].info.classes == ("ground", "nucleus", "membrane")


def test_what_is_missing_is_said(written, tmp_path):
    with pytest.raises(UsageError, match=r"does not exist; --dataset takes a name, FILE\.toml or FILE\.py:Class"):
        resolve_dataset(str(tmp_path / "other.toml"))
    with pytest.raises(UsageError, match="unknown split 'val'; it has fit, judge"):
        load_dataset(str(written), "val")
    (tmp_path / "fit" / "labels" / "1_gt.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 files of split fit are missing .*1_gt\.png"):
        load_dataset(str(written), "fit")
    for path in (tmp_path / "judge" / "pictures").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"there is no file .*judge/pictures"):
        load_dataset(str(written), "judge")
    written.write_text(written.read_text() + "broken")
    with pytest.raises(UsageError, match="is no TOML"):
        resolve_dataset(str(written))


def test_a_name_that_is_taken_is_refused(written):
    written.write_text(TOML.replace("NAME", "voc"))
    with pytest.raises(UsageError, match="is called 'voc', which is another dataset's name"):
        resolve_dataset(str(written))


SOURCE = """
from dataclasses import replace
from densebench.datasets.scenes.dataset import Scenes

class Mine(Scenes):
    info = replace(Scenes.info, name="NAME", embedded=False)

class NoDataset:
    pass
"""


def test_a_class_in_a_file(tmp_path):
    path = tmp_path / "own_data.py"
    path.write_text(SOURCE.replace("NAME", "mine"))
    assert isinstance(load_dataset(f"{path}:Mine", "val"), Scenes)
    assert resolve_dataset(f"{path}:Mine") == "mine"
    with pytest.raises(UsageError, match=r"is no subclass of densebench\.DenseDataset"):
        resolve_dataset(f"{path}:NoDataset")
    with pytest.raises(UsageError, match=r"unknown dataset .*own_data\.py:Min.*; did you mean"):
        resolve_dataset(f"{path}:Min")
    with pytest.raises(UsageError, match="does not exist"):
        resolve_dataset(f"{tmp_path}/none.py:Mine")
    sys.modules.pop("densebench_user_own_data")
