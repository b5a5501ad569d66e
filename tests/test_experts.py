"""Mixture of experts: files that hold one expert a tensor, growth of their number, and when that keeps the function."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec import InputError, PlanError
from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.explain import explain
from ligo_spec.family import load_family
from ligo_spec.family_check import check_family
from ligo_spec.inspection import inspect
from ligo_spec.job import open_model
from ligo_spec.layer_kinds import settled
from ligo_spec.maps import Dense, Map, Select, dense
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator import Growth, Operator, Term, every
from ligo_spec.operator_check import check_operator
from ligo_spec.operator_file import load_operator
from ligo_spec.outputs import plan_outputs
from ligo_spec.reference import grow
from tests.family_table import ROWS
from tests.test_certify import agree, operator_of, with_map
from tests.tiny_checkpoints import Arrays, arrays, config_of, plan_file, tensors_of, write

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
         "vocab_size": 11, "num_experts_per_tok": 2}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": {**SIZES, "model_type": "mixtral", "intermediate_size": 6, "num_local_experts": 3},
    "qwen3_moe": {**SIZES, "model_type": "qwen3_moe", "intermediate_size": 6, "moe_intermediate_size": 5,
                  "num_experts": 3, "mlp_only_layers": [1]},
}  # fmt: skip

EXPERT = "layers.{}.block_sparse_moe.experts.{}.w1.weight"
"""The gate of one expert in a file of Mixtral."""


def growth_of(family: str, target: dict[str, int], **changes: Any) -> Growth:
    """A growth of a tiny model with three experts, two of them chosen."""
    config = {**ROWS[family].config, **CONFIGS[family], **changes}
    small = Architecture.from_hf_config(load_family(family), config)
    return Growth(small, small.grown(target))


def wider(operator: Operator, experts: Map) -> Operator:
    """The operator with another map of the experts."""
    return with_map(operator, "experts", "out", experts)


# --- files ------------------------------------------------------------------------------------------------------------


def refused(tensors: Arrays, directory: Path) -> list[str]:
    """What a file of Mixtral with these tensors is refused for."""
    with pytest.raises(InputError) as caught:
        open_model(write(directory / "small", CONFIGS["mixtral"], tensors))
    return [problem.message for problem in caught.value.problems]


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    """One message a canonical tensor, whatever number of experts is gone."""
    tensors = arrays(CONFIGS["mixtral"])
    del tensors[EXPERT.format(1, 0)], tensors[EXPERT.format(1, 2)]
    assert refused(tensors, tmp_path) == ["tensor layers.1.experts.gate.weight has 3 experts; missing: 0, 2"]


def test_experts_that_a_layer_lacks_altogether_are_named(tmp_path: Path) -> None:
    """As any other tensor that is missing."""
    kept = {name: value for name, value in arrays(CONFIGS["mixtral"]).items() if "1.block_sparse_moe" not in name}
    wanted = [
        f"tensor layers.1.{name}.weight is missing"
        for name in ("router", *(f"experts.{n}" for n in ["gate", "up", "down"]))
    ]
    assert sorted(refused(kept, tmp_path)) == sorted(wanted)


def test_one_expert_too_many_is_refused(tmp_path: Path) -> None:
    """It is not left out in silence."""
    tensors = arrays(CONFIGS["mixtral"])
    tensors[EXPERT.format(0, 3)] = tensors[EXPERT.format(0, 2)]
    assert refused(tensors, tmp_path) == [f"{EXPERT.format(0, 3)} is expert 3, but there are 3 experts"]


@pytest.mark.parametrize("index", ["00", "+1", "-1", "1_0", "9999999"])
def test_the_number_of_an_expert_is_plain_digits(index: str, tmp_path: Path) -> None:
    """Only one spelling of a number is one."""
    tensors = arrays(CONFIGS["mixtral"]) | {EXPERT.format(0, index): np.zeros((6, 8), np.float32)}
    assert [text.partition(";")[0] for text in refused(tensors, tmp_path)] == [
        f"tensor {EXPERT.format(0, index)} is not declared by family mixtral"
    ]


def test_an_expert_of_another_shape_is_named(tmp_path: Path) -> None:
    """By its name in the file."""
    tensors = arrays(CONFIGS["mixtral"]) | {EXPERT.format(0, 1): np.zeros((8, 6), np.float32)}
    assert refused(tensors, tmp_path) == [
        f"{EXPERT.format(0, 1)} (layers.{{i}}.experts.gate.weight) has shape (8, 6), but the config's sizes give (6, 8)"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": 2**31 - 1}, "num_local_experts must be an integer from 1 to 99999, found 2147483647"),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok 4 is more than num_local_experts 3"),
    ],
)
def test_numbers_of_experts_that_no_model_has_are_refused(change: dict[str, int], message: str, tmp_path: Path) -> None:
    """Before anything is counted out."""
    path = write(tmp_path / "small", {**CONFIGS["mixtral"], **change}, arrays(CONFIGS["mixtral"]))
    with pytest.raises(InputError) as caught:
        open_model(path)
    assert [problem.message for problem in caught.value.problems] == [message]


def test_a_claim_of_many_experts_is_refused_at_once(tmp_path: Path) -> None:
    """A config may say what it likes: nothing is counted out that the file does not have."""
    path = write(tmp_path / "small", {**CONFIGS["mixtral"], "num_local_experts": 99_999}, arrays(CONFIGS["mixtral"]))
    with pytest.raises(InputError) as caught:
        open_model(path)
    texts = [problem.message for problem in caught.value.problems]
    assert "tensor layers.0.experts.up.weight has 99999 experts; missing: 3, 4, 5, ..." in texts
    assert len(texts) == 2 * 3 + 2  # experts of each kind and layer, and two routers of another shape


def test_a_target_that_chooses_more_experts_than_there_are_is_refused(tmp_path: Path) -> None:
    """At its key of the plan."""
    write(tmp_path / "small", CONFIGS["mixtral"], arrays(CONFIGS["mixtral"]))
    plan = plan_file(tmp_path, target={"num_experts_per_tok": 4}, operator={"width": "hypercloning"})
    with pytest.raises(PlanError, match=r"target\.num_experts_per_tok: num_experts_per_tok 4 is more than"):
        ligo_spec.apply(plan)


def test_experts_are_one_tensor_to_those_who_look(tmp_path: Path) -> None:
    """``inspect`` and ``explain`` show a side that counts them."""
    write(tmp_path / "small", CONFIGS["mixtral"], arrays(CONFIGS["mixtral"]))
    rows = {row.name: row for row in inspect(tmp_path / "small").tensors}
    down = rows["layers.{i}.experts.down.weight"]
    assert (down.shape, down.count) == ((3, 8, 6), 2)
    assert down.file_name == "layers.{i}.block_sparse_moe.experts.{e}.w2.weight"
    plan = plan_file(tmp_path, target={"num_local_experts": 6}, operator={"width": "hypercloning"})
    found = explain(plan)
    change = next(change for change in found.tensors if change.name == down.name)
    assert (change.small, change.large, change.count, change.how) == (
        (3, 8, 6), (6, 8, 6), 2, "select × select × select, layer copied")  # fmt: skip
    assert found.parameters[1] - found.parameters[0] == 2 * (3 * 8 + 3 * 3 * 8 * 6)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["hypercloning", "net2net", "zero_pad", "noisy_average"])
def test_what_is_written_expert_by_expert_is_the_equation(width: str, tmp_path: Path) -> None:
    """Slices of the reference's whole tensors, whatever mixes layers and experts."""
    write(tmp_path / "small", CONFIGS["mixtral"], arrays(CONFIGS["mixtral"]))
    sizes = {"num_hidden_layers": 3, "num_local_experts": 6, "intermediate_size": 12}
    plan = plan_file(tmp_path, target=sizes, operator={"width": width, "depth": "noisy_stack"},
                     checks={"forward": "skip", "reference": True})  # fmt: skip
    grown = ligo_spec.apply(plan)
    assert grown.reference_error is not None
    small, large = open_model(tmp_path / "small"), open_model(grown.path)
    operator = load_operator(grown.path / "operator.safetensors")
    values = {name: small.read(name) for name in small.binding.names()}
    wanted = grow(small.architecture.family, operator, values)
    assert set(large.binding.names()) == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(large.read(name), value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert large.read("layers.2.experts.up.weight").shape == (6, 12, 8)


def test_copies_of_experts_keep_every_bit(tmp_path: Path) -> None:
    """New experts are old ones, in the dtype of the file."""
    tensors = {name: value.astype("bfloat16") for name, value in arrays(CONFIGS["mixtral"]).items()}
    write(tmp_path / "small", CONFIGS["mixtral"], tensors)
    target = {"num_local_experts": 6, "num_experts_per_tok": 4}
    grown = tensors_of(ligo_spec.apply(plan_file(tmp_path, target=target, operator={"width": "zero_pad"})).path)
    for expert in range(6):
        found, wanted = grown[EXPERT.format(1, expert)], tensors[EXPERT.format(1, expert % 3)]
        assert found.tobytes() == wanted.tobytes()


def test_one_expert_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file tensor needs all experts: each copy reads one, and what is held at once is a few of them."""
    config = {**CONFIGS["mixtral"], "num_hidden_layers": 1, "num_local_experts": 24, "hidden_size": 64,
              "intermediate_size": 96}  # fmt: skip
    small = open_model(write(tmp_path / "small", config, arrays(config)))
    growth = Growth(small.architecture, small.architecture.grown({"num_local_experts": 48, "num_experts_per_tok": 4}))
    outputs = plan_outputs(small, growth, operator_of(growth, width="hypercloning"))
    names = [name for name in outputs.slots if ".experts." in name]
    assert len(names) == 3 * 48
    reads: list[str] = []
    read = type(small.checkpoint).read

    def counted(checkpoint: Any, name: str) -> Any:
        reads.append(name)
        return read(checkpoint, name)

    monkeypatch.setattr(type(small.checkpoint), "read", counted)
    tracemalloc.start()
    try:
        for name in names:
            outputs.value(name, NumpyBackend())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(reads) == len(names)
    assert peak < 6 * (64 * 96 * 4)  # a quarter of one tensor of the small model


# --- the certificate --------------------------------------------------------------------------------------------------

ROUTED: list[tuple[str, dict[str, Any]]] = [
    ("mixtral", {}),
    ("qwen3_moe", {"norm_topk_prob": True}),
    ("qwen3_moe", {"norm_topk_prob": False}),
]
"""Every way of weighing the chosen."""


def count_of(growth: Growth) -> str:
    """The size that counts the experts."""
    return growth.small.family.routed[0][1]


@pytest.mark.parametrize(("family", "flags"), ROUTED)
@pytest.mark.parametrize("method", ["hypercloning", "net2net", "zero_pad"])
def test_copies_of_all_experts_share_what_the_first_had(family: str, flags: dict[str, Any], method: str) -> None:
    """Twice the experts, twice as many chosen: the same function. With only one of the two it is another."""
    width = {"method": method, **({"choice": "even"} if method == "net2net" else {})}
    experts = count_of(growth_of(family, {}))
    for target, kept in (
        ({experts: 6, "num_experts_per_tok": 4}, True),
        ({experts: 6}, False),
        ({"num_experts_per_tok": 3}, False),
        ({experts: 6, "num_experts_per_tok": 3}, False),
    ):
        growth = growth_of(family, target, **flags)
        assert agree(growth, operator_of(growth, width=width)) == kept


@pytest.mark.parametrize(("family", "flags"), ROUTED)
def test_all_sizes_grow_together(family: str, flags: dict[str, Any]) -> None:
    """Experts, their units, heads and the stream."""
    experts = count_of(growth_of(family, {}))
    sizes = {name: 2 * SIZES[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")}
    target = {**sizes, "num_experts_per_tok": 4, experts: 6}
    growth = growth_of(family, target, **flags)
    assert agree(growth, operator_of(growth, width="hypercloning"))
    one_eps = any(norm.per == "head" for norm in growth.small.family.relations.norms)  # for heads and the stream
    assert agree(growth, operator_of(growth, width="zero_pad")) == (not one_eps)


def test_what_experts_lack_is_named() -> None:
    """Condition 7, in words: which, by what rule, how far off."""
    growth = growth_of("mixtral", {"num_local_experts": 6})
    cloned = operator_of(growth, width="hypercloning")
    assert [str(item) for item in certify(growth, cloned)] == [
        "routing: experts: every expert is copied 2 times, so num_experts_per_tok must be 4, it is 2 (off by 2)"
    ]
    uneven = wider(cloned, Select(np.array([0, 1, 2, 0, 0, 1]), 3))
    assert not agree(growth, uneven)
    assert [str(item) for item in certify(growth, uneven)] == [
        "routing: experts: some experts are copied 1 times, others 3 times, so that their shares change (off by 2)"
    ]
    mixed = wider(cloned, Dense(np.concatenate([np.eye(3), np.full((3, 3), 1 / 3)])))
    assert not agree(growth, mixed)
    assert [str(item).partition(" (")[0] for item in certify(growth, mixed)] == [
        "routing: experts: its experts are no plain copies, so the softmax over them is another one"
    ]
    growth = growth_of("mixtral", {"num_experts_per_tok": 3})
    assert [str(item) for item in certify(growth, operator_of(growth))] == [
        "routing: experts: every expert is there once, so num_experts_per_tok must be 2, it is 3 (off by 1)"
    ]


@pytest.mark.parametrize(("family", "flags"), ROUTED)
def test_experts_may_change_places(family: str, flags: dict[str, Any]) -> None:
    """A router has no order: with their rows, experts move."""
    growth = growth_of(family, {}, **flags)
    assert agree(growth, wider(operator_of(growth), Select(np.array([2, 0, 1]), 3)))


@pytest.mark.parametrize("normalized", [True, False])
def test_one_expert_alone_shares_where_nothing_is_divided(normalized: bool) -> None:
    """Its weight is a part of the softmax, and half of that where there are two of it."""
    growth = growth_of("qwen3_moe", {"num_experts": 6}, num_experts_per_tok=1, norm_topk_prob=normalized)
    assert agree(growth, operator_of(growth, width="hypercloning")) == normalized


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_one_expert_alone_has_all_the_weight(chosen: int) -> None:
    """Where weights are divided by their sum, any copies of the best expert are the best expert."""
    target = {"num_local_experts": 6, "num_experts_per_tok": chosen}
    growth = growth_of("mixtral", target, num_experts_per_tok=1)
    cloned = operator_of(growth, width="hypercloning")
    assert agree(growth, cloned) == (chosen <= 2)
    assert agree(growth, wider(cloned, Select(np.array([0, 1, 2, 0, 0, 1]), 3))) == (chosen <= 1)


@pytest.mark.parametrize(("family", "flags"), ROUTED)
def test_a_map_of_experts_that_is_off_is_seen_by_both(family: str, flags: dict[str, Any]) -> None:
    """Each entry of each row in turn, changed by a quarter: certificate and forward pass break together."""
    growth = growth_of(family, {count_of(growth_of(family, {})): 6, "num_experts_per_tok": 4}, **flags)
    operator = operator_of(growth, width="hypercloning")
    copied = np.tile(np.eye(3), (2, 1))
    for row in range(6):
        changed = copied.copy()
        changed[row, (row + 1) % 3] += 0.25
        assert not agree(growth, wider(operator, Dense(changed)))


UP = "layers.{i}.experts.up.weight"


def summed(growth: Growth, *halves: str) -> Operator:
    """HyperCloning of which the experts' up is a sum of two terms: each has one of two maps of some spaces."""
    operator = operator_of(growth, width="hypercloning")
    main = operator.main
    others = frozenset(growth.small.family.tensors) - {UP}
    terms = [replace(main, tensors=others)]
    for side in (0, 1):
        maps, spaces = dict(main.maps), dict(main.spaces)
        for space in halves:
            whole = dense(main.map(space, "out", None))
            half = np.where(np.arange(len(whole))[:, None] // (len(whole) // 2) == side, whole, 0.0)
            maps[f"{space} {side}"] = (Dense(half),)
            spaces[space] = replace(spaces[space], out=f"{space} {side}")
        terms.append(Term(maps, spaces, main.depth, frozenset({UP})))
    return replace(operator, terms=tuple(terms))


def test_terms_add_up_along_one_space_of_an_expert() -> None:
    """Units in two terms, the experts the same in both: their sum. Halves of both are a quarter of the tensor each."""
    growth = growth_of("mixtral", {"num_local_experts": 6, "num_experts_per_tok": 4, "intermediate_size": 12})
    assert agree(growth, summed(growth, "ffn"))
    assert agree(growth, summed(growth, "experts"))
    both = summed(growth, "ffn", "experts")
    assert not agree(growth, both)
    assert [str(item) for item in certify(growth, both)] == [
        f"form: {UP}: 2 terms write two spaces, which is no map of each (off by 1)"
    ]


# --- layers without experts -------------------------------------------------------------------------------------------


def plain(config: dict[str, Any]) -> list[int]:
    """The layers of a model of Qwen3 that have no experts."""
    family = Architecture.from_hf_config(load_family("qwen3_moe"), {**CONFIGS["qwen3_moe"], **config})
    return [i for i in family.layers_of("layers.{i}.mlp.up.weight") if i is not None]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"mlp_only_layers": []}, []),
        ({"mlp_only_layers": None}, []),
        ({"mlp_only_layers": [3, 0]}, [0, 3]),
        ({"mlp_only_layers": [], "decoder_sparse_step": 2}, [0, 2, 4]),
        ({"mlp_only_layers": [1, 2], "decoder_sparse_step": 3}, [0, 1, 2, 3, 4]),
        ({"mlp_only_layers": [], "decoder_sparse_step": 7}, [0, 1, 2, 3, 4]),
    ],
)
def test_which_layers_are_plain_is_as_the_library_has_it(config: dict[str, Any], wanted: list[int]) -> None:
    """By the list and by the step, and the modules that Transformers makes."""
    config = {"num_hidden_layers": 5, **config}
    assert plain(config) == wanted
    transformers = pytest.importorskip("transformers")
    options = {**CONFIGS["qwen3_moe"], **config}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(options.pop("model_type"), **options))
    assert [i for i, layer in enumerate(model.layers) if not hasattr(layer.mlp, "experts")] == wanted


