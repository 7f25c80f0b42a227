import itertools
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from densebench.core.errors import DatasetError
from densebench.datasets.sets.coco.index import read_instances, read_segments
from densebench.datasets.sets.coco.outlines import FARTHEST, LONGEST


def by_hand(ring, height, width):
    """COCO's rule point by point: walk the outline on a grid five times as fine, change side at each centre line."""
    fine = [(int(5 * x + 0.5), int(5 * y + 0.5)) for x, y in zip(ring[::2], ring[1::2], strict=True)]
    walk = []
    for (x0, y0), (x1, y1) in zip(fine, [*fine[1:], fine[0]], strict=True):
        wide = abs(x1 - x0) >= abs(y1 - y0)
        back = x0 > x1 if wide else y0 > y1
        (a, b), (c, d) = ((x1, y1), (x0, y0)) if back else ((x0, y0), (x1, y1))
        n = max(abs(x1 - x0), abs(y1 - y0))
        slope = 0 if n == 0 else (d - b) / n if wide else (c - a) / n
        points = [
            (a + t, int(b + slope * t + 0.5)) if wide else (int(a + slope * t + 0.5), b + t) for t in range(n + 1)
        ]
        walk += points[::-1] if back else points
    side = np.zeros(height * width + 1, dtype=int)
    for (x0, y0), (x1, y1) in itertools.pairwise(walk):
        column = (min(x0, x1) + 0.5) / 5 - 0.5
        if x0 != x1 and column == int(column) and 0 <= column <= width - 1:
            row = min(max((min(y0, y1) + 0.5) / 5 - 0.5, 0), height)
            side[int(column) * height + int(np.ceil(row))] ^= 1
    return (np.cumsum(side)[: height * width] % 2 == 1).reshape(width, height).T


def test_a_rectangle_covers_its_pixels(draw):
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(draw([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6)), expected)


def test_rings_of_one_object_are_joined(draw):
    left, right = [0, 0, 2, 0, 2, 4, 0, 4], [1, 0, 3, 0, 3, 4, 1, 4]
    assert draw([left, right], (4, 5)).sum() == 12  # where they overlap nothing is taken away


@pytest.mark.parametrize("points", [0, 1, 2])
def test_rings_without_an_inside_draw_nothing(draw, points):
    ring, square = [0.5, 0.5, 4, 3][: 2 * points], [0, 0, 2, 0, 2, 2, 0, 2]
    assert not draw([ring], (4, 5)).any()
    assert draw([ring, square], (4, 5)).sum() == draw([square, ring], (4, 5)).sum() == 4


@pytest.mark.parametrize("seed", range(30))
def test_any_ring_is_drawn_by_the_rule(draw, seed):
    rng = np.random.default_rng(seed)
    ring = rng.uniform(0, 1, 2 * rng.integers(3, 12)) * rng.choice([20, 33, 45])
    ring = np.round(ring * rng.choice([1, 4, 100])) / rng.choice([1, 4, 100]) if seed % 3 else np.round(ring)
    ring = np.clip(ring, 0, 60).tolist()
    np.testing.assert_array_equal(draw([ring], (30, 40)), by_hand(ring, 30, 40))


def test_rings_over_the_border_are_cut(draw):
    assert draw([[-5, -5, 99, -5, 99, 99, -5, 99]], (7, 9)).all()
    assert not draw([[20, 2, 30, 2, 30, 5]], (7, 9)).any()


def test_runs_go_down_the_columns(draw):
    found = draw({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert found.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 1])
def test_runs_may_be_compressed(draw, share):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 40), (200, 300), (1100, 1000)):
        mask = rng.random(size) < share
        packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        outline = {"size": list(size), "counts": packed["counts"].decode()}
        np.testing.assert_array_equal(draw(outline, size), mask)
        flat = mask.T.ravel()
        counts = np.diff([0, *np.flatnonzero(np.diff(flat, prepend=False)), flat.size])
        np.testing.assert_array_equal(draw({"size": list(size), "counts": counts.tolist()}, size), mask)


