"""Exported models are read back bit for bit: the old exporter, every family; the new one is in `test_onnx_dynamo`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ligo_onnx
from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError
from ligo_spec.family import load_family
from ligo_spec.inputs import InputFile
from ligo_spec.layout import bind
from ligo_spec.testing import architectures
from tests.effort import examples
from tests.family_table import ROWS
from tests.models import made
from tests.onnx_exports import Setting, config_of, exported, exported_directory, in_files, model_of, wrong
from tests.tiny_checkpoints import CONFIGS

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

FOLDED, PLAIN = Setting(dynamo=False, optimise=True), Setting(dynamo=False, optimise=False)

NOT_EXPORTED = {"cait": "no model of Transformers", "t5": "outputs that the exporter refuses"} | {
    "whisper": "an operator that the exporter does not have"
}
"""Families that the old exporter does not write."""

REFUSED = {
    ("gemma", True): "difference from 1",
    ("gemma2", True): "difference from 1",
    ("gemma3_text", True): "difference from 1",
    ("dinov2", True): "not in the graph as a whole",
    ("mixtral", True): "experts.0.w1.weight",
    ("mixtral", False): "experts.0.w1.weight",
    ("qwen3_moe", True): "experts.0.gate_proj.weight",
    ("qwen3_moe", False): "experts.0.gate_proj.weight",
}
"""What is not in a graph: gains that 1 was added to, a table that was cut in two, experts that are one tensor."""

UNUSED = ("embeddings.mask_token", "cls.predictions.bias", "lm_head.bias")
"""Parameters that no forward pass of some models uses, so that no graph has them."""

SIX: dict[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("BertForMaskedLM", CONFIGS["bert"]),
    "bert-bare": ("BertModel", CONFIGS["bert"]),
    "gpt2": ("GPT2LMHeadModel", CONFIGS["gpt2"]),
    "gpt2-bare": ("GPT2Model", CONFIGS["gpt2"]),
    "llama": ("LlamaForCausalLM", CONFIGS["llama"]),
    "llama-tied": ("LlamaForCausalLM", CONFIGS["llama"] | {"tie_word_embeddings": True}),
    "llama-bare": ("LlamaModel", CONFIGS["llama"]),
    "qwen2": ("Qwen2ForCausalLM", CONFIGS["llama"] | {"model_type": "qwen2"}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {"model_type": "modernbert", "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3}
        | {"intermediate_size": 20, "vocab_size": 31, "max_position_embeddings": 10, **ROWS["modernbert"].config},
    ),
    "vit": (
        "ViTForImageClassification",
        {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
        | {"intermediate_size": 20, **ROWS["vit"].config},
    ),
}
"""The models that both exporters are held to."""


@pytest.mark.parametrize("optimise", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize("family", [name for name in ROWS if name not in NOT_EXPORTED])
@settings(max_examples=examples(2), suppress_health_check=QUIET)
@given(data=st.data())
def test_every_family(family: str, optimise: bool, data: st.DataObject) -> None:
    """At any sizes and flags, square or not, tied or not: the file's tensors, or a refusal that says what is lost."""
    row = ROWS[family]
    config = dict(data.draw(architectures(load_family(family), row.config)).config)
    if "use_mask_token" in config:
        config["use_mask_token"] = False  # a family's file has it wherever the flag is set, a graph never
    model = model_of(data.draw(st.sampled_from(_exportable(family))), config, data.draw(st.integers(0, 9)))
    setting = Setting(dynamo=False, optimise=optimise, free=data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        exported_directory(model, directory / "onnx", setting)
        # Gated layers of this kind are one tensor in files and two in memory, whose names nothing links.
        in_pieces = r"mlp\.weights_in\.weight .*is not in the graph" if config.get("use_swiglu_ffn") else None
        reason = REFUSED.get((family, optimise), in_pieces)
        if reason is not None:
            with pytest.raises(InputError, match=reason):
                ligo_onnx.read(directory / "onnx")
            return
        checkpoint = ligo_onnx.read(directory / "onnx")
        wanted = in_files(model, directory / "files")
        for unused in [key for key in wanted if key.endswith(UNUSED) and key not in checkpoint.tensors]:
            del wanted[unused]
        assert not wrong(checkpoint, wanted)
        assert not checkpoint.recovery.missing
        print(f"{family} {setting}: {checkpoint.recovery}")


def _exportable(family: str) -> list[str]:
    """The classes that take the inputs of the tests as they are."""
    return [name for name in ROWS[family].classes if not name.endswith(("MultipleChoice", "SequenceClassification"))]


@pytest.mark.parametrize("setting", [FOLDED, PLAIN, Setting(dynamo=False, optimise=True, free=True)], ids=str)
@pytest.mark.parametrize("case", SIX)
def test_without_a_config(case: str, setting: Setting, tmp_path: Path) -> None:
    """Sizes, heads, flags, ties, epsilons and functions come from the graph; the tensors are the same."""
    model = model_of(*SIX[case])
    exported(model, tmp_path / "any.onnx", setting)
    with pytest.raises(InputError, match=r"source\.family"):
        ligo_onnx.read(tmp_path / "any.onnx")
    checkpoint = ligo_onnx.read(tmp_path / "any.onnx", family=load_family(model.config.model_type))
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))
    there = config_of(model)
    wanted = Architecture.from_hf_config(load_family(model.config.model_type), there)
    found = Architecture.from_hf_config(load_family(model.config.model_type), checkpoint.config)
    assert found.sizes == wanted.sizes
    # A tie is of two tensors: in a model without a head nothing tells whether they would be one.
    assert {**found.flags, "tie_word_embeddings": 0} == {**wanted.flags, "tie_word_embeddings": 0}
    assert all(there[key] == value for key, value in checkpoint.config.items() if "eps" in key or "act" in key)
    assert any("eps" in key for key in checkpoint.config)


