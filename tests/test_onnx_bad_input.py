"""Hostile, damaged and unsuitable ONNX files: each is refused in words, and nothing beside the model is read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ligo_onnx
from ligo_onnx import _messages, _wire
from ligo_onnx._model import parse
from ligo_onnx._wire import Wire
from ligo_spec.errors import InputError
from ligo_spec.family import load_family
from ligo_spec.inputs import open_input
from tests.effort import examples
from tests.onnx_exports import Setting, exported_directory, model_of
from tests.tiny_checkpoints import CONFIGS

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

CONFIG = CONFIGS["gpt2"] | {"n_layer": 1, "n_embd": 4, "n_head": 2, "vocab_size": 7, "n_positions": 5}

WTE = "transformer.wte.weight"
C_FC = "transformer.h.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model, to be spoilt."""
    model = model_of("GPT2LMHeadModel", CONFIG)
    return exported_directory(model, tmp_path_factory.mktemp("made"), Setting(dynamo=False, optimise=False))


@pytest.fixture
def good(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "good"))


def refused(directory: Path, match: str) -> None:
    """Reading refuses with a message that says this, in one line a problem."""
    with pytest.raises(InputError, match=match) as caught:
        ligo_onnx.read(directory)
    assert all("\n" not in str(problem) and str(problem).isprintable() for problem in caught.value.problems)


def spoil(directory: Path, change: Callable[[Any], None]) -> None:
    """Change the model's protocol buffer and store it again, unchecked."""
    path = directory / "model.onnx"
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def tensor(model: Any, name: str) -> Any:
    """A tensor of a model."""
    return next(found for found in model.graph.initializer if found.name == name)


def test_the_good_one_is_read(good: Path) -> None:
    """The twin of every test below."""
    assert WTE in ligo_onnx.read(good).tensors


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_off(good: Path) -> None:
    """At whatever byte: too short a message, tensor or number is never filled up."""
    data = (good / "model.onnx").read_bytes()
    for end in {*range(0, 64), *range(64, len(data), 97), *range(len(data) - 16, len(data))}:
        (good / "model.onnx").write_bytes(data[:end])
        # What follows the graph (the opset) is a field of its own: without it the file is whole, and has no opset.
        refused(good, r"byte|opset|not in the graph|cut off")


