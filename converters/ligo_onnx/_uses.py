"""What becomes of every tensor: the operator that consumes it, as which input, in which module; the moves before it.

Exporters put operators that only move values between a weight and its consumer: ``Identity`` (equal tensors are stored
once), ``Transpose`` (of a Linear's weight, unless it was folded away), ``Reshape``, ``Unsqueeze``, ``Squeeze`` and
``Cast``. A tensor is followed through them to the operator that says what it is.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy.typing as npt

from ligo_onnx._model import Node, OnnxModel
from ligo_onnx._stored import ONNX_DTYPES, Stored

Role = Literal["matrix", "table", "kernel", "gain", "shift", "times", "plus", "other"]
"""What a consumer takes a tensor for: the right side of a matrix product ``[in, out]``, rows to pick, a convolution,
what a norm multiplies or adds, a factor, a summand, or something that tells nothing."""

NORMS = (
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "RMSNormalization",
    "GroupNormalization",
    "InstanceNormalization",
)
"""Operators whose second and third input are a gain and a bias."""

_ROLES: Mapping[tuple[str, int], Role] = {
    ("MatMul", 1): "matrix",
    ("Gemm", 1): "matrix",
    ("Gemm", 2): "shift",
    ("Gather", 0): "table",
    ("Conv", 1): "kernel",
    ("Conv", 2): "shift",
    **{(norm, 1): "gain" for norm in NORMS},
    **{(norm, 2): "shift" for norm in NORMS},
    **{(op, at): "times" for op in ("Mul", "Div") for at in (0, 1)},
    **{("Add", at): "plus" for at in (0, 1)},
}
_WIDER = {"F16": ("F32", "F64"), "BF16": ("F32", "F64"), "F32": ("F64",)}
"""The dtypes that hold every value of another one."""

_MAX_STEPS = 16
_MAX_RANK = 8
_NUMBERED = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Step:
    """One move of values: axes in another order, or other sizes of the same values in the same order."""

    kind: Literal["transpose", "reshape", "first"]
    sizes: tuple[int, ...]

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes afterwards."""
        return tuple(before[axis] for axis in self.sizes) if self.kind == "transpose" else self.sizes

    def __call__(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values afterwards; ``first`` keeps the first of rows that are all equal."""
        if self.kind == "transpose":
            return value.transpose(self.sizes)
        return (value[:1] if self.kind == "first" else value).reshape(self.sizes)


def simplified(steps: tuple[Step, ...], shape: tuple[int, ...]) -> tuple[Step, ...]:
    """Steps without pairs of transposes, and without those that move nothing, for a tensor of ``shape``."""
    kept: list[Step] = []
    for step in steps:
        if step.kind == "transpose" and kept and kept[-1].kind == "transpose":
            before = kept.pop().sizes
            step = Step("transpose", tuple(before[axis] for axis in step.sizes))
        still = step.sizes == tuple(range(len(step.sizes))) if step.kind == "transpose" else step.sizes == shape
        if step.kind == "first" or not still or (step.kind == "reshape" and kept):
            kept.append(step)
    return tuple(kept)


@dataclass(frozen=True)
class Use:
    """One way of a tensor to an operator that is no mere move.

    Args:
        tensor: Where the way begins.
        names: Names of the values on the way; exporters give equal parameters their names here.
        steps: What happens to the values on the way.
        shape: Sizes at the end of it.
        lossy: Whether a cast on the way loses bits.
        node: The operator, or None if there is none: the graph ends there, or nothing takes the tensor.
        role: What the operator takes it for.
        scopes: The module of the operator: the likeliest reading of its name first.
    """

    tensor: Stored
    names: tuple[str, ...]
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    lossy: bool
    node: Node | None
    role: Role
    scopes: tuple[str, ...]


def uses_of(model: OnnxModel, numbers: Mapping[str, tuple[int, ...]]) -> dict[str, list[Use]]:
    """Every way of every tensor, by its name.

    Args:
        model: The graph.
        numbers: Values of the small tensors of whole numbers, which say what ``Reshape`` does.
    """
    consumers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in model.nodes:
        for at, name in enumerate(node.inputs):
            if name:
                consumers[name].append((node, at))
    return {name: list(_followed(tensor, consumers, numbers)) for name, tensor in model.tensors.items()}


def _followed(
    tensor: Stored, consumers: Mapping[str, list[tuple[Node, int]]], numbers: Mapping[str, tuple[int, ...]]
) -> Iterator[Use]:
    start = Use(tensor, (tensor.name,), (), tensor.info.shape, False, None, "other", ())
    waiting = [start]
    while waiting:
        way = waiting.pop()
        found = consumers.get(way.names[-1], [])
        if not found:
            yield way
        for node, at in found:
            moved = _moved(way, node, at, numbers) if len(way.names) < _MAX_STEPS else None
            if moved is None:
                yield _ended(way, node, at)
            else:
                waiting.append(moved)


def _moved(way: Use, node: Node, at: int, numbers: Mapping[str, tuple[int, ...]]) -> Use | None:
    """The way through an operator that only moves values; None if it is another."""
    if at != 0 or node.domain or len(node.outputs) != 1:
        return None
    names = (*way.names, node.outputs[0])
    if node.op == "Identity":
        return replace(way, names=names)
    if node.op == "Cast":
        return replace(way, names=names, lossy=way.lossy or _loses(way.tensor.info.dtype, node.attributes.get("to")))
    step = _transposed(way, node) if node.op == "Transpose" else _reshaped(way, node, numbers)
    if step is None:
        return None
    return replace(way, names=names, steps=(*way.steps, step), shape=step.shape(way.shape))


def _loses(dtype: str, to: Any) -> bool:
    wanted = ONNX_DTYPES.get(to) if isinstance(to, int) else None
    return wanted not in (dtype, *_WIDER.get(dtype, ()))


def _transposed(way: Use, node: Node) -> Step | None:
    rank = len(way.shape)
    order = node.attributes.get("perm", tuple(reversed(range(rank))))
    if not isinstance(order, tuple) or sorted(order) != list(range(rank)):
        return None
    return Step("transpose", order)


def _reshaped(way: Use, node: Node, numbers: Mapping[str, tuple[int, ...]]) -> Step | None:
    axes = node.attributes.get("axes")
    given = numbers.get(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = given if axes is None else axes
    if not isinstance(axes, tuple):
        return None
    if node.op == "Reshape":
        return _filled(way.shape, axes, zero_is_zero=bool(node.attributes.get("allowzero", 0)))
    rank = len(way.shape)
    if node.op == "Unsqueeze":
        places = {axis % (rank + len(axes)) for axis in axes}
        rest = iter(way.shape)
        sizes = tuple(1 if place in places else next(rest, 0) for place in range(rank + len(axes)))
    elif node.op == "Squeeze" and rank:
        places = {axis % rank for axis in axes}
        sizes = tuple(side for place, side in enumerate(way.shape) if place not in places)
    else:
        return None
    if len(sizes) > _MAX_RANK or math.prod(sizes) != math.prod(way.shape):
        return None
    return Step("reshape", sizes)


def _filled(shape: tuple[int, ...], wanted: tuple[int, ...], *, zero_is_zero: bool) -> Step | None:
    """``Reshape``: 0 keeps a side, -1 is what is left."""
    sizes = [
        shape[place] if side == 0 and not zero_is_zero and place < len(shape) else side
        for place, side in enumerate(wanted)
    ]
    known = math.prod(side for side in sizes if side != -1)
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = math.prod(shape) // known
    if len(sizes) > _MAX_RANK or any(side < 0 for side in sizes) or math.prod(sizes) != math.prod(shape):
        return None
    return Step("reshape", tuple(sizes))


def _ended(way: Use, node: Node, at: int) -> Use:
    role: Role = "other" if node.domain else _ROLES.get((node.op, at), "other")
    if node.op == "Gather" and node.attributes.get("axis", 0) != 0:
        role = "other"
    if node.op == "Gemm" and not _plain_gemm(node, at):
        role = "other"
    steps, shape = way.steps, way.shape
    if role == "matrix" and node.op == "Gemm" and node.attributes.get("transB", 0) and len(shape) == 2:
        steps, shape = (*steps, Step("transpose", (1, 0))), shape[::-1]
    return replace(way, node=node, role=role, steps=steps, shape=shape, scopes=scopes_of(node))


def _plain_gemm(node: Node, at: int) -> bool:
    return all(node.attributes.get(key, 1.0) == 1.0 for key in (("alpha",) if at == 1 else ("beta",)))


def scopes_of(node: Node) -> tuple[str, ...]:
    """The module that a node belongs to: from its metadata, or from a name like ``/bert/pooler/dense/MatMul``.

    A module that is called twice has a number at its name the second time: the name without it comes second. A
    Sequential's children carry its name (``/decoder/decoder.0/Conv``).
    """
    if node.scope is not None:
        return (node.scope,)
    if "/" not in node.name:
        return ()
    parts: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    plain = [_NUMBERED.sub("", part) for part in parts]
    return tuple(dict.fromkeys((".".join(parts), ".".join(plain))))
