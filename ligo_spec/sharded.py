"""Checkpoints of one file or of shards with an index, in any format; every claim of an index is held to the shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, LigoError, Problem, printable
from ligo_spec.formats import NOT_WEIGHTS, Format
from ligo_spec.inputs import MAX_PATH, Identity, beneath, has_control, open_input, read_json, refusal, require_unchanged
from ligo_spec.staging import Stage

_CONFIG_LIMIT = 1 << 24
_INDEX_LIMIT = 100_000_000


class WeightFile(Protocol):
    """One file of named tensors, its header checked."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Header of every tensor, by name."""
        ...

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file."""
        ...

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened."""
        ...


class ShardedCheckpoint:
    """A lazy checkpoint over one or more files; made by `read_sharded`.

    Attributes:
        path: The directory or file that it was read from.
        config: The parsed ``config.json`` beside the weights; empty when there is none.
        tensors: Header of every tensor, by its name, sorted by name.
        files: The weight files, then the index if there is one.
    """

    def __init__(
        self,
        path: Path,
        shards: Sequence[WeightFile],
        config: Mapping[str, Any],
        others: Mapping[Path, Identity],
        index: str | None,
    ) -> None:
        self.path = path
        self.config = config
        self._shards = shards
        self._others = others
        self._owner = {name: shard for shard in shards for name in shard.tensors}
        self.tensors: Mapping[str, TensorInfo] = {name: self._owner[name].tensors[name] for name in sorted(self._owner)}
        found = [other for other in others if other.name == index]
        self.files: tuple[Path, ...] = (*(shard.path for shard in shards), *found)

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


def read_sharded(path: Path, format: Format, read_file: Callable[[Path], WeightFile]) -> ShardedCheckpoint:
    """Open a checkpoint; every header is checked, no tensor is read yet.

    Args:
        path: A file, or a directory with the format's single file, with an index and its shards, or with exactly one
            file of another name that has one of the format's endings.
        format: How the files are called.
        read_file: Opens one file.

    Raises:
        InputError: There are no weights, or a file, the index or ``config.json`` is refused.
    """
    others: dict[Path, Identity] = {}
    # os.path, not Path: its tests raise for what lies behind a directory that may not be searched.
    is_directory = os.path.isdir(path)
    shards = _shards(path, format, read_file, others) if is_directory else [read_file(path)]
    config = read_config(path if is_directory else path.parent, others)
    return ShardedCheckpoint(path, shards, config, others, format.index)


def read_config(directory: Path, others: dict[Path, Identity]) -> dict[str, Any]:
    """The parsed ``config.json`` of a directory, empty when there is none; its identity is noted in ``others``.

    Raises:
        InputError: It is refused.
    """
    place = directory / "config.json"
    return _read_object(place, _CONFIG_LIMIT, others) if os.path.exists(place) else {}


def _shards(
    directory: Path, format: Format, read_file: Callable[[Path], WeightFile], others: dict[Path, Identity]
) -> Sequence[WeightFile]:
    # The single file wins over an index, as it does in transformers: both read the same weights.
    if os.path.exists(directory / format.single):
        return [read_file(directory / format.single)]
    if format.index is not None and os.path.exists(directory / format.index):
        return _indexed_shards(directory, format.index, read_file, others)
    found = [path for path in format.others(directory) if path.name not in NOT_WEIGHTS]
    if len(found) == 1:
        return [read_file(found[0])]
    if found:
        names = ", ".join(printable(file.name, 60) for file in found[:5])
        message = f"{len(found)} {format.name} files ({names}) and no {format.index}; name the file that you mean"
        raise refusal(directory, message)
    raise refusal(directory, f"no {format.single} and no {format.index} in it")


