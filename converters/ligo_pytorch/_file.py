"""One file of ``torch.save``: its object at once, the values of its tensors one at a time."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_pytorch._archive import Record, read_directory
from ligo_pytorch._object import MAX_OBJECT, ForeignNameError, read_object
from ligo_pytorch._tensors import StoredTensor
from ligo_spec.checkpoint import DTYPES
from ligo_spec.errors import printable
from ligo_spec.inputs import CHUNK, InputFile, open_input, refusal, require_unchanged

_MAX_RANK = 64  # of NumPy
_MAX_BYTES = 1 << 50
_ORDERS = {b"little": "little", b"big": "big"}


class StateFile:
    """An object of ``torch.save``, its tensors described; their values come when they are asked for.

    Args:
        path: The file.

    Attributes:
        path: The file.
        identity: What tells it from itself after a change.
        value: The object: plain values, and a ``StoredTensor`` or ``OtherTensor`` for every tensor.

    Raises:
        InputError: It is no archive of ``torch.save``, is damaged, or holds more than tensors and plain values.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_input(path) as file:
            self.identity = file.identity
            self._records = read_directory(file)
            self._is_swapped = self._order(file) == "big"
            self.value = self._object(file)
        self._whole: set[str] = set()

    def _order(self, file: InputFile) -> str:
        if "byteorder" not in self._records:
            return "little"
        order = self._small(file, "byteorder", 16)
        if order not in _ORDERS:
            raise refusal(self.path, f"has the byte order {printable(order, 20)}, which is neither little nor big")
        return _ORDERS[order]

    def _object(self, file: InputFile) -> Any:
        data = self._small(file, "data.pkl", MAX_OBJECT)
        try:
            return read_object(data)
        except ForeignNameError as error:
            message = f"holds more than tensors and plain values: it would import {printable(error, 400)}; convert it "
            raise refusal(self.path, message + "to safetensors in a sandbox, where it can do no harm") from error
        except ValueError as error:
            message = f"holds more than tensors and plain values, or is damaged: {printable(error)}"
            raise refusal(self.path, message) from error

    def _small(self, file: InputFile, name: str, limit: int) -> bytes:
        record = self._records[name]
        if record.size > limit:
            raise refusal(self.path, f"has a record {name} of {record.size} bytes, at most {limit} are read")
        data = file.read(record.offset, record.size)
        self._compare(name, zlib.crc32(data))
        return data

    def fault(self, tensor: StoredTensor) -> str | None:
        """What is wrong with what the object says of a tensor, held against the file; None if nothing is."""
        record = self._records.get(tensor.record)
        form = f"{tensor.dtype} of shape {printable(tensor.shape)}"
        if record is None:
            return f"the record {printable(tensor.record)} of its values is not in the file"
        if record.size != tensor.size:
            return f"{form}: has a record of {record.size} bytes, the object says {tensor.size}; it is cut off"
        # Without the zeros: a side of 0 must not hide sides whose product NumPy cannot hold.
        if len(tensor.shape) > _MAX_RANK or math.prod(side for side in tensor.shape if side) >= _MAX_BYTES:
            return f"{form} is too large"
        end = (tensor.offset + tensor.span) * DTYPES[tensor.dtype].itemsize
        if tensor.span and end > record.size:
            return f"{form}: needs {end} bytes of its record, which has {record.size}"
        # Strides of 0 repeat values: a few bytes may say that they are any number of them.
        if tensor.nbytes > self.identity.size:
            return f"{form}: repeats its values to more bytes than the file has; save it contiguous()"
        return None

    def read(self, tensor: StoredTensor) -> npt.NDArray[Any]:
        """The values of a tensor of ``value``, C-contiguous.

        Raises:
            InputError: The file changed, the record is damaged, or does not hold the tensor.
        """
        fault = self.fault(tensor)
        if fault is not None:
            raise refusal(self.path, fault)
        kind = DTYPES[tensor.dtype]
        values = np.empty(tensor.shape, dtype=kind)
        if not values.size:
            return values
        record = self._records[tensor.record]
        # Opened anew each time: a checkpoint may have more shards than a process may have open files.
        with open_input(self.path) as file:
            if file.identity != self.identity:
                require_unchanged(self.path, self.identity)
            if tensor.is_whole:
                data = values.reshape(-1).view(np.uint8).data
                file.read_into(record.offset, data)
                self._compare(tensor.record, zlib.crc32(data))
            else:
                self._require_whole(file, tensor.record, record)
                start = record.offset + tensor.offset * kind.itemsize
                _gather(file, start, tensor.strides, _words(values))
        if self._is_swapped:
            _words(values).byteswap(inplace=True)
        return values

    def _require_whole(self, file: InputFile, name: str, record: Record) -> None:
        """Compare a record of which parts are read with its checksum: once, however many tensors share it."""
        if name in self._whole:
            return
        checksum = 0
        for offset in range(0, record.size, CHUNK):
            checksum = zlib.crc32(file.read(record.offset + offset, min(CHUNK, record.size - offset)), checksum)
        self._compare(name, checksum)
        self._whole.add(name)

    def _compare(self, name: str, checksum: int) -> None:
        if checksum != self._records[name].checksum:
            raise refusal(
                self.path, f"is damaged: the record {printable(name)} does not have its checksum; copy it again"
            )

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened.

        Raises:
            InputError: It is gone, was replaced, or changed its size or time.
        """
        require_unchanged(self.path, self.identity)


def _words(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as unsigned numbers: NumPy moves these, where it does not know a dtype of eight or 16 bits."""
    return values.view(f"u{values.dtype.itemsize}")


def _gather(file: InputFile, start: int, strides: tuple[int, ...], values: npt.NDArray[Any]) -> None:
    """Fill ``values`` with a view: in one piece where that takes no more memory than they do, or else in halves."""
    item = values.dtype.itemsize
    reach = [(side - 1) * step for side, step in zip(values.shape, strides, strict=True)]
    size = (1 + sum(reach)) * item
    if size <= max(CHUNK, values.nbytes):
        data = np.empty(size, dtype=np.uint8)
        file.read_into(start, data.data)
        steps = tuple(step * item for step in strides)
        values[...] = np.lib.stride_tricks.as_strided(data.view(values.dtype), values.shape, steps)
        return
    axis = reach.index(max(reach))
    half = values.shape[axis] // 2
    first, second = np.split(values, [half], axis=axis)
    _gather(file, start, strides, first)
    _gather(file, start + half * strides[axis] * item, strides, second)
