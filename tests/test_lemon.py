"""LEMON against its formulas, written out on the weights, and where it keeps the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.family import load_family
from ligo_spec.operator import Growth
from tests.family_table import ROWS
from tests.test_certify import agree, growth_of, operator_of
from tests.test_methods import grown

Array = npt.NDArray[Any]
UP, DOWN, GAIN, BIAS = (f"layers.0.{name}" for name in ("mlp.up.weight", "mlp.down.weight", "attn_norm.weight",
                                                        "attn_norm.bias"))  # fmt: skip


def summed(columns: Array, small: int) -> Array:
    """The blocks of whole copies of the columns, added up."""
    whole = columns.shape[1] // small * small
    total: Array = columns[:, :whole].reshape(len(columns), -1, small).sum(axis=1)
    return total


@pytest.mark.parametrize("large", [12, 20])
def test_average_expansion_under_layer_norm(large: int) -> None:
    """Copies, then means; norms write zeros there, at gains ``√(n D / D')`` and ``eps · n D / D'``; shares sum to 1."""
    n, rest = divmod(large, 8)
    growth = growth_of("gpt2", {"hidden_size": large, "num_attention_heads": large // 4}, n_inner=6)
    operator = operator_of(growth, width="lemon")
    small, made = grown(growth, operator)
    eta = np.sqrt(8 * n / large)
    old = small["embed.tokens.weight"]
    wanted = np.concatenate([*[old] * n, np.repeat(old.mean(1, keepdims=True), rest, axis=1)], axis=1)
    np.testing.assert_allclose(made["embed.tokens.weight"], wanted)  # row-average, and tied: the head has it too
    down = small[DOWN]
    wanted = np.concatenate([*[down] * n, np.repeat(down.mean(0, keepdims=True), rest, axis=0)])
    np.testing.assert_allclose(made[DOWN], wanted)
    gain, bias = made[GAIN], made[BIAS]
    np.testing.assert_allclose(gain[: 8 * n], np.tile(small[GAIN], n) * eta)
    assert gain[8 * n :].all()  # arbitrary, but zeros could not learn
    np.testing.assert_array_equal(bias, np.concatenate([np.tile(small[BIAS], n), np.zeros(rest)]))
    np.testing.assert_allclose(summed(made[UP], 8), small[UP])
    assert operator.eps_scale == {"layer_norm_epsilon": pytest.approx(eta**2)}
    share = np.arange(1, n + 1) / np.arange(1, n + 1).sum()  # the tied head reads copies: their shares are in the norm
    last = np.concatenate([a * small["final_norm.weight"] for a in share]) * eta
    np.testing.assert_allclose(made["final_norm.weight"][: 8 * n], last)


@pytest.mark.parametrize("large", [12, 20])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_zero_expansion_under_rms_norm(large: int, tied: bool) -> None:
    """Copies, then zeros; what reads the zeros is arbitrary."""
    n, rest = divmod(large, 8)
    growth = growth_of("llama", {"hidden_size": large}, tie_word_embeddings=tied)
    operator = operator_of(growth, width="lemon")
    small, made = grown(growth, operator)
    eta = np.sqrt(8 * n / large)
    for name in ("layers.0.attn.o.weight", DOWN):
        wanted = np.concatenate([*[small[name]] * n, np.zeros((rest, small[name].shape[1]))])
        np.testing.assert_array_equal(made[name], wanted)
    np.testing.assert_allclose(made[GAIN][: 8 * n], np.tile(small[GAIN], n) * eta)
    np.testing.assert_allclose(summed(made[UP], 8), small[UP])
    assert made[UP][:, 8 * n :].any()
    assert operator.eps_scale == {"rms_norm_eps": pytest.approx(eta**2)}
    assert agree(growth, operator)


def test_units_and_heads_are_copied_in_turn_and_read_unevenly() -> None:
    """Circular expansion: rows in turn; columns at 1 : 2 : ... of a sum of 1, no two copies alike."""
    growth = growth_of("bert", {"intermediate_size": 15, "hidden_size": 24, "num_attention_heads": 6})
    small, made = grown(growth, operator_of(growth, width="lemon"))
    g = np.arange(15) % 6
    share = np.concatenate([[1 / 6] * 3, [1 / 3] * 3, [2 / 6] * 3, [2 / 3] * 3, [3 / 6] * 3])
    np.testing.assert_allclose(made[DOWN][:8], small[DOWN][:, g] * share)
    np.testing.assert_allclose(summed(made[UP], 8), small[UP][g])
    thirds = made[UP].reshape(15, 3, 8)
    np.testing.assert_allclose(thirds[:, 1], 2 * thirds[:, 0])
    context = made["layers.0.attn.o.weight"][:8].reshape(8, 3, 8)
    for copy in range(3):
        np.testing.assert_allclose(context[:, copy], small["layers.0.attn.o.weight"] * (copy + 1) / 6)


def test_even_shares_are_those_of_net2net() -> None:
    """``split: even`` of an integer factor is HyperCloning."""
    growth = growth_of("llama", tie_word_embeddings=False)
    even = operator_of(growth, width={"method": "lemon", "split": "even"})
    _, first = grown(growth, even)
    _, second = grown(growth, operator_of(growth, width="hypercloning"))
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name])


def test_coordinates_within_a_head_part_too() -> None:
    """BERT's heads grow with ``hidden_size``: two copies of a coordinate score at 2/3 and 4/3 of their even share."""
    growth = growth_of("bert", {"hidden_size": 16})
    small, made = grown(growth, operator_of(growth, width="lemon"))
    even = small["layers.0.attn.q.bias"].reshape(2, 1, 4) * 2**0.25 / np.sqrt(2)
    found = made["layers.0.attn.q.bias"].reshape(2, 2, 4)
    np.testing.assert_allclose(found, even * np.array([2 / 3, 4 / 3])[None, :, None])
    assert agree(growth, operator_of(growth, width="lemon"))


SHARED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "qwen3": (  # the norms of heads use the same epsilon
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4},
        {"hidden_size": 12, "intermediate_size": 9},
    ),
    "opt": (  # no key holds it
        {"num_attention_heads": 2, "ffn_dim": 6, "word_embed_proj_dim": 8, "max_position_embeddings": 8},
        {"hidden_size": 12, "num_attention_heads": 3, "word_embed_proj_dim": 12},
    ),
}
"""Sizes of small models, and targets."""


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", SHARED)
def test_an_epsilon_that_cannot_be_scaled_is_kept(family: str, tied: bool) -> None:
    """By the paper's form the certificate names it; with larger streams the function is kept at any ratio."""
    sizes, target = SHARED[family]
    config = {"model_type": family, **ROWS[family].config, "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 11,
              "intermediate_size": 6, "tie_word_embeddings": tied, **sizes}  # fmt: skip
    small = Architecture.from_hf_config(load_family(family), config)
    growth = Growth(small, small.grown(target))
    scaled, kept = (operator_of(growth, width={"method": "lemon", "epsilon": e}) for e in ("scaled", "kept"))
    assert kept.eps_scale == {}
    assert agree(growth, kept)
    assert not agree(growth, scaled)
    assert all("must be scaled by" in str(item) for item in certify(growth, scaled))


@pytest.mark.parametrize("large", [12, 16])
def test_norms_after_the_branches_need_whole_copies(large: int) -> None:
    """BERT: no mean stands where a norm's own output is normed again; the certificate says so."""
    growth = growth_of("bert", {"hidden_size": large, "num_attention_heads": large // 4})
    assert agree(growth, operator_of(growth, width="lemon")) == (large == 16)
