"""The dual map against autograd: what the grown model's gradient is, read off the matrices of the operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ligo_spec import reference
from ligo_spec.certify import certify
from ligo_spec.dual import Dual, dual_of
from ligo_spec.family import load_family
from ligo_spec.map_products import entrywise, first_rows, squared, without_rows
from ligo_spec.maps import dense
from ligo_spec.methods import WIDTH_METHODS
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator import Growth, Operator
from ligo_spec.recipe import run
from ligo_spec.testing import DrawnGrowth, architectures, growths, maps, operators, random_small, targets
from tests.effort import examples
from tests.family_table import ROWS
from tests.forward import gradients, present
from tests.test_certify import CONFIGS, growth_of, operator_of

SAME = 1e-9
"""float64 gradients that are equal are this close, as a share of the largest."""

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

Masks = dict[str, npt.NDArray[np.bool_]]


def compared(growth: Growth, operator: Operator, seed: int = 0) -> tuple[Dual, dict[str, float], Masks]:
    """The dual, the largest error of every tensor at its exact entries, and which entries those are."""
    dual = dual_of(growth, operator, present(growth.small))
    before, after = gradients(growth, operator, random_small(growth.small, seed, np.float64), seed)
    wanted = reference.moments(dual.tensors, before)
    assert after.keys() <= wanted.keys()
    scale = max(float(np.abs(value).max()) for value in after.values())
    errors, exact = {}, {}
    for name, value in after.items():
        found = dual.tensors[name]
        exact[name] = np.broadcast_to(found.outer("exact", every=True) & ~np.bool_(found.starts_anew), value.shape)
        errors[name] = float((np.abs(wanted[name] - value) * exact[name]).max(initial=0.0)) / scale
    return dual, errors, exact


# --- the proof --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", CONFIGS)
def test_copies_map_every_gradient(family: str, tied: bool) -> None:
    """HyperCloning: the gradient of the large model is the dual of the small one's, at every entry of every tensor."""
    growth = growth_of(family, tie_word_embeddings=tied)
    dual, errors, exact = compared(growth, operator_of(growth, width="hypercloning"))
    assert dual.exact
    assert all(mask.all() for mask in exact.values())
    assert max(errors.values()) <= SAME, errors


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("free", ["mix", "zero"])
def test_padding_maps_every_gradient_that_the_small_model_knows(free: str, tied: bool) -> None:
    """Zero-padding: with both sides silent, every entry; with a free side, all that is not free is exact."""
    growth = growth_of("llama", tie_word_embeddings=tied)
    dual, errors, exact = compared(growth, operator_of(growth, width={"method": "zero_pad", "free": free}))
    assert dual.exact
    assert max(errors.values()) <= SAME, errors
    assert all(mask.all() for mask in exact.values()) == (free == "zero")
    for name, mask in exact.items():
        assert (mask | np.broadcast_to(dual.tensors[name].outer("new"), mask.shape)).all(), name


@pytest.mark.parametrize("family", ROWS)
@settings(suppress_health_check=QUIET, max_examples=examples(5))
@given(data=st.data())
def test_copies_of_everything_map_gradients_of_every_family(family: str, data: st.DataObject) -> None:
    """Norms after and before the branches, of heads, LayerScale, multipliers, grouped heads: exact, and not in part.

    But for keys and values whose copies are not shared alike by the query heads, and for what heads that talk to one
    another touch: of those, nothing is claimed.
    """
    config = ROWS[family].config
    drawn = data.draw(growths([family], config=config, width=["hypercloning"], depth=[None]))
    growth, operator = drawn.growth, drawn.operator
    assume(not certify(growth, operator, present(growth.small)))
    dual, errors, exact = compared(growth, operator)
    guessed = {name.split(".")[-2] for name, mask in exact.items() if not mask.all()}
    assert max(errors.values()) <= SAME, (growth, errors)
    assert dual.exact == (not guessed)
    rerouted = any(growth.ratio(routing.space) < 1 for routing in growth.small.family.relations.routing)
    if getattr(drawn.choice.width, "noise", None) is None and not rerouted:  # noise: no copy is read like another
        shared = set() if shared_alike(growth) else {"k", "v", "k_norm"}
        talking = any(attention.weights is not None for attention in growth.small.family.relations.attention)
        assert guessed <= shared | ({"q", "k", "v", "o", "after"} if talking else set()), (growth, guessed)


