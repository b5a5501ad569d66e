"""Files of ``torch.save`` that are damaged or made to do harm: refused in one line, nothing run, nothing believed."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import re
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ligo_pytorch import StateFile, read  # noqa: E402 (after the skip)
from ligo_pytorch._calls import KNOWN  # noqa: E402
from ligo_spec.cli import run  # noqa: E402
from ligo_spec.errors import InputError  # noqa: E402
from tests.tiny_checkpoints import TWICE, handmade, plan_file, tree  # noqa: E402
from tests.torch_archives import archive, bits, converter_at_hand, parts, saved, with_object  # noqa: E402

MARKER = "payload-ran"


class Payload:
    """Runs when it is unpickled without care."""

    def __init__(self, call: Callable[..., Any] = os.mkdir, *arguments: Any) -> None:
        self.call = call, arguments or (MARKER,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def text(value: str) -> bytes:
    """A pickled text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(
    storage: bytes = b"ctorch\nFloatStorage\n",
    key: str = "0",
    count: bytes = b"K\x03",
    offset: bytes = b"K\x00",
    shape: bytes = b"K\x03\x85",
    strides: bytes = b"K\x01\x85",
    rest: bytes = b"\x89}",
    make: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n",
) -> bytes:
    """The opcodes of a tensor of three numbers, with what is to be wrong."""
    memory = b"(" + text("storage") + storage + text(key) + text("cpu") + count + b"tQ"
    return make + b"(" + memory + offset + shape + strides + rest + b"tR"


def state(*items: bytes) -> bytes:
    """The pickle of a dict of these names and values."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


def number(value: int) -> bytes:
    """A pickled integer of any size."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


W = text("w")
VALUES = np.arange(3, dtype=np.float32).tobytes()
LAUGHS = b"Nq\x00" + b"h\x00h\x00\x87q\x00" * 80  # every level holds the one below three times
LONG = number(1 << 62)


def of(value: bytes, **records: bytes) -> bytes:
    """A file with one tensor ``w`` whose opcodes these are."""
    return with_object(state(W, value), **(records or {"_0": VALUES}))


def test_the_pickle_that_the_others_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(of(tensor()))
    assert read(tmp_path / "x.bin").read("w").tolist() == [0, 1, 2]
    assert torch.load(tmp_path / "x.bin", weights_only=True)["w"].tolist() == [0, 1, 2]


# --- what would run ---------------------------------------------------------------------------------------------------

