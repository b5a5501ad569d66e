"""The reference against the definitions: what everything else is held to is held to the equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec import reference
from ligo_spec.errors import InputError
from ligo_spec.family import LAYER, Family, at_layer, family_names, load_family
from ligo_spec.layer_kinds import settled
from ligo_spec.maps import Dense, Identity, dense
from ligo_spec.operator import Growth, Operator, SpaceMaps, Term, every
from ligo_spec.testing import architectures, operators, random_small, targets

Array = npt.NDArray[Any]
SIDE = st.integers(1, 5)
SEED = st.integers(0, 2**32 - 1)


@st.composite
def grown_operators(draw: st.DrawFn) -> tuple[Growth, Operator]:
    """A random growth of a random family, and an arbitrary operator for it."""
    family = load_family(draw(st.sampled_from(family_names())))
    growth = draw(targets(draw(architectures(family))))
    return growth, draw(operators(growth))


@given(SIDE, SIDE, SIDE, SIDE, SEED)
def test_width_growth_is_the_kronecker_product(d_out: int, d_in: int, large_out: int, large_in: int, seed: int) -> None:
    """``vec(B W Aᵀ) = (A ⊗ B) vec(W)``, with vec stacking columns (SPEC 3.1)."""
    values = np.random.default_rng(seed)
    weight, b, a = (values.standard_normal(shape) for shape in ((d_out, d_in), (large_out, d_out), (large_in, d_in)))
    grown = reference.widen(weight, [b, a])
    assert grown.shape == (large_out, large_in)
    np.testing.assert_allclose(grown.ravel(order="F"), np.kron(a, b) @ weight.ravel(order="F"), atol=1e-12)
    np.testing.assert_allclose(grown, b @ weight @ a.T, atol=1e-12)
    np.testing.assert_array_equal(reference.widen(weight, [None, None]), weight)
    np.testing.assert_allclose(reference.widen(weight[:, 0], [b]), b @ weight[:, 0], atol=1e-12)


@given(SIDE, SIDE, SIDE, SEED)
def test_depth_growth_is_the_sum_over_layers(small: int, large: int, side: int, seed: int) -> None:
    """``W'_i = Σ_j D[i, j] W_j``, written out (SPEC 3.2)."""
    values = np.random.default_rng(seed)
    layers, mix = values.standard_normal((small, side, 2)), values.standard_normal((large, small))
    found = reference.mix_layers(layers, mix)
    for i in range(large):
        want = np.zeros((side, 2))
        for j in range(small):
            want += mix[i, j] * layers[j]
        np.testing.assert_allclose(found[i], want, atol=1e-12)


AFTER = 10
"""Number of the first dimension of a grown tensor in an einsum, after those of the small one."""


@given(grown_operators(), SEED)
def test_growth_is_the_published_sum(drawn: tuple[Growth, Operator], seed: int) -> None:
    """Every tensor is ``Σ_t Σ_j D_t[i, j] · B_t W_j A_tᵀ``, written out with dense matrices (SPEC 3.3)."""
    growth, operator = drawn
    family = growth.small.family
    small = random_small(growth.small, seed, np.float64)
    large = reference.grow(family, operator, small)
    grown = settled(growth, operator).large
    assert list(large) == [name for template in family.tensors for name in grown.names(template)]
    for template in family.tensors:
        for i in grown.layers_of(template):
            want = _written_out(family, operator, template, i, small)
            np.testing.assert_allclose(large[at_layer(template, i)], want, rtol=1e-10, atol=1e-10)


def _written_out(family: Family, operator: Operator, template: str, i: int | None, small: dict[str, Array]) -> Array:
    total: Any = 0.0
    for term in operator.terms:
        if term.tensors is not None and template not in term.tensors:
            continue
        row = np.ones(1) if i is None else term.mix(template)[i]
        for j, factor in enumerate(row):
            if i is not None and not family.in_layer(template, j):
                assert factor == 0
                continue
            value: Any = small[template if i is None else at_layer(template, j)] + family.tensors[template].offset
            names = [(term.spaces[dim.space], dim.role) for dim in family.tensors[template].touches]
            chosen = [term.maps[{"out": s.out, "in": s.in_, "gain": s.gain}[role]] for s, role in names]
            matrices = [dense(c[0] if len(c) == 1 or i is None else c[i]) for c in chosen]
            sized = [m if m.shape[1] == n else np.eye(n) for m, n in zip(matrices, value.shape, strict=True)]
            before, after = list(range(value.ndim)), list(range(AFTER, AFTER + value.ndim))
            operands: list[Any] = [value, before, *_operands(sized), after]
            total = total + factor * np.einsum(*operands)
    return np.asarray(total) - family.tensors[template].offset