@pytest.mark.parametrize(
    ("small", "depth", "layers", "wanted"),
    [
        ({"mlp_only_layers": [0]}, "stack", 4, {"mlp_only_layers": [0, 2]}),
        ({"mlp_only_layers": [0]}, "interpolate", 4, {"mlp_only_layers": [0, 1]}),
        ({"decoder_sparse_step": 2}, "stack", 4, {"decoder_sparse_step": 2}),
        ({"decoder_sparse_step": 2}, "interpolate", 4, {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1]}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, "stack", 3,
         {"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, "stack", 4,
         {"decoder_sparse_step": 2, "mlp_only_layers": [0, 1, 2, 3]}),
        ({}, "stack", 3, {}),
    ],
)  # fmt: skip
def test_plain_layers_follow_the_layers_that_they_come_from(
    small: dict[str, Any], depth: str, layers: int, wanted: dict[str, Any], tmp_path: Path
) -> None:
    """The large config says which they are, and the library finds their tensors, and those of experts elsewhere."""
    transformers = pytest.importorskip("transformers")
    config = {**ROWS["qwen3_moe"].config, **CONFIGS["qwen3_moe"], "mlp_only_layers": None, **small}
    config = {key: value for key, value in config.items() if value is not None}
    write(tmp_path / "small", config, arrays(config, heads=["head.weight"], base="model."))
    target = {"num_hidden_layers": layers, "num_experts": 6}
    operator = {"width": "hypercloning", "depth": depth}
    checks = {"forward": "skip", "reference": True}
    grown = ligo_spec.apply(plan_file(tmp_path, target=target, operator=operator, checks=checks))
    found = config_of(grown.path)
    assert {key: found[key] for key in ("decoder_sparse_step", "mlp_only_layers") if key in found} == wanted
    _, info = transformers.Qwen3MoeForCausalLM.from_pretrained(grown.path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    rows = {row.name: row.count for row in inspect(grown.path).tensors}
    assert rows.get("layers.{i}.mlp.up.weight", 0) + rows.get("layers.{i}.experts.up.weight", 0) == layers


def test_depth_maps_do_not_mix_plain_layers_and_others(tmp_path: Path) -> None:
    """Weights of two kinds of layers are of two functions."""
    growth = growth_of("qwen3_moe", {"num_hidden_layers": 3})
    mix = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 1.0]])
    operator = operator_of(growth, depth="stack")
    operator = replace(operator, terms=(replace(operator.main, depth={every("layers"): mix}),))
    with pytest.raises(InputError) as caught:
        check_operator(operator, growth)
    assert [problem.message for problem in caught.value.problems] == [
        "depth map layers.* mixes layer 0 into layer 2, which comes from layer 1 of another kind"
    ]


