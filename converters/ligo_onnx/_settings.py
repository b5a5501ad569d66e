"""What of a config is no size: flags, epsilons, the names of functions; as far as a graph shows them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ligo_onnx._claims import is_path
from ligo_onnx._model import Node, OnnxModel
from ligo_onnx._seen import Seen
from ligo_onnx._stored import Stored
from ligo_onnx._uses import NORMS, Use, scopes_of
from ligo_onnx._values import Values
from ligo_spec.family import Family

_FUNCTIONS = {"Gelu": "gelu", "Erf": "gelu", "Relu": "relu", "Sigmoid": "silu"}
"""Operators, and the function that a model computes which has no other of them."""


def functions(model: OnnxModel, family: Family) -> dict[str, Any]:
    """The function of every activation that the config names, where the graph computes only one that we can tell.

    The tanh approximations of GELU are written in many ways; where none of these operators is there, the library's
    default holds.
    """
    seen = {
        "gelu_pytorch_tanh" if node.attributes.get("approximate") == "tanh" else _FUNCTIONS[node.op]
        for node in model.nodes
        if node.op in _FUNCTIONS and not node.domain
    }
    if len(seen) != 1:
        return {}
    in_layers = (each.function for each in family.relations.activations if family.spaces[each.space].per != "model")
    return {rule.config: next(iter(seen)) for rule in in_layers if rule.config is not None and not rule.names}


def flags(family: Family, found: list[Seen], values: Values) -> dict[str, Any]:
    """Flags by the tensors that depend on them, and ties by whether both tensors are there apart."""
    there = {template for one in found if not _is_stand_in(one, values) for template in one.canonical}
    config: dict[str, Any] = {}
    for name, flag in family.flags.items():
        if flag.config is None or flag.equals is not None:
            continue
        depends = {key for key, tensor in family.tensors.items() if tensor.when == name}
        if depends:
            config[flag.config] = bool(depends & there)
    for tie in family.relations.ties:
        rule = family.flags.get(tie.when or "")
        tensors = [next((one for one in found if one.canonical == (template,)), None) for template in tie.same]
        present = [one for one in tensors if one is not None]
        if rule is not None and rule.config is not None and len(present) > 1:
            same = all(_same(present[0], other, values) for other in present[1:])
            config[rule.config] = config.get(rule.config, True) and same
    return config


def _is_stand_in(one: Seen, values: Values) -> bool:
    """Whether it is a bias of zeros without a name: an exporter's stand-in for one that the module does not have."""
    named = any(is_path(name) for name in one.use.names)
    return one.name.endswith(".bias") and not named and not values(one.use.tensor).any()


def _same(first: Seen, other: Seen, values: Values) -> bool:
    """Whether two parameters have the same bits, as files have them."""
    if first.shape != other.shape or first.use.tensor.info.dtype != other.use.tensor.info.dtype:
        return False
    bits = []
    for one in (first, other):
        value = values(one.use.tensor)
        for step in one.steps:
            value = step(value)
        bits.append(np.ascontiguousarray(value).view(np.uint8))
    return bool((bits[0] == bits[1]).all())


def epsilons(model: OnnxModel, family: Family, found: list[Seen], values: Values) -> dict[str, Any]:
    """Epsilons of norms: an attribute of the operator, or the constant that is added in the norm's module."""
    config: dict[str, Any] = {}
    for norm in family.relations.norms:
        gain = next((one for one in found if one.canonical == (norm.gain,)), None)
        if norm.eps is None or norm.eps in config or gain is None:
            continue
        epsilon = _epsilon(model, gain.use, values)
        if epsilon is not None:
            config[norm.eps] = float(str(np.float32(epsilon)))
    return config


def _epsilon(model: OnnxModel, use: Use, values: Values) -> float | None:
    if use.node is not None and use.node.op in NORMS:
        epsilon = use.node.attributes.get("epsilon", 1e-5)
        return epsilon if isinstance(epsilon, float) else None
    scope = set(use.scopes)
    summands = [
        tensor
        for node in model.nodes
        if node.op == "Add" and scope & set(scopes_of(node))
        for tensor in _scalars(node, model)
    ]
    found = {float(values(tensor).reshape(())) for tensor in summands}
    return found.pop() if len(found) == 1 else None


def _scalars(node: Node, model: OnnxModel) -> Iterator[Stored]:
    for name in node.inputs:
        tensor = model.tensors.get(name)
        if tensor is not None and tensor.info.dtype in ("F32", "F64", "F16") and prod(tensor.info.shape) == 1:
            yield tensor
