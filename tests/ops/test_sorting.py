from itertools import product

import diffsort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.sorting import comparators, soft_sort

NETWORKS = ("bitonic", "odd_even")
DISTRIBUTIONS = ("cauchy", "logistic", "logistic_phi")

every_network = pytest.mark.parametrize("network", NETWORKS)
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def lists(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_network
@pytest.mark.parametrize("n", range(1, 13))
def test_networks_sort(network, n):
    """A network that sorts all lists of zeros and ones sorts everything (Knuth)."""
    for wires in map(list, product((0, 1), repeat=n)):
        for layer in comparators(network, n):
            for i, j, ascending in layer:
                if (wires[i] > wires[j]) == ascending:
                    wires[i], wires[j] = wires[j], wires[i]
        assert wires == sorted(wires)


@every_network
@pytest.mark.parametrize("n", [2, 9, 49, 64])
def test_comparators_of_a_layer_are_disjoint(network, n):
    for layer in comparators(network, n):
        touched = [wire for pair in layer for wire in pair[:2]]
        assert len(set(touched)) == len(touched)
        assert all(0 <= i < j < n for i, j, _ in layer)


@every_network
@every_distribution
@pytest.mark.parametrize("n", [1, 2, 7, 16, 49])
def test_steep_comparisons_sort(network, distribution, n):
    x = lists(n, 5, n)
    values, matrix = soft_sort(x, network, distribution, steepness=1e12)
    expected, order = x.sort(dim=1)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(matrix, torch.nn.functional.one_hot(order, n).mT.double())


@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from(NETWORKS), st.sampled_from(DISTRIBUTIONS))
@settings(max_examples=60)
def test_matrix_is_doubly_stochastic_and_gives_the_values(seed, n, network, distribution):
    x = lists(seed, 3, n)
    values, matrix = soft_sort(x, network, distribution, steepness=5)
    assert (matrix >= 0).all()
    for dim in (1, 2):
        torch.testing.assert_close(matrix.sum(dim), torch.ones_like(x))
    torch.testing.assert_close(values, torch.einsum("bi,bik->bk", x, matrix))


@every_network
@every_distribution
@pytest.mark.parametrize("n", [2, 9, 49])
def test_agrees_with_diffsort(network, distribution, n):
    oracle = diffsort.DiffSortNet(network, n, steepness=20.0, art_lambda=0.3, distribution=distribution)
    x, weights = lists(0, 4, n), lists(1, 4, n, n)
    found = []
    for sort in (oracle, lambda x: soft_sort(x, network, distribution, 20.0, 0.3)):
        leaf = x.clone().requires_grad_()
        values, matrix = sort(leaf)
        found.append((values, matrix, *torch.autograd.grad((matrix * weights).sum() + values.square().sum(), leaf)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-9)


@every_distribution
def test_gradient(distribution):
    x = lists(0, 2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(soft_sort(x, "bitonic", distribution, 3.0)), x)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_blocks_change_nothing(block):
    x, weights = lists(0, 7, 9).requires_grad_(), lists(1, 7, 9, 9)
    expected = soft_sort(x, block=None)
    found = soft_sort(x, block=block)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    grads = [torch.autograd.grad((s.matrix * weights).sum() + s.values.prod(), x) for s in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1])
    with torch.no_grad():
        torch.testing.assert_close(soft_sort(x, block=block), expected, rtol=0, atol=0)


def test_half_precision_is_widened():
    x = lists(0, 2, 9).bfloat16()
    torch.testing.assert_close(soft_sort(x), soft_sort(x.float()), rtol=0, atol=0)
    assert soft_sort(x.half()).matrix.dtype == torch.float32


def test_gradients_after_a_first_call_in_inference_mode():
    with torch.inference_mode():
        soft_sort(torch.rand(2, 23))
    x = torch.rand(2, 23, requires_grad=True)
    soft_sort(x).matrix.square().sum().backward()
    assert x.grad is not None


def test_no_lists():
    assert soft_sort(torch.empty(0, 4)).matrix.shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "bubble"}, "bubble.*bitonic, odd_even"),
        ({"distribution": "gauss"}, "gauss.*cauchy"),
        ({"steepness": 0}, "steepness is positive"),
        ({"art_lambda": 1.0}, "art_lambda"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        soft_sort(torch.rand(2, 4), **change)


def test_bad_shape():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        soft_sort(torch.rand(2, 3, 4))