@pytest.fixture
def draw(tmp_path):
    """A function from an outline and the size (H, W) of its image to the mask that our reader draws."""

    def mask(outline, size):
        image = {"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}
        annotation = {"image_id": 1, "category_id": 5, "segmentation": outline}
        (tmp_path / "x.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
        return read_instances(tmp_path / "x.json").categories(0) == 5

    return mask


def write(path, annotations):
    images = [{"id": 5, "file_name": "b.jpg", "height": 6, "width": 8}]
    images.append({"id": 3, "file_name": "a.jpg", "height": 2, "width": 2})
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def box(category, x, y, side, **more):
    ring = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"image_id": 5, "category_id": category, "iscrowd": 0, "area": side**2, "segmentation": [ring], **more}


def test_crowds_lie_below_and_small_things_above(tmp_path):
    crowd = {"size": [6, 8], "counts": [0, 48]}
    annotations = [box(7, 1, 1, 1), box(3, 0, 0, 4), box(9, 0, 0, 8, iscrowd=1, area=1, segmentation=crowd)]
    found = read_instances(write(tmp_path / "x.json", annotations))
    assert found.images == ["a", "b"]
    expected = np.full((6, 8), 9)
    expected[:4, :4] = 3
    expected[1, 1] = 7
    np.testing.assert_array_equal(found.categories(1), expected)
    assert not found.categories(0).any()
    again = read_instances(tmp_path / "x.json")  # from the cache
    np.testing.assert_array_equal(again.categories(1), expected)
    write(tmp_path / "x.json", annotations[:1])
    assert (read_instances(tmp_path / "x.json").categories(1) > 0).sum() == 1


def test_other_files_are_refused(tmp_path):
    for text, message in (("{}", "it lacks 'images'"), ("[", "Expecting value")):
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(DatasetError, match=f"is not a COCO file of instances: .*{message}"):
            read_instances(path)


def runs(counts, size=(6, 8)):
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 300}, "annotation 4 has category_id 300; COCO has integers from 1 to 200"),
        ({"category_id": -1}, "annotation 4 has category_id -1"),
        ({"category_id": "1"}, "annotation 4 has category_id '1'"),
        ({"image_id": 777}, "annotation 4 is of image 777, which `images` does not list. Fix it"),
        ({"image_id": "5"}, "annotation 4 is of image '5', which `images` does not list; ids are int there and str"),
        ({"segmentation": None}, "annotation 4 has no segmentation; boxes alone cannot be drawn"),
        ({"segmentation": [0, 0, 4, 0, 4, 4]}, r"annotation 4 has no list of polygons, but \[0, 0, 4, 0, 4, 4\]"),
        ({"segmentation": [[[0, 0], [4, 0], [4, 4]]]}, "has a polygon that is not x and y by turns"),
        ({"segmentation": [[0, 0, 4, 0, 4]]}, "has a polygon that is not x and y by turns"),
        ({"segmentation": runs([0, 48], [8, 6])}, r"run lengths of \[8, 6\] for an image of \[6, 8\]"),
        ({"segmentation": runs([0, 48], [6])}, r"run lengths of \[6\] for an image of \[6, 8\]"),
        ({"segmentation": runs([0, 49])}, "annotation 4 has runs of 49 pixels for an image of 6 x 8"),
        ({"segmentation": runs([0, 47])}, "annotation 4 has runs of 47 pixels"),
        ({"segmentation": runs([])}, "annotation 4 has runs of 0 pixels"),
        ({"segmentation": runs([50, -2])}, "annotation 4 has runs of 48 pixels"),
        ({"segmentation": runs([2**32, 48])}, "annotation 4 has runs of 4294967344 pixels"),
        ({"segmentation": runs([2**63, 2**63, 48])}, "annotation 4 has runs of 18446744073709551664 pixels"),
        ({"segmentation": runs(48)}, "its lists and tables are not nested as in COCO's"),
        ({"segmentation": {"size": [6, 8]}}, "it lacks 'counts'"),
        ({"segmentation": runs("0P1")}, "annotation 4 has runs of 32 pixels"),
        ({"segmentation": runs("")}, "annotation 4 has run lengths '', which are not compressed as COCO does it"),
        ({"segmentation": runs("0`1P")}, "annotation 4 has run lengths '0`1P'"),  # which goes on behind its end
        ({"segmentation": runs("0`1\0")}, "annotation 4 has run lengths "),
        ({"segmentation": runs("0é")}, "annotation 4 has run lengths "),
        ({"segmentation": runs("0" + "o" * 9 + "0")}, "annotation 4 has run lengths "),  # of 50 bits
        ({"segmentation": runs("0O")}, "annotation 4 has runs of -1 pixels"),
        ({"segmentation": [[0, 0, 1e12, 0, 3, 3]]}, r"annotation 4 has a point at 1e\+12 px in an image of 6 x 8"),
        ({"segmentation": [[0, 0, 3, 0, 3, -1e9]]}, r"annotation 4 has a point at -1e\+09 px"),
        ({"segmentation": [[0, 0, float("nan"), 0, 3, 3]]}, "annotation 4 has a point at nan px"),
        ({"segmentation": [[0, 0, float("inf"), 0]]}, "annotation 4 has a point at inf px"),
        ({"segmentation": [[0, 0, FARTHEST, 0] * (LONGEST // FARTHEST)]}, "annotation 4 has an outline of 4000000 px"),
        ({"segmentation": [[0, 0, "a", 0, 3, 3]]}, "could not convert string to float"),
        ({"segmentation": [[0, 0, None, 0, 3, 3]]}, "annotation 4 has a point at nan px"),
    ],
)
def test_an_annotation_that_cannot_be_of_its_image_is_said(tmp_path, change, message):
    path = write(tmp_path / "x.json", [box(1, 0, 0, 1, id=3), box(1, 0, 0, 2, **{"id": 4, **change})])
    with pytest.raises(DatasetError, match=f"is not a COCO file of instances: .*{message}"):
        read_instances(path)


def test_an_image_is_listed_once(tmp_path):
    path = write(tmp_path / "x.json", [box(1, 0, 0, 1)])
    state = json.loads(path.read_text())
    for more in ({**state["images"][0], "id": 9}, {**state["images"][0], "file_name": "c.jpg"}):
        path.write_text(json.dumps({**state, "images": [*state["images"], more]}))
        with pytest.raises(DatasetError, match=r"1 images are listed more than once \(first: (b|id 5)\)"):
            read_instances(path)


def test_what_exporters_leave_out_follows_from_the_outlines(tmp_path):
    crowd = {"size": [6, 8], "counts": [0, 48]}
    annotations = [box(7, 1, 1, 1), box(3, 0, 0, 4), box(9, 0, 0, 8, iscrowd=1, segmentation=crowd), box(5, 4, 0, 2)]
    whole = read_instances(write(tmp_path / "whole.json", annotations)).categories(1)
    for each in annotations:
        each.pop("area")
        each |= {} if each["iscrowd"] else {"iscrowd": None}
    np.testing.assert_array_equal(read_instances(write(tmp_path / "less.json", annotations)).categories(1), whole)
    for each in annotations:
        each.pop("iscrowd")
    np.testing.assert_array_equal(read_instances(write(tmp_path / "least.json", annotations)).categories(1), whole)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (10**6, 10**6, r"a\.jpg has 1000000 x 1000000 pixels; expected 1 to 80 million"),
        (2**33, 1, r"a\.jpg has 8589934592 x 1 pixels"),
        (0, 5, r"a\.jpg has 0 x 5 pixels"),
        (-4, -5, r"a\.jpg has -4 x -5 pixels"),
        (float("inf"), 5, "cannot convert float infinity to integer"),
        (None, 5, "its lists and tables are not nested as in COCO's"),
    ],
)
def test_sizes_that_no_image_has_cost_no_memory(tmp_path, height, width, message):
    image = {"id": 1, "file_name": "a.jpg", "height": height, "width": width}
    annotation = box(1, 0, 0, 1, image_id=1)
    (tmp_path / "x.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    with pytest.raises(DatasetError, match=f"is not a COCO file of instances: {message}"):
        read_instances(tmp_path / "x.json")


def test_segments_of_a_panoptic_file(tmp_path):
    path, segment = tmp_path / "x.json", {"id": 7, "category_id": 18}
    good = {"file_name": "sub/a.jpg", "segments_info": [segment]}
    path.write_text("\ufeff" + json.dumps({"annotations": [good]}))
    assert read_segments(path).categories("a", np.array([0, 7])).tolist() == [0, 18]
    for wrong, message in (
        ([good, good], r"1 images are listed more than once \(first: a\)"),
        ([{"file_name": "a.png"}], r"a\.png has no segments_info"),
        ([{**good, "segments_info": [{**segment, "category_id": 300}]}], "annotation 7 has category_id 300"),
        ([{**good, "segments_info": [{**segment, "category_id": 0}]}], "annotation 7 has category_id 0"),
    ):
        path.write_text(json.dumps({"annotations": wrong}))
        with pytest.raises(DatasetError, match=f"is not a COCO file of panoptic: {message}"):
            read_segments(path)


def test_real_outlines_have_their_area(shared_data, draw):
    state = json.loads((shared_data / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    size = {image["id"]: (image["height"], image["width"]) for image in state["images"]}
    for annotation in state["annotations"][:400]:
        shape, outline = size[annotation["image_id"]], annotation["segmentation"]
        mask = draw(outline, shape)
        if annotation["iscrowd"]:
            assert mask.sum() == sum(outline["counts"][1::2])
            continue
        corners = [np.array([*ring, *ring[:2]]).reshape(-1, 2) for ring in outline]
        length = sum(np.abs(np.diff(c, axis=0)).sum() for c in corners)
        assert abs(mask.sum() - annotation["area"]) <= 0.2 * length + 1  # the outline's own width, no more
        picture = Image.new("1", shape[::-1])
        for ring in outline:
            ImageDraw.Draw(picture).polygon(ring, fill=1)
        assert (mask != np.array(picture)).sum() <= 1.5 * length + 1


def own_mask(outline, size):
    packed = coco_mask.frPyObjects(outline, *size)
    return coco_mask.decode(coco_mask.merge(packed) if isinstance(packed, list) else packed).astype(bool)


@pytest.mark.parametrize("kind", ["inside", "rounded", "over the border", "tiny", "doubled corners"])
def test_random_rings_are_drawn_as_by_cocos_own_tools(kind, draw):
    rng = np.random.default_rng(len(kind))
    for _ in range(50):
        size = tuple(int(side) for side in rng.integers(1, 70, 2))
        rings = []
        for _ in range(rng.integers(1, 3)):
            points = rng.uniform(0, 1, (rng.integers(3, 14), 2))
            if kind == "tiny":
                points = points * rng.choice([0.01, 0.03]) + rng.uniform(0, 1, 2)
            if kind == "over the border":
                points = (points - 0.5) * rng.choice([1.1, 1.5, 3]) + 0.5
            if kind == "doubled corners":
                points = points[rng.integers(0, len(points), len(points) + 2)]
            points *= size[::-1]
            rings.append((np.round(points * 100) / 100 if kind == "rounded" else points).ravel().tolist())
        np.testing.assert_array_equal(draw(rings, size), own_mask(rings, size))


def test_real_masks_are_those_of_cocos_own_tools(shared_data):
    path = shared_data / "coco" / "annotations" / "instances_val2017.json"
    state, found = json.loads(path.read_bytes()), read_instances(path)
    for image in state["images"]:
        size = (image["height"], image["width"])
        mine = [a for a in state["annotations"] if a["image_id"] == image["id"]]
        expected = np.zeros(size, dtype=np.uint8)
        for annotation in sorted(mine, key=lambda a: (-a["iscrowd"], -a["area"])):
            expected[own_mask(annotation["segmentation"], size)] = annotation["category_id"]
        index = found.images.index(image["file_name"].removesuffix(".jpg"))
        np.testing.assert_array_equal(found.categories(index), expected)
