"""ONNX models: read back to named tensors, written as graphs that run.

Reading needs onnx and onnx-ir; writing needs torch and transformers besides, whose own exporter makes the graph, and is
loaded only then.
"""

from __future__ import annotations

from typing import Any

__all__ = ["write"]


def __getattr__(name: str) -> Any:
    """``write``, whose libraries take seconds to load."""
    if name == "write":
        from ligo_onnx._write import write

        return write
    raise AttributeError(name)