POSIX = f"{os.mkdir.__module__}.mkdir"
CALL = b"(" + text(MARKER) + b"tR"
RUNS: dict[str, tuple[bytes, str]] = {
    "a call among weights": (saved({"w": torch.ones(2), "x": Payload()}), POSIX),
    "a call in what is left aside": (saved({"state_dict": {"w": torch.ones(2)}, "args": Payload()}), POSIX),
    "eval": (saved({"w": Payload(eval, f"__import__('os').mkdir('{MARKER}')")}), "builtins.eval"),
    "exec": (saved({"w": Payload(exec, f"import os; os.mkdir('{MARKER}')")}), "builtins.exec"),
    "a module of torch": (saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "an argument parser's": (saved({"w": torch.ones(1), "args": argparse.Namespace(a=1)}), "argparse.Namespace"),
    "numpy": (saved({"w": np.ones(2)}), r"numpy\._core\.multiarray\._reconstruct"),
    "protocol 4": (saved({"w": Payload()}, pickle_protocol=4), POSIX),
    "two": (
        with_object(state(W, b"cos\nmkdir\n" + CALL, W, b"cbuiltins\ngetattr\n" + CALL)),
        "os.mkdir, builtins.getattr"),
    "of Python 2": (with_object(state(W, b"c__builtin__\neval\n" + CALL)), "builtins.eval"),
    "INST": (with_object(b"\x80\x02(X\x0b\x00\x00\x00payload-runios\nmkdir\n."), "os.mkdir"),
    "OBJ": (with_object(b"\x80\x02(cos\nmkdir\n" + text(MARKER) + b"o."), "os.mkdir"),
    "NEWOBJ": (with_object(b"\x80\x02csubprocess\nPopen\n(" + text("touch") + b"t\x81."), "subprocess.Popen"),
    "NEWOBJ_EX": (with_object(b"\x80\x02csubprocess\nPopen\n(" + text("touch") + b"t}\x92."), "subprocess.Popen"),
    "torch.load itself": (with_object(state(W, b"ctorch\nload\n" + CALL)), "torch.load"),
    "torch.hub": (with_object(state(W, b"ctorch.hub\nload\n" + CALL)), "torch.hub.load"),
    "a name with dots": (
        with_object(state(W, b"ctorch\nserialization.os.mkdir\n" + CALL)), "torch.serialization.os.mkdir"),
    "not even called": (with_object(state(W, b"cos\nmkdir\n")), "os.mkdir"),
    "by the memo": (
        with_object(b"\x80\x04(" + text("os") + b"q\x00" + text("mkdir") + b"q\x01th\x00h\x01\x93."), "os.mkdir"),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_what_would_run_code_is_refused_by_name(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that the file would import is listed, none is imported, and the remedy is said."""
    monkeypatch.chdir(tmp_path)
    data, names = RUNS[case]
    Path("x.bin").write_bytes(data)
    with pytest.raises(InputError, match=names) as caught:
        read("x.bin")
    assert str(caught.value).startswith("x.bin: holds more than tensors and plain values")
    assert "in a sandbox" in str(caught.value)
    assert str(caught.value).isprintable()
    assert os.listdir() == ["x.bin"]


def test_the_payload_runs_where_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a loader that trusts the file makes the marker that the tests above look for."""
    monkeypatch.chdir(tmp_path)
    Path("x.bin").write_bytes(RUNS["a call among weights"][0])
    torch.load("x.bin", weights_only=False)
    assert Path(MARKER).exists()


@pytest.mark.parametrize("form", ["bare", "legacy", "tar"])
def test_files_without_an_archive_are_refused_and_name_what_they_import(form: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if form == "bare":
        buffer.write(pickle.dumps(Payload()))
    elif form == "legacy":
        torch.save({"w": torch.ones(2), "x": Payload()}, buffer, _use_new_zipfile_serialization=False)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as made:
            made.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    (tmp_path / "x.bin").write_bytes(buffer.getvalue())
    message = "is no archive of torch.save, but a bare object or tar, as before torch 1.6"
    message += "; load it" if form == "tar" else f", which would import {POSIX}; load it in a sandbox"
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.bin")


def test_what_others_have_allowed_is_not_allowed_here(tmp_path: Path) -> None:
    """A library in the same process may lengthen torch's list; ours is closed, and no longer than torch's own."""
    (tmp_path / "x.bin").write_bytes(saved({"w": torch.ones(2), "x": argparse.Namespace(a=1)}))
    with torch.serialization.safe_globals([argparse.Namespace]):
        torch.load(tmp_path / "x.bin", weights_only=True)
        with pytest.raises(InputError, match=r"would import argparse.Namespace"):
            read(tmp_path / "x.bin")
    from torch._weights_only_unpickler import _get_allowed_globals

    assert KNOWN - set(_get_allowed_globals()) <= {"torch.storage.UntypedStorage"}


# --- objects ----------------------------------------------------------------------------------------------------------

OBJECTS: dict[str, tuple[bytes, str]] = {
    "empty": (with_object(b""), "or is damaged: "),
    "no end": (with_object(state(W, b"N")[:-1]), "or is damaged: "),
    "bytes after its end": (with_object(state(W, tensor()) + b"N."), "2 bytes follow its end"),
    "two values": (with_object(b"\x80\x02NN."), "more or less than one value"),
    "nothing on the stack": (with_object(b"\x80\x02u."), "an opcode finds nothing"),
    "nothing in the memo": (with_object(b"\x80\x02h\x05."), "an opcode finds nothing"),
    "no text": (with_object(b"\x80\x02X\xff\xff\xff\xff."), "or is damaged: "),
    "not utf-8": (with_object(b"\x80\x02X\x01\x00\x00\x00\xff."), "or is damaged: "),
    "an extension": (with_object(b"\x80\x02\x82\x01."), "the opcode EXT1"),
    "a text id": (with_object(b"\x80\x02P0\n."), "the opcode PERSID"),
    "a number for an id": (with_object(b"\x80\x02K\x01Q."), "refers to something that is no storage"),
    "a module for an id": (with_object(b"\x80\x02(" + text("module") + b"NNNNtQ."), "is no storage"),
    "a bytearray of a terabyte": (
        with_object(state(W, b"c__builtin__\nbytearray\n" + number(10**12) + b"\x85R")), "not made from bytes"),
    "a counter of text": (
        with_object(state(W, b"ccollections\nCounter\n" + text("aab") + b"\x85R")), "not made from counts"),
    "a call with too many arguments": (
        with_object(state(W, b"ccollections\nOrderedDict\n" + b"NN\x86R")), "arguments of another number"),
    "a call of a structure of 3^80": (with_object(state(W, LAUGHS + b")R")), "it calls what is no function"),
    "a key of a structure of 3^80": (with_object(b"\x80\x02}(" + LAUGHS + b"Nu."), "neither text nor a number"),
    "a key that collides": (with_object(b"\x80\x02}(" + number((1 << 61) - 1) + b"Nu."), "neither text nor a number"),
    "a key twice": (with_object(state(W, tensor(), W, tensor()), _0=VALUES), "the key 'w' stands twice"),
    "deep tuples": (with_object(state(W, b"N" + b"\x85" * 200_000)), "nested deeper than 32"),
    "a list in itself": (with_object(state(W, b"]q\x00h\x00a")), "nested deeper than 32"),
    "a dict in itself": (with_object(b"\x80\x02}q\x00" + W + b"h\x00s."), "nested deeper than 32"),
    "an attribute of a dict": (with_object(b"\x80\x02}}" + W + b"Nsb."), "sets attributes of what has none"),
    "an item of a tuple": (with_object(b"\x80\x02)" + W + b"Ns."), "sets items of what is no dict"),
    "appended to a dict": (with_object(b"\x80\x02}Na."), "appends to what is no list"),
    "a set of sets": (with_object(b"\x80\x04\x8f(\x8f\x90."), "more than texts and numbers"),
    "no weights": (saved({"epoch": 3}), "holds no weights by name, neither at once nor in .*: it has epoch"),
    "a list": (saved([torch.ones(2)]), "holds no weights by name, .*: it is a list"),
    "nothing": (saved({}), "holds no weights by name, .*: it is empty"),
    "a tensor": (saved(torch.ones(2)), "holds no weights by name"),
    "two states": (
        saved({"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}}),
        r"several entries \(state_dict, model\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTS)
def test_an_object_that_is_none_of_weights_is_refused(case: str, tmp_path: Path) -> None:
    data, message = OBJECTS[case]
    (tmp_path / "x.bin").write_bytes(data)
    refused(tmp_path / "x.bin", message)


def refused(path: Path, message: str) -> str:
    """What the one line says."""
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable(), caught.value
    assert len(str(caught.value)) < 700
    return str(caught.value)


SPARSE = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2,), check_invariants=True)
V3 = b"ctorch._utils\n_rebuild_tensor_v3\n"
BYTES = b"ctorch.storage\nUntypedStorage\n"
TENSORS: dict[str, tuple[bytes, str]] = {
    "sparse": (saved({"w": SPARSE}), "w: is sparse; only dense tensors"),
    "meta": (saved({"w": torch.ones(2, device="meta")}), "w: is meta"),
    "complex": (saved({"w": torch.ones(2, dtype=torch.complex64)}), "w: is complex"),
    "conjugated": (saved({"w": torch.ones(2, dtype=torch.complex64).conj()}), "w: is complex|lazy"),
    "nested": (saved({"w": torch.ones(2), "n": 5}), "n: is no tensor, but a value of type int"),
    "another float8": (saved({"w": torch.ones(2).to(torch.float8_e4m3fnuz)}), "w: is float8_e4m3fnuz"),
    "a text": (saved({"w": torch.ones(2), "t": "x"}), "t: is no tensor, but a value of type str"),
    "a name that is a number": (saved({"w": torch.ones(2), 5: torch.ones(2)}), "5: the name of a tensor is a number"),
    "control in a name": (saved({"w\x1b[31m": torch.ones(2)}), "the name of a tensor holds control characters"),
    "half a surrogate": (
        with_object(state(b"X\x03\x00\x00\x00\xed\xa0\x80", tensor()), _0=VALUES), "control characters"),
    "no record": (of(tensor(key="1")), "w: the record data/1 of its values is not in the file"),
    "a record elsewhere": (of(tensor(key="../../../etc/passwd")), "is not in the file"),
    "a short record": (
        of(tensor(), _0=VALUES[:8]), r"w: F32 of shape \(3,\): has a record of 8 bytes, the object says 12"),
    "a long record": (of(tensor(), _0=VALUES * 2), "has a record of 24 bytes, the object says 12"),
    "a count of 2^62": (of(tensor(count=LONG)), "the object says 18446744073709551616"),
    "a negative count": (of(tensor(count=number(-1))), "a storage is not described"),
    "true for a count": (of(tensor(count=b"\x88")), "a storage is not described"),
    "a shape past the end": (of(tensor(shape=b"K\x04\x85")), r"needs 16 bytes of its record, which has 12"),
    "an offset past the end": (of(tensor(offset=b"K\x01")), "needs 16 bytes of its record"),
    "an offset of 2^62": (of(tensor(offset=LONG)), "needs 18446744073709551628 bytes"),
    "a stride past the end": (of(tensor(strides=b"K\x02\x85")), "needs 20 bytes of its record"),
    "a negative stride": (of(tensor(strides=number(-1) + b"\x85")), "a tensor is not described"),
    "a negative shape": (of(tensor(shape=number(-3) + b"\x85")), "a tensor is not described"),
    "a shape of 2^64": (of(tensor(shape=number(1 << 64) + b"\x85", strides=b"K\x00\x85")), "a tensor is not described"),
    "a shape of reals": (of(tensor(shape=b"G" + struct.pack(">d", 3.0) + b"\x85")), "a tensor is not described"),
    "more sides than strides": (of(tensor(shape=b"K\x03K\x01\x86")), "not as many strides"),
    "a terabyte of one number": (
        of(tensor(shape=number(1 << 38) + b"\x85", strides=b"K\x00\x85")), "repeats its values to more"),
    "sides hidden by a zero": (
        of(tensor(shape=b"K\x00" + LONG + LONG + b"\x87", strides=b"K\x00K\x00K\x00\x87")), "is too large"),
    "rank 65": (of(tensor(shape=b"(" + b"K\x01" * 65 + b"t", strides=b"(" + b"K\x01" * 65 + b"t")), "is too large"),
    "a storage of a stranger": (of(tensor(storage=b"ctorch\nTensor\n")), "a storage is of the type torch.Tensor"),
    "no storage": (
        of(b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00K\x03\x85K\x01\x85\x89}tR"), "a tensor is not described"),
    "a dtype that is a text": (
        of(tensor(storage=BYTES, count=b"K\x0c", make=V3, rest=b"\x89}" + text("float32"))),
        "a tensor is not described"),
    "a subclass": (
        of(b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nSize\n)}tR"),
        "a subclass that is not known"),
    "a parameter of nothing": (of(b"ctorch._utils\n_rebuild_parameter\nN\x89}\x87R"), "a parameter holds no tensor"),
    "a flag": (of(tensor(rest=b"\x89}}" + text("neg") + b"\x88s")), r"w: is lazy \(neg\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_is_not_in_the_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    """From the head of the file: no value is read, nothing is taken from memory that a claim asks for."""
    data, message = TENSORS[case]
    (tmp_path / "x.bin").write_bytes(data)
    refused(tmp_path / "x.bin", message)


def test_quantised_tensors_are_refused_by_name(tmp_path: Path) -> None:
    make = b"ctorch._utils\n_rebuild_qtensor\n"
    quantised = tensor(
        make=make, storage=b"ctorch\nQInt8Storage\n", rest=b"(ctorch\nper_tensor_affine\nK\x01K\x00t\x89}"
    )
    (tmp_path / "x.bin").write_bytes(of(quantised))
    refused(tmp_path / "x.bin", "w: is quantised; only dense tensors of plain numbers are read")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2, dtype=torch.complex64), "b": "text", "c": torch.ones(2), "d": SPARSE}
    (tmp_path / "x.bin").write_bytes(saved(weights))
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.bin")
    assert [problem.where.rpartition(" ")[2] for problem in caught.value.problems] == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("_object.MAX_STEPS", "it has more than 10 steps"),
        ("_file.MAX_OBJECT", "has a record data.pkl of [0-9]+ bytes, at most 10 are read"),
        ("_archive.MAX_RECORDS", "claims 12 records in a directory of"),
        ("_archive.MAX_DIRECTORY", "claims 12 records in a directory of"),
    ],
)
def test_limits(limit: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(saved({f"w{i}": torch.ones(1) for i in range(6)}))
    assert len(read(path).tensors) == 6
    monkeypatch.setattr(f"ligo_pytorch.{limit}", 10)
    refused(path, message)


# --- archives ---------------------------------------------------------------------------------------------------------

GOOD_STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.int16), "c": torch.zeros(0)}
GOOD = saved(GOOD_STATE)
RECORDS = parts(GOOD)
PLAIN = archive(RECORDS)


def test_archives_of_other_zip_writers_are_read(tmp_path: Path) -> None:
    """The twin: the same records in an archive of Python's, whose parts the cases below change."""
    (tmp_path / "x.bin").write_bytes(PLAIN)
    assert bits(read(tmp_path / "x.bin").read("a.weight")) == bits(GOOD_STATE["a.weight"])


def end_with(data: bytes = PLAIN, **changes: int) -> bytes:
    """An archive whose last part says something else."""
    fields = ["disk", "first", "here", "count", "size", "start", "comment"]
    values = dict(zip(fields, struct.unpack("<4H2LH", data[-18:]), strict=True)) | changes
    return data[:-18] + struct.pack("<4H2LH", *values.values())


def entry_with(place: int, replacement: bytes, name: str = "archive/data/0", data: bytes = PLAIN) -> bytes:
    """An archive in whose directory an entry says something else, ``place`` bytes behind its start."""
    start = data.rindex(name.encode()) - 46 + place
    return data[:start] + replacement + data[start + len(replacement) :]


def overlapping() -> bytes:
    """Two entries that share one record's bytes."""
    first = PLAIN.rindex(b"archive/data/0") - 46
    header = struct.unpack("<L", PLAIN[first + 42 : first + 46])[0]
    return entry_with(42, struct.pack("<L", header), "archive/data/1")


def prefixed() -> bytes:
    """Ten bytes before the first record, and every offset moved: a file that could be a script as well."""
    buffer = io.BytesIO(b"#" * 10)
    with zipfile.ZipFile(buffer, "a") as made:
        for name, data in RECORDS.items():
            made.writestr(name, data)
    return buffer.getvalue()


def sixty_four(**changes: int) -> bytes:
    """torch's archive, whose wide end says something else."""
    fields = ["size", "made", "needed", "disk", "first", "here", "count", "bytes", "start"]
    place = len(GOOD) - 22 - 20 - 56
    values = dict(zip(fields, struct.unpack("<Q2H2L4Q", GOOD[place + 4 : place + 56]), strict=True)) | changes
    return GOOD[: place + 4] + struct.pack("<Q2H2L4Q", *values.values()) + GOOD[place + 56 :]


def renamed(old: str, new: str) -> bytes:
    return archive({name.replace(old, new): data for name, data in RECORDS.items()})


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no archive of torch.save; save it anew"),
    "text": (b"{}" * 100, "is no archive of torch.save"),
    "bytes after the end": (GOOD + b"\0", "is no whole archive of torch.save: it is cut off, or bytes follow its end"),
    "a comment": (end_with(comment=1) + b"x", "is no whole archive"),
    "a comment of nothing": (end_with(comment=5), "does not end where the file says"),
    "bytes before the start": (b"#!/bin/sh\n" + GOOD, "has a directory that"),
    "bytes before the start, offsets right": (prefixed(), "has 10 bytes that are no record before record"),
    "another disk": (end_with(disk=1), "does not end where the file says"),
    "more records than there are": (end_with(here=60_000, count=60_000), "claims 60000 records in a directory of"),
    "fewer records than there are": (end_with(here=1, count=1), "bytes in its directory that are no entry"),
    "no records": (end_with(here=0, count=0), "bytes in its directory that are no entry"),
    "a directory of 4 GiB": (end_with(size=0xFFFFFFF0), "does not end where the file says"),
    "a wide end with another count": (sixty_four(count=3, here=3), "describes its directory in two ways"),
    "a wide end with 2^63 records": (sixty_four(count=1 << 63, here=1 << 63), "describes its directory in two ways"),
    "deflated": (
        archive(RECORDS, zipfile.ZIP_DEFLATED), "has a compressed record archive/data.pkl; torch.save makes none"),
    "a bomb": (
        archive({"archive/data.pkl": b"N" * (1 << 24)}, zipfile.ZIP_DEFLATED),
        "has a compressed record archive/data.pkl"),
    "encrypted": (entry_with(8, b"\x01\x00"), "has a record archive/data/0 with flags 0x1"),
    "a size past the end": (
        entry_with(20, b"\xf0\xff\xff\x0f" * 2), "ends before record archive/data/0 does; it is cut off"),
    "a size of 64 bits that is not there": (entry_with(20, b"\xff" * 8), "of a size that it does not give"),
    "a header past the end": (entry_with(42, b"\xf0\xff\xff\x0f"), "no record before|ends before record"),
    "a header elsewhere": (entry_with(42, b"\x01\x00\x00\x00"), "an overlap|that are no record"),
    "two records in one place": (overlapping(), "an overlap before record"),
    "a hole": (entry_with(20, b"\x04\0\0\0" * 2), "bytes that are no record before"),
    "another name in the directory": (
        entry_with(46, b"archive/data/7"), "another record where its directory says archive/data/7"),
    "two of one name": (
        archive([*RECORDS.items(), ("archive/data/0", b"x")]), "two records of the name archive/data/0"),
    "two folders": (archive({**RECORDS, "other/data/0": b""}), "has no one folder with data.pkl in it"),
    "no object": (renamed("data.pkl", "data.txt"), "has no one folder with data.pkl in it"),
    "no folder": (renamed("archive/", ""), "has no one folder with data.pkl in it"),
    "TorchScript": (
        archive({**RECORDS, "archive/constants.pkl": b"", "archive/code/a.py": b""}),
        r"is a TorchScript archive \(it has code, constants.pkl\)"),
    "control in a name": (archive({**RECORDS, "archive/\x1b[31m": b""}), "name holds control characters"),
    "another byte order": (archive({**RECORDS, "archive/byteorder": b"middle"}), "has the byte order b'middle'"),
    "a byte order of a megabyte": (archive({**RECORDS, "archive/byteorder": b"m" * (1 << 20)}), "at most 16 are read"),
    "safetensors": ((8).to_bytes(8, "little") + b"{}      ", "is no archive of torch.save"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_can_be_read_in_two_ways_is_refused(case: str, tmp_path: Path) -> None:
    data, message = ARCHIVES[case]
    (tmp_path / "x.bin").write_bytes(data)
    refused(tmp_path / "x.bin", message)


def refused_or_same(path: Path) -> bool:
    """Whether a file is refused; if it is not, it gives what the good one gives, bit for bit."""
    try:
        checkpoint = read(path)
        found = {name: checkpoint.read(name) for name in checkpoint.tensors}
    except InputError as error:
        lines = str(error)
    else:
        lines = ""
    if lines:
        assert lines.isprintable()
        return True
    assert {name: (value.shape, bits(value)) for name, value in found.items()} == {
        name: (tuple(value.shape), bits(value)) for name, value in GOOD_STATE.items()
    }
    return False


@pytest.mark.parametrize("data", [GOOD, PLAIN], ids=["torch", "zipfile"])
def test_a_file_cut_at_any_byte_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(InputError):
            read(path)


@pytest.mark.parametrize("data", [GOOD, PLAIN], ids=["torch", "zipfile"])
def test_a_flipped_bit_anywhere_is_refused_or_does_nothing(data: bytes, tmp_path: Path) -> None:
    """Heads, directory, object, values; only what no reader looks at (padding, dates) may change."""
    path, rng = tmp_path / "x.bin", random.Random(0)
    refusals = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        refusals += refused_or_same(path)
    assert refusals > len(data) // 4


def test_every_bit_of_values_and_object_is_held_to_the_checksum(tmp_path: Path) -> None:
    """A flip in a record that is used never goes by, in whole records and in views of them."""
    base = torch.arange(8.0)
    data = saved({"whole": torch.arange(3.0), "view": base[2:4], "other": base[::3]})
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    records = StateFile(path)._records
    assert {"data/0", "data/1", "data.pkl", "byteorder"} <= records.keys()
    for name in ("data/0", "data/1", "data.pkl", "byteorder"):
        for place in range(records[name].offset, records[name].offset + records[name].size):
            damaged = bytearray(data)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=f"is damaged: the record {name} does not have its checksum"):  # noqa: PT012
                checkpoint = read(path)
                for tensor_name in ("whole", "view", "other"):
                    checkpoint.read(tensor_name)


SOURCE = RECORDS["archive/data.pkl"]
CODES = b"}](.Q)R\x85\x86\x87h\x00q\x01K\x02tuseabNc\x93\x81X"


@given(st.lists(st.tuples(st.integers(0, len(SOURCE) - 1), st.sampled_from(CODES) | st.integers(0, 255)), max_size=3))
def test_a_changed_object_never_crashes_and_reads_as_torch_reads_it(changes: list[tuple[int, int]]) -> None:
    """Nothing but a refusal comes out; where torch's restricted loader takes the file too, the values are the same."""
    mutant = bytearray(SOURCE)
    for place, value in changes:
        mutant[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.bin")
        path.write_bytes(archive({**RECORDS, "archive/data.pkl": bytes(mutant)}))
        try:
            checkpoint = read(path)
            found = {name: checkpoint.read(name) for name in checkpoint.tensors}
        except InputError:
            return
        try:
            theirs = torch.load(path, weights_only=True, map_location="cpu")
        except Exception:  # of any kind: a device of no name, a hook that is none
            return
        assert {name: bits(value) for name, value in found.items()} == {
            name: bits(value) for name, value in theirs.items() if isinstance(value, torch.Tensor)
        }


@given(st.binary(max_size=300), st.integers(0, len(GOOD)))
def test_anything_is_refused_in_one_line(junk: bytes, place: int) -> None:
    """Bytes of any kind, alone or over the end of a good file."""
    with tempfile.TemporaryDirectory() as folder:
        for data in (junk, GOOD[:place] + junk, GOOD[:place] + junk + GOOD[place + len(junk) :]):
            path = Path(folder, "x.bin")
            path.write_bytes(data)
            refused_or_same(path)


# --- by the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "apply", "grow"])
def test_the_command_refuses_a_model_that_would_run_code(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory with nothing but a hostile ``pytorch_model.bin``: exit 3, one line, nothing run, nothing written."""
    monkeypatch.chdir(tmp_path)
    weights = handmade(tmp_path / "small", "gpt2") / "model.safetensors"
    weights.unlink()
    (tmp_path / "small" / "pytorch_model.bin").write_bytes(RUNS["a call among weights"][0])
    plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    before = tree(tmp_path)
    with converter_at_hand():
        assert run([command, "plan.yaml"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        rf"error: small/pytorch_model\.bin: .* would import {POSIX}; convert it .* in a sandbox.*\n", err
    )
    assert tree(tmp_path) == before


# --- what is not a file, and what changes -----------------------------------------------------------------------------


def test_pipes_directories_and_nothing_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(InputError, match="is a pipe"):
            read(path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"no pytorch_model\.bin and no pytorch_model\.bin\.index\.json in it"):
        read(tmp_path)


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
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(GOOD)
    checkpoint = read(tmp_path)
    checkpoint.read("b")
    checkpoint.check_unchanged()
    change(path)
    with pytest.raises(InputError, match=r"changed during the run|is gone now|cannot be opened"):
        checkpoint.read("b")
    with pytest.raises(InputError, match=r"changed during the run|is gone now"):
        checkpoint.check_unchanged()


def test_an_index_is_held_to_the_shards(tmp_path: Path) -> None:
    """What the shared reader checks of every format, here once: strangers' paths, missing tensors."""
    for name, weights in (("a.bin", {"a": torch.ones(1)}), ("b.bin", {"b": torch.ones(2)})):
        torch.save(weights, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "a.bin", "b": "b.bin"}}')
    assert {name: read(tmp_path).read(name).size for name in "ab"} == {"a": 1, "b": 2}
    index.write_text('{"weight_map": {"a": "a.bin", "b": "../b.bin"}}')
    refused(tmp_path, r"'\.\./b\.bin' is not a plain file name")
    index.write_text('{"weight_map": {"a": "a.bin", "b": "a.bin"}}')
    with pytest.raises(InputError, match=r"b: is not in a\.bin"):
        read(tmp_path)
