"""The strict header parser: nothing in a header is used before it was held against the size of the file.

Format: 8 bytes of little-endian header length, the header (JSON, padded with spaces), the values. An entry is
``"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import InputFile, has_control, parse_json, refusal

MAX_HEADER = 100_000_000
"""Bytes of the largest header; the limit of the safetensors library."""

METADATA = "__metadata__"
"""The key of a header that is no tensor."""

_MAX_SIDE = 1 << 48
_MAX_BYTES = 1 << 50
_MAX_RANK = 64  # of NumPy
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, and the byte of the file where its values begin."""

    info: TensorInfo
    offset: int


@dataclass(frozen=True)
class Header:
    """What the header of a file says: free text, and the tensors."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def read_header(file: InputFile) -> Header:
    """Read and check the header of an open file.

    Raises:
        InputError: The header is cut off, malformed, or does not describe exactly the bytes of the file.
    """
    length = _header_length(file)
    text = _header_text(file, length)
    header = parse_json(text, printable(file.path), max_depth=4)
    if not isinstance(header, dict):
        raise refusal(file.path, "the header is not a JSON object")
    metadata = _metadata(header.pop(METADATA, {}), file)
    spans = [_span(name, entry, file) for name, entry in header.items()]
    _require_seamless(spans, file.size - 8 - length, file)
    return Header(metadata, {info.name: Entry(info, 8 + length + begin) for info, begin, _ in spans})


def _header_length(file: InputFile) -> int:
    if file.size < 8:
        raise refusal(file.path, f"has {file.size} bytes, a safetensors file has at least 8")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        raise refusal(file.path, f"claims a header of {length} bytes, at most {MAX_HEADER} are read")
    if length > file.size - 8:
        raise refusal(file.path, f"has {file.size} bytes, its header alone needs {8 + length}; the file is cut off")
    return length


def _header_text(file: InputFile, length: int) -> str:
    data = file.read(8, length)
    # The format says so, and it keeps a file from being read as something else as well.
    if not data.startswith(b"{"):
        raise refusal(file.path, "the header does not begin with '{'; not a safetensors file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(file.path, f"the header is not UTF-8: {error.reason} at byte {8 + error.start}") from error


def _metadata(value: Any, file: InputFile) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise refusal(file.path, f"{METADATA} is not an object of strings")
    return value


def _span(name: str, entry: Any, file: InputFile) -> tuple[TensorInfo, int, int]:
    """One entry, checked by itself: header, begin and end of its values."""

    def refused(message: str) -> InputError:
        return InputError(Problem(f"{printable(file.path)}: {printable(name)}", message))

    if has_control(name):
        raise refused("the name of a tensor holds control characters")
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise refused("an entry has the keys dtype, shape and data_offsets, and no others")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refused(f"dtype {printable(dtype, 40)} is not one of {', '.join(DTYPES)}")
    if not _are_sizes(shape, _MAX_SIDE) or len(shape) > _MAX_RANK:
        raise refused(f"shape {printable(shape)} is not a list of at most {_MAX_RANK} sizes below 2^48")
    if not _are_sizes(offsets, _MAX_BYTES) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refused(f"data_offsets {printable(offsets)} is not a begin and an end")
    # Without the zeros: a side of 0 must not hide sides whose product NumPy cannot hold.
    if math.prod(side for side in shape if side) >= _MAX_BYTES:
        raise refused(f"shape {printable(shape)} is too large")
    info = TensorInfo(name, dtype, tuple(shape))
    begin, end = offsets
    if info.nbytes != end - begin:
        raise refused(
            f"{dtype} of shape {printable(shape)} needs {info.nbytes} bytes, data_offsets gives {end - begin}"
        )
    return info, begin, end


def _are_sizes(value: Any, limit: int) -> bool:
    # type(), not isinstance(): true and false are ints to Python.
    return isinstance(value, list) and all(type(side) is int and 0 <= side < limit for side in value)


def _require_seamless(spans: list[tuple[TensorInfo, int, int]], size: int, file: InputFile) -> None:
    """The values follow one another without hole or overlap, up to the last byte of the file."""
    reached = 0
    for info, begin, end in sorted(spans, key=lambda span: span[1:]):
        if begin != reached:
            kind = "a hole before it" if begin > reached else "an overlap with another tensor"
            message = f"its values begin at byte {begin}, the ones before end at {reached}: {kind}"
            raise InputError(Problem(f"{printable(file.path)}: {printable(info.name)}", message))
        reached = end
    if reached != size:
        cut = "cut off" if reached > size else "longer than that"
        raise refusal(file.path, f"has {size} bytes of values, its header says {reached}; the file is {cut}")
