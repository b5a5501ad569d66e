"""ONNX's messages as data, and one decoder for all of them.

The numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Fields that are not
listed are skipped: texts for people, shapes of values in between, what later versions add.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ligo_onnx._wire import FOUR_BYTES, LENGTH, VARINT, Field, Span, Wire, signed

MAX_DEPTH = 48
"""Messages within messages; a graph within a node within a graph takes three."""

MAX_TEXT = 1 << 16
"""Bytes of a name."""

MAX_INTS = 1 << 16
"""Numbers of a list, as an attribute or the sizes of a tensor are."""

TEXT, INT, INTS, FLOAT, SPAN = "text", "int", "ints", "float", "span"


@dataclass(frozen=True)
class Rule:
    """What a field is.

    Args:
        name: As in onnx.proto.
        kind: One of the constants above, or the name of a message.
        many: Whether it may come more than once.
    """

    name: str
    kind: str
    many: bool = False


_PAIR = "StringStringEntryProto"
_TENSOR = "TensorProto"
_GRAPH = "GraphProto"

MESSAGES: Mapping[str, Mapping[int, Rule]] = {
    "ModelProto": {
        1: Rule("ir_version", INT),
        2: Rule("producer_name", TEXT),
        3: Rule("producer_version", TEXT),
        7: Rule("graph", _GRAPH),
        8: Rule("opset_import", "OperatorSetIdProto", many=True),
        14: Rule("metadata_props", _PAIR, many=True),
        20: Rule("training_info", SPAN, many=True),
        25: Rule("functions", "FunctionProto", many=True),
    },
    "OperatorSetIdProto": {1: Rule("domain", TEXT), 2: Rule("version", INT)},
    _PAIR: {1: Rule("key", TEXT), 2: Rule("value", SPAN)},
    _GRAPH: {
        1: Rule("node", "NodeProto", many=True),
        5: Rule("initializer", _TENSOR, many=True),
        11: Rule("input", "ValueInfoProto", many=True),
        12: Rule("output", "ValueInfoProto", many=True),
        14: Rule("quantization_annotation", SPAN, many=True),
        15: Rule("sparse_initializer", SPAN, many=True),
    },
    "ValueInfoProto": {1: Rule("name", TEXT), 2: Rule("type", "TypeProto")},
    "TypeProto": {1: Rule("tensor_type", "TypeProto.Tensor")},
    "TypeProto.Tensor": {2: Rule("shape", "TensorShapeProto")},
    "TensorShapeProto": {1: Rule("dim", "TensorShapeProto.Dimension", many=True)},
    "TensorShapeProto.Dimension": {1: Rule("dim_value", INT)},
    "NodeProto": {
        1: Rule("input", TEXT, many=True),
        2: Rule("output", TEXT, many=True),
        3: Rule("name", TEXT),
        4: Rule("op_type", TEXT),
        5: Rule("attribute", "AttributeProto", many=True),
        7: Rule("domain", TEXT),
        9: Rule("metadata_props", _PAIR, many=True),
    },
    "AttributeProto": {
        1: Rule("name", TEXT),
        2: Rule("f", FLOAT),
        3: Rule("i", INT),
        4: Rule("s", SPAN),
        5: Rule("t", _TENSOR),
        6: Rule("g", _GRAPH),
        8: Rule("ints", INTS),
        10: Rule("tensors", SPAN, many=True),
        11: Rule("graphs", _GRAPH, many=True),
        22: Rule("sparse_tensor", SPAN),
        23: Rule("sparse_tensors", SPAN, many=True),
    },
    _TENSOR: {
        1: Rule("dims", INTS),
        2: Rule("data_type", INT),
        3: Rule("segment", SPAN),
        4: Rule("float_data", SPAN),
        5: Rule("int32_data", SPAN),
        6: Rule("string_data", SPAN, many=True),
        7: Rule("int64_data", SPAN),
        8: Rule("name", TEXT),
        9: Rule("raw_data", SPAN),
        10: Rule("double_data", SPAN),
        11: Rule("uint64_data", SPAN),
        13: Rule("external_data", _PAIR, many=True),
        14: Rule("data_location", INT),
    },
    "FunctionProto": {
        1: Rule("name", TEXT),
        7: Rule("node", "NodeProto", many=True),
        9: Rule("opset_import", "OperatorSetIdProto", many=True),
        10: Rule("domain", TEXT),
    },
}

_WIRES = {TEXT: (LENGTH,), INT: (VARINT,), FLOAT: (FOUR_BYTES,), INTS: (VARINT, LENGTH)}


def decode(wire: Wire, name: str, span: Span, depth: int = 0) -> dict[str, Any]:
    """The fields of one message by name: values, lists of them where there may be several, spans of what stays.

    Raises:
        InputError: The bytes are no such message, a field that may come once comes twice, or messages are nested
            deeper than any model needs.
    """
    if depth > MAX_DEPTH:
        raise wire.refused(span.begin, f"messages are nested deeper than {MAX_DEPTH} levels")
    rules = MESSAGES[name]
    found: dict[str, Any] = {rule.name: [] for rule in rules.values() if rule.many or rule.kind == INTS}
    for field in wire.fields(span):
        rule = rules.get(field.number)
        if rule is None:
            continue
        if field.wire not in _WIRES.get(rule.kind, (LENGTH,)):
            # A packed list that comes number by number is legal, and no exporter writes one.
            raise wire.refused(field.span.begin, f"{name}.{rule.name} has wire type {field.wire}")
        value = _value(wire, rule.kind, field, depth)
        if rule.kind == INTS:
            found[rule.name] += value
        elif rule.many:
            found[rule.name].append(value)
        elif rule.name in found:
            # Other readers merge or take the last; which one is meant must not depend on the reader.
            raise wire.refused(field.span.begin, f"{name}.{rule.name} comes twice")
        else:
            found[rule.name] = value
    return found


def _value(wire: Wire, kind: str, field: Field, depth: int) -> Any:
    if kind == SPAN:
        return field.span
    if kind == INT:
        return signed(field.value)
    if kind == INTS:
        numbers = [field.value] if field.wire == VARINT else wire.varints(field.span, MAX_INTS)
        return [signed(number) for number in numbers]
    if kind == FLOAT:
        return struct.unpack("<f", wire.bytes_of(field.span, 4))[0]
    if kind == TEXT:
        return text(wire, field.span)
    return decode(wire, kind, field.span, depth + 1)


def text(wire: Wire, span: Span, limit: int = MAX_TEXT) -> str:
    """The UTF-8 text of a span.

    Raises:
        InputError: It is longer than ``limit``, or not UTF-8.
    """
    try:
        return wire.bytes_of(span, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise wire.refused(span.begin, f"a text that is not UTF-8: {error.reason}") from error
