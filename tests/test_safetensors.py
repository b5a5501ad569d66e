"""safetensors: what we write is what the library reads; what is hostile is refused."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import ligo_safetensors
from ligo_safetensors import read, read_file, write, write_file
from ligo_spec.checkpoint import DTYPES, Checkpoint, Converter, TensorInfo
from ligo_spec.errors import InputError, LigoError, OutputError
from ligo_spec.filesystem import Fs
from ligo_spec.staging import staged_directory, staged_file

Array = npt.NDArray[Any]


class QuietFs(Fs):
    """No forcing to the disk: these tests look at bytes."""

    def sync(self, descriptor: int) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


def write_directory(target: Path, arrays: Mapping[str, Array], limit: int = 1 << 40) -> list[str]:
    names = {dtype: name for name, dtype in DTYPES.items()}
    infos = [TensorInfo(name, names[array.dtype.newbyteorder("=")], array.shape) for name, array in arrays.items()]
    with staged_directory(target, fs=QuietFs()) as stage:
        return write(stage, infos, arrays.__getitem__, max_shard_size=limit)


def bits(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("=")).tobytes()


# --- round trips ------------------------------------------------------------------------------------------------------

SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: name != "__metadata__")


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """Any dtype, shape, memory order, stride and byte order; any bits, so NaN payloads and denormals too."""
    dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = draw(st.sampled_from(["C", "Fortran", "strided", "reversed", "broadcast", "big-endian"]))
    spread = (*shape[:-1], shape[-1] * 2) if shape and layout == "strided" else shape
    size = int(np.prod(spread))
    array = (
        rng.integers(0, 2 if dtype == np.bool_ else 256, size * dtype.itemsize, np.uint8).view(dtype).reshape(spread)
    )
    if layout == "Fortran":
        return np.asfortranarray(array) if shape else array
    if layout == "strided":
        return array[..., ::2] if shape else array
    if layout == "reversed":
        return np.flip(array)
    if layout == "broadcast" and array.size:
        return np.broadcast_to(array.reshape(-1)[0], shape)
    if layout == "big-endian" and dtype.kind in "fiu" and dtype.isbuiltin == 1:
        return array.astype(dtype.newbyteorder(">")).reshape(shape)
    return array


@settings(deadline=None)
@given(st.dictionaries(NAMES, tensors(), max_size=6), st.integers(1, 400))
def test_what_is_written_is_read(arrays: dict[str, Array], limit: int) -> None:
    """Equal names, dtypes, shapes and bits: by our reader, and by the library."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        names = write_directory(target, arrays, limit)
        checkpoint = read(target)
        assert sorted(checkpoint.tensors) == list(checkpoint.tensors) == sorted(arrays)
        assert sorted(path.name for path in checkpoint.files) == sorted(names) == sorted(os.listdir(target))
        for name, array in arrays.items():
            got = checkpoint.read(name)
            assert (got.dtype, got.shape, bits(got)) == (array.dtype.newbyteorder("="), array.shape, bits(array))
            assert got.flags.c_contiguous
        library: dict[str, Any] = {}
        for file in target.glob("*.safetensors"):
            data = file.read_bytes()
            library.update(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
            assert int.from_bytes(data[:8], "little") % 8 == 0
        assert library.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (bytes(library[name]["data"]), library[name]["shape"]) == (bits(array), list(array.shape))
        checkpoint.check_unchanged()


@settings(deadline=None)
@given(st.dictionaries(NAMES, tensors(), max_size=6), st.integers(1, 400), st.randoms())
def test_the_same_input_gives_the_same_bytes(arrays: dict[str, Array], limit: int, rng: random.Random) -> None:
    """In whatever order the tensors come."""
    shuffled = list(arrays.items())
    rng.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as folder:
        write_directory(Path(folder) / "a", arrays, limit)
        write_directory(Path(folder) / "b", dict(shuffled), limit)
        contents = [{path.name: path.read_bytes() for path in (Path(folder) / side).iterdir()} for side in "ab"]
        assert contents[0] == contents[1]


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {name: np.full(3, i, np.float32) for i, name in enumerate(["z", "a", "é", "m"])}
    write_directory(tmp_path / "model", arrays)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == save(arrays, metadata={"format": "pt"})


def test_tensors_are_aligned(tmp_path: Path) -> None:
    """Odd sizes before wider items would make torch refuse the views."""
    arrays: dict[str, Array] = {"a": np.zeros(3, np.uint8), "b": np.zeros(1, np.float16), "c": np.zeros(1, np.float64)}
    write_directory(tmp_path / "model", arrays)
    data = (tmp_path / "model" / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert [header[name]["data_offsets"][0] for name in "cba"] == [0, 8, 10]


def test_shards_are_named_and_filled_as_hugging_face_does(tmp_path: Path) -> None:
    arrays = {name: np.zeros(size, np.uint8) for name, size in [("a", 40), ("b", 60), ("c", 1), ("d", 500), ("e", 9)]}
    names = write_directory(tmp_path / "model", arrays, limit=100)
    shards = [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert names == [*shards, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model" / names[-1]).read_text())
    owners = [shards[0], shards[0], shards[1], shards[2], shards[3]]
    assert index == {"metadata": {"total_size": 610}, "weight_map": dict(zip("abcde", owners, strict=True))}
    assert list(index["weight_map"]) == sorted(index["weight_map"])


def test_a_model_that_fits_has_no_index(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {"a": np.zeros(40, np.uint8), "b": np.zeros(60, np.uint8)}
    assert write_directory(tmp_path / "model", arrays, limit=100) == ["model.safetensors"]
    assert write_directory(tmp_path / "none", {}) == ["model.safetensors"]
    assert dict(read(tmp_path / "none").tensors) == {}


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    """Values are asked for once each, and only when their turn has come."""
    asked: list[str] = []
    infos = [TensorInfo(name, "F32", (2,)) for name in "cab"]

    def value(name: str) -> Array:
        asked.append(name)
        return np.zeros(2, np.float32)

    with staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
        write(stage, infos, value, max_shard_size=8)
    assert asked == ["a", "b", "c"]


def test_a_file_with_metadata_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "operator.safetensors"
    with staged_file(path, fs=QuietFs()) as stage:
        infos = [TensorInfo("map", "F64", (2, 2))]
        written = write_file(
            stage, path.name, infos, lambda _: np.eye(2), metadata={"z": "1", "spec": "ligo/operator/1"}
        )
    file = read_file(path)
    assert dict(file.metadata) == {"spec": "ligo/operator/1", "z": "1"}
    assert file.read("map").tolist() == [[1, 0], [0, 1]]
    assert written.size == path.stat().st_size
    with pytest.raises(KeyError):
        file.read("other")


# --- what the writer refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3), np.float64), r"is float64 of shape \(2, 3\), announced was F32"),
        (np.zeros((3, 2), np.float32), "announced was F32"),
        (np.zeros(6, np.float32), "announced was F32"),
    ],
)
def test_an_array_that_was_not_announced_is_refused(tmp_path: Path, array: Array, message: str) -> None:
    with pytest.raises(LigoError, match=message), staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
        write(stage, [TensorInfo("w", "F32", (2, 3))], lambda _: array, max_shard_size=100)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"], ["a\nb"], ["\ud800"]])
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, names: list[str]) -> None:
    infos = [TensorInfo(name, "U8", (1,)) for name in names]
    with pytest.raises(LigoError, match=r"twice|cannot be the name"):  # noqa: SIM117
        with staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
            write(stage, infos, lambda _: np.zeros(1, np.uint8), max_shard_size=100)


def test_space_and_header_are_settled_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def value(name: str) -> Array:
        raise AssertionError("asked for values")

    for infos, message in [
        ([TensorInfo("w", "F32", (1 << 45,))], "does not fit: 140737488355328 bytes needed"),
        ([TensorInfo("w" * 2000, "F32", (1,))], "need a header of more than 1000 bytes"),
    ]:
        monkeypatch.setattr("ligo_safetensors._write.MAX_HEADER", 1000)
        with pytest.raises(OutputError, match=message), staged_directory(tmp_path / "model", fs=QuietFs()) as stage:
            write(stage, infos, value, max_shard_size=1 << 60)


# --- hostile files ----------------------------------------------------------------------------------------------------


def raw(header: str | bytes, values: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets, **more})


def tensor(*args: Any, **more: Any) -> str:
    return f'{{"w": {entry(*args, **more)}}}'


E = entry()
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes, a safetensors file has at least 8"),
    "length cut": (b"\x10\0\0", "has 3 bytes"),
    "length 2^63": (raw("{}", length=1 << 63), "claims a header of 9223372036854775808 bytes"),
    "length 2^64-1": (raw("{}", length=(1 << 64) - 1), "claims a header"),
    "length over the cap": (raw("{}", length=100_000_001), "at most 100000000 are read"),
    "length past the end": (raw("{}", length=3), "has 10 bytes, its header alone needs 11"),
    "no header": (raw(""), "does not begin with '{'"),
    "a pickle": (b"\x80\x02}q\x00." + b"\0" * 20, "does not begin|claims a header"),
    "a list": (raw("[]"), "does not begin with '{'"),
    "space first": (raw(" {}"), "does not begin with '{'"),
    "not utf-8": (raw(b'{"\xff": 1}'), "not UTF-8"),
    "not json": (raw("{nope}"), "is not valid JSON"),
    "two values": (raw("{}{}"), "is not valid JSON"),
    "deep": (raw('{"a":' + "[" * 50_000), "nested deeper than 4"),
    "duplicate name": (raw(f'{{"w": {E}, "w": {entry("I32")}}}', b"\0" * 4), "key 'w' stands twice"),
    "duplicate escaped": (raw(f'{{"w": {E}, "\\u0077": {E}}}', b"\0" * 4), "key 'w' stands twice"),
    "duplicate key": (raw('{"w": {"dtype": "F32", "dtype": "I32", "shape": []}}'), "'dtype' stands twice"),
    "entry no object": (raw('{"w": 5}'), "keys dtype, shape and data_offsets"),
    "key missing": (raw('{"w": {"dtype": "F32", "shape": []}}'), "keys dtype, shape and data_offsets"),
    "key too many": (raw(tensor(extra=1), b"\0" * 4), "keys dtype, shape and data_offsets"),
    "dtype unknown": (raw(tensor("F99"), b"\0" * 4), "dtype F99 is not one of"),
    "dtype no text": (raw(tensor(["F32"]), b"\0" * 4), "is not one of"),
    "shape negative": (raw(tensor(shape=[-1, -1]), b"\0" * 4), "not a list of at most 64 sizes"),
    "shape float": (raw(tensor(shape=[1.0]), b"\0" * 4), "not a list of at most 64 sizes"),
    "shape bool": (raw(tensor(shape=[True]), b"\0" * 4), "not a list of at most 64 sizes"),
    "shape text": (raw(tensor(shape="1"), b"\0" * 4), "not a list of at most 64 sizes"),
    "shape 2^48": (raw(tensor(shape=[1 << 48])), "not a list of at most 64 sizes"),
    "shape that wraps": (raw(tensor("U8", [1 << 32, 1 << 32], [0, 0])), "not a list|too large"),
    "shape hidden by a zero": (raw(tensor("U8", [0, 1 << 47, 1 << 47], [0, 0])), "is too large"),
    "rank 65": (raw(tensor(shape=[1] * 65), b"\0" * 4), "not a list of at most 64 sizes"),
    "offsets reversed": (raw(tensor(offsets=[4, 0]), b"\0" * 4), "not a begin and an end"),
    "offsets negative": (raw(tensor(offsets=[-4, 0]), b"\0" * 4), "not a begin and an end"),
    "offsets of three": (raw(tensor(offsets=[0, 4, 8]), b"\0" * 8), "not a begin and an end"),
    "offsets 2^63": (raw(tensor(offsets=[0, 1 << 63])), "not a begin and an end"),
    "size not shape": (raw(tensor(shape=[2]), b"\0" * 4), "needs 8 bytes, data_offsets gives 4"),
    "hole at the start": (raw(tensor(offsets=[4, 8]), b"\0" * 8), "a hole before it"),
    "hole": (raw(f'{{"a": {E}, "b": {entry(offsets=[8, 12])}}}', b"\0" * 12), "b: its values begin at byte 8.*a hole"),
    "overlap": (raw(f'{{"a": {entry("I16", [3], [0, 6])}, "b": {entry(offsets=[4, 8])}}}', b"\0" * 8), "an overlap"),
    "shared values": (raw(f'{{"a": {E}, "b": {E}}}', b"\0" * 4), "an overlap"),
    "trailing byte": (raw(tensor(), b"\0" * 5), "has 5 bytes of values, its header says 4"),
    "values cut": (raw(tensor(), b"\0" * 3), "has 3 bytes of values, its header says 4; the file is cut off"),
    "metadata no object": (raw('{"__metadata__": "pt"}'), "__metadata__ is not an object of strings"),
    "metadata numbers": (raw('{"__metadata__": {"a": 1}}'), "__metadata__ is not an object of strings"),
    "control in a name": (raw(f'{{"w\\u001b[31m": {E}}}', b"\0" * 4), "control characters"),
    "half a surrogate": (raw(f'{{"\\ud800": {E}}}', b"\0" * 4), "control characters"),
    "only the library refuses": (raw(tensor().replace("[0, 4]", "[-0, 4]"), b"\0" * 4), "library refuses"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    for opened in (path, tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read(opened)
        assert caught.value.exit_code == 3
        assert str(caught.value).startswith(str(path))
        assert str(caught.value).isprintable()


def test_claims_do_not_allocate(tmp_path: Path) -> None:
    """A header that claims 2^49 bytes is refused from the size of the file."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw(tensor("U8", [1 << 47], [0, 1 << 47]), b"\0" * 4))
    with pytest.raises(InputError, match="has 4 bytes of values, its header says 140737488355328"):
        read(path)


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "a": np.arange(5, dtype=np.float32),
        "b": np.zeros((0, 2), np.float16),
        "c": np.ones((), np.int64),
    }
    write_directory(tmp_path / "model", arrays)
    data = (tmp_path / "model" / "model.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(InputError):
            read(path)


def test_flipped_headers_never_crash(tmp_path: Path) -> None:
    """Whatever a flip does: refused, or the library sees the same tensors. Nothing but InputError comes out."""
    arrays: dict[str, Array] = {"a": np.arange(5, dtype=np.float32), "b": np.zeros((2, 2), np.float16)}
    write_directory(tmp_path / "model", arrays)
    data = (tmp_path / "model" / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    path = tmp_path / "flip.safetensors"
    refused = 0
    for _ in range(600):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            mutant[rng.randrange(header)] = rng.choice(b'{}[],:"\\ 0129-eE.tfn\x00\xff' + bytes([rng.randrange(256)]))
        path.write_bytes(mutant)
        try:
            opened = read_file(path)
        except InputError:
            refused += 1
        else:
            assert all(opened.read(name).shape == info.shape for name, info in opened.tensors.items())
    assert refused > 400


def test_readers_that_disagree_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw(tensor(), b"\0" * 4))
    (tmp_path / "b.safetensors").write_bytes(raw(tensor("I32"), b"\0" * 4))
    theirs = safetensors.safe_open
    monkeypatch.setattr(
        "ligo_safetensors._file.safe_open", lambda _, framework: theirs(tmp_path / "b.safetensors", framework)
    )
    with pytest.raises(InputError, match="library sees other tensors"):
        read(path)


def test_pipes_and_directories_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(InputError, match="is a pipe"):
            read(path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)


# --- the file changes -------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _replace(path: Path) -> None:
    status = path.stat()
    path.with_name("new").write_bytes(path.read_bytes())
    os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [_truncate, _touch, _replace, Path.unlink])
def test_a_source_that_changes_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_directory(tmp_path / "model", {"a": np.zeros(4), "b": np.ones(4)}, limit=32)
    checkpoint = read(tmp_path / "model")
    checkpoint.read("a")
    checkpoint.check_unchanged()
    change(checkpoint.files[0])
    with pytest.raises(InputError, match=r"changed during the run|is gone now|cannot be opened"):
        checkpoint.read("a")
    with pytest.raises(InputError, match=r"changed during the run|is gone now"):
        checkpoint.check_unchanged()
    checkpoint.read("b")


def test_a_config_or_index_that_changes_is_noticed(tmp_path: Path) -> None:
    write_directory(tmp_path / "model", {"a": np.zeros(4), "b": np.ones(4)}, limit=32)
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 4}')
    for name in ("config.json", "model.safetensors.index.json"):
        checkpoint = read(tmp_path / "model")
        assert checkpoint.config == {"hidden_size": 4}
        _touch(tmp_path / "model" / name)
        with pytest.raises(InputError, match="changed during the run"):
            checkpoint.check_unchanged()


# --- directories ------------------------------------------------------------------------------------------------------

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_directory(tmp_path / "model", {"a": np.zeros(4), "b": np.ones(4), "c": np.ones(0)}, limit=32)
    return tmp_path / "model"


def _index(directory: Path, weight_map: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": A, "b": B}, f"^c: is in {B}, but not in model.safetensors.index.json$"),
        ({"a": A, "b": A, "c": A}, f"b: is not in {A}"),
        ({"a": A, "b": B, "c": B, "ghost": B}, f"ghost: is not in {B}, though model.safetensors.index.json says so"),
        ({"a": B, "b": B, "c": B}, f"a: is not in {B}"),
        ({"a": B, "b": A, "c": B}, f"a: is in {A}, but model.safetensors.index.json says {B}, which does not have it"),
        ({"a": A, "b": "model-3.safetensors"}, "model-3.safetensors: the shard is missing"),
        ({"a": A, "b": "../model/" + B}, "'../model/.*' is not a plain file name"),
        ({"a": A, "b": "/etc/passwd"}, "not a plain file name"),
        ({"a": A, "b": ".."}, "not a plain file name"),
        ({"a": A, "b": ""}, "not a plain file name"),
        ({"a": A, "b": 5}, "weight_map is not an object"),
        ([A, B], "weight_map is not an object"),
        ({}, "weight_map is empty"),
    ],
)
def test_an_index_that_lies_is_refused(sharded: Path, weight_map: Any, message: str) -> None:
    _index(sharded, weight_map)
    with pytest.raises(InputError, match=message):
        read(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    write_directory(sharded.parent / "other", {"a": np.ones(4), "b": np.ones(4), "c": np.ones(0)})
    (sharded.parent / "other" / "model.safetensors").rename(sharded / B)
    with pytest.raises(InputError, match=f"^a: is in {B}, but .* says {A}, which has it too$"):
        read(sharded)


def test_a_duplicate_key_in_the_index_is_refused(sharded: Path) -> None:
    text = f'{{"weight_map": {{"a": "{A}", "b": "{B}", "a": "{B}"}}}}'
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json: key 'a' stands twice"):
        read(sharded)


def test_all_missing_shards_are_listed(sharded: Path) -> None:
    (sharded / A).unlink()
    (sharded / B).unlink()
    with pytest.raises(InputError) as caught:
        read(sharded)
    assert len(caught.value.problems) == 2


def test_the_outside_of_the_directory_is_never_opened(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = sharded.parent / "secret.safetensors"
    secret.write_bytes((sharded / B).read_bytes())
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr("os.open", lambda path, *args, **more: opened.append(str(path)) or real(path, *args, **more))  # type: ignore[func-returns-value]
    for name in ("../secret.safetensors", str(secret), "./../secret.safetensors", "..\\secret.safetensors"):
        _index(sharded, {"a": A, "b": name})
        with pytest.raises(InputError, match="not a plain file name"):
            read(sharded)
    assert opened
    assert not any("secret" in path for path in opened)


def test_the_links_of_the_hugging_face_cache_are_followed(sharded: Path) -> None:
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    for path in list(sharded.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert read(sharded).read("b").tolist() == [1, 1, 1, 1]


def test_where_the_weights_are_found(tmp_path: Path) -> None:
    write_directory(tmp_path / "model", {"a": np.ones(2)})
    single = tmp_path / "model" / "model.safetensors"
    assert read(single).path == single
    renamed = single.rename(single.with_name("weights.safetensors"))
    assert read(tmp_path / "model").files == (renamed,)
    assert read(tmp_path / "model").config == {}
    (tmp_path / "model" / "more.safetensors").write_bytes(renamed.read_bytes())
    with pytest.raises(InputError, match=r"2 safetensors files \(more.safetensors, weights.safetensors\) and no"):
        read(tmp_path / "model")
    _index(tmp_path / "model", {"a": "more.safetensors"})
    assert read(tmp_path / "model").read("a").tolist() == [1, 1]
    renamed.rename(single)
    assert read(tmp_path / "model").files == (single,)


def test_a_directory_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model\.safetensors and no model\.safetensors\.index\.json in it"):
        read(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_a_bad_config_is_refused(tmp_path: Path, text: str) -> None:
    write_directory(tmp_path / "model", {"a": np.ones(2)})
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read(tmp_path / "model")


def test_the_module_is_a_converter() -> None:
    converter: Converter = ligo_safetensors
    opened: Callable[[Path], Checkpoint] = converter.read
    assert opened is read
