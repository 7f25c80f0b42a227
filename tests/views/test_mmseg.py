"""Views for mmsegmentation's pipeline: sizes by hand, image and mask together, the same draw for the same key."""

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset
from densebench.views.mmseg import MmsegViews, distorted

LEVELS = np.array([0, 60, 120, 180, 240], dtype=np.uint8)


class Painted(DenseDataset):
    """Grey images in which the brightness says the class."""

    info = DatasetInfo(
        name="painted",
        title="",
        classes=tuple("abcde"),
        palette=tuple((i, i, i) for i in range(5)),
        splits={"train": 3},
    )

    def __init__(self, shape=(40, 60), masks=None):
        super().__init__(None, "train")
        self.ids = ["0", "1", "2"]
        self.masks = masks if masks is not None else [np.zeros(shape, np.uint8) for _ in self.ids]

    def image(self, index):
        return Image.fromarray(LEVELS[self.masks[index]]).convert("RGB")

    def mask(self, index):
        return self.masks[index]


def blocks(shape, seed, cell=10):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 5, (-(-shape[0] // cell), -(-shape[1] // cell)))
        .astype(np.uint8)
        .repeat(cell, 0)
        .repeat(cell, 1)[: shape[0], : shape[1]]
    )


@pytest.mark.parametrize(
    ("shape", "ratio", "expected"),
    [((375, 500), 1.0, (512, 683)), ((500, 375), 0.5, (341, 256)), ((375, 500), 2.0, (1024, 1365)),
     ((100, 1000), 1.0, (205, 2048))],
)  # fmt: skip
def test_sizes_by_hand(shape, ratio, expected):
    assert MmsegViews(data=Painted(), crop=512).size(*shape, ratio) == expected


def test_whole_images_keep_their_masks():
    data = Painted(masks=[blocks((40, 60), i) for i in range(3)])
    index, image, mask = MmsegViews(data=data, crop=20)[1]
    assert (index, image.shape, image.dtype) == (1, (3, 20, 30), torch.uint8)
    assert np.array_equal(mask, data.mask(1))


def test_the_mask_goes_where_the_image_goes():
    data = Painted(masks=[blocks((40, 60), i) for i in range(3)])
    views = MmsegViews(data=data, crop=48, largest_class=1.0)
    for epoch in range(12):
        _, image, mask = views[(epoch, epoch % 3)]
        assert image.shape == (3, 48, 48)
        assert mask.shape == (48, 48)
        seen = mask != VOID
        assert seen.any()
        assert image[:, ~seen].sum() == 0  # padding is black
        order = torch.stack([image[0][mask == c].float().mean() for c in mask[seen].unique()])
        # recolouring is monotone on greys, and every pixel of a class has the same one but for edges
        assert (order.diff() > -1e-3).all()


def test_a_view_depends_on_seed_epoch_and_image_alone():
    data = Painted(masks=[blocks((40, 60), i) for i in range(3)])
    first = MmsegViews(data=data, crop=32, seed=3)
    again = MmsegViews(data=data, crop=32, seed=3)
    views = [first[(e, i)][1:] for e in range(2) for i in range(3)]
    backwards = [again[(e, i)][1:] for e in (1, 0) for i in (2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for x, y in zip(views, backwards, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(views[0][0], views[3][0])
    assert not torch.equal(views[0][0], MmsegViews(data=data, crop=32, seed=4)[(0, 0)][1])


def test_crops_that_one_class_fills_are_drawn_again():
    mask = np.zeros((64, 256), np.uint8)
    mask[:, 224:] = 1  # the last 8 of 64 columns at half size, of which a crop shows 32
    found = {}
    for largest in (1.0, 0.9):
        views = MmsegViews(data=Painted(masks=[mask] * 3), crop=32, largest_class=largest, ratio=(0.5, 0.5))
        found[largest] = np.mean([bool((views[(epoch, 0)][2] == 1).any()) for epoch in range(60)])
    assert found[1.0] == pytest.approx(8 / 33, abs=0.15)
    assert found[0.9] == pytest.approx(1 - (28 / 33) ** 11 * 25 / 28, abs=0.15)  # 4 columns or more in 11 tries


def test_small_images_are_padded_right_and_below():
    data = Painted(masks=[blocks((40, 60), i) for i in range(3)])
    _, image, mask = MmsegViews(data=data, crop=64, ratio=(0.5, 0.5), flip=0.0)[(0, 0)]
    assert (mask[:32, :48] != VOID).all()
    assert (mask[32:] == VOID).all()
    assert (mask[:, 48:] == VOID).all()
    assert image[:, 32:].sum() == 0


def test_distortion_is_of_published_strength():
    rng = np.random.default_rng(0)
    grey = np.full((2, 2, 3), 128, np.uint8)
    found = np.array([distorted(grey, rng)[0, 0] for _ in range(600)]).astype(int)
    assert (found == found[:, :1]).all()  # saturation and hue leave grey alone
    assert np.mean(found[:, 0] == 128) == pytest.approx(0.25, abs=0.05)  # neither brightness nor contrast
    assert found.min() >= (128 - 32) * 0.5 - 1
    assert found.max() <= min(255, (128 + 32) * 1.5)
    red = np.array([distorted(np.array([[[255, 0, 0]]], np.uint8), rng)[0, 0] for _ in range(300)]).astype(int)
    assert (red[:, 0] >= red[:, 1:].max(1)).all()  # 36 degrees of hue keep red the strongest


def test_files_that_do_not_fit_are_an_error_that_travels():
    data = Painted(masks=[np.zeros((8, 8), np.uint8)] * 3)
    data.image = lambda index: Image.new("RGB", (9, 8))
    for key in (1, (0, 1)):
        error = MmsegViews(data=data, crop=8)[key]
        assert isinstance(error, DatasetError)
        assert "image 1 is 9x8 px but its mask 8x8" in str(error)
