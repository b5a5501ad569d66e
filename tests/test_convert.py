"""Every ordered pair of formats: what was written is read back bit for bit, whatever lies between."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ligo_spec
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, OutputError, PlanError
from ligo_spec.family import load_family
from ligo_spec.formats import FormatName
from ligo_spec.layout import Model
from ligo_spec.testing import architectures
from tests.family_table import ROWS
from tests.tiny_checkpoints import CONFIGS, arrays, config_of, handmade, plan_file, same_bits, saved, tree, write

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("msgpack")

import ligo_onnx._write

NAMES: tuple[FormatName, ...] = ("safetensors", "pytorch", "onnx", "flax")

FAMILIES = ("bert", "gpt2", "llama", "vit")

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Any:
    """A graph follows from config and headers alone; tracing the same one for every pair would take minutes."""
    trace = ligo_onnx._write.traced
    made: dict[str, Any] = {}

    def once(model: Model, infos: Mapping[str, TensorInfo], where: str) -> Any:
        key = json.dumps([dict(model.architecture.config), [str(info) for info in infos.values()]], sort_keys=True)
        if key not in made:
            made[key] = trace(model, infos, where)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ligo_onnx._write, "traced", once)
        yield


def values_of(path: Path) -> Arrays:
    """All tensors of a checkpoint by name, by its own reader."""
    checkpoint = ligo_spec.read_checkpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=1, suppress_health_check=QUIET)
@given(data=st.data())
def test_every_pair_of_formats(family: str, dtype: str, data: st.DataObject) -> None:
    """From each of the four to each of the four, by way of nothing else."""
    row = ROWS[family]
    config = dict(data.draw(architectures(load_family(family), row.config)).config)
    limit = data.draw(st.sampled_from([10**9, 2000]))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        saved(place / "start", row.head, config, dtype=dtype)
        wanted = values_of(place / "start")
        for first in NAMES:
            ligo_spec.convert(place / "start", place / first, first)
            assert same_bits(values_of(place / first), wanted), first
        for first, second in product(NAMES, repeat=2):
            out = place / f"{first}-{second}"
            found = ligo_spec.convert(place / first, out, second, max_shard_size=limit)
            assert (found.source_format, found.format) == (first, second)
            assert same_bits(values_of(out), wanted), (first, second)
            assert config_of(out) == config_of(place / "start")


@pytest.mark.parametrize("name", ["safetensors", "pytorch", "flax"])
def test_another_dtype_rounds_to_the_nearest(name: FormatName, tmp_path: Path) -> None:
    small = handmade(tmp_path / "small")
    out = ligo_spec.convert(small, tmp_path / "out", name, dtype="bfloat16").path
    wanted = {key: value.astype("bfloat16") for key, value in values_of(small).items()}
    assert same_bits(values_of(out), wanted)
    assert config_of(out) == config_of(small) | {"dtype": "bfloat16"}


def test_what_no_family_knows_passes_between_formats_of_named_tensors(tmp_path: Path) -> None:
    """Every tensor, buffers and integers too, under its own name; no config is needed."""
    rng = np.random.default_rng(0)
    held: Arrays = {
        "core.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "core.steps": np.arange(5),
        "core.mask": np.tri(3, dtype=bool),
        "scale": np.array([2.5], dtype=np.float16),
    }
    small = write(tmp_path / "small", None, held)
    middle = ligo_spec.convert(small, tmp_path / "middle", "pytorch")
    assert middle.family is None
    assert same_bits(values_of(middle.path), held)
    back = ligo_spec.convert(middle.path, tmp_path / "back", "safetensors").path
    assert same_bits(values_of(back), held)
    with pytest.raises(PlanError, match=r"no config\.json beside the weights; flax files need to know .*family"):
        ligo_spec.convert(small, tmp_path / "flax", "flax")


def test_what_lies_beside_the_weights_comes_along(tmp_path: Path) -> None:
    small = handmade(tmp_path / "small")
    (small / "tokenizer.json").write_text("{}")
    (small / "notes.txt").write_text("mine")
    out = ligo_spec.convert(small, tmp_path / "out", "pytorch").path
    assert set(tree(out)) == {"pytorch_model.bin", "config.json", "tokenizer.json", "conversion_manifest.json"}
    assert (out / "config.json").read_bytes() == (small / "config.json").read_bytes()
    manifest = json.loads((out / "conversion_manifest.json").read_text())
    assert (manifest["from"], manifest["to"]) == ("safetensors", "pytorch")
    assert manifest["source"].keys() == {"model.safetensors"}
    assert manifest["files"].keys() == {"pytorch_model.bin", "config.json", "tokenizer.json"}


@pytest.mark.parametrize("source", ["pytorch", "flax"])
@pytest.mark.parametrize("target", ["safetensors", "pytorch", "flax"])
def test_growth_reads_and_writes_formats(source: FormatName, target: FormatName, tmp_path: Path) -> None:
    """The same large tensors as the growth of the safetensors file gives."""
    small = handmade(tmp_path / "small")
    grow: dict[str, Any] = {"target": {"num_hidden_layers": 3}, "operator": {"depth": "stack"}}
    wanted = values_of(ligo_spec.apply(plan_file(tmp_path, **grow)).path)
    other = ligo_spec.convert(small, tmp_path / "other", source).path
    plan = plan_file(tmp_path, "other.yaml", **grow, output={"path": "out", "format": target})
    found = ligo_spec.apply(plan, source=other).path
    assert same_bits(values_of(found), wanted)


def test_a_tie_is_stored_once(tmp_path: Path) -> None:
    """Equal copies of a tied tensor are one in a format that lays tensors out; different ones are two."""
    config = {**CONFIGS["gpt2"], "tie_word_embeddings": True, "architectures": ["GPT2LMHeadModel"]}
    held = arrays(config, heads=["head.weight"], base="transformer.")
    held["lm_head.weight"] = held["transformer.wte.weight"]
    small = write(tmp_path / "small", config, held)
    found = ligo_spec.convert(small, tmp_path / "flax", "flax")
    assert found.dropped == {"lm_head.weight": "tied to transformer.wte.weight"}
    held["lm_head.weight"] = held["lm_head.weight"] + 1
    untied = write(tmp_path / "untied", config, held)
    apart = ligo_spec.convert(untied, tmp_path / "apart", "flax")
    assert apart.dropped == {}
    assert config_of(apart.path)["tie_word_embeddings"] is False
    assert same_bits(values_of(apart.path), held)


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    small = handmade(tmp_path / "small")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="already exists"):
        ligo_spec.convert(small, tmp_path / "there", "pytorch")
    with pytest.raises(OutputError, match="is the source itself"):
        ligo_spec.convert(small, small, "pytorch")
    with pytest.raises(InputError, match="no such file or directory"):
        ligo_spec.convert(tmp_path / "nowhere", tmp_path / "out", "pytorch")
    (small / "model.safetensors").rename(small / "model.weights")
    with pytest.raises(InputError, match=r"no weights in it: neither model\.safetensors, pytorch_model\.bin"):
        ligo_spec.convert(small, tmp_path / "out", "pytorch")
    with pytest.raises(InputError, match=r"is of no known format; the files of checkpoints end in \.safetensors"):
        ligo_spec.convert(small / "model.weights", tmp_path / "out", "pytorch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "there"]
