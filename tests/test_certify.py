"""The certificate against forward passes: lossless on paper exactly where Transformers computes the same logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.family import LAYER, load_family
from ligo_spec.maps import Dense, Identity, Map, Select, dense, scaled
from ligo_spec.methods import build_operator
from ligo_spec.operator import Growth, Operator, Term, every
from ligo_spec.plan import OperatorChoice
from ligo_spec.testing import random_small
from tests.effort import examples
from tests.family_table import ROWS
from tests.forward import difference, present

SAME = 1e-9
"""float64 logits of equal functions are this close."""

VISIBLE = 1e-7
"""Different functions are at least this far apart on random weights."""

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 6,
        "vocab_size": 11,
        "max_position_embeddings": 7,
        "type_vocab_size": 2,
    },
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 11, "n_positions": 7},
    "llama": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "intermediate_size": 6,
        "vocab_size": 11,
    },
}

TWICE = {
    "bert": {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 12},
    "gpt2": {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64},
    "llama": {"hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 12},
}


def growth_of(family: str, target: dict[str, int] | None = None, **changes: Any) -> Growth:
    """A small growth of a family, to twice the width where no target is given."""
    config = {"model_type": family, **ROWS[family].config}
    small = Architecture.from_hf_config(load_family(family), {**config, **CONFIGS[family], **changes})
    return Growth(small, small.grown(TWICE[family] if target is None else target))


def operator_of(growth: Growth, **chosen: Any) -> Operator:
    """The operator of ``width=...``, ``depth=...``, as a plan would say it."""
    choice = OperatorChoice.model_validate({k: v if isinstance(v, dict) else {"method": v} for k, v in chosen.items()})
    return build_operator(growth, choice.width, choice.depth, seed=3)


def agree(growth: Growth, operator: Operator, seed: int = 0) -> bool:
    """Whether certificate and forward pass say the same; the larger answer of two random models counts."""
    broken = certify(growth, operator, present(growth.small))
    errors = [difference(growth, operator, random_small(growth.small, seed + k, np.float64)) for k in range(2)]
    same = max(errors) <= SAME
    assert same or max(errors) >= VISIBLE, f"neither equal nor different: {errors}, {[str(b) for b in broken]}"
    assert same == (not broken), f"certificate {[str(item) for item in broken]}, but logits differ by {errors}"
    return same


# --- certificate ⇔ forward pass ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", ["hypercloning", "zero_pad"])
def test_what_the_readme_says_is_lossless(family: str, method: str, tied: bool) -> None:
    """``hypercloning`` everywhere; ``zero_pad`` under RMSNorm, and under LayerNorm for heads and ffn only."""
    growth = growth_of(family, tie_word_embeddings=tied)
    lossless = agree(growth, operator_of(growth, width=method))
    assert lossless == (method == "hypercloning" or family == "llama")
    inner = growth_of(family, {"intermediate_size": 33}, tie_word_embeddings=tied)
    if method == "zero_pad":
        assert agree(inner, operator_of(inner, width=method))


# --- any one map perturbed breaks both --------------------------------------------------------------------------------


def used_maps(growth: Growth, operator: Operator) -> list[str]:
    """Maps whose every entry counts in the logits: those that some tensor of the head's model uses."""
    family, term = growth.small.family, operator.terms[0]
    unused = {"labels", "pooled"}
    touched = {dim for tensor in family.tensors.values() for dim in tensor.touches if dim.space not in unused}
    return sorted({term.spaces[dim.space].of(dim.role) for dim in touched})


def perturbed(operator: Operator, name: str, row: int, column: int) -> Operator:
    """The operator with one entry of one map (at every layer) changed by a quarter."""
    term = operator.terms[0]

    def change(map_: Map) -> Map:
        matrix = dense(map_).copy()
        matrix[row % matrix.shape[0], column % matrix.shape[1]] += 0.25
        return Dense(matrix)

    maps = {**term.maps, name: tuple(change(map_) for map_ in term.maps[name])}
    return replace(operator, terms=(Term(maps, term.spaces, term.depth),))


LOSSLESS = [("bert", "hypercloning"), ("gpt2", "hypercloning"), ("llama", "hypercloning"), ("llama", "zero_pad")]
"""Families and methods that are lossless there."""