def _operands(matrices: list[Array]) -> list[Any]:
    return [part for axis, matrix in enumerate(matrices) for part in (matrix, [axis + AFTER, axis])]


@given(grown_operators(), SEED, st.floats(-2, 2))
def test_growth_is_linear_in_the_small_weights(drawn: tuple[Growth, Operator], seed: int, factor: float) -> None:
    """``grow(x + c y) = grow(x) + c grow(y)``, of the values: what is stored lacks the offset."""
    growth, operator = drawn
    family = growth.small.family
    x, y = (random_small(growth.small, seed + k, np.float64) for k in (0, 1))
    large = settled(growth, operator).large
    o = {n: tensor.offset for template, tensor in family.tensors.items() for n in large.names(template)}
    o |= {n: tensor.offset for template, tensor in family.tensors.items() for n in growth.small.names(template)}
    both = reference.grow(family, operator, {n: x[n] + factor * (y[n] + o[n]) for n in x})
    grown_x, grown_y = reference.grow(family, operator, x), reference.grow(family, operator, y)
    for name, value in both.items():
        want = grown_x[name] + factor * (grown_y[name] + o[name])
        np.testing.assert_allclose(value, want, rtol=1e-9, atol=1e-9)


@given(st.data(), SEED)
def test_growing_twice_is_growing_once_by_the_product(data: st.DataObject, seed: int) -> None:
    """The product of all maps of two one-term operators is the operator of both."""
    first = data.draw(targets(data.draw(architectures(load_family(data.draw(st.sampled_from(family_names())))))))
    family = first.small.family
    one = _one_term(data.draw(operators(first)))
    middle = settled(first, one).large
    two = _one_term(data.draw(operators(data.draw(targets(middle)))))
    small = random_small(first.small, seed, np.float64)
    twice = reference.grow(middle.family, two, reference.grow(family, one, small))
    once = reference.grow(family, _product(one, two, family), small)
    for name, value in twice.items():
        np.testing.assert_allclose(once[name], value, rtol=1e-8, atol=1e-8)


def _one_term(operator: Operator) -> Operator:
    """Its first term with maps that all layers share: maps of layers that are mixed afterwards have no product."""
    term = operator.terms[0]
    shared = {name: choices[:1] for name, choices in term.maps.items()}
    return replace(operator, terms=(replace(term, maps=shared, tensors=None),))


def _product(one: Operator, two: Operator, family: Family) -> Operator:
    a, b = one.terms[0], two.terms[0]
    maps, spaces = {}, {}
    for space in family.spaces:
        for role in ("out", "in", "gain"):
            first, second = a.map(space, role, None), b.map(space, role, None)
            unsized = isinstance(first, Identity) and isinstance(second, Identity) and first.size == second.size
            maps[f"{space}.{role}"] = (first if unsized else Dense(dense(second) @ dense(first)),)
        spaces[space] = SpaceMaps(f"{space}.out", f"{space}.in", f"{space}.gain")
    depth = {template: b.mix(template) @ a.mix(template) for template in family.tensors if LAYER in template}
    return Operator(one.family, one.small, two.large, (Term(maps, spaces, depth),))


@given(st.data(), SEED)
def test_the_identity_changes_nothing(data: st.DataObject, seed: int) -> None:
    """Identity maps and as many layers: the same values."""
    architecture = data.draw(architectures(load_family(data.draw(st.sampled_from(family_names())))))
    family = architecture.family
    maps = {name: (Identity(architecture.width(name) or 1),) for name in family.spaces}
    spaces = {name: SpaceMaps(name, name, name) for name in family.spaces}
    term = Term(maps, spaces, {every(stack): np.eye(count) for stack, count in architecture.depths.items()})
    operator = Operator(family.name, architecture.sizes, architecture.sizes, (term,))
    small = random_small(architecture, seed, np.float64)
    large = reference.grow(family, operator, small)
    assert large.keys() == small.keys()
    for template, tensor in family.tensors.items():
        for name in architecture.names(template):
            np.testing.assert_allclose(large[name], small[name], rtol=0, atol=1e-15 * abs(tensor.offset) * 4)


