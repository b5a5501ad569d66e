"""ONNX files that are written: valid, complete, and the same function in onnxruntime as in Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec.errors import InputError
from ligo_spec.plan import DtypeName
from tests.family_table import ROWS
from tests.onnx_models import agree, feeds, initializers, library_outputs, run
from tests.tiny_checkpoints import CONFIGS, arrays, config_of, plan_file, same_bits, saved, tensors_of, write

pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

import onnx
import torch

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

SHAPES = [(2, 7), (1, 1), (3, 5)]
"""Batches and lengths, one of them that of the trace, and the smallest."""

MODELS: dict[str, dict[str, Any]] = {
    "bert": CONFIGS["bert"],
    "gpt2": CONFIGS["gpt2"],
    "llama": {**CONFIGS["llama"], "tie_word_embeddings": False},
    "qwen2": {**CONFIGS["llama"], "model_type": "qwen2", "tie_word_embeddings": True},
    "modernbert": {
        **CONFIGS["bert"],
        **ROWS["modernbert"].config,
        "model_type": "modernbert",
        "num_hidden_layers": 4,
        "local_attention": 6,
    },
    "vit": {**CONFIGS["bert"], **ROWS["vit"].config, "model_type": "vit"},
    "t5": {
        **ROWS["t5"].config,
        "model_type": "t5",
        "d_model": 12,
        "d_kv": 4,
        "d_ff": 20,
        "num_heads": 3,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "vocab_size": 31,
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``written(family)``: a tiny model of the family's head class, and its conversion to ONNX."""
    made: dict[str, tuple[Path, Path]] = {}

    def of(family: str) -> tuple[Path, Path]:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            small = saved(place / "small", ROWS[family].head, MODELS[family])
            made[family] = small, ligo_spec.convert(small, place / "onnx", "onnx").path
        return made[family]

    return of


@pytest.mark.parametrize("family", MODELS)
def test_the_runtime_and_the_library_agree(family: str, written: Any) -> None:
    """At every batch and length, masked or not."""
    small, out = written(family)
    onnx.checker.check_model(str(out / "model.onnx"), full_check=True)
    for feed in feeds(config_of(small), SHAPES):
        if family == "t5":
            feed["decoder_input_ids"] = feed["input_ids"][:, :1] * 0
        theirs = library_outputs(small, ROWS[family].head, feed)
        ours = run(out / "model.onnx", feed)
        assert agree(ours["logits"], theirs["logits"], feed) < 1e-5


@pytest.mark.parametrize("family", MODELS)
def test_every_tensor_is_there_under_its_name(family: str, written: Any) -> None:
    """Bit for bit, in the orientation of the file; what else there is are constants of the module."""
    small, out = written(family)
    stored, found = tensors_of(small), initializers(out / "model.onnx")
    assert same_bits({name: found[name] for name in stored}, stored)
    others = {name for name in found if name not in stored}
    assert all("position_ids" in name or "token_type_ids" in name or "inv_freq" in name for name in others)


