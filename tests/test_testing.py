"""The tools for tests: wrong backends are caught, and the strategies draw what they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ligo_spec.family import family_names, load_family
from ligo_spec.maps import Dense, Kron, Map, Select, dense
from ligo_spec.methods import DEPTH_METHODS, WIDTH_METHODS
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator_check import check_operator
from ligo_spec.testing import DrawnGrowth, architectures, check_backend, growths, maps, operators, random_small, targets

Array = npt.NDArray[Any]


class LosesWeights(NumpyBackend):
    """Takes every selection for a plain copy."""

    def apply_map(self, map_: Map, tensor: Array, axis: int, /) -> Array:
        """Wrong for weighted selections only."""
        if isinstance(map_, Select) and map_.weight is not None:
            map_ = Select(map_.index, map_.small)
        return super().apply_map(map_, tensor, axis)


class SwapsFactors(NumpyBackend):
    """Takes a Kronecker product in the wrong order."""

    def apply_map(self, map_: Map, tensor: Array, axis: int, /) -> Array:
        """Wrong for Kronecker products only."""
        if isinstance(map_, Kron):
            map_ = Dense(np.kron(dense(map_.inner), dense(map_.outer)))
        return super().apply_map(map_, tensor, axis)


class Transposes(NumpyBackend):
    """Applies the transpose of square matrices: equal shapes hide it."""

    def apply_map(self, map_: Map, tensor: Array, axis: int, /) -> Array:
        """Wrong for square dense maps only."""
        if isinstance(map_, Dense) and map_.shape[0] == map_.shape[1]:
            map_ = Dense(map_.matrix.T)
        return super().apply_map(map_, tensor, axis)


class LowPrecision(NumpyBackend):
    """Rounds to half precision on the way."""

    def mix(self, tensors: Sequence[Array], weights: Sequence[float], /) -> Array:
        """A thousandth off."""
        mixed = super().mix(tensors, weights)
        return mixed.astype(np.float16).astype(mixed.dtype)


class WritesIntoInputs(NumpyBackend):
    """Mixes in place."""

    def mix(self, tensors: Sequence[Array], weights: Sequence[float], /) -> Array:
        """Right, but what it was given is gone."""
        total = tensors[0]
        total *= total.dtype.type(weights[0])
        for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
            total += tensor * tensor.dtype.type(weight)
        return total


class Widens(NumpyBackend):
    """Gives float64 whatever came in."""

    def to_numpy(self, tensor: Array, /) -> Array:
        """Right values, wrong dtype."""
        return tensor.astype(np.float64)


WRONG = [LosesWeights, SwapsFactors, Transposes, LowPrecision, WritesIntoInputs, Widens]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda kind: kind.__name__)
def test_wrong_backends_are_caught(wrong: type[NumpyBackend]) -> None:
    """Each is wrong in one respect only, and the suite sees it."""
    with pytest.raises(AssertionError):
        check_backend(wrong())


@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_maps_have_the_shape_that_was_asked_for(small: int, large: int, data: st.DataObject) -> None:
    """And agree with themselves: any rows are rows of the whole."""
    map_ = data.draw(maps(small, large))
    assert map_.shape == (large, small)
    assert dense(map_).shape == (large, small)


@given(growths())
def test_growths_fit_their_operators(drawn: DrawnGrowth) -> None:
    """What is drawn is valid, grows nothing downwards, and prints what is needed to repeat it."""
    check_operator(drawn.operator, drawn.growth)
    small, large = drawn.growth.small.sizes, drawn.growth.large.sizes
    assert all(large[name] >= small[name] for name in small)
    assert drawn.growth.small.family.name in repr(drawn)


@given(st.data())
def test_operators_fit_their_growths(data: st.DataObject) -> None:
    """Arbitrary operators are valid ones."""
    family = load_family(data.draw(st.sampled_from(family_names())))
    growth = data.draw(targets(data.draw(architectures(family))))
    check_operator(data.draw(operators(growth)), growth)


def test_growths_reach_every_family_and_method() -> None:
    """No method is always refused, and no family left out."""
    seen: Counter[str] = Counter()

    @settings(max_examples=800, database=None, derandomize=True)
    @given(growths())
    def look(drawn: DrawnGrowth) -> None:
        seen[drawn.growth.small.family.name] += 1
        seen.update(part.method for part in (drawn.choice.width, drawn.choice.depth) if part is not None)
        seen["wider"] += drawn.growth.ratio(drawn.growth.small.family.residuals[0]) < 1

    look()
    wanted = {*family_names(), *WIDTH_METHODS, *DEPTH_METHODS, "wider"}
    assert wanted <= {name for name, count in seen.items() if count >= 5}, seen


@given(st.data(), st.integers(0, 2**32 - 1))
def test_random_values_belong_to_names(data: st.DataObject, seed: int) -> None:
    """The same seed gives the same values, no two tensors are alike, and none is constant."""
    architecture = data.draw(architectures(load_family(data.draw(st.sampled_from(family_names())))))
    first, again = random_small(architecture, seed), random_small(architecture, seed)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    starts = [float(value.flat[0]) for value in first.values()]
    assert len(set(starts)) == len(starts)
