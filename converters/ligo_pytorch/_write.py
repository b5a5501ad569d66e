"""The writer: what ``torch.save`` makes of a state dict, streamed one tensor at a time, always in the same bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_pytorch._save import Skeleton, saved
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import LigoError, Problem, printable
from ligo_spec.formats import FORMATS
from ligo_spec.layout import Model
from ligo_spec.sharded import sorted_by_name, write_sharded
from ligo_spec.staging import Stage, StagedFile

Value = Callable[[str], npt.NDArray[Any]]


def write(
    stage: Stage,
    tensors: Iterable[TensorInfo],
    value: Value,
    /,
    *,
    max_shard_size: int,
    model: Model | None = None,
) -> list[str]:
    """Write ``pytorch_model.bin``, or shards with an index as Hugging Face names them; the names of the files.

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
    return write_sharded(
        stage,
        tensors,
        FORMATS["pytorch"],
        max_shard_size,
        lambda name, shard: write_file(stage, name, shard, value),
    )


def write_file(stage: Stage, name: str, tensors: Iterable[TensorInfo], value: Value, /) -> StagedFile:
    """Write one file that ``torch.load(path, weights_only=True)`` reads, mapped into memory or not.

    Args:
        stage: The output in the making.
        name: Plain file name.
        tensors: What the file will hold, in any order.
        value: Gives the values of one tensor, by name; called once for each, in the order of the file.

    Raises:
        OutputError: The file does not fit, or cannot be written.
        LigoError: A name comes twice or cannot be written, or an array is not what its `TensorInfo` says.
    """
    skeleton = Skeleton()
    state = OrderedDict(
        (info.name, skeleton.tensor(info.shape, DTYPES[info.dtype], partial(_checked, info, value)))
        for info in sorted_by_name(tensors)
    )
    stage.require_space(skeleton.nbytes)
    return stage.write_bytes(name, saved(state, skeleton))


def _checked(info: TensorInfo, value: Value) -> npt.NDArray[Any]:
    array = value(info.name)
    if array.shape != info.shape or array.dtype.newbyteorder("=") != DTYPES[info.dtype]:
        found = f"{array.dtype} of shape {array.shape}"
        raise LigoError(Problem(printable(info.name), f"is {found}, announced was {info.dtype} of {info.shape}"))
    return np.ascontiguousarray(array, dtype=DTYPES[info.dtype])
