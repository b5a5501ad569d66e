"""Flax checkpoints: the msgpack files of Transformers' Flax models, read and written; npz files, read.

The names and shapes on our side are those of Transformers' PyTorch models. Files are parsed by code of our own; neither
jax nor flax is needed.
"""

from ligo_flax._read import read
from ligo_flax._write import write

__all__ = ["read", "write"]
