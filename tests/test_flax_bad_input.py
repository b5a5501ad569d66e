"""Hostile msgpack and npz files: refused in one line, from the size of the file, with no memory taken on a claim."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ligo_flax
from ligo_flax import _leaf, _walk
from ligo_spec.errors import InputError
from tests.effort import examples
from tests.flax_files import Array, chunked, extension, file_of, packed, values, write
from tests.tiny_checkpoints import CONFIGS, arrays

ONE = np.arange(2, dtype=np.float32)


def refused(path: Path, message: str) -> InputError:
    """What the reader says of a file; one printable line a problem, which begins with the file."""
    with pytest.raises(InputError, match=message) as caught:
        ligo_flax.read(path)
    assert caught.value.exit_code == 3
    for problem in caught.value.problems:
        assert problem.where.startswith(str(path))
        assert str(problem).isprintable()
    return caught.value


# --- msgpack ----------------------------------------------------------------------------------------------------------


def array_of(*payload: Any, kind: int = 1, rest: bytes = b"") -> msgpack.ExtType:
    return msgpack.ExtType(kind, msgpack.packb(payload) + rest)


def deep(levels: int) -> Any:
    tree: Any = ONE
    for _ in range(levels):
        tree = {"a": tree}
    return tree


PIECES = chunked(np.arange(6, dtype=np.float32), 8)
HOSTILE: dict[str, tuple[Any, str]] = {
    "empty": (b"", "has 0 bytes, 1 are needed; the file is cut off"),
    "no map": (b"\x90", r"item at byte 0 \(0x90\) is neither a map nor an array"),
    "an array alone": (msgpack.packb(extension(ONE)), "does not begin with a map"),
    "a number alone": (b"\x05", "does not begin with a map"),
    "json": (b'{"a": 1}', "does not begin with a map"),
    "a pickle": (b"\x80\x02}q\x00.", "goes on after its tree"),
    "a second tree": (packed({"a": ONE}) * 2, "goes on after its tree, which ends at byte"),
    "a trailing byte": (packed({"a": ONE}) + b"\0", "goes on after its tree"),
    "map of 2^32": (b"\xdf\xff\xff\xff\xff", "claims 4294967295 entries, only 0 bytes are left"),
    "map of 65535": (b"\xde\xff\xff\xa1a\x80", "claims 65535 entries, only 3 bytes are left"),
    "key is a number": (b"\x81\x01\x80", r"the key at byte 1 \(0x01\) is not a text"),
    "key is bytes": (b"\x81\xc4\x01a\x80", "is not a text"),
    "key is nil": (b"\x81\xc0\x80", "is not a text"),
    "key of 2^32": (b"\x81\xdb\xff\xff\xff\xff", "has 4294967295 bytes, at most 4096 are read"),
    "key not utf-8": (b"\x81\xa1\xff\x80", "is not UTF-8"),
    "key twice": (b"\x82\xa1a\x80\xa1a\x80", "key 'a' stands twice"),
    "key twice, other spelling": (b"\x82\xa1a\x80\xd9\x01a\x80", "key 'a' stands twice"),
    "key twice, below": (b"\x81\xa1b\x82\xa1a\x80\xa1a\x80", "b: key 'a' stands twice"),
    "key empty": ({"": ONE}, "key '' is not a plain name"),
    "key climbs": ({"..": ONE}, r"key '\.\.' is not a plain name"),
    "key is a path": ({"a/b": ONE}, "key 'a/b' is not a plain name"),
    "key of another system": ({"a\\b": ONE}, "is not a plain name"),
    "key with escapes": ({"a\x1b[31m": ONE}, "holds control characters"),
    "path too long": ({"a" * 600: {"b" * 600: ONE}}, "the path has 1201 characters, at most 1024 are read"),
    "deep": (deep(65), "nested 65 levels deep, at most 64 are read"),
    "deep bomb": (b"\x81\xa1a" * 100_000, "nested 65 levels deep"),
    "a text for an array": ({"a": "x"}, r"a: the item at byte 3 \(0xa1\) is neither a map nor an array"),
    "a float for an array": ({"a": 1.0}, "is neither a map nor an array"),
    "a list for an array": ({"a": [1]}, "is neither a map nor an array"),
    "nil for an array": ({"a": None}, "is neither a map nor an array"),
    "bytes for an array": ({"a": b"x"}, "is neither a map nor an array"),
    "a negative number": ({"a": -1}, "is neither a map nor an array"),
    "a number for an array": ({"a": {"step": 7}}, "a/step: is the number 7, not an array"),
    "a yes for an array": ({"a": True}, "a: is the number True, not an array"),
    "a reserved byte": (b"\x81\xa1a\xc1", "0xc1"),
    "complex number": ({"a": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}, "a: is an extension of type 2"),
    "unknown extension": ({"a": msgpack.ExtType(9, b"xyz")}, "a: is an extension of type 9"),
    "negative extension": ({"a": msgpack.Timestamp(1)}, "a: is an extension of type -1"),
    "extension of 2^32": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "ends at byte 4294967304, the file has 9"),
    "extension empty": (b"\x81\xa1a\xc7\x00\x01", "cut off"),
    "payload no list": ({"a": msgpack.ExtType(1, msgpack.packb({}))}, "not a list of shape, dtype and bytes"),
    "payload of two": ({"a": array_of((2,), "float32")}, "not a list of shape, dtype and bytes"),
    "shape no list": ({"a": array_of(2, "float32", b"\0" * 8)}, "the shape is not a list"),
    "shape negative": ({"a": array_of((-2,), "float32", b"\0" * 8)}, "the shape is not a list of sizes"),
    "shape float": ({"a": array_of((2.0,), "float32", b"\0" * 8)}, "the shape is not a list of sizes"),
    "shape yes": ({"a": array_of((True,), "bool", b"\0")}, "the shape is not a list of sizes"),
    "shape 2^48": ({"a": array_of((1 << 48,), "int8", b"")}, "is too large"),
    "shape that wraps": ({"a": array_of((1 << 32, 1 << 32), "int8", b"")}, "is too large"),
    "shape hidden by a zero": ({"a": array_of((0, 1 << 47, 1 << 47), "int8", b"")}, "is too large"),
    "rank 65": ({"a": array_of((1,) * 65, "int8", b"\0")}, "claims 65 dimensions, at most 64 are read"),
    "rank 2^32": ({"a": msgpack.ExtType(1, b"\x93\xdd\xff\xff\xff\xff")}, "claims 4294967295 dimensions"),
    "dtype unknown": ({"a": array_of((2,), "float31", b"\0" * 8)}, "a: dtype float31 is not one"),
    "dtype object": ({"a": array_of((2,), "object", b"\0" * 16)}, "dtype object is not one"),
    "dtype complex": ({"a": array_of((1,), "complex64", b"\0" * 8)}, "dtype complex64 is not one"),
    "dtype with escapes": ({"a": array_of((1,), "\x1b[31m", b"\0")}, r"dtype \\x1b\[31m is not"),
    "dtype no text": ({"a": array_of((2,), 7, b"\0" * 8)}, "the dtype is not a short text"),
    "dtype long": ({"a": array_of((2,), "x" * 40, b"\0" * 8)}, "the dtype is not a short text"),
    "values no bytes": ({"a": array_of((2,), "float32", "12345678")}, "the values are not bytes"),
    "values too few": ({"a": array_of((2,), "float32", b"\0" * 7)}, r"F32 of shape \(2,\) needs 8 bytes, it has 7"),
    "values too many": ({"a": array_of((2,), "float32", b"\0" * 9)}, "needs 8 bytes, it has 9"),
    "values and more": ({"a": array_of((2,), "float32", b"\0" * 8, rest=b"x")}, "needs 8 bytes, it has 8, 9 left"),
    "claim of 2^49": ({"a": array_of((1 << 47,), "float32", b"")}, "needs 562949953421312 bytes, it has 0"),
    "pieces: one missing": ({"a": {**PIECES, "chunks": {"0": extension(ONE)}}}, "the 2 values that its chunks hold"),
    "pieces: none": ({"a": {**PIECES, "chunks": {}}}, "a chunked array has a shape and chunks"),
    "pieces: a gap": ({"a": {**PIECES, "chunks": {"1": extension(ONE)}}}, "numbered from 0"),
    "pieces: no chunks": ({"a": {key: PIECES[key] for key in list(PIECES)[:2]}}, "numbered from 0"),
    "pieces: more keys": ({"a": {**PIECES, "more": extension(ONE)}}, "and nothing else"),
    "pieces: no": ({"a": {**PIECES, "__msgpack_chunked_array__": False}}, "a chunked array has"),
    "pieces: of other dtypes": (
        {"a": {**PIECES, "chunks": {"0": extension(ONE), "1": extension(np.arange(4))}}},
        "of one dimension and one dtype",
    ),
    "pieces: of two dimensions": (
        {"a": {**PIECES, "chunks": {"0": extension(np.zeros((2, 3), np.float32))}}},
        "of one dimension and one dtype",
    ),
    "pieces: shape of arrays": ({"a": {**PIECES, "shape": {"0": extension(ONE)}}}, "whole numbers for its shape"),
    "pieces: shape too large": ({"a": {**PIECES, "shape": {"0": 1 << 50}}}, "does not have the 6 values"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_trees_are_refused(tmp_path: Path, case: str) -> None:
    tree, message = HOSTILE[case]
    file_of(tmp_path, tree)
    refused(tmp_path / "flax_model.msgpack", message)
    refused(tmp_path, message)


def test_the_cases_are_hostile_by_one_thing_only(tmp_path: Path) -> None:
    """The twin: the same shapes of trees without the fault are read."""
    good = {"a": array_of((2,), "float32", b"\0" * 8), "b": PIECES, "c": deep(62), "d": extension(ONE, 3), "e": {}}
    found = values(file_of(tmp_path, good))
    assert sorted(found) == ["a", "b", "c" + ".a" * 62, "d"]
    assert found["b"].tolist() == [0, 1, 2, 3, 4, 5]


def test_all_wrong_arrays_are_named_at_once(tmp_path: Path) -> None:
    tree = {"a": array_of((2,), "object", b""), "b": {"c": msgpack.ExtType(5, b"")}, "d": ONE}
    error = refused(file_of(tmp_path, tree) / "flax_model.msgpack", "a: dtype object")
    assert [problem.where.split(": ")[1] for problem in error.problems] == ["a", "b/c"]


def test_counts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of a million branches, and names that are short in the file and long as paths."""
    monkeypatch.setattr(_walk, "MAX_LEAVES", 1000)
    wide: dict[str, Any] = {str(n): {} for n in range(1001)}
    refused(file_of(tmp_path / "wide", wide), "the tree has more than 1000 items")
    monkeypatch.setattr(_walk, "_MAX_TEXT", 10_000)
    long = {"a" * 900: {str(n): ONE for n in range(20)}}
    refused(file_of(tmp_path / "long", long), "or paths of more than 10000 characters in all")
    assert values(file_of(tmp_path / "good", {str(n): ONE for n in range(900)}))
    assert _leaf.MAX_LEAVES == 1 << 20


