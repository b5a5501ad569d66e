"""PyTorch checkpoints: what we write torch reads, what torch writes we read, and wrappers are undone."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import ligo_pytorch  # noqa: E402 (after the skip)
import ligo_spec  # noqa: E402
from ligo_pytorch import Skeleton, StateFile, read, write  # noqa: E402
from ligo_pytorch import saved as streamed  # noqa: E402
from ligo_pytorch._tensors import DTYPE_NAMES  # noqa: E402
from ligo_pytorch._wrappers import bare_names  # noqa: E402
from ligo_spec.architecture import Architecture  # noqa: E402
from ligo_spec.checkpoint import DTYPES, Checkpoint, Converter, TensorInfo  # noqa: E402
from ligo_spec.errors import InputError, LigoError, OutputError  # noqa: E402
from ligo_spec.family import load_family  # noqa: E402
from ligo_spec.layout import bind  # noqa: E402
from ligo_spec.staging import staged_directory  # noqa: E402
from tests.tiny_checkpoints import (  # noqa: E402
    CONFIGS,
    TWICE,
    handmade,
    library,
    plan_file,
    random_model,
    tensors_of,
)
from tests.torch_archives import (  # noqa: E402
    Array,
    QuietFs,
    archive,
    bits,
    converter_at_hand,
    parts,
    saved,
    write_directory,
)

SHAPES = st.lists(st.integers(0, 3), max_size=5).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: not {"module", "_orig_mod"} & set(name.split(".")))

# --- round trips ------------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any dtype, shape, memory order, stride and byte order; any bits, so NaN payloads and denormals too."""
    dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = draw(st.sampled_from(["C", "Fortran", "strided", "reversed", "big-endian"]))
    spread = (*shape[:-1], shape[-1] * 2) if shape and layout == "strided" else shape
    raw = rng.integers(0, 2 if dtype == np.bool_ else 256, int(np.prod(spread)) * dtype.itemsize, np.uint8)
    array: Array = raw.view(dtype).reshape(spread)
    if layout == "Fortran":
        return np.asfortranarray(array) if shape else array
    if layout == "strided":
        return array[..., ::2] if shape else array
    if layout == "reversed":
        return np.flip(array)
    if layout == "big-endian" and dtype.kind in "fiu" and dtype.isbuiltin == 1:
        return array.astype(dtype.newbyteorder(">")).reshape(shape)
    return array


def by_torch(target: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Every tensor of a checkpoint, as torch's own restricted loader reads it."""
    files = sorted(target.glob("*.bin"))
    return dict(chain.from_iterable(torch.load(file, weights_only=True, mmap=mapped).items() for file in files))


@given(st.dictionaries(NAMES, arrays(), min_size=1, max_size=6), st.integers(1, 400), st.booleans())
def test_what_is_written_is_read(written: dict[str, Array], limit: int, mapped: bool) -> None:
    """Equal names, dtypes, shapes and bits: by our reader, and by torch, mapped or not; records are aligned."""
    spelled = {name: getattr(torch, theirs) for theirs, name in DTYPE_NAMES.items()}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        names = write_directory(target, written, limit)
        checkpoint = read(target)
        assert list(checkpoint.tensors) == sorted(written)
        assert sorted(path.name for path in checkpoint.files) == sorted(names) == sorted(os.listdir(target))
        theirs = by_torch(target, mapped=mapped)
        assert theirs.keys() == written.keys()
        for name, array in written.items():
            got = checkpoint.read(name)
            assert (got.dtype, got.shape, bits(got)) == (array.dtype.newbyteorder("="), array.shape, bits(array))
            assert got.flags.c_contiguous
            assert (theirs[name].shape, bits(theirs[name])) == (array.shape, bits(array))
            assert theirs[name].dtype == spelled[checkpoint.tensors[name].dtype]
        checkpoint.check_unchanged()
        assert checkpoint.undone == ()
        for path in target.glob("*.bin"):
            with zipfile.ZipFile(path) as whole:
                assert whole.testzip() is None
            assert all(record.offset % 64 == 0 for record in StateFile(path)._records.values() if record.size)


@given(st.dictionaries(NAMES, arrays(), min_size=1, max_size=6), st.integers(1, 400), st.randoms())
def test_the_same_input_gives_the_same_bytes(written: dict[str, Array], limit: int, rng: random.Random) -> None:
    """In whatever order the tensors come."""
    shuffled = list(written.items())
    rng.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as folder:
        write_directory(Path(folder) / "a", written, limit)
        write_directory(Path(folder) / "b", dict(shuffled), limit)
        contents = [{path.name: path.read_bytes() for path in (Path(folder) / side).iterdir()} for side in "ab"]
        assert contents[0] == contents[1]


@st.composite
def views(draw: st.DrawFn) -> Any:
    """A tensor of any dtype that has a part of some storage: with an offset, strides, repeats, or nothing."""
    dtype = getattr(torch, draw(st.sampled_from(sorted(DTYPE_NAMES))))
    count = draw(st.integers(1, 40))
    numbers = torch.from_numpy(np.random.default_rng(count).integers(0, 2, count * 8, np.uint8))
    base = numbers[: count * dtype.itemsize].clone().view(dtype)
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [draw(st.integers(0, 3)) for _ in shape]
    reach = sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) if 0 not in shape else 0
    if reach >= count:
        return base
    return base.as_strided(shape, strides, draw(st.integers(0, count - 1 - reach)))


