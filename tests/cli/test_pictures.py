"""`densebench pictures` on toy data with two models, as a user runs it."""

import subprocess
import sys

import pytest

from tests.cli.test_run import cli  # noqa: F401  (a fixture)

TWO = ["pictures", "--dataset", "voc", "--data-root", "data", "--input-size", "64", "--quiet", "--models",
       "mine.py:ColorBackbone,other=mine.py:OneHotBackbone"]  # fmt: skip


def test_two_models_are_drawn_and_nothing_is_replaced_without_the_flag(cli):  # noqa: F811
    done = cli(*TWO)
    assert (done.returncode, done.stderr) == (0, "")
    paths = ["pictures/voc-pca.png", "pictures/voc-similarity.png"]
    assert done.stdout.splitlines() == paths
    first = [(cli.folder / path).read_bytes() for path in paths]
    assert all(content[:4] == b"\x89PNG" for content in first)
    (cli.folder / paths[0]).write_bytes(b"mine")
    again = cli(*TWO)
    assert again.returncode == 2
    assert "voc-pca.png and 1 more is there and stays" in again.stderr
    assert (cli.folder / paths[0]).read_bytes() == b"mine"
    assert cli(*TWO, "--overwrite").returncode == 0
    assert [(cli.folder / path).read_bytes() for path in paths] == first  # the same bytes again


