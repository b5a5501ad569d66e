"""The order in which layers are mixed and sides widened: the cheapest one that gives the same."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select, arrays_of

torch = pytest.importorskip("torch")

from ligo_torch.backend import apply_map  # noqa: E402
from ligo_torch.contraction import Leaves, Step, apply_maps, cheapest, products, products_per_entry  # noqa: E402


def dense(rng: np.random.Generator, large: int, small: int) -> Dense:
    return Dense(rng.standard_normal((large, small)))


def new_rows(rng: np.random.Generator, large: int, small: int) -> Blocks:
    return Blocks((Identity(small), dense(rng, large - small, small)))


def drawn_map(rng: np.random.Generator, kind: str, small: int) -> Map:
    """A map of a kind from ``small`` entries to twice as many, or as many."""
    if kind == "identity":
        return Identity(small)
    if kind == "select":
        return Select(rng.integers(0, small, 2 * small), small, rng.standard_normal(2 * small))
    if kind == "kron":
        return Kron(new_rows(rng, 4, 2), dense(rng, small // 2, small // 2))
    return dense(rng, 2 * small, small) if kind == "dense" else new_rows(rng, 2 * small, small)


def leaf(array: Any) -> Any:
    return torch.tensor(array)


def drawn_maps(rng: np.random.Generator, kind: str, count: int) -> list[Map]:
    return [drawn_map(rng, kind, 4) for _ in range(count)]


KINDS = ("identity", "select", "kron", "dense", "new rows")


@given(st.lists(st.sampled_from(KINDS), min_size=3, max_size=3), st.integers(0, 9), st.integers(1, 3))
def test_maps_of_all_layers_at_once(kinds: list[str], seed: int, axis: int) -> None:
    """Whatever their kinds, alike or not, they do what each does by itself."""
    rng = np.random.default_rng(seed)
    maps = [drawn_map(rng, kind if kind != "identity" else "new rows", 4) for kind in kinds]
    tensors = torch.tensor(rng.standard_normal((3, 4, 4, 4)))
    wanted = torch.stack([apply_map(map_, tensors[i], axis - 1, leaf) for i, map_ in enumerate(maps)])
    torch.testing.assert_close(apply_maps(maps, tensors, axis, Leaves(leaf)), wanted, rtol=1e-12, atol=1e-12)
    same = apply_maps(maps[:1], tensors, axis, Leaves(leaf))
    each = torch.stack([apply_map(maps[0], tensors[i], axis - 1, leaf) for i in range(3)])
    torch.testing.assert_close(same, each, rtol=1e-12, atol=1e-12)


@given(st.sampled_from(KINDS), st.sampled_from([1, 3]), st.integers(2, 4), st.data())
def test_gradients_of_maps_of_all_layers(kind: str, count: int, ndim: int, data: st.DataObject) -> None:
    """Of the tensors and of the maps' arrays: along any side of vectors, matrices and stacks of matrices."""
    axis, seed = data.draw(st.integers(1, ndim - 1)), data.draw(st.integers(0, 9))
    rng = np.random.default_rng(seed)
    maps = drawn_maps(rng, kind, count)
    arrays = [array for map_ in maps for array in arrays_of(map_)]
    values = torch.tensor(rng.standard_normal((3, 4, 4, 4)[:ndim]))
    found = []
    for at_once in (True, False):
        tensors = values.clone().requires_grad_()
        leaves = {id(array): torch.tensor(array, requires_grad=True) for array in arrays}
        stand_in = lambda array: leaves[id(array)]  # noqa: B023, E731
        if at_once:
            grown = apply_maps(maps, tensors, axis, Leaves(stand_in))
        else:
            grown = torch.stack([apply_map(maps[i % count], tensors[i], axis - 1, stand_in) for i in range(3)])
        weights = torch.arange(grown.numel(), dtype=grown.dtype).reshape(grown.shape).sin()
        found.append(torch.autograd.grad((grown * weights).sum(), [tensors, *leaves.values()]))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*found, strict=True))
    assert all(bool(gradient.any()) for gradient in found[0])


def test_an_array_of_several_layers_is_stacked_once() -> None:
    """However many tensors its maps widen."""
    rng, asked = np.random.default_rng(0), []
    leaves = Leaves(lambda array: asked.append(array) or torch.tensor(array))  # type: ignore[func-returns-value]
    maps = drawn_maps(rng, "new rows", 3)
    for _ in range(2):
        apply_maps(maps, torch.ones(3, 4, dtype=torch.float64), 1, leaves)
    assert len(asked) == 3


@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.booleans(), st.integers(0, 9))
def test_the_order_is_the_cheapest_that_fits(first: str, second: str, by_layer: bool, seed: int) -> None:
    """Among all, and it never widens by a map of one large layer before there are large layers."""
    rng = np.random.default_rng(seed)
    maps = [[drawn_map(rng, first, 4)] * (3 if by_layer else 1), [drawn_map(rng, second, 8)]]
    found = cheapest((4, 8), (3, 2), maps)
    steps: tuple[Step, ...] = ("mix", 0, 1)
    every = [order for order in permutations(steps) if not by_layer or order.index("mix") < order.index(0)]
    assert found in every
    assert products(found, (4, 8), (3, 2), maps) == min(products(order, (4, 8), (3, 2), maps) for order in every)


def test_what_the_orders_cost() -> None:
    """The rules that the first experiments measured: shared maps go before the mixing, and long sides are cut first."""
    rng = np.random.default_rng(0)
    shared, by_layer = [new_rows(rng, 128, 64)], [new_rows(rng, 128, 64) for _ in range(6)]
    assert cheapest((64, 64), (6, 3), [shared, shared])[-1] == "mix"
    assert cheapest((64, 64), (6, 3), [by_layer, by_layer])[0] == "mix"
    assert products(("mix",), (64, 64), (6, 3), []) == 6 * 3 * 64 * 64
    assert products(("mix", 0, 1), (64, 32), (6, 3), [[dense(rng, 128, 64)], [dense(rng, 96, 32)]]) == (
        6 * 3 * 64 * 32 + 6 * 64 * 32 * 128 + 6 * 128 * 32 * 96
    )


def test_new_rows_alone_are_computed() -> None:
    rng = np.random.default_rng(0)
    assert products_per_entry(Identity(4)) == 0
    assert products_per_entry(new_rows(rng, 10, 4)) == 6
    assert products_per_entry(dense(rng, 10, 4)) == 10
    assert products_per_entry(Select(np.zeros(8, dtype=np.int64), 4)) == 2
    assert products_per_entry(Kron(new_rows(rng, 6, 2), Identity(4))) == 4
