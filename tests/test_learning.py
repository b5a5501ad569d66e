"""What a fit learns: the same value as the start, in the structure that the plan asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ligo_spec import reference
from ligo_spec.errors import PlanError
from ligo_spec.kron_factors import factors
from ligo_spec.learning import Learn, learnable
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Select, arrays_of, dense
from ligo_spec.operator import Operator
from ligo_spec.operator_check import check_operator
from ligo_spec.testing import DrawnGrowth, growths, maps, random_small
from tests.test_certify import agree, growth_of, operator_of

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

LEARNS = st.builds(
    Learn,
    width=st.sampled_from(["start", "two_sided", "none"]),
    structure=st.sampled_from(["start", "new", "dense"]),
    layers=st.sampled_from(["start", "each"]),
    depth=st.sampled_from(["start", "tensor", "none"]),
    gains=st.sampled_from(["start", "vector", "none"]),
)


def start_of(family: str = "llama", method: str = "hypercloning", **learn: Any) -> tuple[Operator, Any]:
    """A start, and what is learned of it."""
    growth = growth_of(family)
    start = operator_of(growth, width=method, depth="stack")
    return start, learnable(growth, start, Learn(**learn))


@given(growths(), LEARNS)
@settings(suppress_health_check=QUIET)
def test_what_is_learned_starts_with_the_value_of_the_start(drawn: DrawnGrowth, learn: Learn) -> None:
    """Whatever is asked: a valid operator whose grown tensors are those of the start."""
    found = learnable(drawn.growth, drawn.operator, learn)
    check_operator(found.operator, drawn.growth)
    small, family = random_small(drawn.growth.small, 0, np.float64), drawn.growth.small.family
    before, after = (reference.grow(family, operator, small) for operator in (drawn.operator, found.operator))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_nothing_asked_changes_nothing() -> None:
    """The start's own arrays, by identity, so that what it shares stays one parameter."""
    start, found = start_of()
    for name, choices in start.main.maps.items():
        assert found.operator.main.maps[name] == choices
    assert found.operator.main.depth == start.main.depth
    assert not found.frozen


@pytest.mark.parametrize("tied", [True, False])
def test_two_sides_are_learned_apart_but_for_ties(tied: bool) -> None:
    """``A`` and ``B`` have names of their own; a tied head reads by the map with which the embedding writes."""
    growth = growth_of("llama", tie_word_embeddings=tied)
    start = operator_of(growth, width="noisy_average")
    term = learnable(growth, start, Learn(width="two_sided", structure="dense")).operator.main
    assert start.main.spaces["residual"].out == start.main.spaces["residual"].in_
    assert term.spaces["ffn"].out != term.spaces["ffn"].in_
    assert (term.spaces["final"].in_ == term.spaces["residual"].out) == tied
    assert term.spaces["vocab"].in_ == term.spaces["vocab"].out or not tied


def test_heads_stay_whole_where_positions_are_rotary() -> None:
    """Llama: heads ⊗ identity for query and key, one matrix for ffn (gate and up share it) and the stream."""
    _, found = start_of(structure="dense", width="two_sided")
    term = found.operator.main
    for space, side in (("query", (8, 4)), ("key", (4, 2)), ("value", (4, 2)), ("context", (8, 4))):
        map_ = term.map(space, "out", 0)
        assert isinstance(map_, Kron)
        assert isinstance(map_.outer, Dense)
        assert map_.outer.shape == side
        assert isinstance(map_.inner, Identity)
    for space in ("ffn", "residual", "normed"):
        assert isinstance(term.map(space, "out", 0), Dense)


def test_heads_are_free_where_nothing_holds_them() -> None:
    """BERT: the paper's dense maps, heads mixed too."""
    _, found = start_of("bert", structure="dense")
    assert isinstance(found.operator.main.map("query", "out", 0), Dense)


def test_new_rows_alone() -> None:
    """``new``: the old channels stay exactly the old ones; what is learned has the size of what is new."""
    _, found = start_of("bert", "net2net", structure="new")
    map_ = found.operator.main.map("ffn", "out", 0)
    assert isinstance(map_, Blocks)
    assert isinstance(map_.parts[0], Identity)
    assert isinstance(map_.parts[1], Dense)
    assert map_.parts[1].shape == (6, 6)


