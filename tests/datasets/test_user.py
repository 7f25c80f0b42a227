import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from densebench.cli import main
from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.dataset import check_same_size
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.tools.checks import check
from densebench.datasets.user.images import load_images
from densebench.views.segmentation import read_pair

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
    assert info.classes == ("ground", "dirt", "cell")  # what is ignored is not a class
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


def test_lists_may_be_of_any_editor_and_name_files_with_spaces(written):
    folder = written.parent / "fit"
    (folder / "pictures" / "0.png").rename(folder / "pictures" / "a b.png")
    (folder / "labels" / "0_gt.png").rename(folder / "labels" / "a b_gt.png")
    written.write_text(written.read_text() + 'lists = "{split}.txt"\n')
    (written.parent / "fit.txt").write_bytes("\ufeffa b\r\n1 -1\r\n".encode())
    assert load_dataset(str(written), "fit").ids == ["1", "a b"]
    (written.parent / "fit.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DatasetError, match=r"1 of 1 files of split fit are missing .*first: café\.png"):
        load_dataset(str(written), "fit")
    (written.parent / "fit.txt").unlink()
    with pytest.raises(DatasetError, match=r"fit\.txt cannot be read \(No such file or directory\)"):
        load_dataset(str(written), "fit")


def test_masks_may_lie_beside_their_images_and_hidden_files_are_left_out(written):
    for path in (written.parent / "fit" / "labels").iterdir():
        path.rename(written.parent / "fit" / "pictures" / path.name)
    (written.parent / "fit" / "pictures" / "._0.png").write_bytes(b"left by a file manager")
    written.write_text(written.read_text().replace("labels", "pictures"))
    assert load_dataset(str(written), "fit").ids == ["0", "1", "2"]


def test_all_but_the_star_is_meant_as_it_stands(written):
    folder = written.parent / "fit"
    for path in [*folder.glob("pictures/*.png"), *folder.glob("labels/*.png")]:
        path.rename(path.parent / f"[é ?]{path.name}")
    (folder / "pictures").rename(folder / "pic[1]")
    text = written.read_text().replace("pictures/*", "pic[1]/[é ?]*").replace("labels/*", "labels/[é ?]*")
    written.write_text(text.replace("\n", "\r\n"))
    moved = written.rename(written.parent / "wie ist's.toml")
    assert load_dataset(str(moved), "fit").ids == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("RGB", r"mode RGB; expected a grey or palette PNG .*Colours are not numbers"),
        ("I;16", r"mode I;16; expected .*Save the numbers with 8 bits"),
        ("F", r"mode F; expected .*Save the numbers with 8 bits"),
    ],
)
def test_masks_of_another_kind_are_refused(written, mode, message):
    folder = written.parent / "judge" / "labels"
    Image.open(folder / "0_gt.png").convert("I" if mode == "I;16" else mode).convert(mode).save(folder / "0_gt.tif")
    written.write_text(written.read_text().replace("_gt.png", "_gt.tif"))
    with pytest.raises(DatasetError, match=message):
        load_dataset(str(written), "judge").mask(0)


def test_a_palette_changes_nothing(written):
    path = written.parent / "judge" / "labels" / "0_gt.png"
    before = load_dataset(str(written), "judge").mask(0)
    mask = Image.open(path)
    mask.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    mask.save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(load_dataset(str(written), "judge").mask(0), before)


def test_images_of_sixteen_bits_are_refused_rather_than_made_white(written):
    Image.fromarray(np.full((9, 12), 20_000, np.uint16)).save(written.parent / "judge" / "pictures" / "0.png")
    with pytest.raises(
        CorruptFileError, match=r"0\.png has pixels of mode I;16; expected 8 bits per channel\. Scale it"
    ):
        load_dataset(str(written), "judge").image(0)


def test_masks_of_0_and_255_are_a_problem_of_the_check(written):
    for path in (written.parent / "fit" / "labels").iterdir():
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(path)
    (problem,) = check(load_dataset(str(written), "fit"), Progress(quiet=True)).problems
    assert problem.startswith("of 3 classes the masks hold only ground, and ")
    assert problem.endswith("masks of 0 and 255 have to be saved as 0 and 1.")


