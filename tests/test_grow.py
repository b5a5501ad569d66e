"""Growing end to end: which files appear, what they hold, that the same plan gives the same bytes, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

import ligo_spec
from ligo_spec import Events, InputError, NumericalError, OutputError, PlanError, VerificationError
from ligo_spec.job import growth_of, load_job, open_small, start_of
from ligo_spec.maps import Map
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.sharded import ShardedCheckpoint
from tests.tiny_checkpoints import (
    CONFIGS,
    TWICE,
    arrays,
    config_of,
    dtypes_of,
    handmade,
    plan_file,
    same_bits,
    tensors_of,
    tree,
    write,
)

FAMILIES = sorted(CONFIGS)

DEPTH_KEYS = {"bert": "num_hidden_layers", "gpt2": "num_hidden_layers", "llama": "num_hidden_layers"}

LIGO = {"preset": "ligo"}


def bigger(kind: str) -> dict[str, int]:
    """Twice the width and the depth."""
    return {**TWICE[kind], DEPTH_KEYS[kind]: 4}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def manifest_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(directory / "growth_manifest.json")
    return found


# --- what appears -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_files_of_a_growth(kind: str, tmp_path: Path) -> None:
    """Weights, config at the new sizes, resolved plan, operator and manifest, and not one file more."""
    handmade(tmp_path / "small", kind)
    grown = ligo_spec.grow(plan_file(tmp_path, target=bigger(kind), operator=LIGO))
    assert grown.path == tmp_path / "grown"
    names = ["config.json", "growth_manifest.json", "growth_plan.yaml", "model.safetensors", "operator.safetensors"]
    names += ["param_groups.json", "report.html"]
    assert sorted(tree(grown.path)) == names
    assert {path.name for path in tmp_path.iterdir()} == {"small", "plan.yaml", "grown"}
    inspected = ligo_spec.inspect(grown.path)
    assert {name: inspected.sizes[name] for name in bigger(kind)} == bigger(kind)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_config_changes_where_sizes_do(kind: str, tmp_path: Path) -> None:
    """Every key of the small config stays, but for the sizes, under the names that this family's configs use."""
    config = {**CONFIGS[kind], "unknown_to_us": {"a": [1, None]}, "_name_or_path": "elsewhere"}
    write(tmp_path / "small", config, arrays(config))
    grown = ligo_spec.apply(plan_file(tmp_path, target=TWICE[kind], operator={"width": "hypercloning"}))
    names = {"hidden_size": "n_embd", "num_attention_heads": "n_head"} if kind == "gpt2" else {}
    changes = {names.get(key, key): size for key, size in TWICE[kind].items()}
    kept = {key: value for key, value in config.items() if key != "_name_or_path"}
    assert config_of(grown.path) == {**kept, **changes}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_written_plan_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    """``growth_plan.yaml``, run again on the same source, writes every file again, the manifest too."""
    handmade(tmp_path / "small", kind)
    first = ligo_spec.apply(plan_file(tmp_path, target=bigger(kind), operator=LIGO, seed=7))
    text = (first.path / "growth_plan.yaml").read_text("utf-8")
    assert "preset" not in text
    (tmp_path / "again.yaml").write_text(text, "utf-8")
    second = ligo_spec.apply(tmp_path / "again.yaml", output=tmp_path / "again")
    assert tree(second.path) == tree(first.path)


def test_the_written_operator_gives_the_same_bits(tmp_path: Path) -> None:
    """``apply --operator`` with the written operator makes the same weights, under a plan of another seed too."""
    handmade(tmp_path / "small", "llama")
    changes: dict[str, Any] = {"target": bigger("llama"), "operator": LIGO}
    first = ligo_spec.apply(plan_file(tmp_path, seed=1, **changes))
    plan = plan_file(tmp_path, "other.yaml", seed=2, output="second", **changes)
    without = ligo_spec.apply(plan, output=tmp_path / "without")
    second = ligo_spec.apply(plan, operator=first.path / "operator.safetensors")
    assert same_bits(tensors_of(second.path), tensors_of(first.path))
    assert not same_bits(tensors_of(without.path), tensors_of(first.path))