def test_heads_that_the_graph_does_not_tell_are_refused(tmp_path: Path) -> None:
    """Nothing is guessed: without the Reshapes of the attention, any number that divides would do."""
    exported(model_of(*SIX["llama"]), tmp_path / "model.onnx", FOLDED)
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        node.op_type = "Flatten" if node.op_type == "Reshape" else node.op_type
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"how many heads 16 query channels are .*config\.json"):
        ligo_onnx.read(tmp_path, family=load_family("llama"))


@pytest.mark.parametrize("setting", [FOLDED, PLAIN], ids=str)
@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_equal_tensors_that_are_stored_once(case: str, setting: Setting, tmp_path: Path) -> None:
    """Untrained norms and biases are alike; exporters merge them, and each module still gets its own."""
    class_name, config = SIX[case]
    model = made(class_name, config)
    model.config.use_cache = False
    checkpoint = ligo_onnx.read(exported_directory(model, tmp_path / "onnx", setting))
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))
    tensors = [found.tensor.name for found in checkpoint.recovery.found.values()]
    assert len(set(tensors)) < len(tensors)


def test_the_operator_says_which_way_round_a_matrix_is(tmp_path: Path) -> None:
    """A square weight that is stored transposed and consumed without a Transpose, under its old name."""
    model = model_of(*SIX["bert"])
    exported_directory(model, tmp_path / "onnx", PLAIN)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx")
    name = "bert.encoder.layer.1.attention.self.key.weight"
    turn = next(node for node in graph.graph.node if node.op_type == "Transpose" and node.input[0] == name)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).T.copy(), name))
    turn.op_type = "Identity"
    del turn.attribute[:]
    onnx.save(graph, tmp_path / "onnx" / "model.onnx")
    assert not wrong(ligo_onnx.read(tmp_path / "onnx"), in_files(model, tmp_path / "files"))


def test_what_a_module_consumes_counts_before_names(tmp_path: Path) -> None:
    """Two parameters of one shape whose tensors have each other's names: consumers tell them apart."""
    model = model_of(*SIX["bert"])
    exported_directory(model, tmp_path / "onnx", PLAIN)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx")
    one, two = (f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "value"))
    other = {one: two, two: one}
    for tensor in graph.graph.initializer:
        tensor.name = other.get(tensor.name, tensor.name)
    for node in graph.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
    onnx.save(graph, tmp_path / "onnx" / "model.onnx")
    assert not wrong(ligo_onnx.read(tmp_path / "onnx"), in_files(model, tmp_path / "files"))