def shared_alike(growth: Growth) -> bool:
    """Whether every copy of a key-value head serves whole copies of its query heads."""
    spaces = growth.small.family.spaces
    for attention in growth.small.family.relations.attention:
        asks, answers = (spaces[name].axes[0] for name in (attention.query, attention.key))
        small, large = (model.sizes[asks] // model.sizes[answers] for model in (growth.small, growth.large))
        if large % small:
            return False
    return True


@pytest.mark.parametrize("family", ROWS)
@settings(suppress_health_check=QUIET, max_examples=examples(8))
@given(data=st.data())
def test_what_is_said_to_be_exact_is(family: str, data: st.DataObject) -> None:
    """Any lossless width: wherever the dual claims a row, autograd finds it."""
    methods = [method for method in WIDTH_METHODS if not method.startswith("noisy")]
    drawn: DrawnGrowth = data.draw(growths([family], config=ROWS[family].config, width=methods, depth=[None]))
    assume(not certify(drawn.growth, drawn.operator, present(drawn.growth.small)))
    _, errors, _ = compared(drawn.growth, drawn.operator, data.draw(st.integers(0, 9)))
    assert max(errors.values()) <= SAME, {name: error for name, error in errors.items() if error > SAME}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_proof_would_fail_with_the_maps_of_the_weights(family: str) -> None:
    """The twin: gradients carried over as weights are wrong, so are those of a head that is taken for untied."""
    growth = growth_of(family, tie_word_embeddings=True)
    operator = operator_of(growth, width="hypercloning")
    before, after = gradients(growth, operator, random_small(growth.small, 0, np.float64))
    as_weights = reference.grow(growth.small.family, operator, before)
    scale = max(float(np.abs(value).max()) for value in after.values())
    errors = {name: float(np.abs(as_weights[name] - value).max()) / scale for name, value in after.items()}
    assert sum(error > 1e-3 for error in errors.values()) > len(errors) / 4


def test_new_blocks_of_the_same_function_start_anew() -> None:
    """A layer that adds nothing yet: the others' gradients are those of their source, its own have no source."""
    growth = growth_of("llama", {"num_hidden_layers": 3})
    operator = _with_silent_layer(operator_of(growth, depth="interpolate"))
    assert not certify(growth, operator, present(growth.small))
    dual, errors, exact = compared(growth, operator)
    assert max(errors.values()) <= SAME
    anew = {name for name, found in dual.tensors.items() if found.starts_anew}
    assert anew == {name for name in dual.tensors if name.startswith("layers.1.")}
    assert all(mask.all() for name, mask in exact.items() if name not in anew)


def _with_silent_layer(operator: Operator) -> Operator:
    """Layers 0, a silent copy of 0, 1."""
    term = operator.terms[0]
    mix = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    silent = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    written = {f"layers.{{i}}.{name}.weight": silent for name in ("attn.o", "mlp.down")}
    return replace(operator, terms=(replace(term, depth={"layers.*": mix, **written}),))


# --- what is no proof -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_an_operator_that_changes_the_function_is_not_exact(family: str) -> None:
    """LiGO's start and stacked layers: moments are an average of old ones, and said to be an approximation."""
    growth = growth_of(family, {**CONFIGS_TWICE[family], "num_hidden_layers": 4} if family == "bert" else None)
    for chosen in ({"width": "noisy_average", "depth": "noisy_stack"}, {"width": "noisy_average", "depth": "stack"}):
        dual = dual_of(growth, operator_of(growth, **chosen), present(growth.small))
        assert not dual.exact
        for found in dual.tensors.values():
            assert sum(weight for _, weight in found.term.sources) == pytest.approx(1.0)
            assert all(weight > 0 for _, weight in found.term.sources)


CONFIGS_TWICE = {"bert": {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 12}}


def test_layers_that_are_copied_again_are_known() -> None:
    """A stack of twice the layers: the second half repeats the first, nothing starts anew."""
    growth = growth_of("bert", {"num_hidden_layers": 4})
    dual = dual_of(growth, operator_of(growth, depth="stack"), present(growth.small))
    assert not dual.exact
    again = {name.split(".")[1] for name, found in dual.tensors.items() if found.repeats}
    assert again == {"2", "3"}
    assert not any(found.starts_anew for found in dual.tensors.values())


@given(st.data(), st.integers(0, 2**32 - 1))
@settings(suppress_health_check=QUIET)
def test_recipes_compute_what_the_reference_says(data: st.DataObject, seed: int) -> None:
    """Both moments, of any operator: sums of terms, dense maps, layers mixed; second moments stay positive."""
    family = load_family(data.draw(st.sampled_from(sorted(ROWS))))
    growth = data.draw(targets(data.draw(architectures(family))))
    dual = dual_of(growth, data.draw(operators(growth)), list(growth.small.family.tensors))
    small = random_small(growth.small, seed, np.float64)
    squares = {name: value**2 for name, value in small.items()}
    for values, kind, second in ((small, "first", False), (squares, "second", True)):
        wanted = reference.moments(dual.tensors, values, squared=second)
        for name, found in dual.tensors.items():
            if not found.starts_anew:
                got = run(getattr(found, kind), values.__getitem__, NumpyBackend())
                np.testing.assert_allclose(got, wanted[name], rtol=1e-9, atol=1e-9)
                assert not second or (got >= 0).all()


# --- maps made of maps ------------------------------------------------------------------------------------------------


@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_maps_made_of_maps_are_those_matrices(data: st.DataObject, large: int, small: int) -> None:
    """Squares, products and rows left out, whatever the structure."""
    first, second = data.draw(maps(small, large)), data.draw(maps(small, large))
    np.testing.assert_allclose(dense(squared(first)), dense(first) ** 2)
    np.testing.assert_allclose(dense(entrywise(first, second)), dense(first) * dense(second))
    rows = np.array(data.draw(st.lists(st.booleans(), min_size=large, max_size=large)))
    np.testing.assert_array_equal(dense(without_rows(first, rows)), np.where(rows[:, None], 0.0, dense(first)))


@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_first_rows_are_one_for_every_entry(data: st.DataObject, large: int, small: int) -> None:
    """Of the rows that take most from one entry, the first; rows of zeros never."""
    map_: Any = data.draw(maps(small, large))
    matrix = np.abs(dense(map_))
    seen: set[int] = set()
    for row, is_first in zip(matrix, first_rows(map_), strict=True):
        new = bool(row.any()) and int(row.argmax()) not in seen
        assert is_first == new
        seen |= {int(row.argmax())} if row.any() else set()