def _indexed_shards(
    directory: Path, index: str, read_file: Callable[[Path], WeightFile], others: dict[Path, Identity]
) -> list[WeightFile]:
    weight_map = _weight_map(directory / index, others)
    names = sorted(set(weight_map.values()))
    paths = {name: beneath(directory, name) for name in names}
    missing = [name for name in names if not os.path.exists(paths[name])]
    if missing:
        message = f"the shard is missing: {index} names it, the directory does not have it"
        raise InputError(Problem(printable(paths[name], MAX_PATH), message) for name in missing)
    shards = {name: read_file(paths[name]) for name in names}
    problems = list(_disagreements(weight_map, shards, index))
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


def _disagreements(weight_map: Mapping[str, str], shards: Mapping[str, WeightFile], index: str) -> Iterator[Problem]:
    """Every tensor must be in the shard that the index names, and in no other."""
    for shard, file in shards.items():
        for name in file.tensors:
            listed = weight_map.get(name)
            if listed is None:
                yield Problem(printable(name), f"is in {shard}, but not in {index}")
            elif listed != shard:
                also = "which has it too" if name in shards[listed].tensors else "which does not have it"
                yield Problem(printable(name), f"is in {shard}, but {index} says {listed}, {also}")
    held = {name for file in shards.values() for name in file.tensors}
    for name, shard in weight_map.items():
        if name not in held:
            yield Problem(printable(name), f"is not in {shard}, though {index} says so, nor in any other shard")


def _read_object(path: Path, limit: int, others: dict[Path, Identity]) -> dict[str, Any]:
    """A JSON object; the identity of its file is noted, to be compared at the end."""
    with open_input(path) as file:
        others[path] = file.identity
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise refusal(path, "is not a JSON object")
    return value


# --- writing ----------------------------------------------------------------------------------------------------------


def write_sharded(
    stage: Stage,
    tensors: Iterable[TensorInfo],
    format: Format,
    max_shard_size: int,
    write_file: Callable[[str, list[TensorInfo]], object],
) -> list[str]:
    """Write one file, or shards with an index as Hugging Face names them; the names of the files.

    Args:
        stage: The output directory in the making.
        tensors: What the files will hold, in any order: they are sorted by name, and filled into shards so.
        format: How the files are called.
        max_shard_size: Bytes of tensors a file; a larger tensor gets a file of its own.
        write_file: Writes one file, of that name and these tensors.

    Raises:
        OutputError: The files do not fit, or cannot be written.
        LigoError: A name comes twice or cannot be written.
    """
    infos = sorted_by_name(tensors)
    total = sum(info.nbytes for info in infos)
    stage.require_space(total)
    shards = list(fill(infos, max_shard_size))
    if len(shards) == 1 or format.index is None:
        write_file(format.single, infos)
        return [format.single]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = format.shard.format(number=number, count=len(shards))
        write_file(name, shard)
        weight_map.update((info.name, name) for info in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    stage.write_bytes(format.index, [text.encode()])
    return [*dict.fromkeys(weight_map.values()), format.index]


def sorted_by_name(tensors: Iterable[TensorInfo], reserved: str | None = None) -> list[TensorInfo]:
    """The tensors in the order of their names.

    Args:
        tensors: In any order.
        reserved: A name that the format keeps for itself.

    Raises:
        LigoError: A name comes twice, is reserved, or holds control characters.
    """
    infos = sorted(tensors, key=lambda info: info.name)
    unfit = [info.name for info in infos if info.name == reserved or has_control(info.name)]
    problems = [Problem(printable(name), "cannot be the name of a tensor") for name in unfit]
    pairs = pairwise(infos)
    problems += [Problem(printable(info.name), "is written twice") for info, after in pairs if info.name == after.name]
    if problems:
        raise LigoError(problems)
    return infos


def fill(infos: Iterable[TensorInfo], limit: int) -> Iterator[list[TensorInfo]]:
    """Fill shards of at most ``limit`` bytes in order, a larger tensor by itself; at least one, even of nothing."""
    shard: list[TensorInfo] = []
    size = 0
    for info in infos:
        if shard and size + info.nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(info)
        size += info.nbytes
    yield shard
