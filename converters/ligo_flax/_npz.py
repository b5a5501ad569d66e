"""npz files: flat archives of ``.npy`` files, whose names are the paths of a tree.

Format: ``numpy.lib.format`` (NEP 1). Its header is text of Python; here it is matched, never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_flax._leaf import MAX_LEAVES, SEPARATOR, Leaf, dtype_of, size_of, wrong_key, wrong_path
from ligo_flax._zip import Member, content, read_directory
from ligo_spec.checkpoint import DTYPES
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import InputFile, refusal

_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # by version: bytes of the header's length
_MAX_HEADER = 10_000  # NumPy's own limit
_HEADER = re.compile(
    r"\{'descr': '(?P<order>[<>|=])(?P<kind>[biufV])(?P<width>[0-9]{1,2})', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>|[0-9]+,|[0-9]+(?:, [0-9]+)+)\), ?\} *\n"
)
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float"}


@dataclass(frozen=True)
class Stored:
    """An array of an archive.

    Args:
        dtype: As safetensors spells it.
        shape: Of the array.
        member: Where it lies.
        header: Bytes before the values.
        fortran: Whether the first dimension runs fastest.
        big: Whether values begin with their most significant byte.
    """

    dtype: str
    shape: tuple[int, ...]
    member: Member
    header: int
    fortran: bool
    big: bool

    def read(self, file: InputFile, /) -> npt.NDArray[Any]:
        """The values.

        Raises:
            InputError: The member is damaged.
        """
        data = np.empty(self.member.size, dtype=np.uint8)
        done = 0
        for piece in content(file, self.member):
            data[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        dtype = DTYPES[self.dtype]
        words = data[self.header :].view(f"{'>' if self.big else '<'}u{dtype.itemsize}")
        array = words.astype(f"u{dtype.itemsize}", copy=False).view(dtype)
        return array.reshape(self.shape[::-1]).T if self.fortran else array.reshape(self.shape)


def read_archive(file: InputFile) -> dict[str, Leaf]:
    """The arrays of an open npz file, by path.

    Raises:
        InputError: The file is no archive of arrays that tensors can be. All wrong members at once.
    """
    members = read_directory(file)
    if len(members) > MAX_LEAVES:
        raise refusal(file.path, f"has {len(members)} arrays, at most {MAX_LEAVES} are read")
    found: dict[str, Leaf] = {}
    problems: list[Problem] = []
    for member in members:
        leaf = _leaf(file, member)
        if isinstance(leaf, Stored):
            found[member.name.removesuffix(_SUFFIX)] = leaf
        else:
            problems.append(Problem(f"{printable(file.path)}: {printable(member.name)}", leaf))
    if problems:
        raise InputError(problems)
    return found


def _leaf(file: InputFile, member: Member) -> Stored | str:
    path = member.name.removesuffix(_SUFFIX)
    if path == member.name:
        return f"is not a {_SUFFIX} file"
    wrong = wrong_path(path) or next(filter(None, map(wrong_key, path.split(SEPARATOR))), None)
    if wrong is not None:
        return wrong
    header = _header(content(file, member, step=4096))
    return header if isinstance(header, str) else _described(member, *header)


def _header(pieces: Iterator[bytes]) -> tuple[str, int] | str:
    """The text of a header, and where it ends."""
    data = b""

    def reach(length: int) -> bool:
        nonlocal data
        while len(data) < length:
            piece = next(pieces, None)
            if piece is None:
                return False
            data += piece
        return True

    if not reach(8) or data[:6] != _MAGIC or data[6:8] not in _LENGTHS:
        return "does not begin as a .npy file of version 1, 2 or 3"
    begin = 8 + _LENGTHS[data[6:8]]
    if not reach(begin):
        return "is cut off in its header"
    length = int.from_bytes(data[8:begin], "little")
    if length > _MAX_HEADER:
        return f"claims a header of {length} bytes, at most {_MAX_HEADER} are read"
    if not reach(begin + length):
        return "is cut off in its header"
    return data[begin : begin + length].decode("latin-1"), begin + length


def _described(member: Member, text: str, begin: int) -> Stored | str:
    match = _HEADER.fullmatch(text)
    if match is None:
        return f"the header is not that of a plain array of numbers: {printable(text)}"
    width = int(match["width"])
    name = f"V{width}" if match["kind"] == "V" else _KINDS[match["kind"]] + str(8 * width)
    dtype = dtype_of("bool" if name == "bool8" else name)
    if dtype is None:
        return f"dtype {name} is not one that tensors have here"
    sides = match["shape"].replace(",", " ").split()
    shape = tuple(int(side) for side in sides if len(side) < 20)
    wanted = size_of(dtype, shape) if len(shape) == len(sides) else None
    if wanted is None:
        return f"shape ({printable(match['shape'])}) is too large"
    if begin + wanted != member.size:
        return f"{dtype} of shape {printable(shape)} needs {wanted} bytes, it has {member.size - begin}"
    return Stored(dtype, shape, member, begin, match["fortran"] == "True", match["order"] == ">")