@given(st.dictionaries(NAMES, views(), min_size=1, max_size=5), st.booleans(), st.sampled_from([2, 4, 5]), st.data())
def test_what_torch_writes_is_read(tensors: dict[str, Any], ordered: bool, protocol: int, data: st.DataObject) -> None:
    """Views, ties, parameters, any protocol: the values are those that torch loads, tensor by tensor."""
    state: dict[str, Any] = OrderedDict(tensors) if ordered else dict(tensors)
    tied = data.draw(st.sampled_from(sorted(tensors)))
    state[f"{tied} again"] = state[tied]
    if state[tied].dtype.is_floating_point and state[tied].dtype.itemsize > 1:
        state[f"{tied} as parameter"] = torch.nn.Parameter(state[tied])
    if ordered:
        state._metadata = OrderedDict({"": {"version": 2}})  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        path.write_bytes(saved(state, pickle_protocol=protocol))
        checkpoint = read(path)
        assert list(checkpoint.tensors) == sorted(state)
        for name, tensor in state.items():
            got = checkpoint.read(name)
            assert (got.shape, bits(got)) == (tuple(tensor.shape), bits(tensor))
            assert got.flags.c_contiguous
            assert DTYPE_NAMES[str(tensor.dtype).removeprefix("torch.")] == checkpoint.tensors[name].dtype


