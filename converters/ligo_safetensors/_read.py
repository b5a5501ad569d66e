"""Checkpoints of one file or of shards with an index; every claim of an index is checked against the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ligo_safetensors._file import TensorFile, read_file
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import Identity, beneath, open_input, read_json, refusal, require_unchanged

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_CONFIG_LIMIT = 1 << 24
_INDEX_LIMIT = 100_000_000
_OTHER_FORMATS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")


class SafetensorsCheckpoint:
    """A lazy checkpoint over one or more safetensors files; made by `read`.

    Attributes:
        path: The directory or file that it was read from.
        config: The parsed ``config.json`` beside the weights; empty when there is none.
        tensors: Header of every tensor, by its name, sorted by name.
        files: The weight files, then the index if there is one.
    """

    def __init__(
        self, path: Path, shards: list[TensorFile], config: Mapping[str, Any], others: Mapping[Path, Identity]
    ) -> None:
        self.path = path
        self.config = config
        self._shards = shards
        self._others = others
        self._owner = {name: shard for shard in shards for name in shard.tensors}
        self.tensors: Mapping[str, TensorInfo] = {name: self._owner[name].tensors[name] for name in sorted(self._owner)}
        index = [other for other in others if other.name == INDEX]
        self.files: tuple[Path, ...] = (*(shard.path for shard in shards), *index)

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file was replaced, or changed its size or time, since it was opened.
            KeyError: No tensor has this name.
        """
        return self._owner[name].read(name)

    def check_unchanged(self) -> None:
        """Compare every file with what it was when the checkpoint was opened.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        for shard in self._shards:
            shard.check_unchanged()
        for path, identity in self._others.items():
            require_unchanged(path, identity)


def read(path: str | Path, /) -> SafetensorsCheckpoint:
    """Open a checkpoint; every header is checked, no tensor is read yet.

    Args:
        path: A safetensors file, or a directory with ``model.safetensors``, with an index and its shards, or with
            exactly one file of another name that ends in ``.safetensors``.

    Raises:
        InputError: There are no weights, or a file, the index or ``config.json`` is refused.
    """
    path = Path(path)
    others: dict[Path, Identity] = {}
    # os.path, not Path: its tests raise for what lies behind a directory that may not be searched.
    is_directory = os.path.isdir(path)
    directory = path if is_directory else path.parent
    shards = _shards(path, others) if is_directory else [read_file(path)]
    config: dict[str, Any] = {}
    if os.path.exists(directory / "config.json"):
        config = _read_object(directory / "config.json", _CONFIG_LIMIT, others)
    return SafetensorsCheckpoint(path, shards, config, others)


def _shards(directory: Path, others: dict[Path, Identity]) -> list[TensorFile]:
    # The single file wins over an index, as it does in transformers: both read the same weights.
    if os.path.exists(directory / SINGLE):
        return [read_file(directory / SINGLE)]
    if os.path.exists(directory / INDEX):
        return _indexed_shards(directory, others)
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return [read_file(found[0])]
    if found:
        names = ", ".join(printable(file.name, 60) for file in found[:5])
        raise refusal(
            directory, f"{len(found)} safetensors files ({names}) and no {INDEX}; name the file that you mean"
        )
    raise refusal(directory, _nothing_found(directory))


def _nothing_found(directory: Path) -> str:
    other = next((file for pattern in _OTHER_FORMATS for file in sorted(directory.glob(pattern))), None)
    if other is None:
        return f"no {SINGLE} and no {INDEX} in it"
    return (
        f"no safetensors file in it, only {printable(other.name, 60)}, which this program does not read"
        " (such files can run code when they are loaded). Convert it to safetensors in a sandbox first"
    )


def _indexed_shards(directory: Path, others: dict[Path, Identity]) -> list[TensorFile]:
    weight_map = _weight_map(directory / INDEX, others)
    names = sorted(set(weight_map.values()))
    paths = {name: beneath(directory, name) for name in names}
    missing = [name for name in names if not os.path.exists(paths[name])]
    if missing:
        message = "the shard is missing: {} names it, the directory does not have it"
        raise InputError(Problem(printable(paths[name]), message.format(INDEX)) for name in missing)
    shards = {name: read_file(paths[name]) for name in names}
    problems = list(_disagreements(weight_map, shards))
    if problems:
        raise InputError(problems)
    return list(shards.values())


def _weight_map(path: Path, others: dict[Path, Identity]) -> dict[str, str]:
    weight_map = _read_object(path, _INDEX_LIMIT, others).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise refusal(path, "weight_map is not an object that gives a file name for each tensor")
    if not weight_map:
        raise refusal(path, "weight_map is empty")
    return weight_map


def _disagreements(weight_map: Mapping[str, str], shards: Mapping[str, TensorFile]) -> Iterator[Problem]:
    """Every tensor must be in the shard that the index names, and in no other."""
    for shard, file in shards.items():
        for name in file.tensors:
            listed = weight_map.get(name)
            if listed is None:
                yield Problem(printable(name), f"is in {shard}, but not in {INDEX}")
            elif listed != shard:
                also = "which has it too" if name in shards[listed].tensors else "which does not have it"
                yield Problem(printable(name), f"is in {shard}, but {INDEX} says {listed}, {also}")
    held = {name for file in shards.values() for name in file.tensors}
    for name, shard in weight_map.items():
        if name not in held:
            yield Problem(printable(name), f"is not in {shard}, though {INDEX} says so, nor in any other shard")


def _read_object(path: Path, limit: int, others: dict[Path, Identity]) -> dict[str, Any]:
    """A JSON object; the identity of its file is noted, to be compared at the end."""
    with open_input(path) as file:
        others[path] = file.identity
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise refusal(path, "is not a JSON object")
    return value
