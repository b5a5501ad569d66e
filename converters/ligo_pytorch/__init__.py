"""Checkpoints of PyTorch: own strict reader that runs nothing, deterministic streaming writer.

`read` and `write` are the converter; `StateFile`, `Skeleton` and `saved` handle one file of any object (the state of
an optimizer).
"""

from ligo_pytorch._file import StateFile
from ligo_pytorch._read import PyTorchCheckpoint, WeightFile, read
from ligo_pytorch._save import Skeleton, saved
from ligo_pytorch._tensors import OtherTensor, StoredTensor
from ligo_pytorch._write import write, write_file

__all__ = [
    "OtherTensor",
    "PyTorchCheckpoint",
    "Skeleton",
    "StateFile",
    "StoredTensor",
    "WeightFile",
    "read",
    "saved",
    "write",
    "write_file",
]