# --- gradients --------------------------------------------------------------------------------------------------------


def slope(function: Callable[[Array], float], at: Array, along: Array) -> float:
    """The derivative of a function along a direction, by central differences."""
    step = 1e-4
    return (function(at + step * along) - function(at - step * along)) / (2 * step)


@given(SIDE, SIDE, SIDE, SIDE, SEED)
def test_the_vjp_of_width_growth_is_its_derivative(
    d_out: int, d_in: int, large_out: int, large_in: int, seed: int
) -> None:
    """``⟨G, widen⟩`` changes along any direction as the returned gradients say (central differences)."""
    values = np.random.default_rng(seed)
    inputs = [values.standard_normal(shape) for shape in ((d_out, d_in), (large_out, d_out), (large_in, d_in))]
    cotangent = values.standard_normal((large_out, large_in))
    weight_gradient, map_gradients = reference.widen_vjp(inputs[0], inputs[1:], cotangent)
    for place, gradient in enumerate([weight_gradient, *map_gradients]):
        assert gradient is not None
        assert gradient.shape == inputs[place].shape
        along = values.standard_normal(inputs[place].shape)

        def loss(x: Array, place: int = place) -> float:
            weight, *maps = [x if number == place else value for number, value in enumerate(inputs)]
            return float((cotangent * reference.widen(weight, maps)).sum())

        assert slope(loss, inputs[place], along) == pytest.approx(float((gradient * along).sum()), rel=1e-6, abs=1e-6)


@given(SIDE, SIDE, SEED)
def test_an_identity_has_no_gradient_and_passes_them_on(side: int, large: int, seed: int) -> None:
    """``None`` in, ``None`` out, and the rest as with a matrix of ones on the diagonal."""
    values = np.random.default_rng(seed)
    weight, b = values.standard_normal((side, 3)), values.standard_normal((large, side))
    cotangent = values.standard_normal((large, 3))
    back, (gradient, none) = reference.widen_vjp(weight, [b, None], cotangent)
    want, (same, _) = reference.widen_vjp(weight, [b, np.eye(3)], cotangent)
    assert none is None
    np.testing.assert_allclose(back, want)
    np.testing.assert_allclose(gradient, same)  # type: ignore[arg-type]


@given(SIDE, SIDE, SEED)
def test_the_vjp_of_depth_growth_is_its_derivative(small: int, large: int, seed: int) -> None:
    """For the layers and for the mix."""
    values = np.random.default_rng(seed)
    layers, mix = values.standard_normal((small, 2, 3)), values.standard_normal((large, small))
    cotangent = values.standard_normal((large, 2, 3))
    of_layers, of_mix = reference.mix_layers_vjp(layers, mix, cotangent)
    along = values.standard_normal(layers.shape)
    found = slope(lambda x: float((cotangent * reference.mix_layers(x, mix)).sum()), layers, along)
    assert found == pytest.approx(float((of_layers * along).sum()), rel=1e-6, abs=1e-6)
    direction = values.standard_normal(mix.shape)
    found = slope(lambda x: float((cotangent * reference.mix_layers(layers, x)).sum()), mix, direction)
    assert found == pytest.approx(float((of_mix * direction).sum()), rel=1e-6, abs=1e-6)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_maps_that_do_not_fit_are_refused() -> None:
    """With both shapes in the message."""
    with pytest.raises(InputError, match=r"a map of shape \(4, 3\) does not fit axis 0 of a weight \(2, 2\)"):
        reference.widen(np.zeros((2, 2)), [np.zeros((4, 3)), None])
    with pytest.raises(InputError, match="needs 2 maps, found 1"):
        reference.widen(np.zeros((2, 2)), [None])
    with pytest.raises(InputError, match=r"a mix of shape \(2, 3\) does not fit 4 layers"):
        reference.mix_layers(np.zeros((4, 1)), np.zeros((2, 3)))
