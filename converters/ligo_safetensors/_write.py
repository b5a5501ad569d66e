"""The writer: headers from `TensorInfo`, values streamed one tensor at a time, the same input giving the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy.typing as npt

from ligo_safetensors._header import MAX_HEADER, METADATA
from ligo_spec.bits import to_bytes
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import LigoError, Problem, printable
from ligo_spec.filesystem import output_error
from ligo_spec.formats import FORMATS
from ligo_spec.layout import Model
from ligo_spec.sharded import sorted_by_name, write_sharded
from ligo_spec.staging import Chunk, Stage, StagedFile

Value = Callable[[str], npt.NDArray[Any]]

_FORMAT = {"format": "pt"}  # transformers refuses a file without it


def write(
    stage: Stage,
    tensors: Iterable[TensorInfo],
    value: Value,
    /,
    *,
    max_shard_size: int,
    model: Model | None = None,
) -> list[str]:
    """Write ``model.safetensors``, or shards with an index as Hugging Face names them; the names of the files.

    Args:
        stage: The output directory in the making.
        tensors: What the files will hold, in any order: they are sorted by name, and filled into shards so.
        value: Gives the values of one tensor, by name; called once for each, shard by shard.
        max_shard_size: Bytes of tensors a file; a larger tensor gets a file of its own.
        model: Not used: names and shapes are written as they are.

    Raises:
        OutputError: The files do not fit, or cannot be written.
        LigoError: A name comes twice or cannot be written, or an array is not what its `TensorInfo` says.
    """
    infos = sorted_by_name(tensors, METADATA)
    return write_sharded(
        stage,
        infos,
        FORMATS["safetensors"],
        max_shard_size,
        lambda name, shard: write_file(stage, name, shard, value, metadata=_FORMAT),
    )


def write_file(
    stage: Stage,
    name: str,
    tensors: Iterable[TensorInfo],
    value: Value,
    /,
    *,
    metadata: Mapping[str, str],
) -> StagedFile:
    """Write one safetensors file; its size and checksum.

    Args:
        stage: The output in the making, of a directory or of this one file.
        name: Plain file name.
        tensors: What the file will hold, in any order.
        value: Gives the values of one tensor, by name; called once for each, in the order of the file.
        metadata: Free text for the header.

    Raises:
        OutputError: The file does not fit, or cannot be written.
        LigoError: A name comes twice or cannot be written, or an array is not what its `TensorInfo` says.
    """
    # The widest values first, as the library does it: so every tensor begins at a multiple of its item's size.
    infos = sorted(sorted_by_name(tensors, METADATA), key=lambda info: -DTYPES[info.dtype].itemsize)
    header = _header(infos, metadata)
    if len(header) - 8 > MAX_HEADER:
        raise output_error(stage.target, f"{name}: {len(infos)} tensors need a header of more than {MAX_HEADER} bytes")
    stage.require_space(len(header) + sum(info.nbytes for info in infos))
    return stage.write_bytes(name, _content(header, infos, value))


def _header(infos: list[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for info in infos:
        end = offset + info.nbytes
        header[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _content(header: bytes, infos: list[TensorInfo], value: Value) -> Iterator[Chunk]:
    yield header
    for info in infos:
        array = value(info.name)
        if array.shape != info.shape or array.dtype.newbyteorder("=") != DTYPES[info.dtype]:
            found = f"{array.dtype} of shape {array.shape}"
            raise LigoError(Problem(printable(info.name), f"is {found}, announced was {info.dtype} of {info.shape}"))
        yield to_bytes(array)