def test_one_image_by_name_and_a_patch(cli):  # noqa: F811
    done = cli(*TWO, "--kind", "similarity", "--images", "2007_val_0003", "--patch", "0,7")
    assert (done.returncode, done.stdout) == (0, "pictures/voc-similarity.png\n")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--kind", "pcaa"], "unknown kind of picture 'pcaa'; did you mean 'pca'"),
    (["--kind", ""], "--kind is empty"),
    (["--images", "2007_val_003"], "did you mean '2007_val_0003'"),
    (["--images", "\x1b[31m'; rm -rf <b>=1"], "unknown image of voc val"),
    (["--images", "2007_val_0003", "--limit", "2"], "unknown image of voc val among the first 2 '2007_val_0003'"),
    (["--images", ","], "--images names 0 images"),
    (["--first", "0"], "--first 0: expected at least 1"),
    (["--first", "65"], "at most 64"),
    (["--input-size", "0"], "--input-size 0"),
    (["--patch=-1,0"], "--patch -1,0: expected a row and a column"),
    (["--patch", "1"], "--patch 1: expected a row and a column"),
    (["--patch", "1,2,3"], "--patch 1,2,3: expected a row and a column"),
    (["--patch", "a,b"], "such as 0,7"),
    (["--clusters", "0"], "--clusters 0: expected numbers above 0"),
    (["--clusters", "²"], "expected numbers above 0"),
    (["--clusters", "9" * 5000], "expected numbers above 0"),
    (["--limit", "0"], "--limit 0"),
    (["--dataset", "vocc"], "unknown dataset 'vocc'"),
    (["--models", "picoo"], "unknown model 'picoo'"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_words_before_torch_is_imported(arguments, words, cli):  # noqa: F811
    code = (
        "import sys\nfrom densebench.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    every = [sys.executable, "-c", code, *TWO[:-1], "pico", *arguments]
    done = subprocess.run(every, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["2 False"], done.stderr
    assert words in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cli.folder / "pictures").exists()


def test_a_folder_that_is_a_file_is_refused(cli):  # noqa: F811
    (cli.folder / "mine").write_text("x")
    done = cli(*TWO, "--out", "mine", "--overwrite")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--out mine is a file" in done.stderr


def test_what_one_model_lacks_costs_its_own_column(cli):  # noqa: F811
    done = cli(*TWO, "--kind", "pca", "--facet", "key")
    assert (done.returncode, done.stdout) == (1, "pictures/voc-pca.png\n")
    assert "not drawn: pca of other: --facet key: other has the facets token" in done.stderr
    done = cli(*TWO, "--kind", "similarity", "--patch", "8,0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "lies outside of the grid of 8 x 8 patches" in done.stderr
    done = cli(*TWO[:-1], "nowhere.py:A", "--kind", "pca", "--out", "b")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("kind", "names", "arguments"), [
    ("segmentation,retrieval", ["segmentation", "retrieval"], ["--set", "hummingbird.neighbours=5"]),
    ("retrieval", ["retrieval"], ["--patch", "7,0", "--set", "hummingbird.neighbours=2"]),
    ("clusters", ["clusters-4", "clusters-21"],
     ["--clusters", "4,classes", "--set", "overclustering.n_redo=1", "--set", "overclustering.n_iter=5"]),
])  # fmt: skip
def test_protocols_on_two_models_side_by_side(kind, names, arguments, cli):  # noqa: F811
    done = cli(*TWO, "--kind", kind, "--first", "2", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"pictures/voc-{name}.png" for name in names]


def test_ground_truth_that_a_dataset_lacks_is_said_or_left_out(cli):  # noqa: F811
    done = cli(*TWO, "--kind", "depth")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--kind depth needs depth, which voc does not have" in done.stderr


def test_too_many_clusters_for_the_images_are_said(cli):  # noqa: F811
    done = cli(*TWO, "--kind", "clusters", "--clusters", "500")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not drawn: clusters of color: 500 clusters need as many patches; 6 images have 384" in done.stderr


def test_depth_of_scenes(cli):  # noqa: F811
    done = cli("pictures", "--models", "pico", "--dataset", "scenes", "--kind", "depth", "--limit", "2", "--first", "1",
               "--quiet", "--set", "in_context_depth.memory_size=200")  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "pictures/scenes-depth.png\n")


def test_attention_and_keypoints_of_scenes_and_what_has_no_attention(cli):  # noqa: F811
    scenes = ["pictures", "--dataset", "scenes", "--first", "1", "--limit", "12", "--input-size", "64", "--quiet"]
    done = cli(*scenes, "--models", "pico,mine.py:ColorBackbone", "--kind", "attention,keypoints", "--layer", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["pictures/scenes-attention.png", "pictures/scenes-keypoints-1.png"]
    assert done.stderr.startswith("not drawn: attention of color: color gives no attention maps.")
    assert len(done.stderr.splitlines()) == 1


def test_trainings_of_the_zoo_and_models_without_a_log(cli):  # noqa: F811
    done = cli("pictures", "--models", "paka_pico,mine.py:ColorBackbone", "--dataset", "scenes", "--kind", "training",
               "--first", "1", "--input-size", "64", "--quiet")  # fmt: skip
    assert done.stdout.splitlines() == ["pictures/scenes-training-curves.png", "pictures/scenes-training-planes.png"]
    assert done.stderr.startswith("not drawn: training of color: color has no log of a training")
    assert done.returncode == 1


def test_classwise_information_is_that_of_results(cli):  # noqa: F811
    drawn = [*TWO[:-1], "mine.py:ColorBackbone", "--kind", "classwise-mi"]
    done = cli(*drawn)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no result of positional_effect for one layer and facet of color on voc is in results" in done.stderr
    assert cli.run("--protocol", "positional_effect", "--pictures", "0").returncode == 0
    done = cli(*drawn)
    assert (done.returncode, done.stdout, done.stderr) == (0, "pictures/voc-classwise-mi.png\n", "")


def test_all_is_what_can_be_drawn(cli):  # noqa: F811
    fast = ["--set", "overclustering.n_redo=1", "--set", "overclustering.n_iter=2", "--clusters", "4"]
    done = cli(*TWO, "--kind", "all", "--first", "1", *fast)
    assert done.returncode == 0
    names = [line.removeprefix("pictures/voc-").removesuffix(".png") for line in done.stdout.splitlines()]
    assert names == ["pca", "similarity", "segmentation", "clusters-4", "retrieval"]
    lacking = [line.split(":")[1].split()[0] for line in done.stderr.splitlines()]
    assert lacking == ["attention", "training", "classwise-mi"] * 2
