"""The model of a file: its nodes in one list, those of inner graphs among them, and its tensors by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ligo_onnx._messages import decode, text
from ligo_onnx._stored import Stored, stored
from ligo_onnx._wire import Span, Wire
from ligo_spec.errors import InputError, Problem, printable

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of a node, by ``torch.onnx.export(dynamo=True)``: the modules around it, outermost first, then its own."""

RULE = "pkg.onnxscript.rewriter.rule_name"
"""Metadata of a node, by the optimiser of that exporter: the rule that made the node."""

CONFIG = "ligo.config"
"""Metadata of a model: the config that `ligo_spec` wrote with it, as JSON."""

_KEPT = {CONFIG: 1 << 24}
_HELD = ("f", "i", "s", "t", "g", "ints", "tensors", "graphs")
_SMALL = 64
_MAX_TENSORS = 1 << 16
_QUOTED = re.compile(r"'([^'\\]*)'")

Value = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator.

    Args:
        op: Its type.
        domain: Of the operator; empty for those of ONNX itself.
        name: Of the node; exporters put the path of the module there.
        inputs: Names of values; an empty one stands for an input that is left out.
        outputs: Names of values.
        attributes: Numbers, lists of whole numbers and short texts.
        scope: The module that it belongs to, where metadata says so.
        rule: The optimiser's rule that made it, where metadata says so.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Value]
    scope: str | None
    rule: str = ""

    def __str__(self) -> str:
        """Operator and name, for messages."""
        return f"{printable(self.op, 60)} ({printable(self.name or ', '.join(self.outputs), 100)})"


@dataclass(frozen=True)
class Function:
    """A function of the model itself: its domain and name, and the operators that it calls, by domain and type."""

    key: tuple[str, str]
    calls: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class OnnxModel:
    """What of a model matters for its weights.

    Args:
        producer: Who wrote it, and in which version.
        opsets: Version by domain.
        metadata: The entries that are known.
        nodes: Every node, in order; those of an inner graph where the node stands that has it.
        tensors: Initializers, and constants in nodes, by name.
        inputs: Sizes of the graph's inputs by name; None for one that is free.
        functions: Its own functions.
        sparse: Whether it has sparse tensors.
        quantised: Whether tensors are annotated with scales.
    """

    producer: str
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Stored]
    inputs: Mapping[str, tuple[int | None, ...]]
    functions: tuple[Function, ...]
    sparse: bool
    quantised: bool


def parse(wire: Wire) -> OnnxModel:
    """The model of an open file; values of tensors stay where they are.

    Raises:
        InputError: The file is no ONNX model, is cut off, or breaks the rule that every name is given once.
    """
    message = decode(wire, "ModelProto", Span(0, wire.file.size))
    if "graph" not in message or "ir_version" not in message:
        raise wire.refused(0, "no graph or no ir_version in it; not an ONNX model, or an empty one")
    opsets: dict[str, int] = {}
    for entry in message["opset_import"]:
        domain = _domain(entry.get("domain", ""))
        if domain in opsets:
            raise wire.refused(0, f"the opset of domain {printable(domain, 60)!r} is imported twice")
        opsets[domain] = entry.get("version", 0)
    walk = _Walk(wire)
    walk.graph(message["graph"])
    return OnnxModel(
        f"{message.get('producer_name', '')} {message.get('producer_version', '')}".strip(),
        opsets,
        _metadata(wire, message["metadata_props"], _KEPT),
        tuple(walk.nodes),
        walk.tensors,
        {entry.get("name", ""): _sides(entry) for entry in message["graph"]["input"]},
        tuple(_function(function) for function in message["functions"]),
        walk.sparse,
        walk.quantised,
    )


def _metadata(wire: Wire, pairs: list[dict[str, Any]], kept: Mapping[str, int]) -> dict[str, str]:
    """The entries whose keys are known; a stack trace at every node is not read."""
    found: dict[str, str] = {}
    for pair in pairs:
        key = pair.get("key", "")
        if key not in kept or "value" not in pair:
            continue
        if key in found:
            raise wire.refused(pair["value"].begin, f"metadata {key} comes twice")
        found[key] = text(wire, pair["value"], kept[key])
    return found


