"""The writer: trees of arrays, byte for byte as flax.serialization.to_bytes gives them, streamed array by array."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgpack
import numpy.typing as npt

from ligo_flax._leaf import SEPARATOR, numpy_name
from ligo_flax._names import Placed, placed
from ligo_flax._tree import CHUNKED
from ligo_spec.bits import to_bytes
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import InputError, LigoError, Problem, printable
from ligo_spec.formats import FORMATS
from ligo_spec.layout import Model, require_model
from ligo_spec.sharded import write_sharded
from ligo_spec.staging import Chunk, Stage

Value = Callable[[str], npt.NDArray[Any]]
Branch = dict[str, "Branch | str"]

CHUNK_SIZE = 1 << 30
"""Bytes of an array that Flax writes in one piece (``flax.serialization.MAX_CHUNK_SIZE``)."""

_PACKER = msgpack.Packer(use_bin_type=True)
_FIXED = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
_ARRAY = 1


def write(
    stage: Stage, tensors: Iterable[TensorInfo], value: Value, /, *, max_shard_size: int, model: Model | None
) -> list[str]:
    """Write ``flax_model.msgpack``, or shards with an index as Transformers names them; the names of the files.

    What a leaf is called follows from what the family says of the tensor: gains of layer norms are ``scale``, tables
    that are read by ids ``embedding``, other weights of two to four dimensions ``kernel``. Tensors that are tied to
    one that is written stay out, as Transformers' Flax models have no parameter for them.

    Args:
        stage: The output directory in the making.
        tensors: What the files will hold, in any order and in PyTorch's orientation.
        value: Gives the values of one tensor, by its name; called once for each that is written.
        max_shard_size: Bytes of tensors a file; a larger tensor gets a file of its own.
        model: What the tensors are.

    Raises:
        InputError: ``model`` is not given, or a tree has no place for a tensor, as it would be read back as another
            one. All of them at once.
        OutputError: The files do not fit, or cannot be written.
        LigoError: A name comes twice or cannot be written, or an array is not what its `TensorInfo` says.
    """
    model = require_model(model, "flax")
    infos = _without_ties(list(tensors), model)
    found = [(info, placed(info, model.slots.get(info.name), model.architecture)) for info in infos]
    problems = [Problem(printable(info.name), f"has no place in a tree of Flax: {place}")
                for info, place in found if isinstance(place, str)]  # fmt: skip
    places = [(info, place) for info, place in found if isinstance(place, Placed)]
    problems += _not_leaves([place.leaf.name for _, place in places])
    if problems:
        raise InputError(problems)
    sources = {place.leaf.name: (info, place.axes) for info, place in places}
    return write_sharded(
        stage,
        [place.leaf for _, place in places],
        FORMATS["flax"],
        max_shard_size,
        lambda name, shard: stage.write_bytes(name, _content(shard, sources, value)),
    )


def _without_ties(infos: list[TensorInfo], model: Model) -> list[TensorInfo]:
    """The tensors without those that are one with another that comes before them in their tie."""
    names = {slot.canonical: name for name, slot in model.slots.items()}
    written = {info.name for info in infos}
    gone: set[str] = set()
    for group in model.architecture.ties:
        tied = [names[template,] for template in group if names.get((template,)) in written]
        gone.update(tied[1:])
    return [info for info in infos if info.name not in gone]


def _not_leaves(paths: list[str]) -> list[Problem]:
    """Arrays cannot have arrays below them."""
    known = set(paths)
    beneath = {path.rsplit(SEPARATOR, cut)[0]: path for path in paths for cut in range(1, path.count(SEPARATOR) + 1)}
    return [
        Problem(printable(path), f"has no place in a tree of Flax: {printable(beneath[path])} would lie below it")
        for path in sorted(known & beneath.keys())
    ]


def _content(
    leaves: Iterable[TensorInfo], sources: Mapping[str, tuple[TensorInfo, tuple[int, ...]]], value: Value
) -> Iterator[Chunk]:
    """The bytes of a file; keys are sorted on every level, as JAX sorts them."""
    tree: Branch = {}
    shapes = {leaf.name: leaf for leaf in leaves}
    for path in shapes:
        *parents, last = path.split(SEPARATOR)
        branch = tree
        for key in parents:
            inner = branch.setdefault(key, {})
            assert isinstance(inner, dict), "checked before"
            branch = inner
        branch[last] = path

    def walked(branch: Branch) -> Iterator[Chunk]:
        yield _PACKER.pack_map_header(len(branch))
        for key, inner in sorted(branch.items()):
            yield _PACKER.pack(key)
            if isinstance(inner, dict):
                yield from walked(inner)
            else:
                info, axes = sources[inner]
                yield from _array(shapes[inner], _checked(value(info.name), info).transpose(axes))

    return walked(tree)


def _checked(array: npt.NDArray[Any], info: TensorInfo) -> npt.NDArray[Any]:
    if array.shape != info.shape or array.dtype.newbyteorder("=") != DTYPES[info.dtype]:
        found = f"{array.dtype} of shape {array.shape}"
        raise LigoError(Problem(printable(info.name), f"is {found}, announced was {info.dtype} of {info.shape}"))
    return array


def _array(leaf: TensorInfo, array: npt.NDArray[Any]) -> Iterator[Chunk]:
    """The item of an array, in pieces where it is large."""
    data = to_bytes(array)
    if leaf.nbytes <= CHUNK_SIZE:
        yield _header(leaf.dtype, leaf.shape, data.nbytes)
        yield data
        return
    width = DTYPES[leaf.dtype].itemsize
    step = max(1, CHUNK_SIZE // width)
    count = leaf.nbytes // width
    yield _PACKER.pack_map_header(3) + _PACKER.pack(CHUNKED) + _PACKER.pack(True)
    yield _PACKER.pack("shape") + _PACKER.pack({str(axis): side for axis, side in enumerate(leaf.shape)})
    yield _PACKER.pack("chunks") + _PACKER.pack_map_header(-(-count // step))
    for number, begin in enumerate(range(0, count, step)):
        part = data[begin * width : (begin + step) * width]
        yield _PACKER.pack(str(number)) + _header(leaf.dtype, (part.nbytes // width,), part.nbytes)
        yield part


def _header(dtype: str, shape: tuple[int, ...], nbytes: int) -> bytes:
    """All of an array's item that stands before its values."""
    length = next(size for size in (1, 2, 4) if nbytes < 1 << 8 * size)
    blob = bytes([{1: 0xC4, 2: 0xC5, 4: 0xC6}[length]]) + nbytes.to_bytes(length, "big")
    payload: bytes = _PACKER.pack_array_header(3) + _PACKER.pack(shape) + _PACKER.pack(numpy_name(dtype)) + blob
    whole = len(payload) + nbytes
    if whole in _FIXED:
        return bytes([_FIXED[whole], _ARRAY]) + payload
    length = next(size for size in (1, 2, 4) if whole < 1 << 8 * size)
    return bytes([{1: 0xC7, 2: 0xC8, 4: 0xC9}[length]]) + whole.to_bytes(length, "big") + bytes([_ARRAY]) + payload
