"""A model written to a file piece by piece: the graph first, then one initializer after the other.

A message of Protocol Buffers is its fields one after the other, in any order, so the initializers can follow the rest
of the graph, and their values are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx

from ligo_spec.bits import to_bytes
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.staging import Chunk

EMBEDDED_LIMIT = 2**31 - 2**24
"""Bytes of values that go into the model's own file; a message of Protocol Buffers ends at 2 GiB."""

ALIGNMENT = 4096
"""Bytes that values outside of the model's file begin at a multiple of, so that they can be mapped."""

# numbers of fields, from onnx.proto
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_BYTES = 2  # the wire type of what has a length

_KINDS = {
    "F64": onnx.TensorProto.DOUBLE,
    "F32": onnx.TensorProto.FLOAT,
    "F16": onnx.TensorProto.FLOAT16,
    "BF16": onnx.TensorProto.BFLOAT16,
    "F8_E4M3": onnx.TensorProto.FLOAT8E4M3FN,
    "F8_E5M2": onnx.TensorProto.FLOAT8E5M2,
    "I64": onnx.TensorProto.INT64,
    "I32": onnx.TensorProto.INT32,
    "I16": onnx.TensorProto.INT16,
    "I8": onnx.TensorProto.INT8,
    "U64": onnx.TensorProto.UINT64,
    "U32": onnx.TensorProto.UINT32,
    "U16": onnx.TensorProto.UINT16,
    "U8": onnx.TensorProto.UINT8,
    "BOOL": onnx.TensorProto.BOOL,
}


@dataclass(frozen=True)
class Initializer:
    """A tensor of a model.

    Args:
        info: Its name in the graph, dtype and shape.
        value: Gives its values.
    """

    info: TensorInfo
    value: Callable[[], npt.NDArray[Any]]

    def header(self) -> onnx.TensorProto:
        """Everything but the values."""
        kind = _KINDS[self.info.dtype]
        return onnx.TensorProto(name=self.info.name, data_type=kind, dims=self.info.shape)

    def content(self) -> memoryview:
        """The values, row-major and little-endian."""
        return to_bytes(self.value())


def embedded(model: onnx.ModelProto, initializers: Sequence[Initializer]) -> Iterator[Chunk]:
    """The bytes of a model with its values in it.

    Args:
        model: Without these initializers.
        initializers: At most `EMBEDDED_LIMIT` bytes of them.
    """
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    headers = [_before_values(item) for item in initializers]
    length = len(graph) + sum(len(h) + item.info.nbytes for h, item in zip(headers, initializers, strict=True))
    yield rest.SerializeToString()
    yield _tag(_GRAPH) + _varint(length)
    yield graph
    for header, item in zip(headers, initializers, strict=True):
        yield header
        yield item.content()


def _before_values(item: Initializer) -> bytes:
    """All of an initializer's field in its graph, up to the first byte of the values."""
    header: bytes = item.header().SerializeToString() + _tag(_RAW_DATA) + _varint(item.info.nbytes)
    return _tag(_INITIALIZER) + _varint(len(header) + item.info.nbytes) + header


def placed(initializers: Sequence[Initializer], file: str) -> list[onnx.TensorProto]:
    """The headers of initializers whose values lie in a file of their own, in this order, aligned."""
    headers, offset = [], 0
    for item in initializers:
        header = item.header()
        header.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", str(offset)), ("length", str(item.info.nbytes))):
            header.external_data.add(key=key, value=value)
        headers.append(header)
        offset = _aligned(offset + item.info.nbytes)
    return headers


def values(initializers: Sequence[Initializer]) -> Iterator[Chunk]:
    """The bytes of the file that `placed` describes."""
    offset = 0
    for item in initializers:
        yield bytes(_aligned(offset) - offset)
        yield item.content()
        offset = _aligned(offset) + item.info.nbytes


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _BYTES)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
