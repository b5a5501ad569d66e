"""Growth methods against independent statements of their papers' formulas, written out on the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.errors import InputError, PlanError
from ligo_spec.family import load_family
from ligo_spec.maps import Blocks, Dense, Identity, dense
from ligo_spec.methods import DEPTH_METHODS, WIDTH_METHODS
from ligo_spec.operator import Growth, Operator
from ligo_spec.testing import random_small
from tests.forward import outputs
from tests.test_certify import CONFIGS, TWICE, agree, growth_of, operator_of
from tests.test_depth import COPIES, SILENT

Array = npt.NDArray[Any]
Q, K, V, O = (f"layers.0.attn.{name}.weight" for name in "qkvo")  # noqa: E741


def grown(growth: Growth, operator: Operator) -> tuple[dict[str, Array], dict[str, Array]]:
    """Small tensors and what the reference makes of them."""
    small = random_small(growth.small, 5, np.float64)
    return small, reference.grow(growth.small.family, operator, small)


def sources(operator: Operator, name: str = "layers.{i}.attn.q.weight") -> list[int]:
    """Where each layer comes from, for a depth map that copies."""
    mix = operator.terms[0].mix(name)
    assert set(np.unique(mix)) <= {0.0, 1.0}
    assert (mix.sum(axis=1) == 1).all()
    return [int(row.argmax()) for row in mix]


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "small", "large", "wanted"),
    [
        ("stack", 3, 6, [0, 1, 2, 0, 1, 2]),  # Gong et al. 2019: the whole model on top of itself
        ("stack", 3, 5, [0, 1, 2, 0, 1]),
        ("stack", 2, 2, [0, 1]),
        ("interpolate", 3, 6, [0, 0, 1, 1, 2, 2]),  # Chang et al. 2018: every layer twice
        ("interpolate", 2, 6, [0, 0, 0, 1, 1, 1]),
        ("interpolate", 3, 5, [0, 0, 1, 1, 2]),
        ("interpolate", 1, 3, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("family", CONFIGS)
def test_layers_are_copied_from(family: str, method: str, small: int, large: int, wanted: list[int]) -> None:
    """Every tensor of a layer, norms and biases too, comes from the published place, bit for bit."""
    count = {"gpt2": "n_layer"}.get(family, "num_hidden_layers")
    growth = growth_of(family, {"num_hidden_layers": large}, **{count: small})
    operator = operator_of(growth, depth=method)
    assert sources(operator) == wanted
    weights, made = grown(growth, operator)
    for name, value in made.items():
        head, _, rest = name.partition(".")
        if head == "layers":
            layer, _, tensor = rest.partition(".")
            name = f"layers.{wanted[int(layer)]}.{tensor}"
        np.testing.assert_array_equal(value, weights[name])


@pytest.mark.parametrize("noise", [0.03, 0.5, 0.0])
def test_noisy_stack_is_the_official_start(noise: float) -> None:
    """``stackbert_noisy``: uniform noise on the stacking rows, each tensor its own, rows summing to one."""
    growth = growth_of("bert", {"num_hidden_layers": 5})
    operator = operator_of(growth, depth={"method": "noisy_stack", "noise": noise})
    mixes = operator.terms[0].depth
    assert len({mix.tobytes() for mix in mixes.values()}) == (len(mixes) if noise else 1)
    for mix in mixes.values():
        assert mix.shape == (5, 2)
        np.testing.assert_allclose(mix.sum(axis=1), 1)
        unnormalised = mix / mix[np.arange(5), np.arange(5) % 2][:, None]  # own entry 1, the other U/(1+U')
        assert (mix >= 0).all()
        assert unnormalised.max() == 1
        assert np.delete(unnormalised, 0).min() <= noise


# --- width ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_hypercloning_is_the_published_tiling(family: str) -> None:
    """Samragh et al., section 3: ``W' = [[W, W], [W, W]] / 2``, ``b' = [b; b]``, embeddings and gains side by side."""
    growth = growth_of(family, tie_word_embeddings=False)
    small, large = grown(growth, operator_of(growth, width="hypercloning"))
    tile = np.ones((2, 2)) / 2
    ends = ("attn.q.weight", "attn.k.weight", "attn.v.weight", "mlp.up.weight", "mlp.gate.weight")
    for name, value in small.items():
        if name.endswith(ends) and family != "gpt2":
            np.testing.assert_allclose(large[name], np.kron(tile, value), err_msg=name)
        elif name.endswith(("_norm.weight", "attn.q.bias", "attn_norm.bias", "mlp.up.bias")) and family == "bert":
            np.testing.assert_allclose(large[name], np.tile(value, 2), err_msg=name)
        elif name == "embed.tokens.weight":
            np.testing.assert_allclose(large[name], np.tile(value, (1, 2)))
    if family != "gpt2":  # there the ffn grows by another factor
        down = large["layers.0.mlp.down.weight"]
        np.testing.assert_allclose(down, np.kron(tile, small["layers.0.mlp.down.weight"]))


def test_hypercloning_repeats_more_than_twice() -> None:
    """Any integer factor, ``W' = W tiled k × k / k``; the attention's output reads copies of whole heads."""
    growth = growth_of("llama", {"hidden_size": 24, "num_attention_heads": 12, "num_key_value_heads": 6})
    small, large = grown(growth, operator_of(growth, width="hypercloning"))
    per_head = small[Q].reshape(4, 4, 8)
    for head in range(12):
        found = large[Q].reshape(12, 4, 24)[head]
        same = [h for h in range(4) if np.allclose(found, np.tile(per_head[h], (1, 3)) / 3)]
        assert len(same) == 1
        key = large[K].reshape(6, 4, 24)[head // 2]  # two query heads share a key-value head, as before
        np.testing.assert_allclose(key, np.tile(small[K].reshape(2, 4, 8)[same[0] // 2], (1, 3)) / 3)


@pytest.mark.parametrize("choice", ["random", "even"])
def test_net2net_copies_units_and_divides_by_their_count(choice: str) -> None:
    """Chen et al., section 2.2: ``U'[i] = U[g(i)]``, ``W'[:, i] = W[:, g(i)] / |{k: g(k) = g(i)}|``."""
    growth = growth_of("bert", {"intermediate_size": 14})
    small, large = grown(growth, operator_of(growth, width={"method": "net2net", "choice": choice}))
    up, down = small["layers.1.mlp.up.weight"], small["layers.1.mlp.down.weight"]
    g = [int(np.flatnonzero((up == row).all(axis=1))[0]) for row in large["layers.1.mlp.up.weight"]]
    assert g[:6] == list(range(6))  # the old units stay where they are
    if choice == "even":
        assert g == [*range(6), *range(6), 0, 1]
    for place, unit in enumerate(g):
        np.testing.assert_allclose(large["layers.1.mlp.down.weight"][:, place], down[:, unit] / g.count(unit))
        assert large["layers.1.mlp.up.bias"][place] == small["layers.1.mlp.up.bias"][unit]


def test_net2net_draws_belong_to_the_seed() -> None:
    """The same seed copies the same units; another one others."""
    from ligo_spec.methods import build_operator, net2net

    growth = growth_of("bert", {"intermediate_size": 60})
    first, again, other = (
        dense(build_operator(growth, net2net.Net2Net(), None, seed=seed).terms[0].map("ffn", "out", None))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["hypercloning", "net2net"])
def test_noise_cancels_over_the_copies(method: str) -> None:
    """Methods 3.10: readers' columns at ``(1 + ε) / c``, the noise of a unit's copies sums to 0; rows are as before.

    The ratio of the squares is what was asked for: 2000 draws at 10 dB give it within a tenth of a dB or so.
    """
    growth = growth_of("bert", {"intermediate_size": 6000}, intermediate_size=2000)
    small, large = grown(growth, operator_of(growth, width={"method": method, "noise": 10}))
    up, down = (large[f"layers.1.mlp.{name}.weight"] for name in ("up", "down"))
    unit = {row.tobytes(): i for i, row in enumerate(small["layers.1.mlp.up.weight"])}
    g = np.array([unit[row.tobytes()] for row in up])  # rows are exact copies
    c = np.bincount(g)[g]
    old = small["layers.1.mlp.down.weight"]
    epsilon = down[0] / old[0, g] * c - 1
    np.testing.assert_allclose(down, old[:, g] * (1 + epsilon) / c)
    np.testing.assert_allclose(np.bincount(g, weights=epsilon), 0, atol=1e-9)
    assert not epsilon[c == 1].any()
    assert -10 * np.log10((epsilon[c > 1] ** 2).mean()) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", CONFIGS)
def test_noise_keeps_the_function(family: str, tied: bool) -> None:
    """Of all widths, by the certificate and in the forward pass, and no weight matrix is what it is without noise."""
    growth = growth_of(family, tie_word_embeddings=tied)
    quiet, noisy = (operator_of(growth, width={"method": "hypercloning", "noise": noise}) for noise in (None, 10))
    assert agree(growth, noisy)
    (_, before), (_, after) = grown(growth, quiet), grown(growth, noisy)
    assert not np.allclose(before["layers.0.mlp.down.weight"], after["layers.0.mlp.down.weight"])
    if family == "llama":  # a tied head reads what the embedding writes, so the last norm's gain parts the copies
        assert np.allclose(before["final_norm.weight"], after["final_norm.weight"]) == (not tied)


def test_zero_padding_is_the_published_block_form() -> None:
    """Gesmundo & Maile: new channels are written zero, new units are not read; gains and eps scale under RMSNorm."""
    target = {"hidden_size": 12, "intermediate_size": 10}
    growth = growth_of("llama", target, tie_word_embeddings=False)
    operator = operator_of(growth, width="zero_pad")
    small, large = grown(growth, operator)
    for name in ("layers.0.attn.o.weight", "layers.0.mlp.down.weight"):
        rows, columns = small[name].shape
        np.testing.assert_array_equal(large[name][:rows, :columns], small[name])
        assert not large[name][rows:].any()  # new channels: zero
        assert not large[name][:, columns:].any()  # new units: not read
    up = large["layers.0.mlp.up.weight"]
    np.testing.assert_array_equal(up[:6, :8], small["layers.0.mlp.up.weight"])
    assert up[6:].any()  # the free sides are not dead
    assert up[:, 8:].any()
    np.testing.assert_array_equal(large["embed.tokens.weight"][:, 8:], 0)
    gain = small["layers.0.attn_norm.weight"] * np.sqrt(8 / 12)
    np.testing.assert_allclose(large["layers.0.attn_norm.weight"][:8], gain)
    assert large["layers.0.attn_norm.weight"][8:].all()
    assert operator.eps_scale == {"rms_norm_eps": pytest.approx(8 / 12)}


def test_zero_padding_can_leave_the_free_side_zero() -> None:
    """``free: zero``: everything new is zero but the gains."""
    growth = growth_of("llama", {"intermediate_size": 10, "hidden_size": 12})
    _, large = grown(growth, operator_of(growth, width={"method": "zero_pad", "free": "zero"}))
    up = large["layers.0.mlp.up.weight"]
    assert not up[6:].any()
    assert not up[:, 8:].any()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_noisy_average_is_the_official_start(family: str) -> None:
    """LiGO: ``B = A = [I; C]``, C's rows uniform and normalised; ``W' = [[W, W Cᵀ], [C W, C W Cᵀ]]``."""
    growth = growth_of(family)
    operator = operator_of(growth, width="noisy_average")
    small, large = grown(growth, operator)
    residual = operator.terms[0].map("residual", "out", None)
    assert isinstance(residual, Blocks)
    identity, new = residual.parts
    assert isinstance(identity, Identity)
    assert isinstance(new, Dense)
    assert (new.matrix >= 0).all()
    np.testing.assert_allclose(new.matrix.sum(axis=1), 1, rtol=1e-6)
    queries = {dense(operator.terms[0].map("query", "out", layer)).tobytes() for layer in range(2)}
    assert len(queries) == 2  # a map of its own for every layer
    for layer in range(2):
        name = f"layers.{layer}.attn.q.weight"
        b = dense(operator.terms[0].map("query", "out", layer))
        a = dense(operator.terms[0].map("residual" if family == "bert" else "normed", "in", layer))
        weight = small[name]
        np.testing.assert_allclose(large[name][: len(weight), : weight.shape[1]], weight)
        np.testing.assert_allclose(large[name], b @ weight @ a.T)
        o = f"layers.{layer}.attn.o.weight"
        v = dense(operator.terms[0].map("value", "out", layer))  # what reads the values reads them by their own map
        np.testing.assert_allclose(large[o], dense(residual) @ small[o] @ v.T)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_tensors_stay_one_tensor(family: str, tied: bool) -> None:
    """Whatever the method, embedding and head grow to the same values where they are tied."""
    growth = growth_of(family, tie_word_embeddings=tied)
    for method in WIDTH_METHODS:
        small = random_small(growth.small, 1, np.float64)
        small["head.weight"] = small["embed.tokens.weight"]
        large = reference.grow(growth.small.family, operator_of(growth, width=method), small)
        same = np.allclose(large["head.weight"], large["embed.tokens.weight"])
        assert same or not tied, method
        assert tied or not same or method not in ("hypercloning", "zero_pad")  # untied, the head reads by its own map


# --- vocabularies and positions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WIDTH_METHODS)
@pytest.mark.parametrize("family", CONFIGS)
def test_new_tokens_are_the_mean_of_the_old(family: str, method: str) -> None:
    """Methods 4.10, for embedding, untied head and its bias, under every width method."""
    growth = growth_of(family, {"vocab_size": 14}, tie_word_embeddings=False)
    small, large = grown(growth, operator_of(growth, width=method))
    for name in ("embed.tokens.weight", "head.weight", "head.bias"):
        if name in small:
            np.testing.assert_array_equal(large[name][:11], small[name])
            np.testing.assert_allclose(large[name][11:], np.repeat(small[name].mean(0, keepdims=True), 3, axis=0))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_old_tokens_keep_their_logits(tied: bool) -> None:
    """A larger vocabulary: the old logits to the last digit, and no new one above the largest mean can be."""
    growth = growth_of("llama", {"vocab_size": 14, **TWICE["llama"]}, tie_word_embeddings=tied)
    operator = operator_of(growth, width="hypercloning")
    small, large = grown(growth, operator)
    before = outputs(growth.small, growth.small.config, small, "float64", growth.small)
    after = outputs(growth.large, growth.large.config, large, "float64", growth.small)
    np.testing.assert_allclose(after[..., :11], before, atol=1e-9)
    np.testing.assert_allclose(after[..., 11:], np.repeat(before.mean(-1, keepdims=True), 3, axis=-1), atol=1e-9)
    assert [item.where for item in certify(growth, operator)] == ["vocab.out"]


@pytest.mark.parametrize(
    ("family", "wanted"),
    [("bert", [0, 1, 2, 3, 4]), ("gpt2", [0, 1, 2, 3, 4]), ("roberta", [2, 3, 4, 5, 6]), ("opt", [2, 3, 4, 5, 6])],
)
def test_new_positions_repeat_the_old(family: str, wanted: list[int]) -> None:
    """From the first position that is read; the function on old positions stays, so the certificate holds."""
    sizes = {"max_position_embeddings": 7} if family != "gpt2" else {"n_positions": 7}
    heads = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 6, "ffn_dim": 6}
    config = {"model_type": family, **heads, "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 11, **sizes}
    architecture = Architecture.from_hf_config(load_family(family), config)
    growth = Growth(architecture, architecture.grown({"max_position_embeddings": 12}))
    operator = operator_of(growth, width="net2net")
    small, large = grown(growth, operator)
    old, new = small["embed.positions.weight"], large["embed.positions.weight"]
    np.testing.assert_array_equal(new[: len(old)], old)
    np.testing.assert_array_equal(new[len(old) :], old[wanted])
    assert certify(growth, operator) == []


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "target", "chosen", "message"),
    [
        ("gpt2", {"hidden_size": 12}, {"width": "hypercloning"}, "hidden_size 8 → 12 is no integer factor"),
        ("gpt2", {"hidden_size": 16}, {}, "no width method, but residual, normed"),
        ("gpt2", {"num_hidden_layers": 3}, {}, "no depth method, but 2 layers become 3; name one"),
        ("llama", {"head_dim": 8}, {"width": "net2net"}, "cannot grow head_dim (4 → 8) under rotary positions"),
        ("llama", {"head_dim": 6}, {"width": "zero_pad"}, "4 → 6 turning coordinates is no integer factor"),
        ("llama", {"head_dim": 8}, {"width": "hypercloning"}, "keep head_dim and grow num_attention_heads"),
        ("llama", {"head_dim": 8}, {"width": "noisy_average"}, "cannot grow head_dim (4 → 8) under rotary positions"),
        ("bert", {"type_vocab_size": 3}, {"width": "zero_pad"}, "zero_pad has no rule for type_vocab_size (2 → 3)"),
    ],
)  # fmt: skip
def test_what_has_no_rule_is_refused(family: str, target: dict[str, int], chosen: dict[str, Any], message: str) -> None:
    """With the sizes, the reason and what to do instead."""
    with pytest.raises(PlanError) as caught:
        operator_of(growth_of(family, target), **chosen)
    assert message in str(caught.value)


def test_heads_without_a_place_are_refused() -> None:
    """Two groups of three heads cannot become three of two: the message counts the places."""
    growth = growth_of("llama", {"num_key_value_heads": 3}, hidden_size=12, num_attention_heads=6)
    with pytest.raises(PlanError, match="leaves 2 places for the 3 query heads of key-value head 1"):
        operator_of(growth, width="net2net")


def test_growth_cannot_shrink() -> None:
    """All sizes that shrink or do not divide are named at once."""
    with pytest.raises(InputError) as caught:
        growth_of("bert", {"hidden_size": 6, "num_attention_heads": 4, "num_hidden_layers": 1})
    lines = str(caught.value).splitlines()
    assert "num_attention_heads 4 does not divide hidden_size 6" in lines
    assert "hidden_size: large 6 is smaller than small 8; growth cannot shrink an axis" in lines
    assert "num_hidden_layers: large 1 is smaller than small 2; growth cannot shrink an axis" in lines


def test_every_method_is_tested_here() -> None:
    """A new method must be added to the tests above or to those of depth methods, or this one fails."""
    assert WIDTH_METHODS == (
        "bert2bert",
        "center_tile",
        "hypercloning",
        "lemon",
        "net2net",
        "noisy_average",
        "normalized_copy",
        "staged",
        "zero_pad",
    )
    listed: list[Any] = [case[0] for case in COPIES] + [case[0] for case in SILENT]
    elsewhere = {depth if isinstance(depth, str) else depth["method"] for depth in listed}
    assert {"interpolate", "noisy_stack", "stack"} | elsewhere == set(DEPTH_METHODS)
