"""What kinds draw of images that are not square, of void, and of a single patch."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from densebench.core.progress import Progress
from densebench.datasets.dataset import DenseDataset
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.figures import kit
from densebench.figures.kit import VOID_COLOR
from densebench.pictures.kinds import KINDS
from densebench.pictures.options import Options
from densebench.pictures.view import Model, View
from densebench.protocols.protocol import Context, Data
from tests import toys

HEIGHT, WIDTH = 64, 128
HOSTILE = "$\\frac{ \x1b[31m <b>=1\n"


class Wide(DenseDataset):
    """Twice as wide as high: class 1 on the left, class 2 on the right, void below."""

    info = replace(VOC.info, classes=VOC.info.classes[:4], palette=VOC.info.palette[:4], splits={"train": 3, "val": 3})
    ids = ("a", "b" * 200, HOSTILE)

    def image(self, index):
        pixels = toys.COLORS[np.where(self.mask(index) == 255, 0, self.mask(index))]
        return Image.fromarray(pixels)

    def mask(self, index):
        mask = np.full((HEIGHT, WIDTH), 1, np.uint8)
        mask[:, WIDTH // 2 :] = 2
        mask[-16:] = 255
        return mask


@pytest.fixture
def grids(monkeypatch):
    """The cells of each grid that is drawn, which is drawn all the same."""
    seen, draw = [], kit.picture_grid

    def kept(rows, *others, **named):
        seen.append(rows)
        return draw(rows, *others, **named)

    monkeypatch.setattr(kit, "picture_grid", kept)
    return seen


def shown(kind, size=64, settings=None, names=("one", HOSTILE)):
    data, kind = Data(Wide(None, "train"), Wide(None, "val")), KINDS[kind].load()
    options = Options(input_size=size, clusters=("3",), settings=settings or {})
    view = View(data, (0, 1, 2), options)
    found = {}
    for name in names:
        context = Context(FeatureSource(toys.ColorBackbone(), batch_size=2), Progress(quiet=True))
        found[name] = kind.show(view, Model(name, "mine.py:A", context, data, options))
    pictures = kind.draw(view, found)
    assert all(png[:4] == b"\x89PNG" for png in pictures.values())
    return found, pictures


@pytest.mark.parametrize("kind", ["pca", "similarity", "segmentation", "clusters"])
def test_cells_have_the_shape_of_their_image(kind, grids):
    settings = {"hummingbird": {"neighbours": 3, "augmentation_epochs": 0}, "overclustering": {"n_redo": 1}}
    found, _ = shown(kind, settings=settings)
    (rows,) = grids
    assert list(rows) == list(Wide.ids)
    assert {cell.shape for row in rows.values() for cell in row} == {(HEIGHT, WIDTH, 3)}
    assert len(found) == 2


def test_predictions_stand_the_right_way_round_and_void_of_the_truth_is_grey(grids):
    shown("segmentation", settings={"hummingbird": {"neighbours": 3, "augmentation_epochs": 0, "void_to": 3}})
    for _, truth, prediction, again in grids[0].values():
        assert tuple(truth[0, 0]) == Wide.info.palette[1]
        assert tuple(truth[0, -1]) == Wide.info.palette[2]
        assert tuple(truth[-1, 0]) == VOID_COLOR
        assert tuple(prediction[8, 8]) == Wide.info.palette[1]
        assert tuple(prediction[8, -8]) == Wide.info.palette[2]
        assert np.array_equal(prediction, again)


def test_the_patch_that_is_asked_about_is_the_same_for_all_models_and_like_its_own_half(grids):
    found, _ = shown("similarity")
    one, other = found.values()
    assert one.patches == other.patches == [(4, 4)] * 3
    assert (one.same[0][:6, 4:] > 0.99).all()
    assert one.same[0][:6, :4].max() < 0.9


@pytest.mark.parametrize("kind", ["pca", "similarity"])
def test_one_patch_is_enough(kind, grids):
    found, _ = shown(kind, size=8)
    if kind == "similarity":
        assert [m.shape for m in found["one"].same] == [(1, 1)] * 3
        assert found["one"].same[0] == pytest.approx(1.0)


def test_retrieval_of_void_is_no_class_and_no_error():
    settings = {"hummingbird": {"neighbours": 2, "augmentation_epochs": 0}}
    data, kind = Data(Wide(None, "train"), Wide(None, "val")), KINDS["retrieval"].load()
    options = Options(input_size=64, patch=(7, 0), settings=settings)
    view = View(data, (0,), options)
    context = Context(FeatureSource(toys.ColorBackbone()), Progress(quiet=True))
    (answer,) = kind.show(view, Model("a", "a", context, data, options))
    assert answer.query.caption == "void"
    assert answer.query.box == (0, 56, 8)
    assert len(answer.neighbours) == 2
    assert kind.draw(view, {"a": [answer]})["retrieval"][:4] == b"\x89PNG"
