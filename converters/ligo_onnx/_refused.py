"""Graphs that weights cannot be read from: quantised, fused, packed, of operators that nobody here knows."""

from __future__ import annotations

from collections.abc import Iterator

from ligo_onnx._model import OnnxModel
from ligo_spec.errors import Problem, printable

OLDEST_OPSET = 11
"""Older operators have other inputs and attributes."""

_QUANTISED = (
    "Quant",
    "QLinear",
    "QAttention",
    "QGemm",
    "QEmbed",
    "QOrdered",
    "QMoE",
    "MatMulNBits",
    "MatMulInteger",
    "MatMulFpQ4",
    "Bnb4",
    "ConvInteger",
    "DequantizeLinear",
)
"""Parts of the names of operators that only quantised models have."""
_OWN_DOMAINS = ("", "ai.onnx.ml", "pkg.onnxscript.torch_lib", "pkg.onnxscript.torch_lib.common")
_REMEDY = "export the model again without quantisation and without fusion (no optimum or onnxruntime optimisation)"
_MAX_FUNCTIONS = 1024


def problems(model: OnnxModel, where: str) -> Iterator[Problem]:
    """What makes a graph one that weights cannot be read from.

    Args:
        model: The graph.
        where: The file, for messages.
    """
    version = model.opsets.get("")
    if version is None:
        yield Problem(where, "imports no opset of ONNX's own operators")
    elif version < OLDEST_OPSET:
        yield Problem(where, f"has opset {version}, {OLDEST_OPSET} or newer is read; export the model again")
    if model.sparse:
        yield Problem(where, f"holds sparse tensors, which are not read; {_REMEDY}")
    if model.quantised:
        yield Problem(where, f"annotates tensors with scales of a quantisation; {_REMEDY}")
    own = {function.key for function in model.functions}
    yield from _of_functions(model, where)
    yield from _of_nodes(model, own, where)


def _of_nodes(model: OnnxModel, own: set[tuple[str, str]], where: str) -> Iterator[Problem]:
    seen: dict[tuple[str, str], int] = {}
    for node in model.nodes:
        key = node.domain, node.op
        quantised = any(word in node.op for word in _QUANTISED)
        foreign = node.domain not in _OWN_DOMAINS and key not in own
        if not quantised and not foreign:
            continue
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            continue  # one node an operator is enough to find them
        if quantised:
            yield Problem(
                where, f"node {node} is of a quantised model, whose weights are not those of training; {_REMEDY}"
            )
        else:
            domain = printable(node.domain, 60)
            yield Problem(
                where, f"node {node} is a fused or custom operator of {domain}, whose weights are packed; {_REMEDY}"
            )


def _of_functions(model: OnnxModel, where: str) -> Iterator[Problem]:
    """Functions that call themselves, through others or not: whoever follows them never ends."""
    calls = {function.key: function.calls for function in model.functions}
    if len(calls) != len(model.functions):
        yield Problem(where, "has two functions of one name")
    if len(calls) > _MAX_FUNCTIONS:
        yield Problem(where, f"has {len(calls)} functions, at most {_MAX_FUNCTIONS} are looked at")
        return
    ended: set[tuple[str, str]] = set()
    while True:
        ready = {key for key in calls if key not in ended and not (calls[key] & calls.keys()) - ended}
        if not ready:
            break
        ended |= ready
    if len(ended) != len(calls):
        name = next(key for key in calls if key not in ended)[1]
        yield Problem(where, f"function {printable(name, 60)} calls itself, or one that does")
