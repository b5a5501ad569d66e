"""Normalized copies and centre tiling against their formulas, written out on the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.family import load_family
from ligo_spec.family_sizes import small_configs
from ligo_spec.operator import Growth
from tests.family_table import ROWS
from tests.test_certify import TWICE, agree, growth_of, operator_of
from tests.test_methods import K, Q, grown

UP, DOWN, GAIN = (f"layers.0.{name}.weight" for name in ("mlp.up", "mlp.down", "attn_norm"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("large", [12, 16, 20])
def test_normalized_copies_keep_the_length(large: int, tied: bool) -> None:
    """Methods 4.2: streams at ``1/√c`` on both sides, gains ``√(D/D')``, ``eps · D/D'``; ties without a division."""
    growth = growth_of("llama", {"hidden_size": large}, tie_word_embeddings=tied)
    operator = operator_of(growth, width="normalized_copy")
    small, made = grown(growth, operator)
    g = np.arange(large) % 8
    root = np.sqrt(np.bincount(g))[g]
    np.testing.assert_allclose(made["embed.tokens.weight"], small["embed.tokens.weight"][:, g] / root)
    np.testing.assert_allclose(made["head.weight"], small["head.weight"][:, g] / root)
    np.testing.assert_allclose(made[UP], small[UP][:, g] / root)
    np.testing.assert_allclose(made[DOWN], small[DOWN][g] / root[:, None])
    for name in (GAIN, "final_norm.weight"):
        np.testing.assert_allclose(made[name], small[name][g] * np.sqrt(8 / large))
    length = np.linalg.norm(small["embed.tokens.weight"], axis=1)
    np.testing.assert_allclose(np.linalg.norm(made["embed.tokens.weight"], axis=1), length)
    assert operator.eps_scale == {"rms_norm_eps": pytest.approx(8 / large)}
    assert agree(growth, operator)
    names = operator.main.spaces["residual"]
    assert names.out == names.in_  # one map, which a fit learns once
    assert agree(growth, operator_of(growth, width={"method": "normalized_copy", "noise": 10}))


@pytest.mark.parametrize(("large", "kept"), [(16, True), (12, False)])
def test_normalized_copies_under_layer_norm(large: int, kept: bool) -> None:
    """Equal counts keep the mean; unequal ones do not, and the certificate names the variance."""
    growth = growth_of("gpt2", {"hidden_size": large, "num_attention_heads": large // 4})
    operator = operator_of(growth, width="normalized_copy")
    assert agree(growth, operator) == kept
    assert kept or "variance" in str(next(item for item in certify(growth, operator) if item.condition == "norm"))


@pytest.mark.parametrize(("small", "large", "wanted"), [
    (3, 8, [1, 2, 0, 1, 2, 0, 1, 2]),  # the official code's own example: 1 2 3 becomes 2 3 1 2 3 1 2 3
    (8, 12, [6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1]),
    (6, 6, [0, 1, 2, 3, 4, 5]),
])  # fmt: skip
def test_tiles_stand_in_the_middle_and_wrap(small: int, large: int, wanted: list[int]) -> None:
    """Rows of what writes a space, columns of what reads it, nothing divided."""
    growth = growth_of("llama", {"intermediate_size": large}, intermediate_size=small)
    before, made = grown(growth, operator_of(growth, width="center_tile"))
    np.testing.assert_array_equal(made["layers.0.mlp.gate.weight"], before["layers.0.mlp.gate.weight"][wanted])
    np.testing.assert_array_equal(made[UP], before[UP][wanted])
    np.testing.assert_array_equal(made[DOWN], before[DOWN][:, wanted])


def test_tiles_of_the_stream_and_whole_heads() -> None:
    """4 heads become 6: the old ones are 1 to 4; gains and embeddings have the middle too; epsilons stay."""
    growth = growth_of("llama", {"hidden_size": 12, "num_attention_heads": 6, "num_key_value_heads": 6},
                       num_key_value_heads=4)  # fmt: skip
    operator = operator_of(growth, width="center_tile")
    before, made = grown(growth, operator)
    columns = (np.arange(12) - 2) % 8
    heads = [3, 0, 1, 2, 3, 0]
    for name in (Q, K):
        wanted = before[name].reshape(4, 4, 8)[heads].reshape(24, 8)[:, columns]
        np.testing.assert_array_equal(made[name], wanted)
    np.testing.assert_array_equal(made[GAIN], before[GAIN][columns])
    np.testing.assert_array_equal(made["embed.tokens.weight"], before["embed.tokens.weight"][:, columns])
    assert operator.eps_scale == {}
    assert not agree(growth, operator)


@pytest.mark.parametrize("family", TWICE)
def test_tiling_changes_the_function(family: str) -> None:
    """Twice everything, copies in full: logits are others, and the certificate knows."""
    growth = growth_of(family)
    assert not agree(growth, operator_of(growth, width="center_tile"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("width", ["lemon", {"method": "lemon", "epsilon": "kept"}, "normalized_copy"], ids=str)
def test_a_root_between_the_last_norm_and_the_head(width: Any, tied: bool) -> None:
    """T5 divides what its last norm writes by ``√d_model``: the norm's gains follow what comes after the root."""
    family = load_family("t5")
    flags = {"tie_word_embeddings": tied, "scale_decoder_outputs": True}
    config = {**small_configs(family)[0], "model_type": "t5", **ROWS["t5"].config, **flags}
    small = Architecture.from_hf_config(family, config)
    growth = Growth(small, small.grown({"hidden_size": small.sizes["hidden_size"] + 3}))
    assert agree(growth, operator_of(growth, width=width))