def test_views_are_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of a large matrix takes the memory of the column, not that of the matrix; the checksum is taken once."""
    monkeypatch.setattr("ligo_pytorch._file.CHUNK", 1000)
    base = torch.arange(60 * 50 * 7, dtype=torch.float32).reshape(60, 50, 7)
    state = {"column": base[:, 3, 2], "middle": base[:, 10:12], "turned": base.permute(2, 0, 1), "row": base[5]}
    torch.save(state, tmp_path / "x.pt")
    checkpoint = read(tmp_path / "x.pt")
    largest: list[int] = []
    real = np.empty

    def counted(*args: Any, **more: Any) -> Array:
        made: Array = real(*args, **more)
        largest.append(made.nbytes)
        return made

    monkeypatch.setattr("ligo_pytorch._file.np.empty", counted)
    for name, tensor in state.items():
        largest.clear()
        assert bits(checkpoint.read(name)) == bits(tensor)
        assert max(largest) <= max(1000, checkpoint.tensors[name].nbytes)
    assert bits(checkpoint.read("column")) == bits(state["column"])


def test_a_file_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    records = parts(saved({"w": torch.from_numpy(values), "b": torch.tensor(7, dtype=torch.int16)}))
    swapped = {
        "archive/byteorder": b"big",
        "archive/data/0": values.astype(">f4").tobytes(),
        "archive/data/1": b"\0\x07",
    }
    (tmp_path / "x.bin").write_bytes(archive({**records, **swapped}))
    checkpoint = read(tmp_path / "x.bin")
    assert checkpoint.read("w").tolist() == values.tolist()
    assert checkpoint.read("b").tolist() == 7


@pytest.mark.parametrize("device", ["cuda:0", "xla:0", "mps", "privateuseone:3"])
def test_where_a_tensor_was_does_not_matter(tmp_path: Path, device: str) -> None:
    """A checkpoint of a machine with accelerators is read on one without."""
    records = parts(saved({"w": torch.ones(3)}))
    text = records["archive/data.pkl"]
    cpu = b"X\x03\x00\x00\x00cpu"
    assert cpu in text
    records["archive/data.pkl"] = text.replace(cpu, b"X" + struct.pack("<I", len(device)) + device.encode())
    (tmp_path / "x.bin").write_bytes(archive(records))
    assert read(tmp_path / "x.bin").read("w").tolist() == [1, 1, 1]


def test_shards_are_named_and_filled_as_hugging_face_does(tmp_path: Path) -> None:
    sizes = {"a": 40, "b": 60, "c": 1, "d": 500, "e": 9}
    names = write_directory(tmp_path / "model", {name: np.zeros(size, np.uint8) for name, size in sizes.items()}, 100)
    shards = [f"pytorch_model-0000{i}-of-00004.bin" for i in range(1, 5)]
    assert names == [*shards, "pytorch_model.bin.index.json"]
    index = json.loads((tmp_path / "model" / names[-1]).read_text())
    owners = [shards[0], shards[0], shards[1], shards[2], shards[3]]
    assert index == {"metadata": {"total_size": 610}, "weight_map": dict(zip("abcde", owners, strict=True))}


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    """Values are asked for once each, in the order of names, and only when their turn has come."""
    asked: list[str] = []
    infos = [TensorInfo(name, "F32", (0,) if name == "b" else (2,)) for name in "cabd"]

    def value(name: str) -> Array:
        asked.append(name)
        return np.zeros(0 if name == "b" else 2, np.float32)

    with staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
        write(stage, infos, value, max_shard_size=8)
    assert sorted(asked) == ["a", "b", "c", "d"]
    assert [name for name in asked if name != "b"] == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3), np.float64), r"w: is float64 of shape \(2, 3\), announced was F32"),
        (np.zeros((3, 2), np.float32), "announced was F32"),
    ],
)
def test_an_array_that_was_not_announced_is_refused(tmp_path: Path, array: Array, message: str) -> None:
    with pytest.raises(LigoError, match=message), staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
        write(stage, [TensorInfo("w", "F32", (2, 3))], lambda _: array, max_shard_size=100)
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_is_known_before_the_first_byte(tmp_path: Path) -> None:
    def value(name: str) -> Array:
        raise AssertionError("asked for values")

    with pytest.raises(OutputError, match="does not fit: 140737488355328 bytes needed"):  # noqa: SIM117
        with staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
            write(stage, [TensorInfo("w", "F32", (1 << 45,))], value, max_shard_size=1 << 60)


@pytest.mark.parametrize("names", [["a", "a"], ["a\nb"], ["\ud800"]])
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, names: list[str]) -> None:
    infos = [TensorInfo(name, "U8", (1,)) for name in names]
    with pytest.raises(LigoError, match=r"twice|cannot be the name"):  # noqa: SIM117
        with staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
            write(stage, infos, lambda _: np.zeros(1, np.uint8), max_shard_size=100)


# --- wrappers ---------------------------------------------------------------------------------------------------------

PREFIXES = ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]
BARE = {"a.weight": torch.ones(2), "b.0.bias": torch.zeros(3), "c": torch.tensor(5.0)}
ASIDE = {"epoch": 3, "lr": 0.1, "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}, "args": None, "best": [1, "x"]}


@given(
    st.lists(st.sampled_from(["state_dict", "model", "model_state_dict", "module"]), min_size=1, max_size=3), st.data()
)
def test_entries_are_entered(levels: list[str], data: st.DataObject) -> None:
    """At any level of three, whatever lies beside; what was done is said."""
    value: Any = BARE
    for key in levels:
        value = {key: value, **data.draw(st.sampled_from([{}, ASIDE]))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.ckpt")
        path.write_bytes(saved(value))
        checkpoint = read(path)
    assert list(checkpoint.tensors) == sorted(BARE)
    assert [text for text in checkpoint.undone if text.startswith("entry")] == [f"entry {key}" for key in levels[::-1]]


@given(st.data())
def test_prefixes_are_removed_at_any_depth(data: st.DataObject) -> None:
    """In any order and number, in front of and within names; the values stay with their names."""
    wrapped: dict[str, Any] = {}
    used: set[str] = set()
    for name, tensor in BARE.items():
        pieces = []
        for piece in name.split("."):
            added = data.draw(st.lists(st.sampled_from(PREFIXES), max_size=2))
            used |= set(added)
            pieces += [*added, f"{piece}."]
        wrapped["".join(pieces)[:-1]] = tensor
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pth")
        path.write_bytes(saved(wrapped))
        checkpoint = read(path)
        assert list(checkpoint.tensors) == sorted(BARE)
        assert all(checkpoint.tensors[name].name == name for name in BARE)
        assert all(bits(checkpoint.read(name)) == bits(tensor) for name, tensor in BARE.items())
        assert set(checkpoint.undone) == {f"prefix {prefix}" for prefix in used}


def tiny(kind: str) -> dict[str, Any]:
    """The weights of a tiny model, by the names that Transformers saves."""
    library()
    names = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    return dict(random_model(names[kind], CONFIGS[kind]).state_dict())


@pytest.mark.parametrize("told", [True, False], ids=["told", "found in the config"])
@pytest.mark.parametrize("prefix", ["", "model.", "net.", "model.module.", "module.model.", "a.b."])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_the_attribute_of_a_trainer_is_removed(tmp_path: Path, kind: str, prefix: str, told: bool) -> None:
    """Lightning's: as far as the family's own names, and never one of these (llama's begin with ``model.``)."""
    weights = tiny(kind)
    torch.save({"state_dict": {f"{prefix}{name}": value for name, value in weights.items()}}, tmp_path / "last.ckpt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[kind]) if not told else "{}")
    checkpoint = read(tmp_path, family=load_family(kind) if told else None)
    assert set(checkpoint.tensors) == set(weights)
    architecture = Architecture.from_hf_config(load_family(kind), CONFIGS[kind])
    bind(architecture, checkpoint.tensors, "last.ckpt")
    some = sorted(weights)[3]
    assert bits(checkpoint.read(some)) == bits(weights[some])


def test_an_attribute_that_not_all_have_stays(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in tiny("gpt2").items()} | {"loss.weight": torch.ones(2)}
    torch.save(weights, tmp_path / "last.ckpt")
    checkpoint = read(tmp_path / "last.ckpt", family=load_family("gpt2"))
    assert set(checkpoint.tensors) == set(weights)
    assert checkpoint.undone == ()


def test_a_prefix_of_the_familys_own_stays(tmp_path: Path) -> None:
    """Without its head all of llama's names begin with ``model.``, and the family declares them with it and without."""
    weights = {name: value for name, value in tiny("llama").items() if name != "lm_head.weight"}
    assert all(name.startswith("model.") for name in weights)
    torch.save(weights, tmp_path / "x.pt")
    checkpoint = read(tmp_path / "x.pt", family=load_family("llama"))
    assert (set(checkpoint.tensors), checkpoint.undone) == (set(weights), ())


def test_a_part_that_a_family_declares_stays() -> None:
    """A family of one's own may have a module that is called ``module``; wrappers that it does not name still go."""
    family = load_family("gpt2")
    layout = family.layouts["hf"]
    entries = {name.replace("ln_f", "module"): entry for name, entry in layout.tensors.items()}
    own = family.model_copy(update={"layouts": {"hf": layout.model_copy(update={"tensors": entries})}})
    name = "_orig_mod.transformer.module.weight"
    assert bare_names([name], own, "x.pt") == ({name: "transformer.module.weight"}, ["prefix _orig_mod."])
    assert bare_names([name], family, "x.pt")[0] == {name: "transformer.weight"}


def test_what_lies_beside_weights_is_left_aside_and_named(tmp_path: Path) -> None:
    beside = {
        "layer._extra_state": None,
        "other._extra_state": {"scale": torch.ones(1)},
        "norm.num_batches_tracked": 7,
        "head.bias": None,
    }
    torch.save(BARE | beside, tmp_path / "x.pt")
    checkpoint = read(tmp_path / "x.pt")
    assert set(checkpoint.tensors) == set(BARE)
    assert set(checkpoint.undone) == {f"left aside {name}" for name in beside}


def test_a_shared_name_of_two_wrapped_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"module.w": torch.ones(1), "w": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x.pt: w and module.w are both w without their wrappers|module.w and w"):
        read(tmp_path / "x.pt")


# --- with Transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1 << 40, 4000], ids=["single", "sharded"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_from_pretrained_loads_what_we_write(tmp_path: Path, kind: str, limit: int) -> None:
    """Every parameter, bit for bit, and nothing missing."""
    names = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    model = random_model(names[kind], CONFIGS[kind])
    model.save_pretrained(tmp_path / "theirs")
    from ligo_safetensors import read as read_safetensors

    source = read_safetensors(tmp_path / "theirs")
    write_directory(tmp_path / "ours", {name: source.read(name) for name in source.tensors}, limit)
    (tmp_path / "ours" / "config.json").write_bytes((tmp_path / "theirs" / "config.json").read_bytes())
    again, found = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True, use_safetensors=False)
    assert {key: value for key, value in found.items() if value} == {}
    for (name, wanted), (_, got) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(wanted, got), name


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_model_of_a_training_loop_grows(tmp_path: Path, kind: str) -> None:
    """From a wrapped state dict to ``pytorch_model.bin``: the same large weights as from safetensors."""
    twin = handmade(tmp_path / "small", kind)
    source = tmp_path / "loop"
    source.mkdir()
    weights = {f"module.{name}": torch.from_numpy(value) for name, value in tensors_of(twin).items()}
    torch.save({"model": weights, "epoch": 4, "optimizer": {"state": {}}}, source / "last.pt")
    (source / "config.json").write_bytes((twin / "config.json").read_bytes())
    plan: dict[str, Any] = {"target": TWICE[kind], "operator": {"width": "hypercloning"}}
    with converter_at_hand():
        wanted = tensors_of(ligo_spec.apply(plan_file(tmp_path, **plan)).path)
        output = {"path": "again", "format": "pytorch", "max_shard_size": "4KB"}
        grown = ligo_spec.apply(plan_file(tmp_path, "again.yaml", source="loop", output=output, **plan)).path
    found = by_torch(grown)
    assert len(list(grown.glob("*.bin"))) > 1
    assert found.keys() == wanted.keys()
    assert all(bits(found[name]) == bits(wanted[name]) for name in wanted)


# --- large ------------------------------------------------------------------------------------------------------------


def sparse(path: Path, chunks: Iterator[bytes | memoryview]) -> None:
    """Write a file with holes where it is zero."""
    with path.open("wb") as file:
        for chunk in chunks:
            if len(chunk) > 1 << 20:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)