def test_the_manifest_has_the_files_as_they_are(tmp_path: Path) -> None:
    """Sizes and checksums of every other file, and those of the source: recomputed here."""
    handmade(tmp_path / "small", "bert")
    (tmp_path / "small" / "tokenizer.json").write_text("{}")
    plan = plan_file(tmp_path, target=bigger("bert"), operator=LIGO, output={"path": "grown", "max_shard_size": "20KB"})
    grown = ligo_spec.apply(plan)
    manifest = manifest_of(grown.path)
    files = {path.name: path.read_bytes() for path in grown.path.iterdir() if path.name != "growth_manifest.json"}
    assert len(files) > 6
    assert manifest["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    small = tree(tmp_path / "small")
    assert manifest["source"] == {name: small[name] for name in ("config.json", "model.safetensors")}
    assert manifest["plan_sha256"] == hashlib.sha256(files["growth_plan.yaml"]).hexdigest()
    assert manifest["family"] == "bert"
    assert manifest["sizes"]["small"]["hidden_size"] == 12
    assert manifest["sizes"]["large"]["hidden_size"] == 24
    assert manifest["certificate"]["lossless"] is False
    assert manifest["certificate"]["broken"] == [str(item) for item in grown.broken]


def test_what_is_carried_and_what_is_left(tmp_path: Path) -> None:
    """Tokenizer and licence files come along as they are; code, pickles and the unknown stay, and are named."""
    small = handmade(tmp_path / "small", "gpt2")
    carried = ["LICENSE", "NOTICE.txt", "generation_config.json", "merges.txt", "tokenizer.json", "vocab.json"]
    left = ["README.md", "modeling.py", "pytorch_model.bin", "tokenizer_code.py", "vocab.bin", "whatever"]
    for name in (*carried, *left):
        (small / name).write_bytes(name.encode() + b"\xff\x00")
    (small / "tokenizer_files").mkdir()
    grown = ligo_spec.apply(plan_file(tmp_path))
    own = {"config.json", "growth_manifest.json", "growth_plan.yaml", "model.safetensors", "operator.safetensors"}
    own |= {"param_groups.json", "report.html"}
    found = tree(grown.path)
    assert found.keys() == {*carried, *own}
    assert {name: found[name] for name in carried} == {name: tree(small)[name] for name in carried}
    assert manifest_of(grown.path)["files_left_behind"] == left


def test_a_grown_model_grows_again(tmp_path: Path) -> None:
    """The output is an ordinary source: its operator and manifest are not taken for weights or carried over."""
    handmade(tmp_path / "small", "gpt2")
    ligo_spec.apply(plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"}))
    plan = plan_file(
        tmp_path, "more.yaml", source="grown", target={"num_hidden_layers": 4}, operator={"depth": "stack"},
        output="more",
    )  # fmt: skip
    more = ligo_spec.apply(plan)
    left = ["growth_manifest.json", "growth_plan.yaml", "operator.safetensors", "param_groups.json", "report.html"]
    assert manifest_of(more.path)["files_left_behind"] == left
    assert ligo_spec.inspect(more.path).sizes["num_hidden_layers"] == 4


def test_a_source_named_by_its_file(tmp_path: Path) -> None:
    """``source`` may be the weights file itself: config and tokenizer beside it are used all the same."""
    small = handmade(tmp_path / "small", "gpt2")
    (small / "tokenizer.json").write_text("{}")
    (small / "model.safetensors").rename(small / "weights.safetensors")
    grown = ligo_spec.apply(plan_file(tmp_path, source="small/weights.safetensors"))
    assert same_bits(tensors_of(grown.path), arrays(CONFIGS["gpt2"]))
    assert (grown.path / "tokenizer.json").exists()


def test_what_is_written_is_reported(tmp_path: Path) -> None:
    """``Events.written`` counts up to the bytes of all tensors."""
    handmade(tmp_path / "small", "gpt2")
    seen: list[tuple[int, int]] = []
    plan = plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    grown = ligo_spec.apply(plan, events=Events(written=lambda done, total: seen.append((done, total))))
    total = sum(value.nbytes for value in tensors_of(grown.path).values())
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert len(seen) == len(tensors_of(grown.path))


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["noisy_average", "net2net", "zero_pad"])
def test_the_seed_settles_what_is_drawn(width: str, tmp_path: Path) -> None:
    """Same plan, same bytes in every file; another seed, other weights."""
    handmade(tmp_path / "small", "llama")
    target = {"hidden_size": 24, "intermediate_size": 33}
    changes: dict[str, Any] = {"target": target, "operator": {"width": width}}
    one = ligo_spec.apply(plan_file(tmp_path, seed=1, **changes)).path
    same = ligo_spec.apply(plan_file(tmp_path, seed=1, **changes), output=tmp_path / "same").path
    other = ligo_spec.apply(plan_file(tmp_path, seed=2, **changes), output=tmp_path / "other").path
    assert tree(one) == tree(same)
    assert not same_bits(tensors_of(one), tensors_of(other))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_torch_backend_agrees(kind: str, tmp_path: Path) -> None:
    """The same plan through PyTorch: equal up to float32 rounding, and exactly where values are only copied."""
    pytest.importorskip("torch")
    handmade(tmp_path / "small", kind)
    plan = plan_file(tmp_path, target=bigger(kind), operator=LIGO, checks={"forward": "skip", "reference": True})
    ours = tensors_of(ligo_spec.apply(plan).path)
    grown = ligo_spec.apply(plan, backend="torch", output=tmp_path / "torch")
    theirs = tensors_of(grown.path)
    assert manifest_of(grown.path)["backend"] == "torch"
    assert grown.reference_error is not None
    assert grown.reference_error <= 1
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5 * np.abs(ours[name]).max())


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    """Cut into files of at most the size asked for, with an index that names each tensor's file and all the bytes."""
    handmade(tmp_path / "small", "gpt2")
    changes: dict[str, Any] = {"target": bigger("gpt2"), "operator": LIGO}
    whole = ligo_spec.apply(plan_file(tmp_path, **changes)).path
    plan = plan_file(tmp_path, "cut.yaml", output={"path": "cut", "max_shard_size": 10_000}, **changes)
    cut = ligo_spec.apply(plan).path
    assert not (cut / "model.safetensors").exists()
    shards = sorted(path.name for path in cut.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert same_bits(tensors_of(cut), tensors_of(whole))
    index = read_json(cut / "model.safetensors.index.json")
    assert index["weight_map"].keys() == tensors_of(cut).keys()
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(whole).values())
    again = ligo_spec.apply(plan_file(tmp_path, "b.yaml", source="cut", output="joined")).path
    assert same_bits(tensors_of(again), tensors_of(whole))
    assert len(manifest_of(again)["source"]) == len(shards) + 2