def test_the_file_says_what_it_is_and_not_where_it_was_made(written: Any) -> None:
    small, out = written("llama")
    model = onnx.load(out / "model.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata["ligo.config"]) == config_of(small)
    sides = {value.name: [side.dim_param for side in value.type.tensor_type.shape.dim] for value in model.graph.input}
    assert sides == {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}
    content = (out / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_the_same_input_gives_the_same_bytes(written: Any, tmp_path: Path) -> None:
    small, out = written("gpt2")
    again = ligo_spec.convert(small, tmp_path / "again", "onnx").path
    assert (again / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()


def test_values_beside_the_model(written: Any, tmp_path: Path) -> None:
    """Above the limit they lie in files of their own, aligned, and the model runs from them."""
    small, out = written("bert")
    limit = 5000
    found = ligo_spec.convert(small, tmp_path / "cut", "onnx", max_shard_size=limit)
    assert found.files[0] == "model.onnx"
    assert len(found.files) > 2
    model = onnx.load(found.path / "model.onnx", load_external_data=False)
    stored = tensors_of(small)
    places = {item.name: {e.key: e.value for e in item.external_data} for item in model.graph.initializer}
    assert all(int(places[name]["offset"]) % 4096 == 0 for name in stored)
    for file in found.files[1:]:
        held = sum(int(place["length"]) for place in places.values() if place["location"] == file)
        assert held <= limit or sum(place["location"] == file for place in places.values()) == 1
    assert same_bits({n: v for n, v in initializers(found.path / "model.onnx").items() if n in stored}, stored)
    (feed,) = feeds(config_of(small), [(2, 7)])
    np.testing.assert_array_equal(
        run(found.path / "model.onnx", feed)["logits"], run(out / "model.onnx", feed)["logits"]
    )


def test_what_the_class_does_not_use_is_kept(tmp_path: Path) -> None:
    """A head that the class has not, and a tensor that no family declares."""
    config = {**CONFIGS["bert"], "architectures": ["BertModel"]}
    held = arrays(config, heads=["next_sentence.weight", "next_sentence.bias"], base="bert.") | {
        "extra.scale": np.arange(3, dtype=np.float32)
    }
    write(tmp_path / "small", config, held)
    found = ligo_spec.convert(tmp_path / "small", tmp_path / "out", "onnx")
    assert found.undeclared == ("extra.scale",)
    kept = initializers(found.path / "model.onnx")
    assert {"extra.scale", "cls.seq_relationship.weight"} <= kept.keys()
    onnx.checker.check_model(str(found.path / "model.onnx"), full_check=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: DtypeName, written: Any, tmp_path: Path) -> None:
    """The graph computes in the dtype of the weights; the runtime has CPU kernels for float16, none for bfloat16."""
    small, _ = written("llama")
    found = ligo_spec.convert(small, tmp_path / "half", "onnx", dtype=dtype)
    onnx.checker.check_model(str(found.path / "model.onnx"), full_check=True)
    weights = initializers(found.path / "model.onnx")
    assert {weights[name].dtype.name for name in tensors_of(small)} == {dtype}
    if dtype == "float16":
        (feed,) = feeds(config_of(small), [(2, 7)])
        theirs = library_outputs(small, ROWS["llama"].head, feed)["logits"]
        assert agree(run(found.path / "model.onnx", feed)["logits"].astype(np.float32), theirs, feed) < 2e-2


def test_a_class_that_the_library_has_not(tmp_path: Path) -> None:
    config = {**CONFIGS["bert"], "architectures": ["BertForDreams"]}
    write(tmp_path / "small", config, arrays(config, base="bert."))
    with pytest.raises(InputError, match=r"architectures names BertForDreams, which Transformers has not"):
        ligo_spec.convert(tmp_path / "small", tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_not_there(tmp_path: Path) -> None:
    config = {**CONFIGS["bert"], "architectures": ["BertForMaskedLM"]}
    write(tmp_path / "small", config, arrays(config, base="bert."))
    with pytest.raises(InputError, match=r"BertForMaskedLM needs cls\.predictions\.[a-zA-Z.]+, which is not there"):
        ligo_spec.convert(tmp_path / "small", tmp_path / "out", "onnx")


def test_experts_that_the_library_joins_are_refused(tmp_path: Path) -> None:
    row = ROWS["mixtral"]
    config = {**CONFIGS["llama"], **row.config, "model_type": "mixtral", "num_local_experts": 2}
    saved(tmp_path / "small", row.head, config)
    with pytest.raises(InputError, match=r"joins tensors of the file in memory .*experts"):
        ligo_spec.convert(tmp_path / "small", tmp_path / "out", "onnx")


GROWN: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 40},
    "gpt2": {"hidden_size": 24, "num_attention_heads": 6},
    "llama": {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 40},
    "qwen2": {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 40},
    "modernbert": {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 40},
    "vit": {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 40},
}


@pytest.mark.parametrize("family", GROWN)
def test_a_grown_model_in_the_runtime(family: str, written: Any, tmp_path: Path) -> None:
    """ONNX to a larger ONNX with one plan: what onnxruntime says is what Transformers says of the small one."""
    small, middle = written(family)
    output = {"path": "grown", "format": "onnx"}
    plan = plan_file(tmp_path, target=GROWN[family], operator={"width": "hypercloning"}, output=output)
    grown = ligo_spec.grow(plan, source=middle)
    assert grown.lossless
    for feed in feeds(config_of(small), SHAPES):
        theirs = library_outputs(small, ROWS[family].head, feed)["logits"]
        assert agree(run(grown.path / "model.onnx", feed)["logits"], theirs, feed) < 1e-4
