"""Biases of zeros, which optimisers leave out: the operator that would add them shows that they were zero."""

from __future__ import annotations

from collections.abc import Mapping

from ligo_onnx._model import Node
from ligo_onnx._recover import Found, Recovery
from ligo_onnx._shapes import wanted_shape
from ligo_onnx._stored import Stored
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.layout import Slot

_LEFT_OUT = "RemoveOptionalBiasFrom"
"""How the rules of onnxscript's optimiser begin that do this."""

_WITH_BIAS = ("Gemm", "Conv")


def zero_biases(recovery: Recovery, expected: Mapping[str, Slot], architecture: Architecture) -> None:
    """Add the biases that are zero because an operator which could add one adds none.

    A bias that the family always has was zero then, whoever left it out. One that it may lack was there only if the
    optimiser says that it took it away.

    Args:
        recovery: Changed in place.
        expected: Every tensor that the family's files may have, by name.
        architecture: What the graph should hold.
    """
    for name, slot in expected.items():
        weight = recovery.found.get(name.removesuffix("bias") + "weight")
        if name in recovery.found or not name.endswith(".bias") or weight is None or not _adds_nothing(weight.node):
            continue
        optional = any(architecture.family.tensors[template].optional for template in slot.canonical)
        if optional and not (weight.node.rule if weight.node else "").startswith(_LEFT_OUT):
            continue
        as_product = recovery.slots[name.removesuffix("bias") + "weight"].declared.count("transpose") % 2 == 1
        outputs = weight.shape[-1 if as_product else 0]
        shape = tuple(outputs if side is None else side for side in wanted_shape(slot, architecture))
        if shape == (outputs,):
            zeros = Stored(TensorInfo(name, weight.tensor.info.dtype, shape), None)
            recovery.found[name], recovery.slots[name] = Found(zeros, (), shape, "absence"), slot


def _adds_nothing(node: Node | None) -> bool:
    return node is not None and node.op in _WITH_BIAS and not node.domain and not any(node.inputs[2:])