# --- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "name"), [("float16", "F16"), ("bfloat16", "BF16"), ("float64", "F64")])
def test_the_plan_sets_the_dtype(dtype: str, name: str, tmp_path: Path) -> None:
    """``output.dtype``: values of a wide enough arithmetic, rounded once, and the config says so under one key."""
    config = {**CONFIGS["gpt2"], "torch_dtype": "float32"}
    small = arrays(config)
    write(tmp_path / "small", config, small)
    compute = np.float64 if name == "F64" else np.float32
    write(tmp_path / "wide", config, {key: value.astype(compute) for key, value in small.items()})
    changes: dict[str, Any] = {"target": bigger("gpt2"), "operator": LIGO}
    kept = ligo_spec.apply(plan_file(tmp_path, "k.yaml", source="wide", output="kept", **changes)).path
    cast = ligo_spec.apply(plan_file(tmp_path, output={"path": "cast", "dtype": dtype}, **changes)).path
    assert config_of(kept)["torch_dtype"] == "float32"
    assert dtypes_of(cast) == {name}
    found = config_of(cast)
    assert found["dtype"] == dtype
    assert "torch_dtype" not in found
    wide, narrow = tensors_of(kept), tensors_of(cast)
    assert same_bits(narrow, {key: value.astype(narrow[key].dtype) for key, value in wide.items()})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_keep_keeps_the_dtype(dtype: Any, tmp_path: Path) -> None:
    """bf16 and fp16 sources stay so, each value rounded once from float32; float64 is computed in float64."""
    config = CONFIGS["llama"]
    small = arrays(config, dtype=dtype)
    write(tmp_path / "small", config, small)
    wide = np.float64 if dtype == np.float64 else np.float32
    write(tmp_path / "wide", config, {name: value.astype(wide) for name, value in small.items()})
    changes: dict[str, Any] = {"target": bigger("llama"), "operator": LIGO}
    narrow = tensors_of(ligo_spec.apply(plan_file(tmp_path, **changes)).path)
    wanted = tensors_of(ligo_spec.apply(plan_file(tmp_path, "w.yaml", source="wide", output="w", **changes)).path)
    assert {value.dtype for value in narrow.values()} == {np.dtype(dtype)}
    assert same_bits(narrow, {name: value.astype(dtype) for name, value in wanted.items()})