@settings(max_examples=examples(150), suppress_health_check=QUIET)
@given(data=st.data())
def test_flipped_bits(made: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Anywhere outside the values: read as something that binds, or refused; never a crash."""
    whole = bytearray((made / "model.onnx").read_bytes())
    places = outside_values(made / "model.onnx")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    spoilt(made, tmp_path, bytes(whole), with_config=data.draw(st.booleans()))


@lru_cache
def outside_values(path: Path) -> list[int]:
    """The bytes of a file that are no values of tensors: what a parser looks at."""
    with open_input(path) as file:
        tensors = parse(Wire(file)).tensors.values()
    values = {byte for found in tensors if found.span for byte in range(*found.span)}
    return [byte for byte in range(path.stat().st_size) if byte not in values]


@settings(max_examples=examples(100), suppress_health_check=QUIET)
@given(data=st.data())
def test_pieces_put_elsewhere(made: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Pieces of the file doubled, left out or exchanged for others of it, and numbers put in."""
    whole = (made / "model.onnx").read_bytes()
    spans = [sorted(data.draw(st.integers(0, len(whole))) for _ in range(2)) for _ in range(2)]
    filling = data.draw(st.one_of(st.binary(max_size=12), st.just(whole[slice(*spans[1])])))
    spoilt(made, tmp_path, whole[: spans[0][0]] + filling + whole[spans[0][1] :])


@settings(max_examples=examples(100), suppress_health_check=QUIET)
@given(data=st.binary(max_size=200))
def test_any_bytes(made: Path, tmp_path: Path, data: bytes) -> None:
    """No bytes at random are a model."""
    assert not spoilt(made, tmp_path, data)


def spoilt(made: Path, tmp_path: Path, data: bytes, *, with_config: bool = True) -> bool:
    """Whether a spoilt file is read; what is refused is refused in words."""
    directory = tmp_path / ("spoilt" if with_config else "alone")
    directory.mkdir(exist_ok=True)
    if with_config:
        shutil.copy(made / "config.json", directory)
    (directory / "model.onnx").write_bytes(data)
    try:
        checkpoint = ligo_onnx.read(directory, family=load_family("gpt2"))
    except InputError:
        return False
    for name, info in checkpoint.tensors.items():
        assert checkpoint.read(name).shape == info.shape
    return True


def _field(number: int, payload: bytes) -> bytes:
    """A field of bytes."""
    length, digits = len(payload), b""
    while True:
        digits += bytes([(length & 0x7F) | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + digits + payload


def _nested(levels: int) -> bytes:
    """A node whose attribute is a graph, in a node whose attribute is a graph, ..."""
    graph = b""
    for _ in range(levels):
        graph = _field(1, _field(5, _field(6, graph)))
    return graph


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not an ONNX model"),
        (b"\x08", "cut off by the end"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x01", "number 0"),
        (b"\x3a\x7f\x0a", "a field of 127 bytes, its message has 1 left"),
        (b"\x3a" + b"\xff" * 8 + b"\x7f", r"its message has 0 left"),
        (b"\x0d\x01\x00\x00\x00", "ir_version has wire type 5"),
        (b"\x08\x09\x08\x09", "ir_version comes twice"),
        (b"\x08\x09" + _field(7, b"") + _field(7, b""), "graph comes twice"),
        (b"\x08\x09" + _field(2, b"\xff\xfe"), "not UTF-8"),
        (b"\x08\x09" + _field(7, _field(1, _field(3, b"x" * 70_000))), "at most 65536"),
        (b"\x08\x09" + _field(7, _nested(30)), "nested deeper than 48"),
        (b"\x80\x02\x0a\x00" + b"PK\x03\x04", "not an ONNX|wire type|left"),
        (b'{"model_type": "gpt2"}', "wire type|left"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_protocol_buffer(data: bytes, match: str, good: Path) -> None:
    """Numbers without an end, lengths beyond the message, groups, fields that come twice, depth."""
    (good / "model.onnx").write_bytes(data)
    refused(good, match)


def test_fields_without_end(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of empty nodes in a few megabytes."""
    monkeypatch.setattr(_wire, "MAX_FIELDS", 10_000)
    (good / "model.onnx").write_bytes(b"\x08\x09" + _field(7, b"\x0a\x00" * 20_000))
    refused(good, "more than 10000 fields")


def test_a_list_without_end(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of more dimensions than anything has."""
    monkeypatch.setattr(_messages, "MAX_INTS", 100)
    (good / "model.onnx").write_bytes(b"\x08\x09" + _field(7, _field(5, _field(1, b"\x01" * 200))))
    refused(good, "more than 100 numbers")


# --- tensors ----------------------------------------------------------------------------------------------------------


def _dims(*dims: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor(model, WTE).dims[:] = dims

    return change


def _set(**fields: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        found = tensor(model, WTE)
        for key, value in fields.items():
            if isinstance(value, list):
                getattr(found, key).extend(value)
            else:
                setattr(found, key, value)

    return change


def _typed(field: str, values: list[Any], data_type: int = 1, dims: tuple[int, ...] = (7, 4)) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        found = tensor(model, WTE)
        found.ClearField("raw_data")
        found.data_type = data_type
        found.dims[:] = dims
        getattr(found, field).extend(values)

    return change


def _segment(model: Any) -> None:
    tensor(model, WTE).segment.begin = 0


def _again(model: Any) -> None:
    model.graph.initializer.append(tensor(model, WTE))


def _given_by_a_node(model: Any) -> None:
    model.graph.node.append(onnx.helper.make_node("Identity", ["input_ids"], [WTE]))


def _unnamed(model: Any) -> None:
    tensor(model, WTE).name = ""


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_dims(-7, -4), "sizes below 2"),
        (_dims(1 << 47, 4), "too large|needs"),
        (_dims(1 << 33, 1 << 33), "too large"),
        (_dims(*[1] * 70), "at most 64 sizes"),
        (_dims(7, 5), "needs 140 bytes, raw_data has 112"),
        (_dims(0, 1 << 47), "needs 0 bytes, raw_data has 112"),
        (_set(data_type=0), "data type 0"),
        (_set(data_type=8), "data type 8"),
        (_set(data_type=14), "data type 14"),
        (_set(data_type=22), "data type 22"),
        (_set(data_type=99), "data type 99"),
        (_set(string_data=[b"x"]), "strings"),
        (_segment, "segments"),
        (_set(float_data=[1.0]), "values twice"),
        (_set(data_location=1), "do not agree"),
        (_typed("float_data", []), "has no values"),
        (_typed("float_data", [1.0] * 27), "needs 112 bytes, float_data has 108"),
        (_typed("int64_data", [1] * 28), "they belong into float_data"),
        (_typed("int32_data", [1] * 27, 10), "28 values in 27 bytes"),
        (_typed("int32_data", [128] * 27, 10), r"are not 28 numbers"),
        (_typed("int32_data", [1 << 17] * 28, 10), "does not fit F16"),
        (_typed("int32_data", [-1] * 28, 16), "does not fit BF16"),
        (_again, "gives every name once"),
        (_given_by_a_node, "gives every name once"),
        (_unnamed, "is empty"),
    ],
)
def test_tensors_that_are_none(change: Callable[[Any], None], match: str, good: Path) -> None:
    """Sizes, dtypes and values that do not agree. Values that are counted when they are read are refused then."""
    spoil(good, change)
    with pytest.raises(InputError, match=match):
        ligo_onnx.read(good).read(WTE)


# --- graphs -----------------------------------------------------------------------------------------------------------


def _replaced(op: str, domain: str = "") -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = next(found for found in model.graph.node if found.op_type == "Gemm")
        node.op_type, node.domain = op, domain
        if domain:
            model.opset_import.add(domain=domain, version=1)

    return change


def _opset(version: int | None) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del model.opset_import[:]
        if version is not None:
            model.opset_import.add(domain="", version=version)

    return change


def _twice_imported(model: Any) -> None:
    model.opset_import.add(domain="ai.onnx", version=20)


def _sparse(model: Any) -> None:
    model.graph.sparse_initializer.add()


def _sparse_constant(model: Any) -> None:
    node = model.graph.node.add(op_type="Constant", output=["sparse"])
    node.attribute.add(name="sparse_value", type=11).sparse_tensor.dims.append(1)


def _annotated(model: Any) -> None:
    model.graph.quantization_annotation.add(tensor_name=WTE)


def _calls_itself(model: Any) -> None:
    for name, called in (("one", "two"), ("two", "one"), ("three", "one")):
        function = model.functions.add(name=name, domain="own")
        function.node.add(op_type=called, domain="own")


def _two_values(model: Any) -> None:
    attribute = next(node for node in model.graph.node if node.op_type == "Gemm").attribute[0]
    attribute.i, attribute.f = 1, 1.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        *(
            (_replaced(op), rf"node {op} .*quantis.*export the model again")
            for op in ("QLinearMatMul", "MatMulInteger")
        ),
        *((_replaced(op), rf"node {op} .*quantis") for op in ("QuantizeLinear", "DequantizeLinear", "ConvInteger")),
        (_replaced("DynamicQuantizeLinear"), "node DynamicQuantizeLinear .*c_attn/Gemm"),
        (_replaced("MatMulNBits", "com.microsoft"), "node MatMulNBits .*quantis"),
        (_replaced("QAttention", "com.microsoft"), "node QAttention .*quantis"),
        *(
            (_replaced(op, "com.microsoft"), rf"node {op} .*fused or custom operator of com\.microsoft.*export")
            for op in ("Attention", "SkipLayerNormalization", "EmbedLayerNormalization", "GroupQueryAttention")
        ),
        (_replaced("Anything", "some.where"), r"fused or custom operator of some\.where"),
        (_opset(10), "has opset 10, 11 or newer"),
        (_opset(None), "imports no opset"),
        (_twice_imported, "imported twice"),
        (_sparse, "sparse"),
        (_sparse_constant, "sparse"),
        (_annotated, "annotates"),
        (_calls_itself, "calls itself"),
        (_two_values, "two values"),
    ],
)
def test_graphs_that_hold_no_weights(change: Callable[[Any], None], match: str, good: Path) -> None:
    """Quantised, fused, sparse, old, endless: refused before a weight is looked for."""
    spoil(good, change)
    refused(good, match)


def test_all_reasons_at_once(good: Path) -> None:
    """Who repairs one thing should not meet the next one afterwards."""
    spoil(good, _opset(9))
    spoil(good, _replaced("QLinearMatMul"))
    spoil(good, _sparse)
    with pytest.raises(InputError) as caught:
        ligo_onnx.read(good)
    assert len(caught.value.problems) == 3


# --- what a graph is of -----------------------------------------------------------------------------------------------


def test_another_architecture(good: Path) -> None:
    """The config says Llama: what is in the graph instead is said."""
    (good / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    refused(good, r"of 20 tensors of family llama are not in the graph.*another architecture.*transformer/wte/Gather")
    with pytest.raises(InputError, match="another architecture"):
        ligo_onnx.read(good, family=load_family("llama"))


def test_layers_that_are_not_there(good: Path) -> None:
    """More or fewer than the config says."""
    config = json.loads((good / "config.json").read_text())
    (good / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
    refused(good, r"transformer\.h\.1\.ln_1\.weight \(4\) is not in the graph")
    (good / "config.json").write_text(json.dumps(config | {"n_layer": 99_999}))
    refused(good, "the config says 99999 layers, the graph has")
    (good / "config.json").write_text(json.dumps(config | {"n_embd": 8}))
    refused(good, r"not in the graph")


def _without_names(model: Any) -> None:
    """What an optimiser leaves that keeps no names."""
    new = {tensor.name: f"w{number}" for number, tensor in enumerate(model.graph.initializer)}
    for found in model.graph.initializer:
        found.name = new[found.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.input[:] = [new.get(name, name) for name in node.input]


def test_no_names_at_all(good: Path) -> None:
    """Shapes alone would let norms, biases and projections change places."""
    spoil(good, _without_names)
    refused(good, "another architecture, or has no names")


def _one_without_names(model: Any) -> None:
    for found in model.graph.initializer:
        if found.name.endswith(("ln_1.bias", "ln_2.bias")):
            name, found.name = found.name, f"w{found.name[-6]}"
            for node in model.graph.node:
                if name in node.input:
                    node.name = "node_" + found.name
                    node.input[:] = [found.name if given == name else given for given in node.input]


def test_two_that_may_be_each_other(good: Path) -> None:
    """The candidates are listed; nothing is guessed."""
    spoil(good, _one_without_names)
    refused(good, r"ln_1\.bias \(4\) is not in the graph; w1 \(4\), w2 \(4\) might be it")


def _stranger(model: Any) -> None:
    value = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, "adapter"))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["anything", "adapter"], ["more"], name="/lora/MatMul"))


def test_a_large_tensor_that_is_no_parameter(good: Path) -> None:
    """An adapter that was not merged is a part of the model, which the family does not know."""
    spoil(good, _stranger)
    refused(good, r"tensor adapter \(40, 40\) is no parameter of gpt2.*MatMul \(/lora/MatMul\)")


def _constants(model: Any) -> None:
    angles = np.arange(64)[:, None] * 10000.0 ** -(np.arange(32) / 32)[None]
    mask = np.where(np.tri(64), 0, np.finfo(np.float32).min)
    for name, value in {"cos": np.cos(angles), "sin": np.sin(angles), "mask": mask}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32)[None], name))
        op = "Add" if name == "mask" else "Mul"
        model.graph.node.append(onnx.helper.make_node(op, ["anything", name], [f"more_{name}"]))


