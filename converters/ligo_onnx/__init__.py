"""ONNX models: read back to named tensors, written as graphs that run.

Reading needs onnx and onnx-ir; writing needs torch and transformers besides, whose own exporter makes the graph, and is
loaded only then.
"""

from __future__ import annotations

from typing import Any

from ligo_spec.errors import PlanError

__all__ = ["write"]


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