def test_float64_is_not_rounded_to_float32(tmp_path: Path) -> None:
    """Arithmetic on float64 sources keeps their digits: a mean of equal rows is that row."""
    config = CONFIGS["gpt2"]
    small = arrays(config, dtype=np.float64)
    write(tmp_path / "small", config, small)
    grown = ligo_spec.apply(plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"}))
    found = tensors_of(grown.path)["h.0.attn.c_proj.weight"][:12, :12] * 2
    np.testing.assert_allclose(found, small["h.0.attn.c_proj.weight"], rtol=1e-15)
    assert not np.array_equal(found, small["h.0.attn.c_proj.weight"].astype(np.float32))


def test_a_value_too_large_for_the_dtype_is_refused(tmp_path: Path) -> None:
    """70 000 does not fit float16: exit 5, the tensor is named, nothing stays; in bfloat16 it fits."""
    config = CONFIGS["gpt2"]
    write(tmp_path / "small", config, {**arrays(config), "ln_f.bias": np.full(12, 70_000, np.float32)})
    before = tree(tmp_path)
    plan = plan_file(tmp_path, output={"path": "grown", "dtype": "float16"})
    with pytest.raises(NumericalError, match=r"^ln_f\.bias: values up to 7e\+04 do not fit F16; keep the dtype$"):
        ligo_spec.apply(plan)
    plan.unlink()
    assert tree(tmp_path) == before
    ligo_spec.apply(plan_file(tmp_path, output={"path": "grown", "dtype": "bfloat16"}))


def test_mixing_layers_of_several_dtypes_is_refused(tmp_path: Path) -> None:
    """Layers of float32 and float16 can be stacked, which only copies, but not mixed."""
    config = CONFIGS["gpt2"]
    tensors = arrays(config)
    tensors["h.1.ln_1.bias"] = tensors["h.1.ln_1.bias"].astype(np.float16)
    write(tmp_path / "small", config, tensors)
    target = {"num_hidden_layers": 4}
    with pytest.raises(InputError, match=r"^h\.0\.ln_1\.bias: would mix F16, F32; maps mix tensors of one of F64, F32"):
        ligo_spec.apply(plan_file(tmp_path, target=target, operator={"depth": "noisy_stack"}))
    grown = tensors_of(ligo_spec.apply(plan_file(tmp_path, target=target, operator={"depth": "stack"})).path)
    assert {name: str(grown[f"h.{name}.ln_1.bias"].dtype) for name in range(4)} == {
        0: "float32", 1: "float16", 2: "float32", 3: "float16"
    }  # fmt: skip


# --- ties -------------------------------------------------------------------------------------------------------------

TIED = {**CONFIGS["gpt2"], "tie_word_embeddings": True}


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    """A file that stores both ends with equal bits: the grown one has one of them, and stays tied."""
    tensors = arrays(TIED, base="transformer.")
    write(tmp_path / "small", TIED, {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})
    plan = plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    grown = ligo_spec.apply(plan).path
    assert tensors_of(grown).keys() == tensors.keys()
    assert config_of(grown)["tie_word_embeddings"] is True
    assert manifest_of(grown)["ties_undone"] is False
    assert ligo_spec.explain(plan).untied is False


def test_undone_ties_are_kept_apart(tmp_path: Path) -> None:
    """Different values for tied tensors: both are written, and the config no longer ties them; everyone is told."""
    tensors = arrays(TIED, base="transformer.")
    head = tensors["transformer.wte.weight"] + 1
    write(tmp_path / "small", TIED, {**tensors, "lm_head.weight": head})
    plan = plan_file(tmp_path)
    found = ligo_spec.explain(plan)
    assert found.untied is True
    assert found.config == {"tie_word_embeddings": (True, False)}
    grown = ligo_spec.apply(plan).path
    assert same_bits(tensors_of(grown), {**tensors, "lm_head.weight": head})
    assert config_of(grown) == {**TIED, "tie_word_embeddings": False}
    assert manifest_of(grown)["ties_undone"] is True


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors whose values are asked for; each is refused."""
    asked: list[str] = []

    def read(self: ShardedCheckpoint, name: str, /) -> npt.NDArray[Any]:
        asked.append(name)
        raise InputError(f"{name} was read")

    monkeypatch.setattr(ShardedCheckpoint, "read", read)
    return asked


def test_lossless_is_required_before_any_weight_is_read(tmp_path: Path, unread: list[str]) -> None:
    """``lossless: require`` with LiGO's start: refused with every broken condition, at its place, no value read."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target=TWICE["llama"], operator=LIGO, checks={"forward": "skip", "lossless": "require"})
    before = tree(tmp_path)
    for run in (ligo_spec.apply, ligo_spec.grow, ligo_spec.explain, ligo_spec.check):
        with pytest.raises(PlanError) as caught:
            run(plan)
        assert all("lossless is required, but" in problem.message for problem in caught.value.problems)
        assert all(problem.where.endswith("checks.lossless") for problem in caught.value.problems)
        assert len(caught.value.problems) > 1
    assert unread == []
    assert tree(tmp_path) == before
    report = plan_file(tmp_path, target=TWICE["llama"], operator=LIGO)
    with pytest.raises(InputError, match="was read"):
        ligo_spec.apply(report)
    assert unread


def test_a_dry_run_reads_no_weight(tmp_path: Path, unread: list[str]) -> None:
    """``check``, ``explain`` and ``inspect`` look at headers only."""
    handmade(tmp_path / "small", "bert")
    plan = plan_file(tmp_path, target=bigger("bert"), operator=LIGO)
    ligo_spec.check(plan)
    ligo_spec.explain(plan)
    ligo_spec.inspect(tmp_path / "small")
    assert unread == []


def test_lossless_holds_where_it_is_required(tmp_path: Path) -> None:
    """``require`` with hypercloning: written, and the result says lossless."""
    handmade(tmp_path / "small", "llama")
    checks = {"forward": "skip", "lossless": "require"}
    plan = plan_file(tmp_path, target=TWICE["llama"], operator={"width": "hypercloning"}, checks=checks)
    grown = ligo_spec.grow(plan)
    assert grown.lossless
    assert manifest_of(grown.path)["certificate"] == {"lossless": True, "broken": []}


def test_an_operator_from_a_file_is_certified_too(tmp_path: Path, unread: list[str]) -> None:
    """``--operator`` with a lossy operator under ``require``: the file counts, not the plan's method."""
    handmade(tmp_path / "small", "llama")
    checks = {"forward": "skip", "lossless": "require"}
    lossy = plan_file(tmp_path, "lossy.yaml", target=TWICE["llama"], operator=LIGO)
    ligo_spec.save_operator(operator_of(lossy), tmp_path / "lossy.safetensors")
    plan = plan_file(tmp_path, target=TWICE["llama"], operator={"width": "hypercloning"}, checks=checks)
    ligo_spec.check(plan)
    with pytest.raises(PlanError, match="lossless is required, but"):
        ligo_spec.apply(plan, operator=tmp_path / "lossy.safetensors")
    assert unread == []


def operator_of(plan: Path) -> ligo_spec.Operator:
    """The operator that a plan starts from."""
    job = load_job(plan)
    return start_of(job, growth_of(job, open_small(job).architecture))


class Wrong(NumpyBackend):
    """A backend with a bug: every map is applied with a relative error of 1e-4."""

    name = "wrong"

    def apply_map(self, map_: Map, tensor: npt.NDArray[np.floating], axis: int, /) -> npt.NDArray[np.floating]:
        made: npt.NDArray[np.floating] = super().apply_map(map_, tensor, axis) * np.float32(1 + 1e-4)
        return made


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["f32", "bf16"])
def test_the_reference_check(kind: str, dtype: Any, tmp_path: Path) -> None:
    """``checks.reference``: the largest error as a share of the bound on rounding, at most 1, and more than 0."""
    config = CONFIGS[kind]
    write(tmp_path / "small", config, arrays(config, dtype=dtype))
    checks = {"forward": "skip", "reference": True}
    grown = ligo_spec.apply(plan_file(tmp_path, target=bigger(kind), operator=LIGO, checks=checks))
    assert grown.reference_error is not None
    assert 0 < grown.reference_error <= 1


