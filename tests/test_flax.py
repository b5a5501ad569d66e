"""Flax: what Transformers' Flax models wrote is read, and what we write is what they read, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import ligo_flax
import ligo_flax._write
from ligo_flax._file import read_file
from ligo_spec.checkpoint import DTYPES, Checkpoint, Converter, TensorInfo
from ligo_spec.errors import InputError, LigoError
from ligo_spec.family import load_family
from ligo_spec.layout import Model, bind
from ligo_spec.staging import staged_directory
from ligo_spec.testing import architectures
from tests import tiny_checkpoints
from tests.family_table import ROWS
from tests.flax_files import DATA, Array, QuietFs, chunked, file_of, infos_of, model_of, nested, packed, values, write
from tests.models import model_class
from tests.tiny_checkpoints import CONFIGS, arrays, config_of, same_bits

# --- files that Flax wrote --------------------------------------------------------------------------------------------

MODELS = {
    "bert": "BertForMaskedLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt2_untied_shards": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "llama_bf16": "LlamaForCausalLM",
    "llama_bf16.npz": "LlamaForCausalLM",
    "vit": "ViTForImageClassification",
    "vit_heads": "ViTForImageClassification",
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_flax_give_their_logits(tmp_path: Path, name: str) -> None:
    """Names, orientation, heads: the PyTorch class computes what the Flax class did, up to float32's rounding."""
    expected, folder = load_file(DATA / "expected.safetensors"), name.removesuffix(".npz")
    config = config_of(DATA / folder)
    wide = {key: array.astype(np.float32) for key, array in values(DATA / name).items()}
    tiny_checkpoints.write(tmp_path / "small", {k: v for k, v in config.items() if k != "torch_dtype"}, wide)
    kind = model_class(config["model_type"], MODELS[name])
    model, info = kind.from_pretrained(tmp_path / "small", output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    import torch

    inputs = {"pixel_values": "pixels"} if config["model_type"] == "vit" else {"input_ids": "text"}
    with torch.no_grad():
        found = model.eval()(**{key: torch.tensor(expected[source]) for key, source in inputs.items()}).logits.numpy()
    assert np.abs(expected[folder]).max() > 0.1
    np.testing.assert_allclose(found, expected[folder], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("vit_heads", "llama_bf16.npz")])
def test_our_bytes_are_those_of_flax(tmp_path: Path, name: str) -> None:
    limit = 3000 if name.endswith("shards") else 1 << 40
    names = write(tmp_path / "large", config_of(DATA / name), values(DATA / name), limit)
    assert sorted(names) == sorted(path.name for path in (DATA / name).glob("flax_model*"))
    for file in names:
        assert (tmp_path / "large" / file).read_bytes() == (DATA / name / file).read_bytes(), file


def test_heads_are_written_as_transformers_has_them(tmp_path: Path) -> None:
    """Attention of linen is read, and written as the Dense layers of Transformers' own model."""
    write(tmp_path / "large", config_of(DATA / "vit_heads"), values(DATA / "vit_heads"))
    leaves = read_file(tmp_path / "large/flax_model.msgpack").tensors
    assert leaves["vit/encoder/layer/0/attention/attention/query/kernel"].shape == (12, 12)
    assert leaves["vit/encoder/layer/0/attention/output/dense/kernel"].shape == (12, 12)
    assert same_bits(values(tmp_path / "large"), values(DATA / "vit_heads"))


def test_npz_and_msgpack_are_one_model() -> None:
    assert same_bits(values(DATA / "llama_bf16.npz"), values(DATA / "llama_bf16"))


def test_every_dtype_is_read() -> None:
    found = values(DATA / "kinds.msgpack")
    assert found.pop("scalar.value") == np.float32(7)
    assert {name.split(".")[0] for name in found} == {dtype.name for dtype in DTYPES.values()}
    for dtype in DTYPES.values():
        wanted = np.arange(6).reshape(2, 3).astype(dtype), np.zeros((0, 2), dtype), np.ones((), dtype)
        leaves = dict(zip(("value", "empty", "point"), wanted, strict=True))
        assert same_bits({leaf: found[f"{dtype.name}.{leaf}"] for leaf in leaves}, leaves)


def test_arrays_in_pieces_are_one(tmp_path: Path) -> None:
    kernel, bias = np.arange(60, dtype=np.float32).reshape(12, 5), np.arange(5, dtype=np.float32)
    tree = {"layers": {"0": {"kernel": kernel, "bias": bias}}}  # to_bytes keeps the order; JAX sorts what it makes
    data = (DATA / "chunked.msgpack").read_bytes()
    assert packed(tree, 64) == data
    assert same_bits(values(DATA / "chunked.msgpack"), {"layers.0.weight": kernel.T, "layers.0.bias": bias})


