"""Trees of Flax on disk, packed by the msgpack library alone: what the tests compare our reader and writer with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

import ligo_flax
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.family import load_family
from ligo_spec.filesystem import Fs
from ligo_spec.layout import Model, examine
from ligo_spec.staging import staged_directory

Array = npt.NDArray[Any]

DATA = Path(__file__).parent / "data/flax"


class QuietFs(Fs):
    """No forcing to the disk: these tests look at bytes."""

    def sync(self, descriptor: int) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


# --- as flax.serialization packs --------------------------------------------------------------------------------------


def extension(array: Array, kind: int = 1) -> msgpack.ExtType:
    """An array, as ``_ndarray_to_bytes`` has it."""
    return msgpack.ExtType(kind, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def chunked(array: Array, size: int) -> dict[str, Any]:
    """An array in pieces of ``size`` bytes, as ``_chunk`` has it."""
    flat, step = array.reshape(-1), size // array.dtype.itemsize
    pieces = [extension(flat[begin : begin + step]) for begin in range(0, flat.size, step)]
    numbered = {str(number): piece for number, piece in enumerate(pieces)}
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(n): side for n, side in enumerate(array.shape)},
        "chunks": numbered,
    }


def packed(tree: Any, limit: int = 1 << 30) -> bytes:
    """A tree of arrays, as ``to_bytes`` has it; what is no array is packed as it is."""

    def converted(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: converted(inner) for key, inner in node.items()}
        if not isinstance(node, np.ndarray):
            return node
        return chunked(node, limit) if node.nbytes > limit else extension(node)

    return bytes(msgpack.packb(converted(tree), strict_types=True))


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of leaves by path, keys sorted."""
    tree: dict[str, Any] = {}
    for path in sorted(leaves, key=lambda path: path.split("/")):
        *parents, last = path.split("/")
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = leaves[path]
    return tree


def file_of(directory: Path, tree: Any, config: Mapping[str, Any] | None = None) -> Path:
    """A directory with a tree, or the bytes of one, as ``flax_model.msgpack``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "flax_model.msgpack").write_bytes(tree if isinstance(tree, bytes) else packed(tree))
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config), "utf-8")
    return directory


# --- our side ---------------------------------------------------------------------------------------------------------


def infos_of(tensors: Mapping[str, Array]) -> list[TensorInfo]:
    """The headers of arrays."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return [TensorInfo(name, names[array.dtype.newbyteorder("=")], array.shape) for name, array in tensors.items()]


def model_of(config: Mapping[str, Any], infos: Iterable[TensorInfo], *, apart: bool = False) -> Model:
    """What the tensors are, by the family that the config names."""
    architecture = Architecture.from_hf_config(load_family(config["model_type"]), config)
    architecture = architecture.untie() if apart else architecture
    return Model(architecture, examine(architecture, {info.name: info for info in infos}).binding.slots)


def write(target: Path, config: Mapping[str, Any], tensors: Mapping[str, Array], limit: int = 1 << 40) -> list[str]:
    """Write tensors and their config by our writer; the names of its files."""
    infos = infos_of(tensors)
    with staged_directory(target, fs=QuietFs()) as stage:
        stage.write_bytes("config.json", [json.dumps(dict(config)).encode()])
        return ligo_flax.write(stage, infos, tensors.__getitem__, max_shard_size=limit, model=model_of(config, infos))


def values(path: Path, **options: Any) -> dict[str, Array]:
    """Every tensor that our reader finds."""
    checkpoint = ligo_flax.read(path, **options)
    assert list(checkpoint.tensors) == sorted(checkpoint.tensors)
    found = {name: checkpoint.read(name) for name in checkpoint.tensors}
    for name, array in found.items():
        info = checkpoint.tensors[name]
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (info.shape, DTYPES[info.dtype], True)
    checkpoint.check_unchanged()
    return found


# --- large ------------------------------------------------------------------------------------------------------------


def config_of_memory() -> dict[str, Any]:
    """A BERT of which each layer has two matrices of 16 MiB."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 15, "num_attention_heads": 8, "intermediate_size": 8192}
    return {"model_type": "bert", **sizes, "vocab_size": 100, "max_position_embeddings": 16, "type_vocab_size": 2}


def sparse(directory: Path) -> None:
    """A checkpoint of that size whose matrices are holes in the file: large, and made at once."""
    config = config_of_memory()
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"intermediate": (width, inner), "output": (inner, width)}
    with open(directory / "flax_model.msgpack", "wb") as file:
        packer = msgpack.Packer()
        for key, count in (("encoder", 1), ("layer", 1)):
            file.write(packer.pack_map_header(count) + packer.pack(key))
        file.write(packer.pack_map_header(config["num_hidden_layers"]))
        for layer in range(config["num_hidden_layers"]):
            file.write(packer.pack(str(layer)) + packer.pack_map_header(len(shapes)))
            for name, shape in shapes.items():
                nbytes = 4 * shape[0] * shape[1]
                header = b"\x93" + packer.pack(shape) + packer.pack("float32") + b"\xc6" + nbytes.to_bytes(4, "big")
                item = b"\xc9" + (len(header) + nbytes).to_bytes(4, "big") + b"\x01" + header
                for key in (name, "dense", "kernel"):
                    file.write((b"" if key == name else b"\x81") + packer.pack(key))
                file.write(item)
                file.seek(nbytes, 1)
        file.truncate()