def test_the_name_of_a_wrapper_comes_off(tmp_path: Path) -> None:
    """Exporters wrap models in modules of their own; their names stand before all others."""
    import torch

    model = model_of(*SIX["bert-bare"])

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.auto_model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.auto_model(input_ids, attention_mask, token_type_ids).last_hidden_state

    ids = torch.ones(2, 10, dtype=torch.long)
    given_inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids}
    exported(Wrapper(), tmp_path / "model.onnx", FOLDED, given_inputs)
    (tmp_path / "config.json").write_text(json.dumps(config_of(model)))
    wanted = in_files(model, tmp_path / "files")
    pooler = {key for key in wanted if key.startswith("pooler.")}  # the wrapper's outputs do not need it
    assert len(pooler) == 2
    assert not wrong(ligo_onnx.read(tmp_path), {key: wanted[key] for key in wanted.keys() - pooler})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    """Halves stay halves; casts to more bits on the way to an operator change nothing."""
    import torch

    model = model_of(*SIX["llama"]).to(getattr(torch, dtype))
    checkpoint = ligo_onnx.read(exported_directory(model, tmp_path / "onnx", PLAIN))
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_values_in_typed_fields(dtype: str, tmp_path: Path) -> None:
    """``float_data``, ``double_data``, and ``int32_data`` with the bits of halves."""
    import torch

    model = model_of(*SIX["llama"]).to(getattr(torch, dtype))
    exported_directory(model, tmp_path / "onnx", PLAIN)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx")
    for tensor in graph.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        del_raw(tensor)
        if dtype in ("float16", "bfloat16"):
            tensor.int32_data.extend(value.view(np.uint16).reshape(-1).tolist())
        else:
            (tensor.float_data if dtype == "float32" else tensor.double_data).extend(value.reshape(-1).tolist())
    onnx.save(graph, tmp_path / "onnx" / "model.onnx")
    assert not wrong(ligo_onnx.read(tmp_path / "onnx"), in_files(model, tmp_path / "files"))


def del_raw(tensor: Any) -> None:
    """Take the bytes out of a tensor."""
    assert tensor.HasField("raw_data")
    tensor.ClearField("raw_data")


@pytest.mark.parametrize("checksum", [False, True])
def test_values_in_another_file(checksum: bool, tmp_path: Path) -> None:
    """External data, with a checksum where there is one; `files` names what to hash and not to carry over."""
    import hashlib

    model = model_of(*SIX["gpt2"])
    exported_directory(model, tmp_path / "onnx", FOLDED)
    path = tmp_path / "onnx" / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    if checksum:
        graph = onnx.load(path, load_external_data=False)
        digest = hashlib.sha1((tmp_path / "onnx" / "model.onnx_data").read_bytes()).hexdigest()
        for tensor in graph.graph.initializer:
            if tensor.external_data:
                tensor.external_data.add(key="checksum", value=digest)
        onnx.save(graph, path)
    checkpoint = ligo_onnx.read(tmp_path / "onnx")
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))
    assert [file.name for file in checkpoint.files] == ["model.onnx", "model.onnx_data"]
    checkpoint.check_unchanged()


def test_a_head_that_differs_from_its_table_is_kept(tmp_path: Path) -> None:
    """The config ties them, the graph has two: both are told, as of a file that stores both."""
    model = model_of(*SIX["llama"])
    exported_directory(model, tmp_path / "onnx", FOLDED)
    config = config_of(model) | {"tie_word_embeddings": True}
    (tmp_path / "onnx" / "config.json").write_text(json.dumps(config))
    checkpoint = ligo_onnx.read(tmp_path / "onnx")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= checkpoint.tensors.keys()
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))


def test_a_config_in_the_model(tmp_path: Path) -> None:
    """``ligo.config`` among the metadata stands for a ``config.json`` that is not there."""
    model = model_of(*SIX["gpt2"])
    exported(model, tmp_path / "model.onnx", FOLDED)
    graph = onnx.load(tmp_path / "model.onnx")
    graph.metadata_props.add(key="ligo.config", value=json.dumps(config_of(model)))
    onnx.save(graph, tmp_path / "model.onnx")
    checkpoint = ligo_onnx.read(tmp_path)
    assert checkpoint.config["model_type"] == "gpt2"
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    """``onnx/model.onnx``, the config at the root; quantised neighbours are no candidates."""
    model = model_of(*SIX["gpt2"])
    exported(model, tmp_path / "made.onnx", FOLDED)
    (tmp_path / "repo" / "onnx").mkdir(parents=True)
    for name in ("model_fp16.onnx", "model_q4.onnx", "model_int8.onnx"):
        (tmp_path / "repo" / "onnx" / name).write_bytes((tmp_path / "made.onnx").read_bytes())
    (tmp_path / "repo" / "config.json").write_text(json.dumps(config_of(model)))
    wanted = in_files(model, tmp_path / "files")
    assert not wrong(ligo_onnx.read(tmp_path / "repo"), wanted)
    (tmp_path / "repo" / "onnx" / "model.onnx").write_bytes((tmp_path / "made.onnx").read_bytes())
    assert ligo_onnx.read(tmp_path / "repo").files[0].name == "model.onnx"
    assert not wrong(ligo_onnx.read(tmp_path / "repo" / "onnx" / "model.onnx"), wanted)