@pytest.mark.slow
def test_records_and_files_of_more_than_four_gib(tmp_path: Path) -> None:
    """Sizes and offsets of more than 32 bits come out right, for us and for torch; zeros, so that nothing is stored."""
    count = (1 << 30) + 5
    skeleton = Skeleton()
    state = {
        "huge": skeleton.tensor((count,), np.dtype(np.float32), lambda: np.zeros(count, np.float32)),
        "small": skeleton.tensor((3,), np.dtype(np.float32), lambda: np.arange(3, dtype=np.float32)),
    }
    path = tmp_path / "huge.bin"
    sparse(path, streamed(state, skeleton))
    assert path.stat().st_size > 1 << 32
    assert path.stat().st_blocks * 512 < 1 << 20
    checkpoint = read(path)
    assert checkpoint.tensors["huge"].shape == (count,)
    assert checkpoint.read("small").tolist() == [0, 1, 2]
    theirs = torch.load(path, weights_only=True, mmap=True)
    assert theirs["small"].tolist() == [0, 1, 2]
    assert theirs["huge"].shape == (count,)


COPY = """
import sys
from pathlib import Path
import torch
from ligo_pytorch import read, write
from ligo_spec.staging import staged_directory

def peak():  # not getrusage(): its maximum is inherited from the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

before = peak()
source = read(Path(sys.argv[1]))
with staged_directory(Path(sys.argv[2])) as stage:
    write(stage, source.tensors.values(), {read}, max_shard_size=1 << 29)
print(peak() - before)
"""


