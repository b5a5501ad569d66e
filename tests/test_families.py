"""The shipped families: what files of Transformers hold, every bit of it, and what is refused in which words."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ligo_spec
from ligo_spec import InputError, PlanError
from ligo_spec.architecture import Architecture
from ligo_spec.family import LAYER, family_names, load_family, template_pattern
from ligo_spec.job import open_model
from ligo_spec.layout import BASE, Cut, Turn, pack, packed_shape, unpack, unpacked_shapes
from tests.tiny_checkpoints import (
    CONFIGS,
    TWICE,
    Arrays,
    arrays,
    config_of,
    handmade,
    plan_file,
    same_bits,
    saved,
    tensors_of,
    write,
)

FAMILIES = sorted(CONFIGS)
SHIPPED = ", ".join(family_names())

CLASSES = {
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "BertForPreTraining": "bert",
    "BertForNextSentencePrediction": "bert",
    "BertForSequenceClassification": "bert",
    "BertForMultipleChoice": "bert",
    "BertForTokenClassification": "bert",
    "BertForQuestionAnswering": "bert",
    "GPT2Model": "gpt2",
    "GPT2LMHeadModel": "gpt2",
    "GPT2DoubleHeadsModel": "gpt2",
    "GPT2ForSequenceClassification": "gpt2",
    "GPT2ForTokenClassification": "gpt2",
    "GPT2ForQuestionAnswering": "gpt2",
    "LlamaModel": "llama",
    "LlamaForCausalLM": "llama",
    "LlamaForSequenceClassification": "llama",
    "LlamaForTokenClassification": "llama",
    "LlamaForQuestionAnswering": "llama",
}
"""Every class of Transformers whose files the families describe."""

HEADS = {
    "bert": ["head.transform.weight", "head.transform.bias", "head.norm.weight", "head.norm.bias", "head.bias"],
    "gpt2": [],
    "llama": [],
}
"""What a language-modelling head needs beside ``head.weight``, by family."""


@st.composite
def configs(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A config of small sizes, all of them free: sides of 1, odd sides, grouped heads, tied or not."""
    config = dict(CONFIGS[kind])
    layers, heads, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    vocab, positions = draw(st.integers(3, 20)), draw(st.integers(2, 9))
    tie = draw(st.booleans())
    if kind == "gpt2":
        config |= {"n_embd": heads * head_dim, "n_layer": layers, "n_head": heads, "n_positions": positions}
        config |= {"n_inner": draw(st.none() | st.integers(1, 9))}
    elif kind == "bert":
        config |= {"hidden_size": heads * head_dim, "num_hidden_layers": layers, "num_attention_heads": heads}
        config |= {"max_position_embeddings": positions, "intermediate_size": draw(st.integers(1, 9))}
        config |= {"type_vocab_size": draw(st.integers(1, 3)), "num_labels": draw(st.integers(2, 4))}
    else:
        queries = heads * draw(st.integers(1, 3))
        config |= {"num_attention_heads": queries, "num_key_value_heads": heads, "num_hidden_layers": layers}
        config |= {"hidden_size": queries * draw(st.integers(1, 4)), "head_dim": 2 * head_dim}
        config |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
        config |= {"intermediate_size": draw(st.integers(1, 9))}
    return {**config, "vocab_size": vocab, "tie_word_embeddings": tie}


def refused(config: dict[str, Any], tensors: Arrays, tmp_path: Path) -> list[str]:
    """The lines of the refusal of a checkpoint, without the path."""
    path = write(tmp_path / "small", config, tensors)
    with pytest.raises(InputError) as caught:
        open_model(path)
    return [str(problem).replace(f"{path}", "small", 1) for problem in caught.value.problems]


# --- files of Transformers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", CLASSES)
@settings(max_examples=5)
@given(data=st.data())
def test_growing_to_its_own_size_changes_no_bit(class_name: str, data: st.DataObject) -> None:
    """Read, canonical, written: same names, shapes, dtypes and bits, and the same config, at any sizes."""
    config = data.draw(configs(CLASSES[class_name]))
    pooler = data.draw(st.booleans()) if class_name == "BertModel" else True
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        small = saved(directory / "small", class_name, config, data.draw(st.integers(0, 9)), pooler=pooler, dtype=dtype)
        grown = ligo_spec.apply(plan_file(directory)).path
        assert same_bits(tensors_of(grown), tensors_of(small))
        assert config_of(grown) == config_of(small)


