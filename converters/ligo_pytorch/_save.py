"""Files of ``torch.save``, written as a stream: the archive is made with gaps, which are filled in order."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ligo_pytorch._tensors import DTYPE_NAMES
from ligo_spec.checkpoint import DTYPES
from ligo_spec.errors import LigoError

TORCH_DTYPES: dict[np.dtype[Any], torch.dtype] = {
    DTYPES[name]: getattr(torch, known) for known, name in DTYPE_NAMES.items()
}
"""NumPy dtypes, and the dtype of torch that holds the same bits."""


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
    sized = [number for number, tensor in enumerate(skeleton.tensors) if tensor.numel()]
    last = gaps[-1] if gaps else -1
    tail = b"".join(piece for piece in pieces.parts[last + 1 :] if isinstance(piece, bytes))
    empty = set(range(len(skeleton.tensors))).difference(sized)
    order = [number for number in _order_of_records(tail) if number not in empty]
    if sorted(order) != sized or len(order) != len(gaps):
        raise LigoError(_UNKNOWN)
    for number in empty:
        skeleton.makers[number]()  # no bytes, but whoever makes them is asked once for each
    checksums: dict[int, int] = {}
    places = iter(order)
    for number, piece in enumerate(pieces.parts[: last + 1]):
        if isinstance(piece, int):
            tensor = next(places)
            data = np.ascontiguousarray(skeleton.makers[tensor]()).reshape(-1).view(np.uint8).data
            assert data.nbytes == piece, (tensor, data.nbytes, piece)
            checksums[tensor] = zlib.crc32(data)
            yield data
            del data  # or it would still be there when the next one is made
        elif number and isinstance(pieces.parts[number - 1], int):
            yield _described(piece, checksums[tensor])
        else:
            yield piece
    yield _with_checksums(_described(tail, checksums[tensor]), checksums) if gaps else tail


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


_UNKNOWN = "torch.save lays its archives out in another way than this version knows"
_DESCRIPTOR = b"PK\x07\x08"
_ENTRY = b"PK\x01\x02"


def _described(piece: bytes, checksum: int) -> bytes:
    """The piece after a gap begins with a description of the record; its checksum is put right."""
    if piece[:4] != _DESCRIPTOR:
        raise LigoError(_UNKNOWN)
    return piece[:4] + struct.pack("<I", checksum) + piece[8:]


def _directory(tail: bytes) -> Iterator[tuple[int, str]]:
    """The entries of an archive's directory: where each begins, and its name."""
    place = tail.find(_ENTRY)
    while place >= 0 and tail[place : place + 4] == _ENTRY:
        name, extra, comment = struct.unpack("<HHH", tail[place + 28 : place + 34])
        yield place, tail[place + 46 : place + 46 + name].decode("utf-8")
        place += 46 + name + extra + comment


def _order_of_records(tail: bytes) -> list[int]:
    """The numbers of the tensors, in the order in which the archive has them."""
    return [int(name.rpartition("/data/")[2]) for _, name in _directory(tail) if "/data/" in name]


def _with_checksums(tail: bytes, checksums: dict[int, int]) -> bytes:
    whole = bytearray(tail)
    for place, name in _directory(tail):
        checksum = checksums.get(int(name.rpartition("/data/")[2])) if "/data/" in name else None
        if checksum is not None:  # records of no bytes have none, and are right as they are
            whole[place + 16 : place + 20] = struct.pack("<I", checksum)
    return bytes(whole)