TREES: list[dict[str, Any]] = json.loads((DATA / "trees.json").read_text("utf-8"))


@pytest.mark.parametrize("case", TREES, ids=lambda case: case["class"])
def test_trees_are_those_of_the_flax_models(tmp_path: Path, case: dict[str, Any]) -> None:
    """Every parameter of a Flax model is one that its family declares, and is written where it was."""
    config, tree = case["config"], {path: tuple(shape) for path, shape in case["tree"].items()}
    rng = np.random.default_rng(0)
    leaves = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in tree.items()}
    small = ligo_flax.read(file_of(tmp_path / "small", nested(leaves), config))
    head = any(path.endswith(("lm_head/kernel", "decoder/kernel")) for path in tree)
    architecture = model_of(config, (), apart=head).architecture
    model = Model(architecture, bind(architecture, small.tensors, "tree").slots)
    with staged_directory(tmp_path / "large", fs=QuietFs()) as stage:
        ligo_flax.write(stage, small.tensors.values(), small.read, max_shard_size=1 << 40, model=model)
    assert (tmp_path / "large/flax_model.msgpack").read_bytes() == packed(nested(leaves))


# --- round trips ------------------------------------------------------------------------------------------------------

FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]


def written_and_read(config: dict[str, Any], tensors: dict[str, Array], limit: int) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "model", config, tensors, limit)
        return values(Path(folder) / "model")


