"""ONNX models: a strict reader that finds a family's parameters in the graphs that exporters write.

`read` takes models as ``torch.onnx.export`` writes them, with either exporter, optimised or not. What is quantised,
fused or cut to a fixed length is refused, with the reason.
"""

from ligo_onnx._read import OnnxCheckpoint, read
from ligo_onnx._recover import Recovery

__all__ = ["OnnxCheckpoint", "Recovery", "read"]