def test_constants_are_known_by_their_values(good: Path) -> None:
    """Masks and tables of rotary positions are of no training; the same shapes of other values are refused."""
    spoil(good, _constants)
    assert {"cos", "sin", "mask"} <= ligo_onnx.read(good).recovery.constants.keys()

    def disturb(model: Any) -> None:
        found = tensor(model, "cos")
        value = onnx.numpy_helper.to_array(found).copy()
        value[0, 40, 3] += 0.5
        found.CopyFrom(onnx.numpy_helper.from_array(value, "cos"))

    spoil(good, disturb)
    refused(good, r"tensor cos \(1, 64, 32\) is no parameter")


def _cast(to: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = next(found for found in model.graph.node if C_FC in found.input)
        node.input[list(node.input).index(C_FC)] = "cast"
        model.graph.node.append(onnx.helper.make_node("Cast", [C_FC], ["cast"], to=to))

    return change


@pytest.mark.parametrize("to", [1, 2, 3, 6, 7, 9, 10, 11, 16, 17, 19, 99])
def test_casts_between_any_dtypes(to: int, good: Path) -> None:
    """Of a weight: to itself and to more bits is no matter; of a tensor of whole numbers: never."""
    spoil(good, _cast(to))

    def also(model: Any) -> None:
        name = next(node.output[0] for node in model.graph.node if node.op_type == "Constant")
        model.graph.node.append(onnx.helper.make_node("Cast", [name], ["cast_number"], to=to))

    spoil(good, also)
    if to in (1, 11):
        assert C_FC in ligo_onnx.read(good).tensors
    else:
        refused(good, "cast to fewer bits")


def test_a_cast_that_loses_bits(good: Path) -> None:
    """The model computes with other weights than it stores; a cast to more bits is none."""
    spoil(good, _cast(10))
    refused(good, r"c_fc\.weight is .*cast to fewer bits")


def test_a_cast_that_loses_nothing(good: Path) -> None:
    """The twin of the test above."""
    spoil(good, _cast(11))
    assert ligo_onnx.read(good).tensors[C_FC].dtype == "F32"


def test_a_product_that_is_scaled(good: Path) -> None:
    """``Gemm`` with ``alpha`` 2 has other weights than it seems."""

    def change(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Gemm" and attribute.name == "alpha":
                    attribute.f = 2.0

    spoil(good, change)
    refused(good, r"c_attn\.weight \(4, 12\) is not in the graph")


@pytest.mark.parametrize(
    ("text", "match"),
    [("[]", "not a JSON object"), ("{", "not valid JSON"), ('{"model_type": "what"}', "no family"), ("{}", "empty")],
)
def test_configs_that_are_none(text: str, match: str, good: Path) -> None:
    """Beside the model, and in it."""
    (good / "config.json").write_text(text)
    refused(good, match)
    (good / "config.json").unlink()
    spoil(good, lambda model: model.metadata_props.add(key="ligo.config", value=text))
    refused(good, match)


# --- which file -------------------------------------------------------------------------------------------------------


def test_directories_without_one_model(good: Path, tmp_path: Path) -> None:
    """None, several, quantised ones only; and what is no file."""
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no ONNX file in it")
    refused(tmp_path / "nothing", "cannot be opened")
    (good / "model.onnx").rename(good / "model_q4f16.onnx")
    refused(good, r"quantised ONNX files only \(model_q4f16\.onnx\)")
    for name in ("one.onnx", "two.onnx"):
        shutil.copy(good / "model_q4f16.onnx", good / name)
    refused(good, r"2 ONNX files \(one\.onnx, two\.onnx\)")
    os.mkfifo(good / "model.onnx")
    refused(good, "is a pipe")


def test_a_model_that_changes(good: Path) -> None:
    """Between opening and reading."""
    checkpoint = ligo_onnx.read(good)
    with (good / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.read(WTE)
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.check_unchanged()


# --- files beside the model -------------------------------------------------------------------------------------------


@pytest.fixture
def external(good: Path) -> Path:
    """The model with its values in ``weights.bin``."""
    path = good / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert ligo_onnx.read(good).files[-1].name == "weights.bin"
    return good


def said(directory: Path, **changes: str) -> None:
    """Change what the table's tensor says of its values."""

    def change(model: Any) -> None:
        found = tensor(model, WTE)
        entries = {entry.key: entry.value for entry in found.external_data} | changes
        del found.external_data[:]
        for key, value in entries.items():
            found.external_data.add(key=key, value=value)

    spoil(directory, change)


LEADING_AWAY = (
    *("../secret.bin", "/etc/passwd", "a/../../secret.bin", "..", ".", "", "a//b", "./weights.bin", "sub/..", "sub/"),
    *("C:secret", "..\\secret.bin", "\\\\host\\share", "file:///etc/passwd"),
    *("a\x00b", "weights.bin\n", "a/b/c/d/e/f/g/h/i"),
)


@pytest.mark.parametrize("location", LEADING_AWAY)
def test_locations_that_lead_away(location: str, external: Path) -> None:
    """No text of a file becomes a path that leaves the model's directory."""
    (external.parent / "secret.bin").write_bytes((external / "weights.bin").read_bytes())
    said(external, location=location)
    refused(external, "is not a relative path that stays beside the model")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offset": "-1"}, "offset .* decimal"),
        ({"offset": "0x10"}, "offset .* decimal"),
        ({"offset": "١"}, "offset .* decimal"),
        ({"offset": str(1 << 60)}, "offset .* decimal"),
        ({"offset": str(10**15)}, "cut off"),
        ({"length": str(10**15)}, "needs 112 bytes, length gives"),
        ({"length": "111"}, "needs 112 bytes, length gives 111"),
        ({"length": ""}, "length .* decimal"),
        ({"__class__": "x"}, "key '__class__' is not one of"),
        ({"basepath": "/"}, "key 'basepath' is not one of"),
        ({"checksum": "0" * 40}, "has the sha1"),
        ({"checksum": "md5"}, "checksum is not a sha1"),
        ({"offset": "4"}, "overlap"),
    ],
)
def test_claims_about_other_files(changes: dict[str, str], match: str, external: Path) -> None:
    """Offsets, lengths, checksums and keys are held to what is there."""
    said(external, **changes)
    refused(external, match)


def test_a_key_that_stands_twice(external: Path) -> None:
    """Readers would differ in which one they take."""
    spoil(external, lambda model: tensor(model, WTE).external_data.add(key="location", value="weights.bin"))
    refused(external, "a key stands twice")


def test_values_inside_and_outside(external: Path) -> None:
    """A tensor has its values in one place."""
    spoil(external, lambda model: setattr(tensor(model, WTE), "raw_data", b"\0" * 112))
    refused(external, "external data and raw_data as well")


def test_links_are_not_followed(external: Path) -> None:
    """Symbolic ones, hard ones, and through a linked directory: the bytes of a neighbour do not come out."""
    data, secret = external / "weights.bin", external.parent / "secret.bin"
    secret.write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to(secret)
    refused(external, "is a symbolic link")
    data.unlink()
    os.link(secret, data)
    refused(external, "hard link")
    data.unlink()
    refused(external, "cannot be opened")
    data.mkdir()
    refused(external, "is not a regular file")
    data.rmdir()
    os.mkfifo(data)
    refused(external, "is not a regular file")
    data.unlink()
    (external / "sub").symlink_to(external.parent)
    said_of_all(external, "sub/secret.bin")
    refused(external, "a part of the path is a symbolic link")
    (external / "sub").unlink()
    (external / "sub").mkdir()
    shutil.copy(secret, external / "sub" / "secret.bin")
    assert WTE in ligo_onnx.read(external).tensors


def said_of_all(directory: Path, location: str) -> None:
    """Give all values another file."""

    def change(model: Any) -> None:
        for found in model.graph.initializer:
            for entry in found.external_data:
                if entry.key == "location":
                    entry.value = location

    spoil(directory, change)


def test_the_links_of_a_hub_cache(external: Path, tmp_path: Path) -> None:
    """There every file is a link into ``blobs`` of the same model; links to anywhere else stay refused."""
    root = tmp_path / "models--some--model"
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for file in external.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.name.encode()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    checkpoint = ligo_onnx.read(snapshot)
    assert checkpoint.read(WTE).tobytes() == ligo_onnx.read(external).read(WTE).tobytes()
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(external / "weights.bin")
    refused(snapshot, "is a symbolic link")
    other = tmp_path / "models--other--model" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(external / "weights.bin", other / "x")
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(other / "x")
    refused(snapshot, "is a symbolic link")


def test_a_data_file_that_changes(external: Path) -> None:
    """Between opening and reading."""
    checkpoint = ligo_onnx.read(external)
    data = (external / "weights.bin").read_bytes()
    (external / "weights.bin").unlink()
    (external / "weights.bin").write_bytes(data)
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.read(WTE)
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.check_unchanged()


def test_nothing_is_opened_outside(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hostile location is refused before a file is touched."""
    opened: list[str] = []
    plain = os.open

    def watching(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        opened.append(str(path))
        return plain(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", watching)
    said(external, location="../../../../etc/passwd")
    refused(external, "stays beside the model")
    assert not any("passwd" in path for path in opened)
    assert any("model.onnx" in path for path in opened)