def test_a_map_for_every_layer() -> None:
    """``layers: each``: as many as the large model has layers, for the spaces that layers have for themselves."""
    growth = growth_of("llama", {"hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 4,
                                 "intermediate_size": 12, "num_hidden_layers": 3})  # fmt: skip
    start = operator_of(growth, width="hypercloning", depth="stack")
    term = learnable(growth, start, Learn(layers="each", structure="dense")).operator.main
    assert len(term.maps[term.spaces["ffn"].out]) == 3
    assert len(term.maps[term.spaces["residual"].out]) == 1
    first, second, _ = term.maps[term.spaces["ffn"].out]
    assert isinstance(first, Dense)
    assert isinstance(second, Dense)
    assert first.matrix is not second.matrix


def test_gains_are_vectors() -> None:
    """A factor an entry, in place of a matrix that would mix gains."""
    _, found = start_of("llama", structure="dense", gains="vector")
    map_ = found.operator.main.map("normed", "gain", None)
    assert isinstance(map_, Select)
    assert map_.weight is not None
    assert map_.weight.shape == (16,)


def test_depth_rows_are_shared_as_asked() -> None:
    """A row a tensor, a block, or a stack."""
    growth = growth_of("llama", {"num_hidden_layers": 4})
    start = operator_of(growth, depth="stack")
    sizes = {}
    for depth in ("tensor", "block", "stack"):
        mixes = learnable(growth, start, Learn(depth=depth)).operator.main.depth
        sizes[depth] = len({id(mix) for mix in mixes.values()})
    layered = sum("{i}" in name for name in growth.small.family.tensors)
    assert sizes == {"tensor": layered, "block": 2, "stack": 1}


def test_rows_that_differ_in_the_start_cannot_be_shared() -> None:
    """``noisy_stack`` draws one for each tensor; the message says what to do."""
    growth = growth_of("llama", {"num_hidden_layers": 4})
    start = operator_of(growth, depth="noisy_stack")
    with pytest.raises(PlanError, match="have different depth maps in the start"):
        learnable(growth, start, Learn(depth="block"))
    calm = operator_of(growth, depth={"method": "noisy_stack", "noise": 0.0})
    assert learnable(growth, calm, Learn(depth="block")).count


def test_what_is_frozen_is_not_counted() -> None:
    """Spaces by name, all of the width, all of the depth; index spaces always."""
    growth = growth_of("bert", {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 12, "vocab_size": 14})
    start = operator_of(growth, width="noisy_average", depth="stack")
    everything = learnable(growth, start, Learn()).count
    ffn = sum(array.size for map_ in start.main.maps["ffn"] for array in arrays_of(map_))
    assert learnable(growth, start, Learn(freeze=("ffn",))).count == everything - ffn
    assert learnable(growth, start, Learn(depth="none")).count == everything - start.main.depth["layers.*"].size
    assert learnable(growth, start, Learn(width="none", depth="none")).count == 0
    mean = start.main.map("vocab", "in", None).parts[1].inner.matrix  # type: ignore[union-attr]
    assert id(mean) in learnable(growth, start, Learn()).frozen
    with pytest.raises(PlanError, match="no space is named 'fnn'"):
        learnable(growth, start, Learn(freeze=("fnn",)))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("structure", ["new", "dense"])
def test_a_lossless_start_is_lossless_when_loosened(family: str, structure: str) -> None:
    """The certificate reads the matrices, not their structure."""
    growth = growth_of(family)
    start = operator_of(growth, width="hypercloning")
    found = learnable(growth, start, Learn(width="two_sided", structure=structure, layers="each"))  # type: ignore[arg-type]
    assert agree(growth, found.operator)


@given(maps(2, 4), maps(3, 3))
def test_factors_give_the_product_back(outer: Any, inner: Any) -> None:
    """Where factors are found, their product is the map; a selection of whole heads always has some."""
    map_ = Kron(outer, inner)
    found = factors(map_, (4, 2))
    assert found is not None
    np.testing.assert_allclose(np.kron(dense(found[0]), dense(found[1])), dense(map_))
    heads = Select(np.array([0, 1, 1, 0]), 2)
    flat = Select((heads.index[:, None] * 3 + np.arange(3)).ravel(), 6, np.full(12, 0.5))
    split = factors(flat, (4, 2))
    assert split is not None
    np.testing.assert_allclose(np.kron(dense(split[0]), dense(split[1])), dense(flat))
    assert isinstance(split[1], Identity)
    torn = Select(np.array([0, 4, 2, 3, 1, 5, 0, 1, 2, 3, 4, 5]), 6)
    assert factors(torn, (4, 2)) is None