@pytest.mark.parametrize("claim", [b"\x81\xa1a\xc9\xff\xff\xff\xf0\x01", b"\xdf\x7f\xff\xff\xff" + b"\xa1a\x80" * 3])
def test_claims_do_not_allocate(tmp_path: Path, claim: bytes) -> None:
    file_of(tmp_path, claim)
    tracemalloc.start()
    try:
        refused(tmp_path, "cut off|only 9 bytes are left")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_tree_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = packed({"layer": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros((0,), np.int8)}, "big": PIECES})
    path = tmp_path / "cut.msgpack"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        refused(path, "cut off|are left")
    path.write_bytes(data)
    assert sorted(values(path)) == ["big", "layer.bias", "layer.weight"]


@settings(max_examples=examples(200))
@given(st.binary(max_size=60), st.randoms(use_true_random=False))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes, rng: random.Random) -> None:
    """Any bytes, and small changes to a good file: refused, or read to the shapes that the header says."""
    path = tmp_path_factory.getbasetemp() / "fuzz.msgpack"
    good = bytearray(packed({"layer": {"kernel": np.ones((2, 3), np.float32)}, "big": PIECES, "b": {"bias": ONE}}))
    for _ in range(rng.randint(1, 3)):
        good[rng.randrange(len(good))] = rng.choice([0x80, 0x81, 0x90, 0x93, 0xA1, 0xC7, 0xDF, rng.randrange(256)])
    for content in (data, b"\x81\xa1a" + data, bytes(good)):
        path.write_bytes(content)
        said = "read"
        try:
            values(path)
        except InputError as error:
            said = str(error)
        assert said.replace("\n", "").isprintable()