@pytest.mark.parametrize("family", ROWS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_written_is_read(family: str, data: st.DataObject) -> None:
    """Every family, any sizes and flags, with every head: names, shapes and bits come back; a tied copy stays out."""
    drawn = data.draw(architectures(load_family(family), ROWS[family].config))
    config = dict(drawn.config)
    optional = [name for name, tensor in drawn.family.tensors.items() if tensor.optional]
    base = drawn.family.layouts["hf"].base[0]
    tensors = arrays(config, heads=optional, dtype=data.draw(st.sampled_from(FLOATS)), base=base)
    found = written_and_read(config, tensors, data.draw(st.sampled_from([300, 5000, 1 << 40])))
    slots = model_of(config, infos_of(tensors)).slots
    copies = {(name,) for group in drawn.ties for name in group[1:]}
    assert same_bits(found, {name: array for name, array in tensors.items() if slots[name].canonical not in copies})


@settings(max_examples=20)
@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=5).map(tuple), st.integers(0, 999))
def test_undeclared_tensors_keep_name_and_orientation(dtype: str, shape: tuple[int, ...], seed: int) -> None:
    """Any dtype and rank; `extra.weight` stays one, though a declared weight would be a kernel."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    bits = np.random.default_rng(seed).integers(0, 2 if dtype == "BOOL" else 256, size, np.uint8)
    tensors = {"extra.weight": bits.view(DTYPES[dtype]).reshape(shape), "other.thing": np.zeros(3, np.int64)}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "model", CONFIGS["bert"], tensors)
        assert sorted(read_file(Path(folder) / "model/flax_model.msgpack").tensors) == ["extra/weight", "other/thing"]
        assert same_bits(values(Path(folder) / "model"), tensors)


def test_bytes_are_packed_as_flax_packs_them(tmp_path: Path) -> None:
    """Keys in order on every level, though paths have another one; scalars, whose items have a size of their own."""
    tensors: dict[str, Array] = {"a.b": np.zeros(2), "a-b.c": np.ones(300), "z": np.zeros((0, 70_000))}
    tensors["point"] = np.ones((), np.float32)
    assert sorted(tensors) == ["a-b.c", "a.b", "point", "z"]
    write(tmp_path / "large", CONFIGS["bert"], tensors)
    wanted = packed(
        {"a": {"b": tensors["a.b"]}, "a-b": {"c": tensors["a-b.c"]}, "point": tensors["point"], "z": tensors["z"]}
    )
    assert b"\xd8\x01" in wanted
    assert (tmp_path / "large/flax_model.msgpack").read_bytes() == wanted


@pytest.mark.parametrize("limit", [4, 64, 100, 576])
def test_large_arrays_are_cut_as_flax_cuts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    tensors = arrays(CONFIGS["bert"])
    monkeypatch.setattr(ligo_flax._write, "CHUNK_SIZE", limit)
    write(tmp_path / "large", CONFIGS["bert"], tensors)
    file = read_file(tmp_path / "large/flax_model.msgpack")
    tree = nested({path: file.read(path) for path in file.tensors})
    assert (tmp_path / "large/flax_model.msgpack").read_bytes() == packed(tree, limit)
    assert same_bits(values(tmp_path / "large"), tensors)


@pytest.mark.parametrize("layout", ["Fortran", "strided", "big-endian"])
def test_values_come_in_any_memory_order(tmp_path: Path, layout: str) -> None:
    plain = arrays(CONFIGS["llama"])
    orders: dict[str, Callable[[Any], Any]] = {
        "Fortran": lambda a: np.asfortranarray(a),
        "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    }
    odd = orders[layout]
    write(tmp_path / "plain", CONFIGS["llama"], plain)
    write(tmp_path / "odd", CONFIGS["llama"], {name: odd(array) for name, array in plain.items()})
    files = [(tmp_path / name / "flax_model.msgpack").read_bytes() for name in ("plain", "odd")]
    assert files[0] == files[1]


# --- what leaves are --------------------------------------------------------------------------------------------------


def test_leaves_that_describe_themselves_need_no_config(tmp_path: Path) -> None:
    kernel, image = np.arange(6.0).reshape(2, 3), np.arange(120.0).reshape(2, 3, 4, 5)
    tree = {"a": {"kernel": kernel, "bias": np.zeros(3)}, "norm": {"scale": np.ones(2)}, "table": {"embedding": kernel}}
    found = values(file_of(tmp_path, {**tree, "conv": {"kernel": image}, "free": kernel}))
    wanted = {"a.weight": kernel.T, "a.bias": np.zeros(3), "norm.weight": np.ones(2), "table.weight": kernel}
    wanted |= {"conv.weight": image.transpose(3, 2, 0, 1), "free": kernel}
    assert same_bits(found, {name: np.ascontiguousarray(array) for name, array in wanted.items()})


def test_collections_are_taken_off(tmp_path: Path) -> None:
    tree = {
        "params": {"norm": {"scale": np.ones(2)}, "params": {"bias": np.zeros(1)}},
        "batch_stats": {"norm": {"mean": np.zeros(2), "var": np.ones(2)}},
    }
    names = set(values(file_of(tmp_path, tree)))
    assert names == {"norm.weight", "params.bias", "norm.running_mean", "norm.running_var"}
    assert set(values(file_of(tmp_path, {"batch_stats": {"mean": np.zeros(2)}}))) == {"batch_stats.mean"}


QUERY = "encoder/layer/0/attention/self/query"


def bert_with_heads(**changes: Array) -> dict[str, Any]:
    leaves = {f"{QUERY}/kernel": np.arange(144.0).reshape(12, 3, 4), f"{QUERY}/bias": np.arange(12.0).reshape(3, 4)}
    leaves["encoder/layer/0/attention/output/dense/kernel"] = np.arange(144.0).reshape(3, 4, 12)
    return nested(leaves | changes)


def test_heads_are_told_by_the_shape_that_the_family_declares(tmp_path: Path) -> None:
    square = np.arange(144.0).reshape(12, 12)
    wanted = {
        "encoder.layer.0.attention.self.query.weight": square.T.copy(),
        "encoder.layer.0.attention.self.query.bias": np.arange(12.0),
        "encoder.layer.0.attention.output.dense.weight": square.T.copy(),
    }
    assert same_bits(values(file_of(tmp_path, bert_with_heads(), CONFIGS["bert"])), wanted)
    # A name of its own: the family is what the caller says, whatever the config calls it.
    other = file_of(tmp_path / "other", bert_with_heads(), {**CONFIGS["bert"], "model_type": "mine"})
    assert same_bits(values(other, family=load_family("bert")), wanted)
    with pytest.raises(InputError, match="model_type 'mine' is no family that we know"):
        ligo_flax.read(other)


def test_without_a_family_heads_keep_their_name(tmp_path: Path) -> None:
    """Nothing is guessed: a kernel of three dimensions may be a convolution."""
    found = values(file_of(tmp_path, bert_with_heads()))
    assert found["encoder.layer.0.attention.self.query.kernel"].shape == (12, 3, 4)
    assert found["encoder.layer.0.attention.self.query.bias"].shape == (3, 4)


def test_a_kernel_that_is_no_heads_is_refused(tmp_path: Path) -> None:
    wrong = bert_with_heads(**{f"{QUERY}/kernel": np.zeros((12, 3, 5))})
    message = rf"{QUERY}/kernel: has shape \(12, 3, 5\); as heads, .* weight of shape \(12, 12\)"
    with pytest.raises(InputError, match=message):
        ligo_flax.read(file_of(tmp_path, wrong, CONFIGS["bert"]))


def test_two_leaves_of_one_name_are_refused(tmp_path: Path) -> None:
    tree = {"a": {"kernel": np.zeros((2, 2)), "weight": np.zeros((2, 2))}, "b": {"scale": np.ones(1)}}
    with pytest.raises(InputError, match=r"a\.weight: several leaves of the tree are it"):
        ligo_flax.read(file_of(tmp_path, {**tree, "b.scale": np.ones(1), "b.weight": np.ones(1)}))


# --- what the writer refuses ------------------------------------------------------------------------------------------


def test_tensors_that_would_be_read_as_others_are_refused(tmp_path: Path) -> None:
    """All of them at once, and nothing is written."""
    odd = ["a.scale", "b.embedding", "c.kernel", "params.d", "e..f", "g/h", "..i", "." * 70, "j" * 2000]
    with pytest.raises(InputError) as caught:
        write(tmp_path / "large", CONFIGS["bert"], {name: np.zeros((2, 2)) for name in odd})
    assert len(caught.value.problems) == len(odd)
    assert all("has no place in a tree of Flax: " in problem.message for problem in caught.value.problems)
    with pytest.raises(InputError, match=r"^a: has no place in a tree of Flax: a/b/c would lie below it$"):
        write(tmp_path / "large", CONFIGS["bert"], {name: np.zeros(2) for name in ("a", "a.b.c")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("array", [np.zeros((2, 3), np.float64), np.zeros((3, 2), np.float32)])
def test_an_array_that_was_not_announced_is_refused(tmp_path: Path, array: Array) -> None:
    info, model = TensorInfo("w", "F32", (2, 3)), model_of(CONFIGS["bert"], ())
    with pytest.raises(LigoError, match="announced was F32"), staged_directory(tmp_path / "m", fs=QuietFs()) as stage:
        ligo_flax.write(stage, [info], lambda _: array, max_shard_size=100, model=model)
    assert not list(tmp_path.iterdir())


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    """Values are asked for once each, in the order of the tree, and only when their turn has come."""
    asked: list[str] = []
    tensors = arrays(CONFIGS["gpt2"])

    def value(name: str) -> Array:
        asked.append(name)
        return tensors[name]

    infos = infos_of(tensors)
    with staged_directory(tmp_path / "large", fs=QuietFs()) as stage:
        model = model_of(CONFIGS["gpt2"], infos)
        ligo_flax.write(stage, infos, value, max_shard_size=1 << 40, model=model)
    assert asked == sorted(tensors, key=lambda name: name.split("."))


def test_the_module_is_a_converter() -> None:
    converter: Converter = ligo_flax
    checkpoint: Checkpoint = converter.read(DATA / "bert")
    assert [path.name for path in checkpoint.files] == ["flax_model.msgpack"]
    files = converter.read(DATA / "gpt2_untied_shards").files
    assert [path.name for path in files][-1] == "flax_model.msgpack.index.json"
    assert chunked(np.zeros(2), 8)["shape"] == {"0": 2}


# --- memory -----------------------------------------------------------------------------------------------------------

MEMORY = """
import resource, sys
from pathlib import Path
from ligo_spec.staging import staged_directory
from tests.flax_files import QuietFs, config_of_memory, model_of, sparse
import ligo_flax

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder = Path(sys.argv[1])
sparse(folder / "small")
before = peak()
small = ligo_flax.read(folder / "small")
model = model_of(config_of_memory(), small.tensors.values())
with staged_directory(folder / "large", fs=QuietFs()) as stage:
    ligo_flax.write(stage, small.tensors.values(), small.read, max_shard_size=1 << 40, model=model)
print(peak() - before, max(info.nbytes for info in small.tensors.values()))
"""


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    """A file several times larger than the bound is read and rewritten, every matrix transposed twice."""
    root = Path(__file__).parents[1]
    environment = {"PYTHONPATH": ":".join(str(root / name) for name in ("", "converters", "backends"))}
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, largest = map(int, done.stdout.split())
    bound = (64 << 20) + 3 * largest
    assert (tmp_path / "small/flax_model.msgpack").stat().st_size > 4 * bound
    assert peak <= bound
    assert (tmp_path / "large/flax_model.msgpack").stat().st_size == (
        tmp_path / "small/flax_model.msgpack"
    ).stat().st_size
