"""Checkpoints of safetensors files."""

from __future__ import annotations

from pathlib import Path

from ligo_safetensors._file import read_file
from ligo_spec.family import Family
from ligo_spec.formats import FORMATS
from ligo_spec.sharded import ShardedCheckpoint, read_sharded


def read(path: str | Path, /, *, family: Family | None = None) -> ShardedCheckpoint:
    """Open a checkpoint; every header is checked, no tensor is read yet.

    Args:
        path: A safetensors file, or a directory with ``model.safetensors``, with an index and its shards, or with
            exactly one file of another name that ends in ``.safetensors``.
        family: Not used: the files name their tensors.

    Raises:
        InputError: There are no weights, or a file, the index or ``config.json`` is refused.
    """
    return read_sharded(Path(path), FORMATS["safetensors"], read_file)