def copied(source: Path, target: Path, read: str) -> int:
    """Copy a checkpoint in a process of its own; the most memory that it took beyond the libraries."""
    arguments = [sys.executable, "-W", "ignore", "-c", COPY.replace("{read}", read), str(source), str(target)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of memory are read from /proc")
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """A checkpoint of 1.25 GiB is copied within 512 MiB and three times its largest tensor, beyond the libraries."""
    count, side = 40, 1 << 23
    skeleton = Skeleton()
    state = {
        f"w{i}": skeleton.tensor((side,), np.dtype(np.float32), partial(np.full, side, i, np.float32))
        for i in range(count)
    }
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.writelines(streamed(state, skeleton))
    bound = (512 << 20) + 3 * 4 * side
    assert count * 4 * side > 2 * bound
    assert copied(path, tmp_path / "copy", "source.read") < bound
    again = read(tmp_path / "copy")
    assert [again.read(f"w{i}")[-1] for i in (0, 7, count - 1)] == [0, 7, count - 1]
    # The twin: whoever holds all tensors at once is caught.
    assert copied(path, tmp_path / "held", "{n: source.read(n) for n in source.tensors}.get") > bound


def test_the_module_is_a_converter() -> None:
    converter: Converter = ligo_pytorch
    opened: Callable[..., Checkpoint] = converter.read
    assert opened is read