def test_the_reference_check_catches_a_wrong_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is 1e-4 off is refused with exit 6 and nothing is written; without the check it passes."""
    handmade(tmp_path / "small", "bert")
    monkeypatch.setattr(import_module("ligo_spec.grow"), "load_backend", lambda name: Wrong())
    changes: dict[str, Any] = {"target": bigger("bert"), "operator": LIGO}
    plan = plan_file(tmp_path, checks={"forward": "skip", "reference": True}, **changes)
    with pytest.raises(VerificationError, match=r"backend wrong is .* times its rounding bound off") as caught:
        ligo_spec.apply(plan)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "grown").exists()
    assert ligo_spec.apply(plan_file(tmp_path, **changes)).reference_error is None


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    """NaN and infinity are copied bit for bit where a tensor is only copied, and refused where it is mixed."""
    config = CONFIGS["gpt2"]
    tensors = arrays(config)
    tensors["h.1.mlp.c_fc.weight"][2, 3] = np.frombuffer(b"\x01\x02\xc0\xff", np.float32)[0]
    tensors["h.1.mlp.c_fc.bias"][5] = np.inf
    write(tmp_path / "small", config, tensors)
    target = {"num_hidden_layers": 4}
    plan = plan_file(tmp_path, target=target, operator={"depth": "stack"}, output="copied")
    copied = tensors_of(ligo_spec.apply(plan).path)
    for layer in (1, 3):
        for name in ("weight", "bias"):
            assert copied[f"h.{layer}.mlp.c_fc.{name}"].tobytes() == tensors[f"h.1.mlp.c_fc.{name}"].tobytes()
    before = tree(tmp_path)
    with pytest.raises(NumericalError, match=r"^layers\.1\.mlp\.up\.(weight|bias): 1 values are not finite, the first"):
        ligo_spec.apply(plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"}))
    (tmp_path / "plan.yaml").unlink()
    assert tree(tmp_path) | {"plan.yaml": before["plan.yaml"]} == before


def test_zero_padding_scales_eps(tmp_path: Path) -> None:
    """Half of the channels are zeros, so the mean of squares halves, and eps in the config with it."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target={"hidden_size": 32}, operator={"width": "zero_pad"})
    found = ligo_spec.explain(plan)
    assert found.lossless
    assert found.config["rms_norm_eps"] == (1e-2, 5e-3)
    assert config_of(ligo_spec.apply(plan).path)["rms_norm_eps"] == 5e-3