def test_layers_may_change_places_with_their_kinds() -> None:
    """An operator that puts the plain layer first: not lossless, and its config says so."""
    growth = growth_of("qwen3_moe", {})
    operator = operator_of(growth)
    mix = np.array([[0.0, 1.0], [1.0, 0.0]])
    operator = replace(operator, terms=(replace(operator.main, depth={every("layers"): mix}),))
    assert settled(growth, operator).large.config["mlp_only_layers"] == [0]
    assert not agree(growth, operator)


def test_experts_that_no_layer_has_are_not_asked_for() -> None:
    """A model of plain layers only may count any number of experts."""
    growth = growth_of("qwen3_moe", {"num_experts": 6, "intermediate_size": 12}, mlp_only_layers=[0, 1])
    for width in ("hypercloning", "zero_pad"):
        assert agree(growth, operator_of(growth, width=width))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_only_layers": [2]}, "mlp_only_layers must list numbers of layers from 0 to 1, found [2]"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers must list numbers of layers from 0 to 1, found [True]"),
        ({"mlp_only_layers": "1"}, "mlp_only_layers must list numbers of layers from 0 to 1, found '1'"),
        ({"num_local_experts": 4}, "num_experts 3 and num_local_experts 4 are one size, and differ"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    """Layers that are not there, and two numbers of experts."""
    with pytest.raises(InputError) as caught:
        Architecture.from_hf_config(load_family("qwen3_moe"), {**CONFIGS["qwen3_moe"], **change})
    assert [problem.message for problem in caught.value.problems] == [message]


@pytest.mark.parametrize("keys", [("num_experts",), ("num_local_experts",), ("num_experts", "num_local_experts")])
def test_a_size_keeps_the_keys_that_say_it(keys: tuple[str, ...]) -> None:
    """Older and newer configs have one of two names; the large one has those of the small one."""
    config = {key: value for key, value in CONFIGS["qwen3_moe"].items() if key != "num_experts"}
    small = Architecture.from_hf_config(load_family("qwen3_moe"), config | dict.fromkeys(keys, 3))
    large = small.grown({"num_experts": 6}).config
    assert {key: large[key] for key in large if key.endswith("_experts")} == dict.fromkeys(keys, 6)


def test_an_expert_of_a_plain_layer_is_refused(tmp_path: Path) -> None:
    """The library would not read it."""
    config = CONFIGS["qwen3_moe"]
    name = "layers.1.mlp.experts.0.up_proj.weight"
    tensors = arrays(config) | {name: np.zeros((5, 8), np.float32)}
    with pytest.raises(InputError) as caught:
        open_model(write(tmp_path / "small", config, tensors))
    assert [problem.message for problem in caught.value.problems] == [
        f"{name} is in layer 1, which has none by mlp_only_layers of the config"
    ]


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_the_librarys_fused_experts_are_those_of_the_file(family: str, tmp_path: Path) -> None:
    """A fit trains through the parameters that Transformers makes of the written file."""
    transformers = pytest.importorskip("transformers")
    import torch

    from ligo_torch.huggingface import functional_model

    config = {**ROWS[family].config, **CONFIGS[family]}
    path = write(tmp_path / "small", config, arrays(config, heads=["head.weight"], base="model."))
    small = open_model(path)
    model = functional_model(small.architecture, small.binding, "causal_lm", torch.device("cpu"))
    parameters = model.parameters({name: torch.tensor(small.read(name)) for name in small.binding.names()})
    loaded = dict(getattr(transformers, ROWS[family].head).from_pretrained(path).named_parameters())
    assert parameters.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in parameters.items())


