"""Arrays in files of others: nothing is unpickled or mapped, and no size is believed that the file does not have.

Rows are read when they are asked for, so a file may be larger than memory.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ligo_spec.errors import InputError, printable
from ligo_spec.inputs import Identity, open_input, refusal

Array = npt.NDArray[Any]

HEADER = 2**16
"""Bytes of a file that are looked at for its header."""

MAX_WHOLE = 8 * 2**30
"""Bytes of an array that is read into memory at once."""

MAX_GROWTH = 100
"""What is packed may be so many times as long unpacked."""

NUMBERS = "iufb"
"""Kinds of dtype that are plain numbers."""


@dataclass(frozen=True)
class ArrayFile:
    """An array on the disk, in row-major order.

    Args:
        path: The file.
        shape: Rows first.
        dtype: Of plain numbers.
        offset: Bytes before the first value.
        identity: What the file was when its header was read.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    identity: Identity

    def __len__(self) -> int:
        return self.shape[0]

    def runs(self, starts: npt.NDArray[np.integer[Any]], length: int) -> Array:
        """``length`` consecutive rows from each of ``starts``: ``(len(starts), length, ...)``.

        Raises:
            InputError: The file changed since its header was read.
        """
        found = np.empty((len(starts), length, *self.shape[1:]), self.dtype)
        row = prod(self.shape[1:]) * self.dtype.itemsize
        with open_input(self.path) as file:
            if file.identity != self.identity:
                raise refusal(self.path, "changed since it was opened; run again")
            for start, run in zip(starts.tolist(), found, strict=True):
                file.read_into(self.offset + start * row, memoryview(run.reshape(-1).view(np.uint8)))
        return found

    def rows(self, places: npt.NDArray[np.integer[Any]]) -> Array:
        """Those rows; raises as ``runs`` does."""
        return self.runs(places, 1)[:, 0]

    def whole(self) -> Array:
        """The array in memory.

        Raises:
            InputError: It is larger than ``MAX_WHOLE`` bytes, or the file changed.
        """
        if prod(self.shape) * self.dtype.itemsize > MAX_WHOLE:
            raise refusal(self.path, f"has an array of shape {self.shape}, at most {MAX_WHOLE} bytes are read at once")
        found: Array = self.runs(np.zeros(1, np.int64), len(self))[0]
        return found


def open_npy(path: Path) -> ArrayFile:
    """An ``.npy``; its header alone is read.

    Raises:
        InputError: The file is refused, is cut off, or holds no plain numbers in row-major order.
    """
    with open_input(path) as file:
        start = file.read(0, min(file.size, HEADER))
        try:
            shape, turned, dtype, offset = _header(io.BytesIO(start))
        except ValueError as error:
            raise refusal(path, f"is no .npy file of numbers: {printable(error)}") from error
        if not shape:
            raise refusal(path, "is one number, not an array")
        if turned and len(shape) > 1:
            raise refusal(path, "is in Fortran's order; save numpy.ascontiguousarray of it")
        needed = offset + prod(shape) * dtype.itemsize
        if needed > file.size:
            raise refusal(path, f"has {file.size} bytes, its array of shape {shape} needs {needed}; it is cut off")
        return ArrayFile(path, shape, dtype, offset, file.identity)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Those arrays of an ``.npz``, in memory.

    Raises:
        InputError: The file is refused or damaged, lacks one of them, or one is too large or holds no plain numbers.
    """
    open_input(path).close()  # a regular file, and one that may be read
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            absent = [name for name in names if f"{name}.npy" not in members]
            if absent:
                raise refusal(path, f"has no array {' and no array '.join(absent)}")
            return {name: _member(archive, name) for name in names}
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise refusal(path, f"is no .npz file of numbers: {printable(error)}") from error


def _member(archive: zipfile.ZipFile, name: str) -> Array:
    """One array, whose header is believed only as far as the archive says the same of its size."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        shape, _, dtype, offset = _header(file)
        if offset + prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"array {name} of shape {shape} does not fill its {info.file_size} bytes")
        if info.file_size > MAX_WHOLE:
            raise ValueError(f"array {name} has {info.file_size} bytes, at most {MAX_WHOLE} are read; save it as .npy")
    if info.file_size > MAX_GROWTH * info.compress_size + HEADER:
        raise ValueError(
            f"array {name} would grow from {info.compress_size} to {info.file_size} bytes; save it as .npy"
        )
    with archive.open(info) as file:
        read: Array = npy.read_array(file, allow_pickle=False)
        return read


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and how many bytes come before the values.

    Raises:
        ValueError: It is none, or is of a dtype that is no plain number.
    """
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format version {version[0]}.{version[1]} is not known")
    shape, turned, dtype = read(file)
    if dtype.kind not in NUMBERS:
        raise ValueError(f"dtype {dtype} is no plain number")
    return shape, turned, dtype, file.tell()