@pytest.mark.parametrize(("family", "method"), LOSSLESS)
@given(data=st.data())
@settings(suppress_health_check=SLOW, max_examples=examples(20))
def test_any_one_map_perturbed_is_seen_by_both(family: str, method: str, data: st.DataObject) -> None:
    """One entry of any one map changed: the certificate says what the forward pass says.

    Free entries exist (rows that nothing reads), so the two are compared, not told to break; that every map has
    entries that break both is the next test.
    """
    growth = growth_of(family, tie_word_embeddings=data.draw(st.booleans()))
    operator = operator_of(growth, width=method)
    name = data.draw(st.sampled_from(used_maps(growth, operator)))
    row, column = data.draw(st.integers(0, 63)), data.draw(st.integers(0, 63))
    agree(growth, perturbed(operator, name, row, column))


@pytest.mark.parametrize(("family", "method"), LOSSLESS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_map_can_break_both(family: str, method: str, tied: bool) -> None:
    """Each map in use, its first entry changed: certificate and forward pass break together."""
    growth = growth_of(family, tie_word_embeddings=tied)
    operator = operator_of(growth, width=method)
    assert agree(growth, operator)
    for name in used_maps(growth, operator):
        assert not agree(growth, perturbed(operator, name, 0, 0)), name


# --- each condition, in words -----------------------------------------------------------------------------------------


def first(family: str, change: Callable[[Growth, Operator], Operator], **kwargs: Any) -> list[str]:
    """The certificate of a cloned model after a change, and the proof that the forward pass sees it too."""
    growth = growth_of(family, **kwargs)
    operator = change(growth, operator_of(growth, width="hypercloning"))
    assert not agree(growth, operator)
    return [str(item) for item in certify(growth, operator)]


def with_map(operator: Operator, space: str, role: str, map_: Map) -> Operator:
    """The operator with one map of one space replaced."""
    term = operator.terms[0]
    name = f"changed {space} {role}"
    spaces = {**term.spaces, space: replace(term.spaces[space], **{role: name})}
    return replace(operator, terms=(Term({**term.maps, name: (map_,)}, spaces, term.depth),))


def test_what_cannot_be_read_back_is_named() -> None:
    """Condition 1: the space, and how far AᵀB is from the identity."""
    found = first("llama", lambda g, o: with_map(o, "ffn", "in_", Select(np.arange(12) % 6, 6, np.full(12, 0.75))))
    assert found == ["reading: ffn: Aᵀ B is not the identity, so readers do not get back what was written (off by 0.5)"]


def test_a_layer_without_its_norm_reads_what_the_norm_would_have_read() -> None:
    """Condition 1: the first layer of ModernBERT has no norm before its attention, so it reads the stream itself."""
    config = {"model_type": "modernbert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 6, "vocab_size": 11, **ROWS["modernbert"].config}  # fmt: skip
    small = Architecture.from_hf_config(load_family("modernbert"), config)
    growth = Growth(small, small.grown({"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 12}))
    operator = operator_of(growth, width="hypercloning")
    assert agree(growth, operator)
    for role, weight in (("out", 2.0), ("in_", 0.25), ("gain", 2.0)):
        operator = with_map(operator, "normed", role, Select(np.arange(16) % 8, 8, np.full(16, weight)))
    assert not agree(growth, operator)
    text = "layer 0 has none, and readers of normed do not get back residual (off by 0.5)"
    assert [str(item) for item in certify(growth, operator)] == [f"reading: layers.{{i}}.attn_norm.weight: {text}"]


def test_a_mixture_under_an_activation_is_named() -> None:
    """Condition 2: the space and its function."""
    mix = np.concatenate([np.eye(6), np.eye(6)])
    mix[6, :2] = 0.5
    reads = np.linalg.pinv(mix).T
    found = first("gpt2", lambda g, o: with_map(with_map(o, "ffn", "out", Dense(mix)), "ffn", "in_", Dense(reads)),
                  target={"hidden_size": 8, "intermediate_size": 12}, n_inner=6)  # fmt: skip
    assert found == [
        "activation: ffn: rows of B that are read are no plain copies (or zero); gelu_new does not commute (off by 0.5)"
    ]


def test_an_epsilon_that_is_not_scaled_is_named() -> None:
    """Condition 3: zero-padding under RMSNorm needs eps · d/d'."""
    growth = growth_of("llama")
    operator = replace(operator_of(growth, width="zero_pad"), eps_scale={})
    assert not agree(growth, operator)
    found = {str(item).partition(": ")[2] for item in certify(growth, operator)}
    text = "rms_norm_eps must be scaled by 0.5, it is by 1 (off by 0.5)"
    assert found == {f"{gain}: {text}" for gain in ("layers.{i}.attn_norm.weight", "layers.{i}.mlp_norm.weight",
                                                    "final_norm.weight")}  # fmt: skip


def test_every_layer_needs_its_epsilon() -> None:
    """Condition 3, layer by layer: queries twice as large in the second layer only are a matter of its epsilon."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 11}
    config = {"model_type": "qwen3", **ROWS["qwen3"].config, **sizes, "num_hidden_layers": 2, "intermediate_size": 6}
    small = Architecture.from_hf_config(load_family("qwen3"), config)
    growth = Growth(small, small.grown({}))
    operator = build_operator(growth, None, None)
    term = operator.terms[0]
    twice = Select(np.arange(8), 8, np.full(8, 2.0))
    spaces = {**term.spaces, "query_raw": replace(term.spaces["query_raw"], out="changed")}
    changed = Term({**term.maps, "changed": (Identity(8), twice)}, spaces, term.depth)
    operator = replace(operator, terms=(changed,))
    assert not agree(growth, operator)
    assert [str(item) for item in certify(growth, operator)] == [
        "norm: layers.{i}.attn.q_norm.weight: rms_norm_eps must be scaled by 4, it is by 1 (off by 3)"
    ]


def test_zeros_under_a_layer_norm_are_named() -> None:
    """Condition 3: a norm that centres sees the zeros in its mean."""
    growth = growth_of("gpt2")
    operator = operator_of(growth, width="zero_pad")
    assert not agree(growth, operator)
    found = [item for item in certify(growth, operator) if item.condition == "norm"]
    assert found
    assert all("the variance of residual does not map to one factor of itself" in item.message for item in found)


def test_swapped_heads_are_named() -> None:
    """Condition 4: values that follow another head than the queries."""
    swapped = Select(np.array([4, 5, 6, 7, 0, 1, 2, 3] * 2), 8)
    found = first("bert", lambda g, o: with_map(o, "value", "out", swapped))
    assert len(found) == 1
    assert found[0].startswith("attention: query: value head 0 is no whole head of the small model")


def test_scores_at_another_scale_are_named() -> None:
    """Condition 4: the softmax divides by the square root of the larger head."""
    twice = Select(np.arange(16) % 8, 8, np.full(16, 2.0))
    found = first("gpt2", lambda g, o: with_map(o, "query", "out", twice))
    assert found == [
        "attention: query: head 0: query and key do not keep the scores (softmax scale √(d'/d)) (off by 1)"
    ]


def test_heads_that_leave_their_rotary_frequency_are_named() -> None:
    """Condition 4: the two halves of a head exchanged keep the scores, but not under rotary positions."""
    order = np.concatenate([head * 4 + np.array([1, 0, 2, 3]) for head in range(8)]) % 16
    keys = np.concatenate([head * 4 + np.array([1, 0, 2, 3]) for head in range(4)]) % 8
    found = first("llama", lambda g, o: with_map(with_map(o, "query", "out", Select(order, 16)), "key", "out",
                                                 Select(keys, 8)))  # fmt: skip
    assert any("does not commute with rotary positions" in line for line in found)


@pytest.mark.parametrize(
    ("rope", "kept"),
    [
        ({}, True),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, True),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, True),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, True),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, False),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, False),
    ],
)
def test_rotary_positions_that_depend_on_the_size_of_a_head_are_named(rope: dict[str, Any], kept: bool) -> None:
    """Condition 4: old pairs keep their place among the frequencies, unless the type computes those from the size."""
    growth = growth_of("llama", {"head_dim": 8}, **rope)
    broken = [str(item) for item in certify(growth, operator_of(growth, width="zero_pad"))]
    assert (not broken) == kept
    assert kept or "depend on the size of a head" in broken[0]


def test_ties_that_part_are_named() -> None:
    """Condition 5: the head would read by another map than the embedding writes, and a file has room for one.

    The forward pass sees the one that is stored, the embedding's; so the certificate is told what the file hides.
    """
    half = Select(np.arange(16) % 8, 8, np.full(16, 0.5))
    growth = growth_of("llama", tie_word_embeddings=True)
    operator = with_map(operator_of(growth, width="hypercloning"), "final", "in_", half)
    found = [str(item) for item in certify(growth, operator)]
    assert "tie: head.weight: tied to embed.tokens.weight, but final.in and residual.out differ (off by 0.5)" in found


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (np.array([[1, 0], [1, 0], [0, 1]]), "layers: those that are not silent copy 0, 0, 1"),
        (np.array([[0, 1], [1, 0], [1, 0]]), "layers: those that are not silent copy 1, 0, 0"),
        (np.array([[1, 0], [0.5, 0.5], [0, 1]]), "is a mixture, neither one small layer nor silent"),
    ],
    ids=["repeated", "swapped", "mixed"],
)
def test_layers_out_of_order_are_named(family: str, mix: Any, message: str) -> None:
    """Condition 6, whatever the family."""
    growth = growth_of(family, {"num_hidden_layers": 3})
    operator = operator_of(growth, depth="stack")
    operator = replace(operator, terms=(replace(operator.terms[0], depth={every("layers"): mix.astype(np.float64)}),))
    assert not agree(growth, operator)
    assert any(message in str(item) for item in certify(growth, operator))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_silent_layers_keep_the_function_before_norms(family: str, place: int) -> None:
    """Condition 6: a new layer that writes zeros to the residual stream, anywhere, is lossless."""
    growth = growth_of(family, {"num_hidden_layers": 3})
    copied, silent = np.insert(np.eye(2), place, [1, 0], axis=0), np.insert(np.eye(2), place, 0, axis=0)
    written = [name for name in growth.small.family.writers("residual") if LAYER in name]
    start = operator_of(growth, depth="stack")
    depth = {every("layers"): copied, **dict.fromkeys(written, silent)}
    operator = replace(start, terms=(replace(start.terms[0], depth=depth),))
    assert agree(growth, operator)
    some = {every("layers"): copied, **dict.fromkeys(written[:-1], silent)}
    assert not agree(growth, replace(start, terms=(replace(start.terms[0], depth=some),)))


def test_a_silent_layer_is_not_silent_after_norms() -> None:
    """BERT normalises after every block: a zero block still normalises twice."""
    growth = growth_of("bert", {"num_hidden_layers": 3})
    start = operator_of(growth, depth="stack")
    silent = {name: np.array([[1.0, 0], [0, 1], [0, 0]]) for name in growth.small.family.writers("residual")}
    depth = {every("layers"): np.array([[1.0, 0], [0, 1], [0, 1]]), **{k: v for k, v in silent.items() if LAYER in k}}
    assert not agree(growth, replace(start, terms=(replace(start.terms[0], depth=depth),)))


def test_terms_that_do_not_add_up_are_named() -> None:
    """The same term twice: every tensor is twice what it should be."""
    growth = growth_of("gpt2")
    operator = operator_of(growth, width="hypercloning")
    twice = replace(operator, terms=operator.terms * 2)
    assert not agree(growth, twice)
    found = [item for item in certify(growth, twice, present(growth.small)) if item.condition == "form"]
    text = "form: embed.tokens.weight: its terms do not add up to the first term's map of residual.out (off by 1)"
    assert str(found[0]) == text
    assert {item.where for item in found} == set(present(growth.small)) | {"head.weight"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_terms_that_add_up_are_lossless(family: str) -> None:
    """One operator said as two: each for some tensors, and for one tensor half and half; halves elsewhere break it."""
    growth = growth_of(family)
    operator = operator_of(growth, width="hypercloning")
    whole, some = operator.main, "layers.{i}.mlp.up.weight"
    others = frozenset(growth.small.family.tensors.keys() - {some})
    first = replace(whole, tensors=others)
    assert agree(growth, replace(operator, terms=(first, replace(whole, tensors=frozenset({some})))))
    half = {**whole.maps, "half": tuple(scaled(map_, 0.5) for map_ in whole.maps[whole.spaces["ffn"].out])}
    spaces = {**whole.spaces, "ffn": replace(whole.spaces["ffn"], out="half")}
    part = Term(half, spaces, whole.depth, frozenset({some}))
    assert agree(growth, replace(operator, terms=(first, part, part)))
    assert not agree(growth, replace(operator, terms=(first, part)))


def test_indices_may_not_move() -> None:
    """Token ids and positions are no channels: another order of the vocabulary is named."""
    growth = growth_of("llama")
    operator = with_map(
        operator_of(growth, width="hypercloning"), "vocab", "in_", Select(np.arange(11)[::-1].copy(), 11)
    )
    assert "index" in {item.condition for item in certify(growth, operator)}


def test_no_weight_is_needed_and_the_identity_is_lossless() -> None:
    """Nothing grows: identity maps, an empty certificate, for every family."""
    for family in CONFIGS:
        growth = growth_of(family, {})
        operator = build_operator(growth, None, None)
        assert all(
            isinstance(m, Identity) or m.shape[0] == m.shape[1] for c in operator.terms[0].maps.values() for m in c
        )
        assert certify(growth, operator) == []
