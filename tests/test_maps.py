"""Width maps: every structure is its dense matrix, and whatever looks at the structure agrees with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec import maps as m
from ligo_spec.errors import InputError
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select
from ligo_spec.testing import maps


def selections() -> st.SearchStrategy[Map]:
    """Maps whose structure shows that they are selections."""
    return maps().filter(lambda map_: m.as_select(map_) is not None)


def twins(map_: Map) -> list[Map]:
    """The same matrix in other structures."""
    selected = m.as_select(map_)
    return [Dense(m.dense(map_)), Blocks((map_,)), Kron(Identity(1), map_), *([selected] if selected else [])]


@given(maps(), st.data())
def test_rows_are_rows_of_the_whole(map_: Map, data: st.DataObject) -> None:
    """Any slice of rows, empty ones too, is that slice of the dense matrix."""
    start = data.draw(st.integers(0, map_.shape[0]))
    stop = data.draw(st.integers(start, map_.shape[0]))
    np.testing.assert_array_equal(map_.rows(start, stop), m.dense(map_)[start:stop])


def test_structures_are_these_matrices() -> None:
    """Written out by hand, so that all of the above cannot be wrong in the same way."""
    copy, split = Select(np.array([1, 0, 1]), 2), Select(np.array([0, 1]), 2, np.array([0.5, 0.0]))
    np.testing.assert_array_equal(m.dense(copy), [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(m.dense(split), [[0.5, 0], [0, 0]])
    np.testing.assert_array_equal(
        m.dense(Blocks((Identity(2), Dense(np.array([[3.0, 4.0]]))))), [[1, 0], [0, 1], [3, 4]]
    )
    outer = Dense(np.array([[2.0, 3.0]]))
    np.testing.assert_array_equal(m.dense(Kron(outer, Identity(2))), [[2, 0, 3, 0], [0, 2, 0, 3]])
    np.testing.assert_array_equal(m.dense(Kron(Identity(2), outer)), [[2, 3, 0, 0], [0, 0, 2, 3]])


@given(selections())
def test_a_selection_is_the_same_matrix(map_: Map) -> None:
    """``as_select`` changes the structure, never the matrix; ``is_copy`` says whether all weights are one."""
    selected = m.as_select(map_)
    assert selected is not None
    np.testing.assert_array_equal(m.dense(selected), m.dense(map_))
    if m.is_copy(map_):
        assert set(np.unique(m.dense(map_))) <= {0.0, 1.0}
        assert (m.dense(map_).sum(axis=1) == 1).all()


@given(maps())
def test_equality_sees_the_matrix_and_not_the_structure(map_: Map) -> None:
    """Equal to its twins, unequal to itself with one entry changed, whichever way round."""
    for twin in twins(map_):
        assert m.equal(map_, twin)
        assert m.equal(twin, map_)
    changed = m.dense(map_)
    changed[-1, -1] += 1
    assert not m.equal(map_, Dense(changed))
    assert not m.equal(Dense(changed), map_)


@given(st.integers(1, 5))
def test_the_identity_is_known_in_every_structure(size: int) -> None:
    """And nothing else is taken for it."""
    assert all(m.is_identity(twin) for twin in [Identity(size), *twins(Identity(size))])
    assert not m.is_identity(Select(np.arange(size), size, np.full(size, 2.0)))
    assert not m.is_identity(Blocks((Identity(size), Identity(size))))


@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_gram_products_are_those_of_the_matrices(small: int, large: int, data: st.DataObject) -> None:
    """``firstᵀ second``, and how far it is from the identity, with structure or without."""
    first, second = data.draw(maps(small, large)), data.draw(maps(small, large))
    want = m.dense(first).T @ m.dense(second)
    found = m.gram(first, second)
    if not isinstance(found, np.ndarray):
        rows, columns, values = found
        found = np.zeros_like(want)
        np.add.at(found, (rows, columns), values)
    np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
    error = float(np.abs(want - np.eye(small)).max())
    assert m.gram_error(first, second) == pytest.approx(error, abs=1e-12)


@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_what_is_written_can_be_read_back(small: int, more: int, seed: int) -> None:
    """The error is zero for a left inverse, in blocks as well as in one piece."""
    values = np.random.default_rng(seed)
    new = values.standard_normal((more, small))
    write = m.stack([Identity(small), Dense(new)])
    read = m.stack([Identity(small), Select(np.arange(more) % small, small, np.zeros(more))])
    assert m.gram_error(read, write) == 0
    assert m.gram_error(Dense(m.dense(read)), write) <= 1e-12


def test_the_search_for_an_error_ends_early() -> None:
    """Of a pair that is wrong everywhere only the first block of columns is computed."""
    size = m.BLOCK + 1
    matrix = np.eye(size)
    matrix[0, 0], matrix[-1, -1] = 1.5, 3.0  # one error in the first block of columns, a larger one in the last
    assert m.gram_error(Dense(matrix), Identity(size), enough=0.1) == 0.5
    assert m.gram_error(Dense(matrix), Identity(size)) == 2


@given(maps(), st.floats(-3, 3).filter(lambda factor: factor != 0))
def test_scaling_keeps_the_structure(map_: Map, factor: float) -> None:
    """``scaled`` multiplies the matrix; only the identity has to become a selection."""
    found = m.scaled(map_, factor)
    np.testing.assert_allclose(m.dense(found), factor * m.dense(map_), rtol=1e-12)
    assert type(found) is type(map_) or isinstance(map_, Identity)


@given(maps())
def test_every_array_is_reached_and_replaced(map_: Map) -> None:
    """``with_arrays`` visits the arrays that ``arrays_of`` lists, in the same order, and shares nothing."""
    seen: list[int] = []

    def negated(array: m.Floats) -> m.Floats:
        seen.append(id(array))
        return -array

    turned = m.with_arrays(map_, negated)
    assert seen == [id(array) for array in m.arrays_of(map_)]
    for old, new in zip(m.arrays_of(map_), m.arrays_of(turned), strict=True):
        np.testing.assert_array_equal(new, -old)


@given(maps(), maps())
def test_stacking_is_concatenation(first: Map, second: Map) -> None:
    """Parts of one small size over one another; others are refused."""
    if first.shape[1] == second.shape[1]:
        both = np.concatenate([m.dense(first), m.dense(second)])
        np.testing.assert_array_equal(m.dense(m.stack([first, second])), both)
    else:
        with pytest.raises(InputError, match="one small size"):
            m.stack([first, second])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Select(np.array([0, 2]), 2), "integers from 0 to 1"),
        (lambda: Select(np.array([-1]), 2), "integers from 0 to 1"),
        (lambda: Select(np.array([[0]]), 2), "one row of integers"),
        (lambda: Select(np.array([0, 1]), 2, np.ones(3)), r"index \(2,\) but weight \(3,\)"),
        (lambda: Dense(np.ones(3)), r"needs a matrix, found shape \(3,\)"),
        (lambda: Blocks((Identity(2), Identity(3))), "one small size"),
    ],
)
def test_impossible_maps_are_refused(make: object, message: str) -> None:
    """At once, in words, whoever makes them."""
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()