def test_weights_in_inner_graphs(tmp_path: Path) -> None:
    """Decoders with and without a cache are merged into one graph with branches, which share their weights."""
    model = model_of(*SIX["gpt2"])
    exported_directory(model, tmp_path / "onnx", PLAIN)
    path = tmp_path / "onnx" / "model.onnx"
    merged = onnx.load(path)
    branch = onnx.helper.make_graph(list(merged.graph.node), "branch", [], list(merged.graph.output))
    other = onnx.helper.make_graph([], "other", [], [])
    del merged.graph.node[:]
    choose = onnx.helper.make_node("If", ["use_cache"], ["logits"], then_branch=branch, else_branch=other)
    merged.graph.node.append(choose)
    onnx.save(merged, path)
    assert not wrong(ligo_onnx.read(tmp_path / "onnx"), in_files(model, tmp_path / "files"))


def test_nothing_is_read_that_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads the graph and small constants; reading a tensor reads that tensor."""
    class_name, config = SIX["gpt2"]
    model = model_of(class_name, {**config, "vocab_size": 20_000, "tie_word_embeddings": False})
    path = exported_directory(model, tmp_path / "onnx", FOLDED) / "model.onnx"
    read: list[int] = []
    plain = InputFile.read_into

    def counting(self: InputFile, offset: int, buffer: memoryview) -> None:
        read.append(buffer.nbytes)
        plain(self, offset, buffer)

    monkeypatch.setattr(InputFile, "read_into", counting)
    checkpoint = ligo_onnx.read(tmp_path / "onnx")
    table = checkpoint.tensors["transformer.wte.weight"].nbytes
    assert path.stat().st_size > 2 * table
    assert sum(read) < path.stat().st_size - 1.9 * table
    assert max(read) < table / 2
    read.clear()
    checkpoint.read("transformer.wpe.weight")
    assert sum(read) == checkpoint.tensors["transformer.wpe.weight"].nbytes


def test_our_decoder_sees_what_the_library_sees(tmp_path: Path) -> None:
    """Nodes, tensors, shapes and values of a whole export, held to ``onnx.load``."""
    from ligo_onnx._model import parse
    from ligo_onnx._values import Values
    from ligo_onnx._wire import Wire
    from ligo_spec.inputs import open_input

    path = tmp_path / "model.onnx"
    exported(model_of(*SIX["modernbert"]), path, PLAIN)
    graph = onnx.load(path).graph
    with open_input(path) as file:
        ours = parse(Wire(file))
        identity = file.identity
    assert [(n.op, n.name, n.inputs, n.outputs) for n in ours.nodes] == [
        (n.op_type, n.name, tuple(n.input), tuple(n.output)) for n in graph.node
    ]
    values = Values(path, identity, ours.tensors)
    constants = [(n.output[0], n.attribute[0].t) for n in graph.node if n.op_type == "Constant"]
    theirs = dict([(t.name, t) for t in graph.initializer] + constants)
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in theirs.items():
        wanted = onnx.numpy_helper.to_array(tensor)
        assert values(ours.tensors[name]).tobytes() == wanted.tobytes()
        assert ours.tensors[name].info.shape == wanted.shape


def test_what_is_read_binds(tmp_path: Path) -> None:
    """The checkpoint is one of the family's files to all that comes after."""
    model = model_of(*SIX["qwen2"])
    checkpoint = ligo_onnx.read(exported_directory(model, tmp_path, FOLDED))
    architecture = Architecture.from_hf_config(load_family("qwen2"), checkpoint.config)
    assert not bind(architecture, checkpoint.tensors, "here").dropped