def test_a_plan_that_overlaps_its_source_is_refused(tmp_path: Path) -> None:
    """The output may not lie in the source, hold it or be it; refused before anything is read or made."""
    small = handmade(tmp_path / "small", "gpt2")
    before = tree(small)
    for output in (small, small / "grown", tmp_path):
        with pytest.raises(OutputError, match=r"already exists|Choose another output"):
            ligo_spec.apply(plan_file(tmp_path), output=output)
    assert tree(small) == before


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    """A weight file that is replaced during the run is noticed; nothing of the mixture stays."""
    small = handmade(tmp_path / "small", "gpt2")

    def replace(done: int, total: int) -> None:
        if done == total:
            write(small, CONFIGS["gpt2"], arrays(CONFIGS["gpt2"], seed=1))

    with pytest.raises(InputError, match="changed during the run"):
        ligo_spec.apply(plan_file(tmp_path), events=Events(written=replace))
    assert not (tmp_path / "grown").exists()


# --- the dry run tells what will be -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_explain_tells_what_apply_writes(kind: str, dtype: str, tmp_path: Path) -> None:
    """Parameters, bytes, shapes and config of the dry run are those of the files on the disk."""
    config = {**CONFIGS[kind], "torch_dtype": "float32", "_name_or_path": "elsewhere"}
    small = arrays(config, heads=["head.weight"] if kind == "llama" else [])
    write(tmp_path / "small", config, small)
    plan = plan_file(tmp_path, target=bigger(kind), operator=LIGO, output={"path": "grown", "dtype": dtype})
    found = ligo_spec.explain(plan)
    grown = ligo_spec.apply(plan)
    large = tensors_of(grown.path)
    assert found.parameters == (count(small), count(large))
    assert found.bytes == (size(small), size(large))
    assert found.broken == grown.broken
    assert found.plan == (grown.path / "growth_plan.yaml").read_text("utf-8")
    assert {name: pair[1] for name, pair in found.sizes.items()} == ligo_spec.inspect(grown.path).sizes
    written = config_of(grown.path)
    assert found.config == {
        key: (config.get(key), written.get(key))
        for key in config.keys() | written.keys()
        if config.get(key) != written.get(key)
    }
    assert found.config["_name_or_path"] == ("elsewhere", None)
    assert ("dtype" in found.config) == (dtype != "keep")
    rows = {row.name: (row.shape, row.count) for row in ligo_spec.inspect(grown.path).tensors}
    assert {row.name: (row.large, row.count) for row in found.tensors} == rows
    before = {row.name: row.shape for row in ligo_spec.inspect(tmp_path / "small").tensors}
    assert {row.name: row.small for row in found.tensors} == before


