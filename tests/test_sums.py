"""Methods of several terms against their formulas: bert2BERT's AKI, staged training's block-diagonal copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.family import load_family
from ligo_spec.layer_kinds import kinds
from ligo_spec.methods.bert2bert import next_layers
from ligo_spec.operator import Growth
from ligo_spec.operator_check import check_operator
from tests.family_table import ROWS
from tests.test_certify import CONFIGS, TWICE, agree, growth_of, operator_of
from tests.test_methods import grown

AKI = {"method": "bert2bert", "choice": "even"}
SIDES = {"mlp.up": (6, 8), "mlp.down": (8, 6), "attn.q": (8, 8), "attn.o": (8, 8)}
"""Rows and columns of BERT's small matrices."""


@pytest.mark.parametrize("depth", [None, "stack", "interpolate"])
def test_new_rows_are_those_of_the_next_layer(depth: str | None) -> None:
    """Chen et al., section 3.4: columns as FPI's; old rows from layer l, new ones from l + 1, the last's from l.

    Deeper models are widened first, then stacked: large layer i from D[i], its new rows from the layer after that.
    """
    layers = 3 if depth is None else 7
    growth = growth_of("bert", {**TWICE["bert"], "num_hidden_layers": layers}, num_hidden_layers=3)
    operator = operator_of(growth, width=AKI, **({} if depth is None else {"depth": depth}))
    check_operator(operator, growth)
    small, made = grown(growth, operator)
    for i in range(layers):
        source = {"interpolate": i * 3 // 7}.get(str(depth), i % 3)
        above = min(source + 1, 2)
        for name, (_, columns) in SIDES.items():
            old, new = (np.tile(small[f"layers.{j}.{name}.weight"], (1, 2)) / 2 for j in (source, above))
            assert old.shape[1] == 2 * columns
            np.testing.assert_allclose(made[f"layers.{i}.{name}.weight"], np.concatenate([old, new]), err_msg=name)
            bias = np.concatenate([small[f"layers.{j}.{name}.bias"] for j in (source, above)])
            np.testing.assert_allclose(made[f"layers.{i}.{name}.bias"], bias)
        for name in ("attn_norm.weight", "mlp_norm.bias"):
            np.testing.assert_array_equal(made[f"layers.{i}.{name}"], np.tile(small[f"layers.{source}.{name}"], 2))
    embedding = small["embed.tokens.weight"]
    np.testing.assert_array_equal(made["embed.tokens.weight"], np.tile(embedding, (1, 2)))


@pytest.mark.parametrize("family", CONFIGS)
def test_fpi_is_net2net_and_aki_is_not_lossless(family: str) -> None:
    """The certificate of AKI names a layer that is a mixture; of one layer alone there is no next one."""
    growth = growth_of(family)
    fpi = operator_of(growth, width={**AKI, "variant": "fpi"})
    _, first = grown(growth, fpi)
    _, second = grown(growth, operator_of(growth, width={"method": "net2net", "choice": "even"}))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert agree(growth, fpi)
    aki = operator_of(growth, width=AKI)
    assert not agree(growth, aki)
    assert [item.where for item in certify(growth, aki)] == ["layer 0"]
    count = {"gpt2": "n_layer"}.get(family, "num_hidden_layers")
    sizes: dict[str, Any] = {count: 1}
    alone = growth_of(family, **sizes)
    assert agree(alone, operator_of(alone, width=AKI))


def test_new_heads_of_a_group_are_the_next_layers() -> None:
    """Grouped heads: new query heads come from the next layer, key and value heads that stay are whole."""
    growth = growth_of("llama", {"num_attention_heads": 8})
    small, made = grown(growth, operator_of(growth, width=AKI))
    q, k = ([small[f"layers.{i}.attn.{name}.weight"].reshape(-1, 4, 8) for i in (0, 1)] for name in "qk")
    found = made["layers.0.attn.q.weight"].reshape(8, 4, 8)
    for place, (layer, head) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]):
        np.testing.assert_array_equal(found[place], q[layer][head])
    np.testing.assert_array_equal(made["layers.0.attn.k.weight"].reshape(2, 4, 8), k[0])


def test_the_next_layer_is_of_the_same_kind() -> None:
    """ModernBERT: local layers follow local ones, the first, which lacks a norm, nobody."""
    config = {"model_type": "modernbert", "hidden_size": 8, "num_hidden_layers": 7, "num_attention_heads": 2,
              "intermediate_size": 6, "vocab_size": 11, **ROWS["modernbert"].config}  # fmt: skip
    small = Architecture.from_hf_config(load_family("modernbert"), config)
    growth = Growth(small, small.grown({"hidden_size": 16, "num_attention_heads": 4}))
    order = next_layers(growth, "layers").argmax(axis=1).tolist()
    assert order == [0, 2, 4, 6, 5, 5, 6]  # 0, 3 and 6 are global, 0 has no norm
    assert len(set(map(str, kinds(small, "layers")))) == 3
    check_operator(operator_of(growth, width=AKI), growth)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", CONFIGS)
def test_staged_training_is_block_diagonal(family: str, tied: bool) -> None:
    """Shen et al.: ``[[W, 0], [0, W]]``, ``[E, E]``, ``[v; v]``, and a last norm half as large under a tied head."""
    target = {**TWICE[family], **({"intermediate_size": 12} if family == "gpt2" else {})}
    growth = growth_of(family, target, tie_word_embeddings=tied, **({"n_inner": 6} if family == "gpt2" else {}))
    operator = operator_of(growth, width="staged")
    small, made = grown(growth, operator)
    for name, value in small.items():
        if (value.ndim == 2 and name.startswith("layers.")) or name == "head.transform.weight":
            np.testing.assert_array_equal(made[name], np.kron(np.eye(2), value), err_msg=name)
        elif name.startswith("layers."):
            np.testing.assert_array_equal(made[name], np.tile(value, 2), err_msg=name)
    embedding = small["embed.tokens.weight"]
    np.testing.assert_array_equal(made["embed.tokens.weight"], np.tile(embedding, (1, 2)))
    last = {"bert": "head.norm.weight"}.get(family, "final_norm.weight")
    np.testing.assert_allclose(made[last], np.tile(small[last], 2) / (2 if tied else 1))
    assert agree(growth, operator)


def test_staged_training_of_one_axis_tiles() -> None:
    """Only units grow, threefold: nothing can be block-diagonal. Heads three times, two a group: blocks of heads."""
    growth = growth_of("llama", {"intermediate_size": 18})
    operator = operator_of(growth, width="staged")
    small, made = grown(growth, operator)
    down = "layers.0.mlp.down.weight"
    np.testing.assert_allclose(made[down], np.tile(small[down], (1, 3)) / 3)
    assert agree(growth, operator)
    growth = growth_of("llama", {"hidden_size": 24, "num_attention_heads": 12, "intermediate_size": 18})
    operator = operator_of(growth, width="staged")
    assert agree(growth, operator)
    small, made = grown(growth, operator)
    output = made["layers.0.attn.o.weight"].reshape(3, 8, 12, 4)
    assert sorted(np.flatnonzero(output[t].any(axis=(0, 2))).tolist() for t in range(3)) == [
        [0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]  # fmt: skip
    heads = growth_of("bert", {"hidden_size": 16})  # two coordinates for one, within every head
    assert agree(heads, operator_of(heads, width="staged"))
