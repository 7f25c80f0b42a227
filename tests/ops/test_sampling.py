import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.sampling import (
    draw_subset,
    patch_scores,
    patches_per_image,
    patchify_labels,
    sample_patches,
    scores_of,
    scores_of_ids,
    soft_labels,
    subset_size,
)


def random_masks(seed: int = 0, n_classes: int = 5) -> torch.Tensor:
    return torch.randint(0, n_classes, (3, 8, 12), generator=torch.Generator().manual_seed(seed))


def test_soft_labels_are_the_shares_of_each_class():
    masks = random_masks()
    masks[0, :4, :4] = 255
    found = soft_labels(masks, 4, 5)
    one_hot = torch.nn.functional.one_hot(masks.masked_fill(masks == 255, 0), 5).float()
    expected = one_hot.view(3, 2, 4, 3, 4, 5).mean((2, 4))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 2, 3))


def test_void_can_be_left_out():
    masks = random_masks()
    masks[0, :4, :4] = 255
    masks[0, 4, 0] = 255
    found = soft_labels(masks, 4, 5, void_to=None)
    assert float(found[0, 0, 0].sum()) == 0
    assert float(found[0, 1, 0].sum()) == 15 / 16


@pytest.mark.parametrize(("value", "void_to"), [(5, 0), (5, None), (-1, 0)])
def test_labels_outside_the_classes_are_refused(value, void_to):
    masks = random_masks()
    masks[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"expected 0\.\.4"):
        soft_labels(masks, 4, 5, void_to=void_to)


def test_masks_must_divide_into_patches():
    with pytest.raises(ValueError, match="8x12"):
        soft_labels(random_masks(), 5, 5)


def test_scores_by_hand():
    masks = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 2]]])  # two patches: {0}, {1, 2}; then class 1 twice
    assert patch_scores(masks, 2, 3).tolist() == [[[1, 2]]]
    assert torch.equal(scores_of(soft_labels(masks, 2, 3)), patch_scores(masks, 2, 3))


def test_scores_of_ids_are_those_of_their_masks():
    masks = random_masks()
    assert torch.equal(scores_of_ids(patchify_labels(masks, 4), 5), patch_scores(masks, 4, 5))


def test_sampling_prefers_rare_classes_and_never_repeats():
    scores = torch.tensor([[[30.0, 1.0], [30.0, 30.0]]]).repeat(500, 1, 1)
    noise = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
    chosen = sample_patches(scores, 2, noise)
    assert float((chosen == 1).any(1).float().mean()) > 0.9
    assert all(len(set(row)) == 2 for row in chosen.tolist())
    assert sample_patches(scores, 9, noise).shape == (500, 4)


def test_share_of_the_memory():
    assert patches_per_image(10_240_000, 10_582, 2) == 483  # the published counts
    assert patches_per_image(10_240_000, 20_210, 2) == 253
    assert patches_per_image(10_240_000, 1320, 2) == 3878
    assert patches_per_image(10_240_000, 1320, 2, n_patches=1024) == 1024
    assert patches_per_image(10, 1000) == 1


@pytest.mark.parametrize(("n", "n_labels", "sizes"), [(10_582, 20, (1320, 160, 80)), (20_210, 150, (2550, 300, 150))])
def test_subset_sizes_are_the_published_ones(n, n_labels, sizes):
    assert tuple(subset_size(n, factor, n_labels) for factor in (8, 64, 128)) == sizes


def random_presence(n: int, n_labels: int, seed: int) -> torch.Tensor:
    presence = torch.rand(n, n_labels + 1, generator=torch.Generator().manual_seed(seed)) < 0.3
    presence[:, 0] = True
    return presence


@given(st.integers(0, 1000), st.sampled_from([2, 8, 30]))
@settings(max_examples=25)
def test_subset_gives_every_label_its_quota(seed, factor):
    presence = random_presence(400, 6, seed)
    chosen = draw_subset(presence, factor, seed)
    quota = round(400 / (factor * 6))
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, draw_subset(presence, factor, seed))
    if factor > 2:  # a half of the images cannot always be shared out
        assert len(chosen) == subset_size(400, factor, 6) == quota * 6
        assert bool((presence[chosen][:, 1:].sum(0) >= quota).all())


def test_subsets_differ_by_seed_and_small_sets_still_give_images():
    presence = random_presence(400, 6, 0)
    assert not torch.equal(draw_subset(presence, 8, 42), draw_subset(presence, 8, 400))
    few = draw_subset(presence[:20], 8, 0)
    assert len(few) == subset_size(20, 8, 6) == 2
    assert torch.equal(draw_subset(presence, 1, 0), torch.arange(400))


def test_rare_labels_draw_before_their_images_are_gone():
    presence = torch.zeros(40, 4, dtype=torch.bool)
    presence[:, 1:3] = True
    presence[:3, 3] = True  # a rare label, always beside the common ones
    for seed in range(20):
        chosen = draw_subset(presence, 4, seed)
        assert len(chosen) == subset_size(40, 4, 3) == 9  # fewer, had the common labels taken the rare one's images
        assert int(presence[chosen, 3].sum()) == 3


def test_without_labels_images_are_drawn_uniformly():
    presence = torch.zeros(40, 3, dtype=torch.bool)
    presence[:, 0] = True
    assert len(draw_subset(presence, 8, 0)) == 5