def test_every_class_declares_different_tensors() -> None:
    """The list of classes above reaches every tensor that the shipped families declare."""
    reached: dict[str, set[str]] = {name: set() for name in FAMILIES}
    with tempfile.TemporaryDirectory() as name:
        for class_name, kind in CLASSES.items():
            config = {**CONFIGS[kind], "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}
            small = open_model(saved(Path(name) / class_name, class_name, config))
            reached[kind] |= set(small.binding.templates())
    for kind in FAMILIES:
        assert reached[kind] == set(load_family(kind).tensors), kind


@pytest.mark.parametrize("class_name", ["BertForPreTraining", "GPT2DoubleHeadsModel", "LlamaForCausalLM"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_all_tensors_of_the_library_are_read(class_name: str, tied: bool, tmp_path: Path) -> None:
    """Every parameter of the library's own model, tied ones once, is a canonical tensor with the same values."""
    kind = CLASSES[class_name]
    path = saved(tmp_path / "small", class_name, {**CONFIGS[kind], "tie_word_embeddings": tied})
    small = open_model(path)
    stored = tensors_of(path)
    assert small.binding.slots.keys() == stored.keys()
    assert not small.binding.dropped
    assert not small.binding.copied
    assert sum(small.read(name).size for name in small.binding.sources()) == sum(v.size for v in stored.values())


# --- names in files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base"), [(kind, base) for kind in FAMILIES for base in load_family(kind).layouts["hf"].base]
)
def test_the_prefix_of_a_file_is_kept(kind: str, base: str, tmp_path: Path) -> None:
    """With ``bert.`` or without: a grown file has its tensors under the names that the small one had."""
    config = CONFIGS[kind]
    write(tmp_path / "small", config, arrays(config, base=base))
    grown = ligo_spec.apply(plan_file(tmp_path, target=TWICE[kind], operator={"width": "hypercloning"}))
    names = tensors_of(grown.path).keys()
    assert names == arrays(config, base=base).keys()
    assert any(name.startswith(base) for name in names)


def test_two_prefixes_in_one_file_are_refused(tmp_path: Path) -> None:
    """A file uses one prefix throughout; a tensor under another one is undeclared, and the wanted one missing."""
    config = CONFIGS["bert"]
    tensors = arrays(config, base="bert.")
    tensors["embeddings.LayerNorm.weight"] = tensors.pop("bert.embeddings.LayerNorm.weight")
    assert refused(config, tensors, tmp_path) == [
        (
            "small: tensor embeddings.LayerNorm.weight is not declared by family bert; "
            "name it in the plan's source.drop or source.copy"
        ),
        "small: tensor embed.norm.weight is missing",
    ]


def test_old_names_are_read_and_todays_are_written(tmp_path: Path) -> None:
    """``LayerNorm.gamma`` and ``beta`` load as weight and bias, bit for bit, and are written as those."""
    config = CONFIGS["bert"]
    today = arrays(config)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, value in today.items():
        ending = next((ending for ending in names if name.endswith(ending)), "")
        old[name.removesuffix(ending) + names.get(ending, "")] = value
    assert len(old.keys() - today.keys()) == 10
    write(tmp_path / "small", config, old)
    assert same_bits(tensors_of(ligo_spec.apply(plan_file(tmp_path)).path), today)


def test_an_old_and_a_new_name_together_are_refused(tmp_path: Path) -> None:
    """Two tensors of a file that are one canonical tensor: which of them counts is not ours to guess."""
    config = CONFIGS["bert"]
    tensors = arrays(config)
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    assert refused(config, tensors, tmp_path) == ["small: embed.norm.weight comes 2 times (an old and a new name?)"]


@pytest.mark.parametrize(
    ("kind", "name", "shape", "reason"),
    [
        ("bert", "embeddings.position_ids", (1, 10), "a buffer that counts from 0"),
        ("bert", "embeddings.token_type_ids", (1, 10), "a buffer of zeros"),
        ("gpt2", "h.0.attn.bias", (1, 1, 10, 10), "the causal mask, a buffer of old checkpoints"),
        ("gpt2", "h.1.attn.masked_bias", (), "a constant, a buffer of old checkpoints"),
        ("llama", "rotary_emb.inv_freq", (2,), "a buffer; computed from the config"),
        (
            "llama",
            "layers.1.self_attn.rotary_emb.inv_freq",
            (2,),
            "a buffer of old checkpoints; computed from the config",
        ),
    ],
)
def test_buffers_are_dropped_and_reported(
    kind: str, name: str, shape: tuple[int, ...], reason: str, tmp_path: Path
) -> None:
    """Buffers of old files are not written; inspect, explain and the manifest name each of them and say why."""
    config = CONFIGS[kind]
    write(tmp_path / "small", config, {**arrays(config), name: np.zeros(shape, np.int64)})
    plan = plan_file(tmp_path)
    assert ligo_spec.inspect(tmp_path / "small").dropped == {name: reason}
    assert ligo_spec.explain(plan).dropped == {name: reason}
    grown = ligo_spec.apply(plan).path
    assert tensors_of(grown).keys() == arrays(config).keys()
    assert f'"{name}": "{reason}"' in (grown / "growth_manifest.json").read_text()


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_undeclared_tensor_is_refused_and_named(kind: str, tmp_path: Path) -> None:
    """A tensor that no line of the family names is an error that lists it, with the remedy."""
    config = CONFIGS[kind]
    tensors = {**arrays(config), "adapter.0.down": np.zeros((2, 3), np.float32), "scale\u202e": np.zeros(1, np.float32)}
    remedy = "name it in the plan's source.drop or source.copy"
    assert refused(config, tensors, tmp_path) == [
        f"small: tensor adapter.0.down is not declared by family {kind}; {remedy}",
        f"small: tensor scale\\u202e is not declared by family {kind}; {remedy}",
    ]


def test_source_drop_leaves_undeclared_tensors_out(tmp_path: Path) -> None:
    """Patterns of ``source.drop`` accept undeclared tensors; they are not written, and that is said."""
    config = CONFIGS["bert"]
    write(tmp_path / "small", config, {**arrays(config), "adapter.0.down": np.ones(3, np.float32)})
    plan = plan_file(tmp_path, source={"path": "small", "drop": ["adapter.*"]})
    assert ligo_spec.explain(plan).dropped == {"adapter.0.down": "the plan says so"}
    assert same_bits(tensors_of(ligo_spec.apply(plan).path), arrays(config))


def test_source_copy_takes_undeclared_tensors_over(tmp_path: Path) -> None:
    """Patterns of ``source.copy`` accept undeclared tensors of any dtype; their bits are those of the small file."""
    config = CONFIGS["bert"]
    extra: Arrays = {"adapter.0.down": np.array([np.nan, 1], np.float32), "counts": np.arange(4, dtype=np.int8)}
    write(tmp_path / "small", config, {**arrays(config), **extra})
    plan = plan_file(
        tmp_path,
        source={"path": "small", "copy": ["adapter.*", "counts"]},
        target=TWICE["bert"],
        operator={"width": "hypercloning"},
    )
    assert ligo_spec.explain(plan).copied == ("adapter.0.down", "counts")
    written = tensors_of(ligo_spec.apply(plan).path)
    assert same_bits({name: written[name] for name in extra}, extra)


def test_declared_tensors_cannot_be_dropped(tmp_path: Path) -> None:
    """``source.drop`` is for undeclared tensors: a pattern that matches everything takes no weight away."""
    handmade(tmp_path / "small", "gpt2")
    plan = plan_file(tmp_path, source={"path": "small", "drop": ["*"]})
    assert same_bits(tensors_of(ligo_spec.apply(plan).path), tensors_of(tmp_path / "small"))


def test_missing_and_misshapen_tensors_are_all_listed(tmp_path: Path) -> None:
    """One refusal names every tensor that is missing and every one that has another shape."""
    config = CONFIGS["gpt2"]
    tensors = arrays(config)
    del tensors["ln_f.weight"], tensors["h.1.attn.c_attn.bias"]
    tensors["wpe.weight"] = np.zeros((9, 12), np.float32)
    tensors["h.0.attn.c_attn.weight"] = np.zeros((12, 35), np.float32)
    tensors["h.0.ln_1.bias"] = np.zeros((12, 1), np.float32)
    assert sorted(refused(config, tensors, tmp_path)) == [
        (
            "small: h.0.attn.c_attn.weight (layers.{i}.attn.q.weight) has shape (12, 35), "
            "but the config's sizes give (12, 12)"
        ),
        "small: h.0.ln_1.bias (layers.{i}.attn_norm.bias) has shape (12, 1), but the config's sizes give (12,)",
        "small: tensor final_norm.weight is missing",
        "small: tensor layers.1.attn.k.bias is missing",
        "small: tensor layers.1.attn.q.bias is missing",
        "small: tensor layers.1.attn.v.bias is missing",
        "small: wpe.weight (embed.positions.weight) has shape (9, 12), but the config's sizes give (10, 12)",
    ]


def test_an_optional_tensor_is_in_all_layers_or_in_none(tmp_path: Path) -> None:
    """``attention_bias: false`` and a bias in one layer only: the other layers' are missing."""
    config = CONFIGS["llama"]
    tensors = {**arrays(config), "layers.1.self_attn.q_proj.bias": np.zeros(16, np.float32)}
    assert refused({**config, "attention_bias": True}, tensors, tmp_path)[0] == (
        "small: tensor layers.0.attn.q.bias is missing"
    )


def test_a_bias_that_the_config_promises_must_be_there(tmp_path: Path) -> None:
    """``mlp_bias: true`` and no such tensor: all of them are missing; Transformers would draw them at random."""
    config = {**CONFIGS["llama"], "num_hidden_layers": 1}
    lines = refused({**config, "mlp_bias": True}, arrays(config), tmp_path)
    assert lines == [f"small: tensor layers.0.mlp.{name}.bias is missing" for name in ("gate", "up", "down")]


def test_a_layer_beyond_the_configs_is_refused(tmp_path: Path) -> None:
    """A file with more layers than its config says is not cut down in silence."""
    config = CONFIGS["gpt2"]
    tensors = arrays({**config, "n_layer": 3})
    lines = refused(config, tensors, tmp_path)
    assert len(lines) == 12
    assert lines[0] == "small: h.2.attn.c_attn.bias is in layer 2, but there are 2 layers"


@pytest.mark.parametrize("index", ["00", "01", "+1", "1.0", "-1", "1_0", "9999999", "¹"])
def test_a_layer_index_is_plain_digits(index: str, tmp_path: Path) -> None:
    """Only one spelling of a layer's number is one: ``h.00.`` is no second name of layer 0."""
    config = CONFIGS["gpt2"]
    lines = refused(config, {**arrays(config), f"h.{index}.ln_1.bias": np.zeros(12, np.float32)}, tmp_path)
    assert len(lines) == 1
    assert "is not declared by family gpt2" in lines[0]


def test_one_name_with_two_meanings_is_told_by_the_class(tmp_path: Path) -> None:
    """``classifier.weight`` reads the pooler, but in BertForTokenClassification the last hidden state."""
    config = CONFIGS["bert"]
    tensors = arrays(config, heads=["classifier.pooled.weight", "classifier.bias"])
    for number, (architectures, wanted) in enumerate(
        [
            (["BertForTokenClassification"], "classifier.tokens.weight"),
            (["BertForSequenceClassification"], "classifier.pooled.weight"),
            ([], "classifier.pooled.weight"),
            (None, "classifier.pooled.weight"),
        ]
    ):
        path = write(tmp_path / str(number), {**config, "architectures": architectures}, tensors)
        assert wanted in open_model(path).binding.templates()


# --- ties -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_equal_copies_of_tied_tensors_are_tied(kind: str, tmp_path: Path) -> None:
    """A file that stores a tied tensor twice, with equal bits, is tied; it is written once."""
    config = {**CONFIGS[kind], "tie_word_embeddings": True}
    tensors = arrays(config, heads=["head.weight", *HEADS[kind]])
    head = next(name for name in tensors if name in ("lm_head.weight", "cls.predictions.decoder.weight"))
    tokens = next(name for name in tensors if name in ("wte.weight", "embed_tokens.weight") or "word_emb" in name)
    tensors[head] = tensors[tokens]
    small = open_model(write(tmp_path / "small", config, tensors))
    assert not small.untied
    written = tensors_of(ligo_spec.apply(plan_file(tmp_path)).path)
    assert written.keys() == tensors.keys() - {head}


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("bert", {"hidden_size": None}, "hidden_size is missing"),
        ("gpt2", {"n_embd": None}, "n_embd (hidden_size) is missing"),
        ("bert", {"hidden_size": "12"}, "hidden_size must be an integer from 1 to {limit}, found '12'"),
        ("bert", {"hidden_size": 12.0}, "hidden_size must be an integer from 1 to {limit}, found 12.0"),
        ("bert", {"hidden_size": True}, "hidden_size must be an integer from 1 to {limit}, found True"),
        ("bert", {"hidden_size": 0}, "hidden_size must be an integer from 1 to {limit}, found 0"),
        ("bert", {"vocab_size": -1}, "vocab_size must be an integer from 1 to {limit}, found -1"),
        ("bert", {"vocab_size": 2**40}, "vocab_size must be an integer from 1 to {limit}, found 1099511627776"),
        ("bert", {"vocab_size": [31]}, "vocab_size must be an integer from 1 to {limit}, found [31]"),
        (
            "bert",
            {"num_hidden_layers": 10**9},
            "num_hidden_layers must be an integer from 1 to {layers}, found 1000000000",
        ),
        ("bert", {"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 12"),
        ("gpt2", {"n_head": 5}, "num_attention_heads 5 does not divide hidden_size 12"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ("llama", {"hidden_size": 18}, "num_attention_heads 4 does not divide hidden_size 18"),
        ("bert", {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, found 'yes'"),
        ("llama", {"mlp_bias": 1}, "mlp_bias must be true or false, found 1"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; family bert describes only 'absolute'",
        ),
        ("bert", {"add_cross_attention": True}, "add_cross_attention is True; family bert describes only False"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False; family gpt2 describes only True"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True; family gpt2 describes only False",
        ),
        ("bert", {"architectures": 7}, "architectures must be a list of class names, found 7"),
        ("bert", {"architectures": "BertModel"}, "architectures must be a list of class names, found 'BertModel'"),
        ("bert", {"architectures": [None]}, "architectures must be a list of class names, found [None]"),
    ],
)
def test_a_wrong_config_is_refused_in_these_words(
    kind: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Sizes, flags and variants of ``config.json`` that the family cannot be: each has its one line."""
    from ligo_spec.architecture import MAX_LAYERS, MAX_SIZE

    path = write(tmp_path / "small", {**CONFIGS[kind], **change}, arrays(CONFIGS[kind]))
    with pytest.raises(InputError) as caught:
        open_model(path)
    wanted = message.replace("{limit}", str(MAX_SIZE - 1)).replace("{layers}", str(MAX_LAYERS - 1))
    assert str(caught.value) == f"{path}/config.json: {wanted}"


def test_all_problems_of_a_config_come_at_once() -> None:
    """Three wrong keys are three lines, not one after another."""
    config = {**CONFIGS["gpt2"], "n_embd": "a", "n_layer": None, "scale_attn_weights": 3}
    with pytest.raises(InputError) as caught:
        Architecture.from_hf_config(load_family("gpt2"), config)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("model_type", ["mamba", "", None, 7, ["bert"], "../bert", "BERT"])
def test_an_unknown_model_type_is_refused_with_the_way_out(model_type: Any, tmp_path: Path) -> None:
    """A model of no shipped family: the message names the families, and how to bring one's own."""
    path = write(tmp_path / "small", {**CONFIGS["bert"], "model_type": model_type}, arrays(CONFIGS["bert"]))
    with pytest.raises(InputError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}/config.json: model_type {model_type!r} is no family that we know ({SHIPPED}); "
        "declare it in a family file of your own and name it in the plan as source.family"
    )


def test_sizes_that_a_config_leaves_out_follow_their_defaults() -> None:
    """``n_inner: null`` is four times the width; no ``num_key_value_heads`` is as many as heads; and so on."""
    gpt2 = Architecture.from_hf_config(load_family("gpt2"), {**CONFIGS["gpt2"], "n_inner": None})
    assert gpt2.sizes["intermediate_size"] == 48
    config = {k: v for k, v in CONFIGS["llama"].items() if k not in ("num_key_value_heads", "head_dim")}
    llama = Architecture.from_hf_config(load_family("llama"), config)
    assert (llama.sizes["num_key_value_heads"], llama.sizes["head_dim"]) == (4, 4)
    config = {k: v for k, v in CONFIGS["bert"].items() if k != "type_vocab_size"}
    assert Architecture.from_hf_config(load_family("bert"), config).sizes["type_vocab_size"] == 2


def test_an_explicit_head_dim_need_not_be_the_quotient(tmp_path: Path) -> None:
    """Llama's ``head_dim`` stands by itself: 4 heads of 6 in a model of width 16."""
    small = open_model(handmade(tmp_path / "small", "llama", head_dim=6))
    assert small.shape("layers.0.attn.q.weight") == (24, 16)
    assert small.shape("layers.0.attn.k.weight") == (12, 16)
    assert small.shape("layers.0.attn.o.weight") == (16, 24)


# --- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_layout_covers_every_tensor_once(kind: str) -> None:
    """Every canonical tensor has exactly one place in a file."""
    family = load_family(kind)
    for layout in family.layouts.values():
        claimed = Counter(name for choices in layout.tensors.values() for entry in choices for name in entry.is_)
        assert claimed == Counter(family.tensors.keys())


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_name_in_a_file_is_matched_by_two_lines(kind: str) -> None:
    """Under every pair of prefixes, a name that one line writes is read by that line alone."""
    layout = load_family(kind).layouts["hf"]
    declared = [*layout.tensors, *layout.drop]
    for base in layout.base:
        templates = [name.replace(BASE, base) for name in declared]
        assert len(set(templates)) == len(templates)
        for template in templates:
            name = template.replace(LAYER, "17")
            assert [t for t in templates if template_pattern(t).fullmatch(name)] == [template]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_space_is_touched(kind: str) -> None:
    """A space that no tensor touches would be a slip of the pen."""
    family = load_family(kind)
    touched = {dim.space for tensor in family.tensors.values() for dim in tensor.touches}
    assert touched == set(family.spaces)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_that_is_not_there_is_refused(kind: str) -> None:
    """The message lists the shipped ones."""
    with pytest.raises(PlanError) as caught:
        load_family(kind.upper())
    assert str(caught.value) == f"no family is named {kind.upper()!r}; shipped families: {SHIPPED}"


# --- steps ------------------------------------------------------------------------------------------------------------


@st.composite
def steps_and_values(draw: st.DrawFn) -> tuple[tuple[Turn, ...], np.ndarray[Any, Any]]:
    """At most one cut among any transposes, and a value that they fit; no two entries are equal."""
    transpose: list[Turn] = ["transpose"]
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    groups = draw(st.integers(1, 3))
    cuts = draw(st.sampled_from([[], [Cut(tuple(sizes), groups)]]))
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    steps = (*transpose * before, *cuts, *transpose * after)
    shape = list(draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=4)))
    if cuts:
        shape[-1 if before % 2 else 0] = groups * sum(sizes)
    return steps, np.arange(np.prod(shape)).reshape(shape)


@given(steps_and_values())
def test_packing_what_was_unpacked_gives_it_back(case: tuple[tuple[Turn, ...], np.ndarray[Any, Any]]) -> None:
    """``pack(unpack(x)) == x`` for transposes and splits in any order, with one declaration for both directions."""
    steps, value = case
    np.testing.assert_array_equal(pack(unpack(value, steps), steps), value)


@given(steps_and_values())
def test_unpacking_what_was_packed_gives_it_back(case: tuple[tuple[Turn, ...], np.ndarray[Any, Any]]) -> None:
    """``unpack(pack(parts)) == parts``."""
    steps, value = case
    parts = unpack(value, steps)
    again = unpack(pack(parts, steps), steps)
    assert len(again) == len(parts)
    for one, other in zip(again, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@given(steps_and_values())
def test_shapes_are_told_without_values(case: tuple[tuple[Turn, ...], np.ndarray[Any, Any]]) -> None:
    """What is said of shapes before any value is read is what the values then have."""
    steps, value = case
    parts = unpack(value, steps)
    assert unpacked_shapes(value.shape, steps) == [part.shape for part in parts]
    assert packed_shape([part.shape for part in parts], steps) == value.shape


def test_a_fused_tensor_holds_query_key_and_value_in_this_order(tmp_path: Path) -> None:
    """GPT-2's ``c_attn`` is ``(d_in, 3 d_out)``, q, k and v side by side; canonical is ``(d_out, d_in)``."""
    path = handmade(tmp_path / "small", "gpt2")
    fused = tensors_of(path)["h.1.attn.c_attn.weight"]
    small = open_model(path)
    for number, name in enumerate("qkv"):
        np.testing.assert_array_equal(
            small.read(f"layers.1.attn.{name}.weight"), fused.T[12 * number : 12 * number + 12]
        )
