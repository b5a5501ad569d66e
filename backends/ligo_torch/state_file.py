"""Files of ``torch.save`` without their values in memory: heads are read at once, tensors one at a time.

A file of others is hostile: it must be an archive of stored (never deflated) records that fit it, its object is read
by the restricted loader with tensors that have no memory, and each record is compared with its checksum when it is
read. Nothing is mapped. What is written streams likewise: the archive is made with gaps, which are filled in order.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ligo_spec.errors import LigoError, printable
from ligo_spec.inputs import InputFile, open_input, refusal, require_unchanged

MAX_OBJECT = 64 << 20
"""Bytes of the object itself, without its tensors: names and numbers of millions of parameters are smaller."""

MAX_RECORDS = 1 << 20

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
    torch.uint8: np.dtype(np.uint8),
    torch.bool: np.dtype(np.bool_),
}
"""Dtypes of tensors, and the NumPy dtype that holds the same bits."""

TORCH_DTYPES = {wide: narrow for narrow, wide in DTYPES.items()}


class StateFile:
    """An object of ``torch.save``, its tensors without values until they are asked for.

    Args:
        path: The file.

    Raises:
        InputError: It is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_input(path) as file:
            self.identity = file.identity
            self._records = dict(_records(file))
            self.value = _loaded(file)

    def read(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The values of a tensor of ``value``, C-contiguous.

        Raises:
            InputError: The file changed, the record is damaged or shorter than the tensor, or of an unknown dtype.
        """
        kind = DTYPES.get(tensor.dtype)
        if kind is None or tensor.layout is not torch.strided:
            raise refusal(self.path, f"holds a tensor of {tensor.dtype}, {tensor.layout}; no moment has these")
        storage = tensor.untyped_storage()
        place = getattr(storage, "_checkpoint_offset", None)
        if place not in self._records:
            raise refusal(self.path, "holds a tensor without a record of its own")
        size, checksum = self._records[place]
        sides, strides = tuple(tensor.shape), tuple(tensor.stride())
        last = tensor.storage_offset() + sum((n - 1) * step for n, step in zip(sides, strides, strict=True))
        if 0 in sides:
            return np.zeros(sides, dtype=kind)
        if size != storage.nbytes() or (last + 1) * kind.itemsize > size:
            message = f"has a record of {size} bytes for a tensor of shape {sides}, {kind}; it is cut off"
            raise refusal(self.path, message)
        with open_input(self.path) as file:
            data = file.read(place, size)
        if zlib.crc32(data) != checksum:
            raise refusal(self.path, f"is damaged: the record at byte {place} does not have its checksum")
        flat = np.frombuffer(data, dtype=kind)[tensor.storage_offset() :]
        view = np.lib.stride_tricks.as_strided(flat, sides, tuple(step * kind.itemsize for step in strides))
        return np.array(view, order="C")  # a copy with the sides of the tensor, also where it has none

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened.

        Raises:
            InputError: It changed.
        """
        require_unchanged(self.path, self.identity)


def _records(file: InputFile) -> Iterator[tuple[int, tuple[int, int]]]:
    """Where the bytes of every record are: offset, size and checksum."""
    try:
        with zipfile.ZipFile(_Readable(file)) as archive:
            entries = archive.infolist()
    except Exception as error:  # of many kinds, and none says more than this
        raise refusal(
            file.path, f"is no archive of torch.save ({printable(error)}); save it anew with torch 1.6 or later"
        ) from error
    if len(entries) > MAX_RECORDS or len({entry.filename for entry in entries}) != len(entries):
        raise refusal(file.path, "has too many records, or two of one name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise refusal(file.path, f"has a compressed record {printable(entry.filename)}; torch.save makes none")
        if entry.filename.endswith(".pkl") and entry.file_size > MAX_OBJECT:
            raise refusal(file.path, f"has an object of {entry.file_size} bytes, at most {MAX_OBJECT} are read")
        head = file.read(entry.header_offset, 30)
        names = struct.unpack("<HH", head[26:30])
        start = entry.header_offset + 30 + sum(names)
        if start + entry.file_size > file.size:
            raise refusal(file.path, f"ends before record {printable(entry.filename)} does; it is cut off")
        yield start, (entry.file_size, entry.CRC)


def _loaded(file: InputFile) -> Any:
    try:
        with FakeTensorMode():
            return torch.load(_Readable(file), map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    except Exception as error:  # the restricted loader refuses in many ways
        line = printable(str(error).strip().split("\n")[0])
        raise refusal(file.path, f"holds more than tensors and plain values, or is damaged: {line}") from error


class _Readable(io.RawIOBase):
    """An input as a file object, for libraries that want one."""

    def __init__(self, file: InputFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("a place before the start")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(view.nbytes, self._file.size - self._place))
        self._file.read_into(self._place, view[:count])
        self._place += count
        return count


# --- writing ----------------------------------------------------------------------------------------------------------


class Skeleton:
    """Tensors that have a shape and a dtype but no values, in the order in which they are saved."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode()
        self.tensors: list[Tensor] = []
        self.makers: list[Callable[[], npt.NDArray[Any]]] = []

    def tensor(self, shape: Sequence[int], dtype: np.dtype[Any], make: Callable[[], npt.NDArray[Any]]) -> Tensor:
        """A place for a tensor whose values ``make`` gives when it is written."""
        with self._mode:
            empty = torch.empty(tuple(shape), dtype=TORCH_DTYPES[dtype])
        self.tensors.append(empty)
        self.makers.append(make)
        return empty

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)


def saved(value: Any, skeleton: Skeleton) -> Iterator[bytes | memoryview]:
    """The file that ``torch.save`` makes of an object, piece by piece.

    Args:
        value: Plain values, and all tensors of the skeleton in the order in which they were made.
        skeleton: Gives their values; one tensor is in memory at a time.
    """
    pieces = _Pieces()
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(value, pieces)  # type: ignore[arg-type]
    gaps = [number for number, piece in enumerate(pieces.parts) if isinstance(piece, int)]
    tail = b"".join(piece for piece in pieces.parts[gaps[-1] + 1 :] if isinstance(piece, bytes)) if gaps else b""
    order = [int(name.rpartition("/data/")[2]) for _, name in _directory(tail) if "/data/" in name]
    if sorted(order) != list(range(len(skeleton.tensors))) or len(order) != len(gaps):
        raise LigoError("torch.save lays its archives out in another way than this version knows")
    checksums: dict[int, int] = {}
    places = iter(order)
    last = gaps[-1] if gaps else -1
    for number, piece in enumerate(pieces.parts[: last + 1]):
        if isinstance(piece, int):
            tensor = next(places)
            data = np.ascontiguousarray(skeleton.makers[tensor]()).reshape(-1).view(np.uint8).data
            assert data.nbytes == piece, (tensor, data.nbytes, piece)
            checksums[tensor] = zlib.crc32(data)
            yield data
        elif number and isinstance(pieces.parts[number - 1], int):
            yield _described(piece, checksums[tensor])
        else:
            yield piece
    if not gaps:
        yield from (piece for piece in pieces.parts if isinstance(piece, bytes))
        return
    yield _with_checksums(_described(tail, checksums[tensor]), checksums)


class _Pieces:
    """What is written to it: bytes, and gaps (their sizes) where there are no values."""

    def __init__(self) -> None:
        self.parts: list[bytes | int] = []

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def seek(self, count: int, whence: int) -> None:
        assert whence == io.SEEK_CUR
        self.parts.append(count)

    def flush(self) -> None:
        pass


_DESCRIPTOR = b"PK\x07\x08"
_ENTRY = b"PK\x01\x02"


def _described(piece: bytes, checksum: int) -> bytes:
    """The piece after a gap begins with a description of the record; its checksum is put right."""
    if piece[:4] != _DESCRIPTOR:
        raise LigoError("torch.save lays its archives out in another way than this version knows")
    return piece[:4] + struct.pack("<I", checksum) + piece[8:]


def _directory(tail: bytes) -> Iterator[tuple[int, str]]:
    """The entries of an archive's directory: where each begins, and its name."""
    place = tail.find(_ENTRY)
    while place >= 0 and tail[place : place + 4] == _ENTRY:
        name, extra, comment = struct.unpack("<HHH", tail[place + 28 : place + 34])
        yield place, tail[place + 46 : place + 46 + name].decode("utf-8")
        place += 46 + name + extra + comment


def _with_checksums(tail: bytes, checksums: dict[int, int]) -> bytes:
    whole = bytearray(tail)
    for place, name in _directory(tail):
        if "/data/" in name:
            whole[place + 16 : place + 20] = struct.pack("<I", checksums[int(name.rpartition("/data/")[2])])
    return bytes(whole)
