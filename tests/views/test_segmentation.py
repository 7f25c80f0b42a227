import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.views.order import load_views
from densebench.views.segmentation import Mirror, SegmentationViews, resized


class Gradients(DenseDataset):
    """Images whose red and green say column and row, and masks of the same columns."""

    info = DatasetInfo(name="gradients", title="gradients", classes=("a",) * 200, palette=(), splits={"train": 6})

    def __init__(self, broken=()):
        super().__init__(None, "train")
        self.ids = [f"image_{i}" for i in range(6)]
        self.broken = broken

    def image(self, index):
        rows, columns = np.mgrid[0 : 60 + index, 0:90]
        return Image.fromarray(np.stack([2 * columns, 2 * rows, columns * 0 + index], -1).astype(np.uint8))

    def mask(self, index):
        height = 60 + index - (1 if index in self.broken else 0)
        return np.tile(2 * np.arange(90, dtype=np.uint8), (height, 1))


def views(data=None, **settings):
    return SegmentationViews(data=data or Gradients(), size=(32, 40), **settings)


def test_a_view_is_what_torchvision_makes_of_the_same_draw():
    data = Gradients()
    for epoch, index in [(0, 0), (0, 3), (7, 3)]:
        some = views(data, seed=5)
        window, mirrored = some.draw(epoch, index, (60 + index, 90))
        found_index, image, mask = some[epoch, index]
        wanted = F.resized_crop(data.image(index), *window, [32, 40], InterpolationMode.BILINEAR)
        target = F.resized_crop(Image.fromarray(data.mask(index)), *window, [32, 40], InterpolationMode.NEAREST)
        if mirrored:
            wanted, target = F.hflip(wanted), F.hflip(target)
        assert found_index == index
        assert torch.equal(image, F.pil_to_tensor(wanted))
        assert torch.equal(mask, F.pil_to_tensor(target)[0])


def test_the_box_is_torchvisions_for_the_same_random_numbers():
    some = views(scale=(0.2, 0.9))
    state = np.random.SeedSequence([0, 4, 2]).generate_state(1, np.uint64)
    window, mirrored = some.draw(4, 2, (62, 90))
    with torch.random.fork_rng():
        torch.manual_seed(int(state[0] >> np.uint64(1)))
        reference = RandomResizedCrop.get_params(torch.empty(3, 62, 90), [0.2, 0.9], [3 / 4, 4 / 3])
        assert mirrored == bool(torch.rand(1) < 0.5)
    assert tuple(reference) == tuple(window)


def test_image_and_mask_are_cut_from_the_same_place():
    for index in range(6):
        _, image, mask = views(flip=0.0)[0, index]
        inside = slice(2, -2)  # bilinear and nearest differ by half a source pixel
        difference = image[0, inside, inside].int() - mask[inside, inside].int()
        assert difference.abs().max() <= 4


def test_boxes_keep_to_scale_and_half_of_the_views_are_mirrored():
    some = views(scale=(0.8, 1.0))
    drawn = [some.draw(epoch, 0, (500, 375)) for epoch in range(400)]
    shares = np.array([height * width / (500 * 375) for (_, _, height, width), _ in drawn])
    assert shares.min() >= 0.79
    assert 0.85 < shares.mean() < 0.95
    assert 0.4 < np.mean([mirrored for _, mirrored in drawn]) < 0.6
    assert not any(views(flip=0.0).draw(epoch, 0, (50, 50))[1] for epoch in range(20))


def test_epoch_image_and_seed_change_the_draw_and_nothing_else_does():
    draw = views().draw(1, 2, (60, 90))
    assert draw == views().draw(1, 2, (60, 90))
    others = [views().draw(2, 2, (60, 90)), views().draw(1, 3, (60, 90)), views(seed=1).draw(1, 2, (60, 90))]
    assert all(other != draw for other in others)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_workers_and_batches_draw_the_same_views(workers, size):
    keys = [(epoch, i) for epoch in range(2) for i in (5, 0, 3)]
    batches = [keys[i : i + size] for i in range(0, len(keys), size)]
    found = list(load_views(views(), batches, workers))
    assert [i for indices, _, _ in found for i in indices] == [5, 0, 3, 5, 0, 3]
    wanted = [views()[key] for key in keys]
    assert torch.equal(torch.cat([images for _, images, _ in found]), torch.stack([w[1] for w in wanted]))
    assert torch.equal(torch.cat([masks for _, _, masks in found]), torch.stack([w[2] for w in wanted]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mask_of_another_size_names_its_image(workers):
    stream = load_views(views(Gradients(broken=(3,))), [[(0, 0), (0, 3)]], workers)
    with pytest.raises(DatasetError, match="image_3 is 90x63 px but its mask 90x62"):
        list(stream)


def test_the_mirror_is_the_flipped_whole_image():
    data = Gradients()
    image, mask = Mirror()(data.image(1), data.mask(1), (32, 40), 1)
    whole = resized(data.image(1), data.mask(1), (0, 0, 61, 90), (32, 40), mirrored=False)
    assert torch.equal(image, whole[0].flip(-1))
    assert torch.equal(mask, whole[1].flip(-1))
    assert Mirror()(data.image(1), None, (32, 40), 1)[1] is None
