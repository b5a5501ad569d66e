"""Tensors of a file: dtype, shape, and where their values lie; read one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_onnx._external import External, parse
from ligo_onnx._messages import MAX_TEXT, text
from ligo_onnx._wire import Span, Wire
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import InputFile, has_control

_MAX_SIDE = 1 << 48
_MAX_BYTES = 1 << 50
_MAX_RANK = 64

ONNX_DTYPES = {1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64"} | {
    12: "U32", 13: "U64", 16: "BF16", 17: "F8_E4M3", 19: "F8_E5M2"
}  # fmt: skip
"""``TensorProto.DataType`` as safetensors spells it. No strings, no complex numbers, nothing of less than a byte."""

_TYPED = {"F32": "float_data", "F64": "double_data", "I64": "int64_data", "U32": "uint64_data", "U64": "uint64_data"}
"""The field that holds values which are not raw; ``int32_data`` for all other dtypes."""

_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, checked against the file's size.

    Args:
        info: Name, dtype and shape.
        span: Where its values lie in the model's file; None for external data, and for values that are all zero because
            there are none.
        varints: Whether they lie there as varints, one a value.
        external: Where else they lie.
    """

    info: TensorInfo
    span: Span | None
    varints: bool = False
    external: External | None = None

    @property
    def name(self) -> str:
        """Its name in the graph."""
        return self.info.name


def stored(wire: Wire, message: dict[str, Any], name: str | None = None) -> Stored:
    """A tensor from its decoded message; its values are not read.

    Args:
        wire: The file.
        message: The fields of a ``TensorProto``.
        name: Its name, where the message has none of its own (a constant in a node).

    Raises:
        InputError: The dtype is none that holds weights, the sizes are impossible, or the values are not as many bytes
            as these need.
    """
    name = message.get("name", "") if name is None else name
    where = f"{printable(wire.file.path)}: {printable(name)}"

    def refused(text: str) -> InputError:
        return InputError(Problem(where, text))

    if not name or has_control(name):
        raise refused("the name of a tensor is empty or holds control characters")
    number = message.get("data_type", 0)
    if number not in ONNX_DTYPES:
        raise refused(f"data type {number} (strings, complex numbers, 4 bits) holds no weights that are read here")
    if message["string_data"] or "segment" in message:
        raise refused("strings and segments are not read here")
    shape = tuple(message["dims"])
    if len(shape) > _MAX_RANK or not all(0 <= side < _MAX_SIDE for side in shape):
        raise refused(f"shape {printable(shape)} is not a list of at most {_MAX_RANK} sizes below 2^48")
    if math.prod(side for side in shape if side) >= _MAX_BYTES:
        raise refused(f"shape {printable(shape)} is too large")
    info = TensorInfo(name, ONNX_DTYPES[number], shape)
    held = [field for field in _FIELDS if field in message]
    outside = message.get("data_location", 0)
    if outside not in (0, 1) or bool(outside) != bool(message["external_data"]):
        raise refused("data_location and external_data do not agree on whether the values lie in another file")
    if outside:
        if held:
            raise refused(f"has external data and {held[0]} as well")
        pairs = [(pair.get("key", ""), _value(wire, pair)) for pair in message["external_data"]]
        return Stored(info, None, external=parse(pairs, Problem(where, "")))
    if len(held) > 1:
        raise refused(f"has values twice, as {' and '.join(held)}")
    return _embedded(info, held[0] if held else None, message, refused)


def _value(wire: Wire, pair: dict[str, Any]) -> str:
    return text(wire, pair["value"], MAX_TEXT) if "value" in pair else ""


def _embedded(
    info: TensorInfo, field: str | None, message: dict[str, Any], refused: Callable[[str], InputError]
) -> Stored:
    if field is None:
        if info.nbytes:
            raise refused(f"{info.dtype} of shape {info.shape} needs {info.nbytes} bytes, the tensor has no values")
        return Stored(info, None)
    span: Span = message[field]
    length = span.end - span.begin
    typed = _TYPED.get(info.dtype, "int32_data")
    if field not in ("raw_data", typed):
        raise refused(f"has {info.dtype} values in {field}, they belong into {typed} or raw_data")
    varints = field not in ("raw_data", "float_data", "double_data")
    count = math.prod(info.shape)
    if varints and not count <= length <= 10 * count:
        raise refused(f"{count} values in {length} bytes of {field}")
    if not varints and length != info.nbytes:
        raise refused(f"{info.dtype} of shape {printable(info.shape)} needs {info.nbytes} bytes, {field} has {length}")
    return Stored(info, span, varints=varints)


def read_span(file: InputFile, tensor: Stored, offset: int) -> npt.NDArray[Any]:
    """The values of a tensor that lie in a file as they are: C-contiguous, in native byte order."""
    dtype = DTYPES[tensor.info.dtype]
    data = np.empty(tensor.info.nbytes, dtype=np.uint8)
    file.read_into(offset, data.data)
    words = data.view(f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}", copy=False)
    return words.view(dtype).reshape(tensor.info.shape)


def read_varints(file: InputFile, tensor: Stored) -> npt.NDArray[Any]:
    """The values of a tensor that lie in a file one varint each; of halves and bytes it is their bits.

    Raises:
        InputError: They are not as many as the shape says, or one is too large for its dtype.
    """
    assert tensor.span is not None
    dtype = DTYPES[tensor.info.dtype]
    begin, end = tensor.span
    values = _varints(np.frombuffer(file.read(begin, end - begin), np.uint8))
    where = f"{printable(file.path)}: {printable(tensor.name)}"
    if values is None or len(values) != math.prod(tensor.info.shape):
        raise InputError(Problem(where, f"its values are not {math.prod(tensor.info.shape)} numbers"))
    wide: npt.NDArray[Any] = values.view(np.int64) if dtype.kind == "i" else values
    if dtype.kind == "i":
        fits = bool((wide.astype(dtype) == wide).all())
    else:
        bits_each = 1 if dtype.kind == "b" else 8 * dtype.itemsize
        fits = bits_each == 64 or bool((values < 1 << bits_each).all())
    if not fits:
        raise InputError(Problem(where, f"a value does not fit {tensor.info.dtype}"))
    bits = wide.astype(f"{'i' if dtype.kind == 'i' else 'u'}{dtype.itemsize}")
    return bits.view(dtype).reshape(tensor.info.shape)


def _varints(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64] | None:
    """The numbers of a packed field; None if the last is cut off or one has more than 64 bits."""
    ends = np.flatnonzero(data < 0x80)
    if not len(data):
        return np.empty(0, np.uint64)
    if not len(ends) or ends[-1] != len(data) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10 or (data[ends[lengths == 10]] > 1).any():
        return None
    found = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max())):
        longer = lengths > place
        digits = (data[starts[longer] + place] & 0x7F).astype(np.uint64)
        found[longer] |= digits << np.uint64(7 * place)
    return found
