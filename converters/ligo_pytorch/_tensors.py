"""Tensors as the object of a file describes them: where their values lie, and of what dtype they are.

What is no plain, dense tensor becomes a word for what it is, so that it can be refused by the name that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ligo_spec.checkpoint import DTYPES

STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "complex",
    "ComplexDoubleStorage": "complex",
    "QInt8Storage": "quantised",
    "QUInt8Storage": "quantised",
    "QInt32Storage": "quantised",
    "QUInt4x2Storage": "quantised",
    "QUInt2x4Storage": "quantised",
}
"""Typed storages of the module ``torch``: the dtype of their items, or what they are instead."""

DTYPE_NAMES: Mapping[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Dtypes of torch by its own names, as safetensors spells them."""

UNTYPED = "torch.storage.UntypedStorage"


@dataclass(frozen=True)
class Name:
    """A name in a module, which stands for itself: nothing is imported."""

    path: str


@dataclass(frozen=True)
class Storage:
    """The memory of tensors: the record that holds it, the dtype of its items (None: bytes), and their number."""

    record: str
    dtype: str | None
    count: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose values lie in a file.

    Args:
        record: Name of the record.
        size: Bytes that the record has, by the object.
        dtype: As safetensors spells it.
        offset: Its first item, counted in items from the record's start.
        shape: Its sides.
        strides: Steps of every side, in items.
    """

    record: str
    size: int
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values, each counted as often as it occurs."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def span(self) -> int:
        """Items from the first to the last one that it has, both counted; 0 where it has none."""
        if 0 in self.shape:
            return 0
        return 1 + sum((side - 1) * step for side, step in zip(self.shape, self.strides, strict=True))

    @property
    def is_whole(self) -> bool:
        """Whether it is its record, byte for byte, in row-major order."""
        steps, step = [], 1
        for side in reversed(self.shape):
            steps.append(step)
            step *= side
        dense = all(
            have == want or side == 1 for have, want, side in zip(self.strides, steps[::-1], self.shape, strict=True)
        )
        return dense and self.offset == 0 and self.nbytes == self.size


@dataclass(frozen=True, eq=False)
class OtherTensor:
    """A tensor that is not dense numbers of a dtype that we know, and what it is."""

    kind: str
