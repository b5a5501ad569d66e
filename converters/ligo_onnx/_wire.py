"""Protocol buffers, read where they lie: fields of a message by `pread`, values of tensors never.

A message is a row of fields: a tag (``number << 3 | wire type``), then a varint (0), 8 bytes (1), a length and as many
bytes (2), or 4 bytes (5). What the length says is held against the message around it before it is used.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ligo_spec.errors import InputError
from ligo_spec.inputs import InputFile, refusal

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""The wire types; 3 and 4 are groups, which ONNX does not have."""

MAX_FIELDS = 1 << 22
"""Fields that are looked at in one file: some twenty a node, so this is far more than the largest models have."""

_WINDOW = 1 << 16
_SIZES = {EIGHT_BYTES: 8, FOUR_BYTES: 4}


class Span(NamedTuple):
    """Bytes of a file, from ``begin`` up to ``end``."""

    begin: int
    end: int


class Field(NamedTuple):
    """One field: its number and wire type, its value if it is a varint, and where its payload lies."""

    number: int
    wire: int
    value: int
    span: Span


class Wire:
    """An open file as protocol buffers; a small window of it is in memory.

    Args:
        file: The file, open as long as this is used.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._start = 0
        self._data = b""
        self._fields = 0

    def bytes_of(self, span: Span, limit: int) -> bytes:
        """The bytes of a span of at most ``limit``.

        Raises:
            InputError: There are more, or the file ends earlier.
        """
        length = span.end - span.begin
        if length > limit:
            raise self.refused(span.begin, f"{length} bytes, at most {limit} are read here")
        at = span.begin - self._start
        if at < 0 or at + length > len(self._data):
            self._load(span.begin, length)
            at = span.begin - self._start
        return self._data[at : at + length]

    def fields(self, span: Span) -> Iterator[Field]:
        """The fields of the message that a span holds.

        Raises:
            InputError: A field reaches beyond the message, or is none.
        """
        at = span.begin
        while at < span.end:
            self._count(at)
            tag, at = self.varint(at, span.end)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number < 1 << 29 or wire not in (VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES):
                raise self.refused(at, f"no field has number {number} and wire type {wire}; not an ONNX file")
            begin, value = at, 0
            if wire == VARINT:
                value, at = self.varint(at, span.end)
            elif wire == LENGTH:
                length, begin = self.varint(at, span.end)
                at = begin + length
            else:
                at = begin + _SIZES[wire]
            if at > span.end:
                raise self.refused(begin, f"a field of {at - begin} bytes, its message has {span.end - begin} left")
            yield Field(number, wire, value, Span(begin, at))

    def varints(self, span: Span, limit: int) -> list[int]:
        """The numbers of a packed field, at most ``limit``.

        Raises:
            InputError: There are more, or the last one is cut off.
        """
        found: list[int] = []
        at = span.begin
        while at < span.end:
            if len(found) == limit:
                raise self.refused(at, f"more than {limit} numbers in one field")
            value, at = self.varint(at, span.end)
            found.append(value)
        return found

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of 7 bits a byte, the low ones first, and where the next field begins.

        Raises:
            InputError: It does not end before ``end``, or is larger than 64 bits.
        """
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise self.refused(at, "a number is cut off by the end of its message")
            byte = self._byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise self.refused(at, "a number of more than ten bytes")
        if value >= 1 << 64:
            raise self.refused(at, "a number of more than 64 bits")
        return value, at

    def refused(self, at: int, message: str) -> InputError:
        """The refusal of the file for what stands at a byte."""
        return refusal(self.file.path, f"byte {at}: {message}")

    def _count(self, at: int) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self.refused(at, f"more than {MAX_FIELDS} fields; no model has so many nodes")

    def _byte(self, at: int) -> int:
        if not self._start <= at < self._start + len(self._data):
            self._load(at, 1)
        return self._data[at - self._start]

    def _load(self, at: int, length: int) -> None:
        # The file checks the end: a claim beyond it is refused before memory is asked for.
        wanted = max(length, min(_WINDOW, self.file.size - at))
        self._data = self.file.read(at, wanted)
        self._start = at


def signed(value: int) -> int:
    """A varint as the int64 that was written: negative ones take ten bytes."""
    return value - (1 << 64) if value >> 63 else value
