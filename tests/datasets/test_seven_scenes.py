import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.datasets.sets.seven_scenes import SevenScenes

MILLIMETRES = np.array([[0, 1500, 65535], [2500, 800, 3499]], dtype=np.uint16)


def write(folder, numbers, ending="png"):
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (3, 2), (number, 20, 30)).save(folder / f"frame-{number:06d}.color.{ending}")
        Image.fromarray(MILLIMETRES).save(folder / f"frame-{number:06d}.depth.png")
        (folder / f"frame-{number:06d}.pose.txt").write_text("1 0 0 0\n")


@pytest.fixture
def root(tmp_path):
    scenes = tmp_path / "7scenes"
    for name, number in (("chess/seq-01", 1), ("chess/seq-02", 2), ("chess/seq-10", 3), ("stairs/seq-03", 4)):
        write(scenes / name, [number, 7])
    (scenes / "chess" / "TrainSplit.txt").write_text("sequence10\nsequence1\n\n")
    (scenes / "chess" / "TestSplit.txt").write_text("sequence2 \r\n")
    (scenes / "stairs" / "TrainSplit.txt").write_text("")
    (scenes / "stairs" / "TestSplit.txt").write_text("sequence3\n")
    return tmp_path


def test_sequences_are_those_that_the_scenes_list(root):
    for place in (root, root / "7scenes"):
        assert SevenScenes(place, "train").ids == [
            "chess/seq-01/frame-000001", "chess/seq-01/frame-000007", "chess/seq-10/frame-000003",
            "chess/seq-10/frame-000007",
        ]  # fmt: skip
    test = SevenScenes(root, "test")
    assert [id_.rsplit("/", 1)[0] for id_ in test.ids] == ["chess/seq-02"] * 2 + ["stairs/seq-03"] * 2
    assert test.image(2).getpixel((0, 0)) == (4, 20, 30)
    assert (SevenScenes.info.train, SevenScenes.info.val) == ("train", "test")


def test_depth_is_metres_with_zero_for_no_measurement(root):
    sample = SevenScenes(root, "test").sample(0)
    assert sample.mask is None
    assert sample.depth.dtype == np.float32
    assert sample.depth.tolist() == [[0.0, 1.5, 0.0], [2.5, pytest.approx(0.8), pytest.approx(3.499)]]


def test_a_sequence_alone_is_split_in_its_order(tmp_path):
    write(tmp_path / "rgbd" / "7scenes", range(0, 170, 17), "jpg")
    train, test = SevenScenes(tmp_path, "train"), SevenScenes(tmp_path, "test")
    assert train.ids == [f"frame-{i:06d}" for i in range(0, 119, 17)]
    assert test.ids == ["frame-000119", "frame-000136", "frame-000153"]
    assert test.depth(2)[1, 0] == 2.5


def pack(folder, archive, packing=zipfile.ZIP_DEFLATED):
    """Move a folder into an archive beside it; archives in it are put there with `packing`."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.*")):
            name = path.relative_to(folder.parent)
            if path.is_file():
                file.write(path, name, packing if path.suffix == ".zip" else zipfile.ZIP_DEFLATED)
    shutil.rmtree(folder)


def pack_sequences(scenes):
    for folder in sorted(scenes.glob("*/seq-*")):
        pack(folder, folder.with_suffix(".zip"))


def states(root):
    found = [SevenScenes(root, split) for split in ("train", "test")]
    return [(data.ids, data.digest(), [data.depth(i).tolist() for i in range(len(data))]) for data in found]


def test_sequences_are_read_in_their_archives_and_these_in_those_of_the_scenes(root):
    scenes, before = root / "7scenes", states(root)
    pack_sequences(scenes)
    assert sorted(path.name for path in (scenes / "stairs").iterdir()) == [
        "TestSplit.txt",
        "TrainSplit.txt",
        "seq-03.zip",
    ]
    assert states(root) == before
    pack(scenes / "chess", scenes / "chess.zip", zipfile.ZIP_STORED)
    assert states(root) == before  # one scene packed, one unpacked
    pack(scenes / "stairs", scenes / "stairs.zip", zipfile.ZIP_STORED)
    assert sorted(path.name for path in scenes.iterdir()) == ["chess.zip", "stairs.zip"]
    assert states(root) == before
    assert str(SevenScenes(root, "test").files(0)[1]).endswith(
        "chess.zip/chess/seq-02.zip/seq-02/frame-000002.depth.png"
    )


def test_a_scene_that_compresses_its_archives_says_how_to_unpack_it(root):
    scenes, before = root / "7scenes", states(root)
    pack_sequences(scenes)
    pack(scenes / "chess", scenes / "chess.zip", zipfile.ZIP_DEFLATED)
    message = rf"chess\.zip holds chess/seq-02\.zip compressed, .*: `unzip -n {scenes}/chess\.zip -d {scenes}`\.$"
    with pytest.raises(DatasetError, match=message):
        SevenScenes(root, "test")
    with zipfile.ZipFile(scenes / "chess.zip") as file:
        file.extractall(scenes)
    assert states(root) == before


def test_the_digest_follows_the_depth(root):
    before = SevenScenes(root, "test").digest()
    Image.fromarray(MILLIMETRES + 1).save(root / "7scenes" / "chess" / "seq-02" / "frame-000002.depth.png")
    assert SevenScenes(root, "test").digest() != before


def test_what_is_missing_is_said(root, tmp_path):
    with pytest.raises(UsageError, match="unknown split 'val'"):
        SevenScenes(root, "val")
    with pytest.raises(DatasetError, match="no data root given"):
        SevenScenes(None)
    with pytest.raises(DatasetError, match=r"the data root .*nowhere does not exist"):
        SevenScenes(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no folder chess/ or fire/ or .*Microsoft Research's page"):
        SevenScenes(root / "7scenes" / "chess")
    scenes = root / "7scenes"
    (scenes / "stairs" / "TestSplit.txt").write_text("sequence3\nsequence4\n")
    with pytest.raises(DatasetError, match=r"seq-04 is missing, which .*TestSplit\.txt lists"):
        SevenScenes(root, "test")
    (scenes / "stairs" / "TestSplit.txt").write_text("seq-03\n")
    with pytest.raises(DatasetError, match=r"holds 'seq-03'; expected lines such as sequence1"):
        SevenScenes(root, "test")
    (scenes / "stairs" / "TestSplit.txt").unlink()
    with pytest.raises(DatasetError, match=r"TestSplit\.txt is missing"):
        SevenScenes(root, "test")
    (scenes / "chess" / "seq-02" / "frame-000007.depth.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 files of split test are missing.*frame-000007\.depth\.png"):
        SevenScenes(root, "test")
    for scene in ("chess", "stairs"):
        (scenes / scene / "TrainSplit.txt").write_text("")
    with pytest.raises(DatasetError, match="no frame of split train below"):
        SevenScenes(root, "train")


def test_another_scale_and_broken_files_are_refused(root):
    path = root / "7scenes" / "chess" / "seq-02" / "frame-000002.depth.png"
    Image.fromarray((MILLIMETRES % 65535) * 8).save(path)
    with pytest.raises(DatasetError, match=r"reaches 27\.99 m if 1000 is a metre, as in 7-Scenes"):
        SevenScenes(root, "test").depth(0)
    Image.fromarray(MILLIMETRES.astype(np.uint8)).save(path)
    with pytest.raises(DatasetError, match="expected a 16-bit grey PNG"):
        SevenScenes(root, "test").depth(0)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CorruptFileError, match="cannot be decoded as a depth map"):
        SevenScenes(root, "test").depth(0)