def test_explain_counts_what_a_fit_would_learn(tmp_path: Path) -> None:
    """All arrays of the written operator, but for indices."""
    handmade(tmp_path / "small", "bert")
    plan = plan_file(tmp_path, target=bigger("bert"), operator=LIGO)
    stored = load_file(ligo_spec.apply(plan).path / "operator.safetensors")
    learned = sum(value.size for value in stored.values() if value.dtype.kind == "f")
    assert ligo_spec.explain(plan).learned == learned > 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_inspect_counts_what_is_there(kind: str, tmp_path: Path) -> None:
    """Parameters, bytes and dtypes of a checkpoint, and one row a kind of tensor."""
    config = CONFIGS[kind]
    tensors = arrays(config, dtype=np.float16)
    found = ligo_spec.inspect(write(tmp_path / "small", config, tensors))
    assert found.family == kind
    assert found.parameters == count(tensors)
    assert found.bytes == size(tensors) == 2 * count(tensors)
    assert found.dtypes == ("F16",)
    assert sum(prod(row.shape) * row.count for row in found.tensors) == count(tensors)
    assert found.path == str(tmp_path / "small")
    spaces = {row.name: row for row in found.spaces}
    assert spaces["residual"].size == config.get("hidden_size", config.get("n_embd"))
    assert "embed.tokens.weight" in spaces["residual"].written_by


def count(tensors: Mapping[str, npt.NDArray[Any]]) -> int:
    return sum(value.size for value in tensors.values())


def size(tensors: Mapping[str, npt.NDArray[Any]]) -> int:
    return sum(value.nbytes for value in tensors.values())