def test_flips_are_mostly_noticed(tmp_path: Path) -> None:
    """The twin of the fuzz: it does reach the refusals."""
    data, rng, noticed = packed({"layer": {"kernel": np.ones((2, 3), np.float32)}}), random.Random(0), 0
    header = len(data) - 24
    for _ in range(300):
        mutant = bytearray(data)
        mutant[rng.randrange(header)] ^= 1 << rng.randrange(8)
        (tmp_path / "flip.msgpack").write_bytes(mutant)
        try:
            ligo_flax.read(tmp_path / "flip.msgpack")
        except InputError:
            noticed += 1
    assert 150 < noticed < 300  # the rest are other names and other dtypes of the same size


# --- npz --------------------------------------------------------------------------------------------------------------


def npy(array: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(text: str, data: bytes = b"\0" * 8, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text.encode() + data


def described(descr: str = "'<f4'", fortran: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def archive(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, method)
    return path


MEMBERS: dict[str, tuple[str, bytes, str]] = {
    "no npy": ("a.txt", b"hello", r"a.txt: is not a \.npy file"),
    "no magic": ("a.npy", b"hello", "does not begin as a .npy file"),
    "empty": ("a.npy", b"", "does not begin as a .npy file"),
    "version 9": ("a.npy", header(described(), version=b"\x09\0"), "of version 1, 2 or 3"),
    "header cut": ("a.npy", header(described())[:40], "is cut off in its header"),
    "header of 2^32": ("a.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff", "claims a header of 4294967295 bytes"),
    "objects": ("a.npy", header(described("'|O'")), "is not that of a plain array of numbers"),
    "texts": ("a.npy", header(described("'<U2'")), "is not that of a plain array of numbers"),
    "dates": ("a.npy", header(described("'<M8[s]'")), "is not that of a plain array"),
    "complex": ("a.npy", header(described("'<c8'")), "is not that of a plain array"),
    "structured": ("a.npy", header(described("[('x', '<f4')]")), "is not that of a plain array"),
    "code": ("a.npy", header("{'descr': __import__('os').system('true')}\n"), "is not that of a plain array"),
    "other keys": ("a.npy", header("{'shape': (2,), 'descr': '<f4', 'fortran_order': False}\n"), "plain array"),
    "shape negative": ("a.npy", header(described(shape="(-2,)")), "is not that of a plain array"),
    "shape no tuple": ("a.npy", header(described(shape="(2)")), "is not that of a plain array"),
    "float of 3 bytes": ("a.npy", header(described("'<f3'")), "dtype float24 is not one"),
    "void of 3 bytes": ("a.npy", header(described("'|V3'")), "dtype V3 is not one"),
    "long double": ("a.npy", header(described("'<f16'", shape="(1,)")), "dtype float128 is not one"),
    "claim of 4 TiB": ("a.npy", header(described(shape="(1099511627776,)")), "needs 4398046511104 bytes, it has 8"),
    "shape that wraps": ("a.npy", header(described(shape="(4294967296, 4294967296)")), "is too large"),
    "shape of 40 digits": ("a.npy", header(described(shape=f"({'9' * 40},)")), "is too large"),
    "values cut": ("a.npy", header(described(), b"\0" * 7), "needs 8 bytes, it has 7"),
    "values and more": ("a.npy", header(described(), b"\0" * 9), "needs 8 bytes, it has 9"),
    "climbs": ("../../a.npy", npy(ONE), r"key '\.\.' is not a plain name"),
    "absolute": ("/etc/a.npy", npy(ONE), "key '' is not a plain name"),
    "backslash": ("..\\a.npy", npy(ONE), "is not a plain name"),
    "no name": (".npy", npy(ONE), "key '' is not a plain name"),
    "control": ("a\x1b[0m.npy", npy(ONE), "holds control characters"),
    "deep": ("a/" * 70 + "b.npy", npy(ONE), "nested 71 levels deep"),
    "long": ("a" * 2000 + ".npy", npy(ONE), "the path has 2000 characters"),
}


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_members_are_refused(tmp_path: Path, case: str, method: int) -> None:
    name, data, message = MEMBERS[case]
    refused(archive(tmp_path / "m.npz", (name, data), ("good.npy", npy(ONE)), method=method), message)


@settings(max_examples=examples(30))
@given(
    st.sampled_from(["<f4", ">f4", "<f2", "|V2", "<i8", ">i2", "|u1", "|b1", "<f8"]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_what_numpy_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    shape: tuple[int, ...],
    fortran: bool,
    deflated: bool,
    version: tuple[int, int],
) -> None:
    """The twin: every dtype, byte order, memory order and version of the format."""
    array = np.arange(int(np.prod(shape)), dtype="u2" if dtype == "|V2" else dtype.replace("b1", "u1"))
    array = (array % 2 if dtype == "|b1" else array).astype("u2" if dtype == "|V2" else dtype).view(dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    path = tmp_path_factory.getbasetemp() / "good.npz"
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    archive(path, ("a/free.npy", npy(array, version=version)), method=method)
    wanted = array.view(ml_dtypes.bfloat16) if dtype == "|V2" else array.astype(array.dtype.newbyteorder("="))
    found = values(path)["a.free"]
    assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, shape, wanted.tobytes())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    tree = {"a/kernel": np.arange(6.0).reshape(2, 3), "n/scale": np.zeros(100_000, np.float32)}
    save(tmp_path / "m.npz", **tree)
    found = values(tmp_path / "m.npz")
    assert found["a.weight"].tolist() == tree["a/kernel"].T.tolist()
    assert np.array_equal(found["n.weight"], tree["n/scale"])
    assert sorted(values(tmp_path)) == ["a.weight", "n.weight"]  # one file of another name in a directory


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_value_fails_its_checksum(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "m.npz", ("a.npy", npy(np.arange(500.0))), method=method)
    data = bytearray(path.read_bytes())
    data[300] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.npy: (has checksum|cannot be unpacked|its packed|unpacks)"):
        ligo_flax.read(path).read("a")


def test_bombs_are_refused_from_the_directory(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.npz", ("a.npy", npy(np.zeros(1 << 24, np.int8))), method=zipfile.ZIP_DEFLATED)
    refused(path, "claims 16777344 bytes out of [0-9]+; .* packed ones grow 100fold")


def test_a_member_that_grows_beyond_its_claim_is_refused(tmp_path: Path) -> None:
    """The directory says 8 values, the data unpack to more."""
    data = bytearray(archive(tmp_path / "m.npz", ("a.npy", npy(ONE)), method=zipfile.ZIP_DEFLATED).read_bytes())
    longer = npy(ONE) + b"\0" * 1000
    (tmp_path / "m.npz").unlink()
    data = bytearray(archive(tmp_path / "m.npz", ("a.npy", longer), method=zipfile.ZIP_DEFLATED).read_bytes())
    size, claimed = struct.pack("<I", len(longer)), struct.pack("<I", len(npy(ONE)))
    (tmp_path / "m.npz").write_bytes(bytes(data).replace(size, claimed))
    with pytest.raises(InputError, match=f"a.npy: unpacks to other than the {len(npy(ONE))} bytes"):
        ligo_flax.read(tmp_path / "m.npz").read("a")


def patched(data: bytes, offset: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + len(replacement) :]


def test_wrong_directories_are_refused(tmp_path: Path) -> None:
    """Every field that says where something is, or how it is packed."""
    path = archive(tmp_path / "m.npz", ("a.npy", npy(ONE)), ("b.npy", npy(ONE)))
    data = path.read_bytes()
    entry = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", entry + 1)
    cases = {
        "has 5 bytes, an archive has at least 22": data[:5],
        "does not end as an archive of NumPy": data[:-1],
        "does not end as an archive": data[:-2] + b"\1\0x",
        "is a part of an archive of several": patched(data, len(data) - 18, b"\1\0"),
        "claims a directory of 60000 entries": patched(data, len(data) - 14, b"\x60\xea\x60\xea"),
        "a directory of 2 entries in [0-9]+ bytes at byte 0": patched(data, len(data) - 6, b"\0\0\0\0"),
        "its 1 entries take": patched(data, len(data) - 14, b"\1\0\1\0"),
        "directory is malformed at its byte 0": patched(data, entry, b"PK\1\3"),
        "a.npy: is encrypted": patched(data, entry + 8, b"\1\0"),
        "a.npy: is encrypted, packed by another": patched(data, entry + 10, b"\x0c\0"),
        "a.npy: claims 136 bytes out of 99": patched(data, entry + 20, b"\x63\0\0\0"),
        "a.npy: its header and the archive's directory differ": patched(data, 30, b"x"),
        "b.npy: its header and the archive's directory differ": patched(data, second + 42, b"\0\0\0\0"),
        "a.npy: its data overlaps the header of b.npy": patched(data, entry + 20, b"\xff\0\0\0\xff\0\0\0"),
        "b.npy: its data overlaps the directory": patched(data, second + 20, b"\xff\0\0\0\xff\0\0\0"),
        "claims a directory of 65535 entries": patched(data, len(data) - 14, b"\xff\xff\xff\xff"),
        "the name .* is not UTF-8": patched(data, entry + 46, b"\xff"),
        "has [0-9]+ bytes, [0-9]+ are needed": patched(data, second + 42, b"\xff\xff\xff\x0f"),
    }
    for message, content in cases.items():
        assert content != data
        path.write_bytes(content)
        refused(path, message)
    path.write_bytes(data)
    assert sorted(values(path)) == ["a", "b"]


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "m.npz", ("a.npy", npy(ONE)), ("a.npy", npy(ONE + 1)))
    refused(path, r"a\.npy: comes twice in the archive")


def test_an_archive_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = archive(tmp_path / "m.npz", ("a.npy", npy(ONE)), method=zipfile.ZIP_DEFLATED).read_bytes()
    for end in range(len(data)):
        (tmp_path / "m.npz").write_bytes(data[:end])
        refused(tmp_path / "m.npz", "an archive")


@pytest.mark.parametrize("limit", [0, 100, 300])
def test_directories_of_64_bits_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """As Python writes them beyond 2^31 bytes, in its fields and beside them."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    members = [(f"{n}.npy", npy(np.full(2, n, np.int8))) for n in range(5)]
    path = archive(tmp_path / "m.npz", *members)
    data = path.read_bytes()
    assert {name: array[0] for name, array in values(path).items()} == {str(n): n for n in range(5)}
    locator, end = data.index(b"PK\6\7"), data.index(b"PK\6\6")
    for message, content in {
        "is not where an archive of NumPy has it": patched(data, locator + 8, b"\0\0\0\0"),
        "end of its 64-bit directory is malformed": patched(data, end + 4, b"\x2d"),
        "is a part of an archive of several": patched(data, end + 24, b"\x04"),
        "claims a directory of 1000 entries": patched(data, end + 24, b"\xe8\3\0\0\0\0\0\0" * 2),
    }.items():
        path.write_bytes(content)
        refused(path, message)
    entry = data.index(b"PK\1\2")
    if limit < 100:
        path.write_bytes(patched(data, entry + 46 + 5, b"\2"))  # the extra field is another one: no size is known
        refused(path, r"0\.npy: is encrypted, .* or its entry is malformed")


@settings(max_examples=examples(150))
@given(st.randoms(use_true_random=False))
def test_no_change_to_an_archive_crashes_the_reader(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    archive(path, ("a/kernel.npy", npy(np.ones((2, 3)))), ("b.npy", npy(ONE)), method=method)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0xFF, rng.randrange(256)])
    path.write_bytes(data)
    said = "read"
    try:
        values(path)
    except InputError as error:
        said = str(error)
    assert said.replace("\n", "").isprintable()


# --- directories, and files that change -------------------------------------------------------------------------------


def test_an_index_is_held_to_its_shards(tmp_path: Path) -> None:
    small = tmp_path / "small"
    names = write(small, CONFIGS["gpt2"], arrays(CONFIGS["gpt2"]), limit=3000)
    index = small / names[-1]
    text = json.loads(index.read_text())
    path, owner = "ln_f/bias", text["weight_map"]["ln_f/bias"]
    for shard, message in [
        ("../x.msgpack", "is not a plain file name"),
        (names[0], f"{path}: is in {owner}, but .* says {names[0]}, which does not have it"),
    ]:
        changed = {**text, "weight_map": {**text["weight_map"], path: shard}}
        index.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            ligo_flax.read(small)
    index.write_text(json.dumps(text))
    (small / names[0]).unlink()
    with pytest.raises(InputError, match="the shard is missing"):
        ligo_flax.read(small)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "flax_model.msgpack")
    refused(tmp_path, "is a pipe")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no flax_model\.msgpack and no flax_model\.msgpack\.index\.json in it")


@pytest.mark.parametrize("name", ["m.msgpack", "m.npz"])
def test_a_source_that_changes_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("npz"):
        archive(path, ("a.npy", npy(ONE)))
    else:
        path.write_bytes(packed({"a": ONE}))
    checkpoint = ligo_flax.read(path)
    checkpoint.read("a")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.read("a")
    with pytest.raises(InputError, match="changed during the run"):
        checkpoint.check_unchanged()


def test_unknown_names_are_mistakes_of_ours(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        ligo_flax.read(file_of(tmp_path, {"a": ONE})).read("b")