def test_a_checkpoint_without_experts_cannot_be_fitted(tmp_path: Path) -> None:
    """The twin: what no tensor of the file gives is named."""
    import torch

    from ligo_torch.huggingface import functional_model

    small = open_model(write(tmp_path / "small", CONFIGS["mixtral"], arrays(CONFIGS["mixtral"], heads=["head.weight"])))
    slots = {key: slot for key, slot in small.binding.slots.items() if ".w2." not in key}
    with pytest.raises(InputError, match=r"the checkpoint has no model\.layers\.0\.mlp\.experts\.down_proj, "):
        functional_model(small.architecture, replace(small.binding, slots=slots), "causal_lm", torch.device("cpu"))


# --- a family of one's own --------------------------------------------------------------------------------------------


def test_experts_with_fused_and_transposed_tensors(tmp_path: Path) -> None:
    """Slices that hold two tensors, or one turned around: what is read is written, and grows by the equation."""
    family = Path(__file__).parents[1] / "schema" / "v1" / "valid" / "family-experts.yaml"
    values = np.random.default_rng(0)
    shapes = {f"h.{i}.router": (3, 8) for i in range(2)} | {"h.2.plain": (8, 8)}
    shapes |= {f"h.{i}.{e}.gate_up": (12, 8) for i in range(2) for e in range(3)}
    shapes |= {f"h.{i}.{e}.down": (6, 8) for i in range(2) for e in range(3)}
    tensors = {name: values.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    config = {"num_hidden_layers": 3, "hidden_size": 8, "intermediate_size": 6, "num_experts": 3, "plain_layers": [2]}
    path = write(tmp_path / "small", {**config, "model_type": "experts", "num_experts_per_tok": 2}, tensors)
    assert check_family(family, path).problems == ()
    (tmp_path / "family.yaml").write_text(family.read_text("utf-8"), "utf-8")
    target = {"num_experts": 6, "hidden_size": 16}
    source = {"path": "small", "family": "family.yaml"}
    grown = ligo_spec.apply(plan_file(tmp_path, source=source, target=target, operator={"width": "noisy_average"})).path
    large, small = open_model(grown, load_family(family)), open_model(path, load_family(family))
    operator = load_operator(grown / "operator.safetensors")
    wanted = grow(small.architecture.family, operator, {name: small.read(name) for name in small.binding.names()})
    for name, value in wanted.items():
        np.testing.assert_allclose(large.read(name), value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert tensors_of(grown)["h.1.5.gate_up"].shape == (12, 16)
