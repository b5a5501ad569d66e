"""ONNX models: read back to named tensors, written as graphs that run.

`read` is a strict reader of its own, which needs no library. It takes models as ``torch.onnx.export`` writes them, with
either exporter, optimised or not; what is quantised, fused or cut to a fixed length is refused, with the reason.
Writing needs onnx, onnx-ir, torch and transformers, whose own exporter makes the graph, and is loaded only then.
"""

from __future__ import annotations

from typing import Any

from ligo_onnx._read import OnnxCheckpoint, read
from ligo_onnx._recover import Recovery
from ligo_spec.errors import PlanError

__all__ = ["OnnxCheckpoint", "Recovery", "read", "write"]


def __getattr__(name: str) -> Any:
    """``write``, whose libraries take seconds to load."""
    if name != "write":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ligo_onnx._write import write
    except ImportError as error:
        raise PlanError(
            f"writing ONNX needs {error.name or error}, which is not installed; pip install 'ligo-spec[onnx,hf]'"
        ) from error
    return write