def test_what_the_file_says_of_values_is_in_the_digest(written):
    text = TOML.replace("NAME", "mine")
    digests = set()
    for classes, more in (
        ('"a", "b", "c", "d"', "ignore = [2]"),
        ('"a", "b", "d"', "ignore = []"),  # the same classes, other values
        ('"a", "b", "d"', 'background = ["a", "d"]'),
    ):
        written.write_text(text.replace('"ground", "dirt", "unsure", "cell"', classes).replace("ignore = [2]", more))
        digests.add(load_dataset(str(written), "fit").digest())
    assert DATASETS["mine"].info.background == (0, 2)
    assert len(digests) == 3


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
        ("ignore = [2]", "ignore = 2", "ignore = 2 is not a list"),
        ("ignore = [2]", "ignore = [256]", "ignore: expected integers from 0 to 255"),
        ("ignore = [2]", "ignore = [true]", "ignore: expected integers from 0 to 255"),
        ('"dirt"', '"ground"', "expected 1 to 254 different names"),
        ("pictures/*.png", "pictures/*/*.png", "exactly one \\* in each"),
        ("{split}/pictures", "fit/pictures", r"expected \{split\} in it, or `lists`"),
        ('name = "', 'name = "a/b', "expected letters, digits"),
        ('"fit", "judge"', '"a", "b", "c"', "expected one or two names"),
        ('"fit", "judge"', '"", "judge"', "expected one or two names"),
        ('"dirt"', '["dirt"]', "expected 1 to 254 different names"),
        ("ignore = [2]", "ignore = [0, 1, 2, 3]", "ignore: it leaves no class"),
        ("ignore = [2]", 'background = ["sky"]', "background: expected names out of `classes`"),
        ("*_gt.png", "*_gt.JPG", "masks: JPEG changes class numbers, expected PNG"),
        ("{split}/pictures/*.png", 'fit/pictures/*.png"\nlists = "all.txt', r"lists: expected \{split\} in it"),
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
    with pytest.raises(UsageError, match=r"does not exist; expected a dataset's name, FILE\.toml or FILE\.py:Class"):
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
    with pytest.raises(UsageError, match="is not TOML"):
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
    with pytest.raises(UsageError, match=r"is not a subclass of densebench\.DenseDataset"):
        resolve_dataset(f"{path}:NoDataset")
    with pytest.raises(UsageError, match=r"own_data\.py has no class 'Min'; its classes are Mine, NoDataset"):
        resolve_dataset(f"{path}:Min")
    with pytest.raises(UsageError, match="does not exist"):
        resolve_dataset(f"{tmp_path}/none.py:Mine")
    sys.modules.pop("densebench_user_own_data")


@pytest.mark.parametrize("spec", ["{0}:judge", "{0}:", "own.py", "own.py:", "{0}x"])
def test_what_names_no_dataset_says_what_does(written, spec):
    with pytest.raises(UsageError, match=r"is not a dataset: expected a name, FILE\.toml or FILE\.py:Class, with"):
        resolve_dataset(spec.format(written))


def sideways(picture: Path) -> None:
    """Store a picture, 12 x 9, as cameras do: turned, with a tag that says so."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(picture, exif=exif)
    assert ImageOps.exif_transpose(Image.open(picture)).size == (12, 9)


def test_orientation_tags_turn_nothing(written, capsys):
    """A photo is what its pixels are; a mask that fits only the photo turned is said to."""
    for i in range(3):
        sideways(written.parent / "fit" / "pictures" / f"{i}.png")
    assert load_images(f"{written.parent}/fit/pictures").image(0).size == (9, 12)
    data = load_dataset(str(written), "fit")
    assert data.image(0).size == (9, 12)
    said = r"mine image 0 is 9x12 px but its mask 12x9; expected the same\. The image has an orientation tag"
    assert re.match(said, check(data, Progress(quiet=True)).problems[0])
    with pytest.raises(DatasetError, match=said):
        read_pair(data, 0)
    photo = data.image(0)
    photo.info["exif"] = b"Exif\0\0no tags at all"
    with pytest.raises(DatasetError, match=r"expected the same\. Get the original files"):
        check_same_size(data, 0, photo, data.mask(0), "mask")
    mask = written.parent / "fit" / "labels" / "0_gt.png"
    Image.open(mask).transpose(Image.Transpose.ROTATE_90).save(mask)
    assert read_pair(data, 0)[1].shape == (12, 9)