def _sides(message: dict[str, Any]) -> tuple[int | None, ...]:
    """The sizes of an input."""
    shape = message.get("type", {}).get("tensor_type", {}).get("shape", {"dim": []})
    return tuple(dim.get("dim_value") for dim in shape["dim"])


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _function(message: dict[str, Any]) -> Function:
    calls: set[tuple[str, str]] = set()
    waiting = list(message["node"])
    while waiting:
        node = waiting.pop()
        calls.add((_domain(node.get("domain", "")), node.get("op_type", "")))
        waiting += [inner for graph in _graphs(node) for inner in graph["node"]]
    return Function((_domain(message.get("domain", "")), message.get("name", "")), frozenset(calls))


def _graphs(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for attribute in node["attribute"]:
        yield from attribute["graphs"]
        if "g" in attribute:
            yield attribute["g"]


class _Walk:
    """Collects nodes and tensors, graph in graph; decoding bounded the depth."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.nodes: list[Node] = []
        self.tensors: dict[str, Stored] = {}
        self.sparse = False
        self.quantised = False
        self._given: set[str] = set()

    def graph(self, message: dict[str, Any]) -> None:
        self.sparse |= bool(message["sparse_initializer"])
        self.quantised |= bool(message["quantization_annotation"])
        for tensor in message["initializer"]:
            self._tensor(stored(self.wire, tensor))
        for node in message["node"]:
            self._node(node)

    def _node(self, message: dict[str, Any]) -> None:
        outputs = tuple(message["output"])
        op, domain = message.get("op_type", ""), _domain(message.get("domain", ""))
        held = [a for a in message["attribute"] if "t" in a]
        self.sparse |= any("sparse_tensor" in a or a["sparse_tensors"] for a in message["attribute"])
        constant = op == "Constant" and domain == "" and len(outputs) == 1 and len(held) == 1
        if constant:
            self._tensor(stored(self.wire, held[0]["t"], outputs[0]))
        else:
            for name in filter(None, outputs):
                self._give(name)
        known = _metadata(self.wire, message["metadata_props"], {SCOPES: 1 << 16, RULE: 1 << 16})
        scopes = known.get(SCOPES)
        self.nodes.append(
            Node(
                op,
                domain,
                message.get("name", ""),
                tuple(message["input"]),
                outputs,
                dict(self._attributes(message["attribute"])),
                None if scopes is None else _innermost(scopes),
                known.get(RULE, ""),
            )
        )
        for graph in _graphs(message):
            self.graph(graph)

    def _attributes(self, messages: list[dict[str, Any]]) -> Iterator[tuple[str, Value]]:
        names: set[str] = set()
        for message in messages:
            name = message.get("name", "")
            held = [key for key in _HELD if message.get(key) not in (None, [])]
            if name in names or len(held) > 1:
                # The field `type` says which value counts, and nobody needs two.
                raise self.wire.refused(0, f"attribute {printable(name, 60)!r} is there twice, or has two values")
            names.add(name)
            if "i" in message:
                yield name, message["i"]
            elif "f" in message:
                yield name, message["f"]
            elif message["ints"]:
                yield name, tuple(message["ints"])
            elif "s" in message and message["s"].end - message["s"].begin <= _SMALL:
                yield name, text(self.wire, message["s"])

    def _tensor(self, tensor: Stored) -> None:
        self._give(tensor.name)
        self.tensors[tensor.name] = tensor
        if len(self.tensors) > _MAX_TENSORS:
            raise self.wire.refused(0, f"more than {_MAX_TENSORS} tensors; no model of our families has so many")

    def _give(self, name: str) -> None:
        if name in self._given:
            where = f"{printable(self.wire.file.path)}: {printable(name)}"
            raise InputError(Problem(where, "two tensors or nodes give this name; a graph gives every name once"))
        self._given.add(name)


def _innermost(scopes: str) -> str:
    """The module of a node: ``['', 'bert', 'bert.pooler', 'linear']`` -> ``bert.pooler``."""
    names = _QUOTED.findall(scopes)
    return names[-2] if len(names) > 1 else ""
