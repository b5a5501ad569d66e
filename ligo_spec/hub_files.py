"""Which files of a repository a growth reads: told from their names, before any is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from ligo_spec.carried import is_carried
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.formats import FORMATS, NOT_WEIGHTS, Format
from ligo_spec.inputs import has_control, read_json

_INDEX_LIMIT = 100_000_000


def chosen(files: Collection[str], where: str, local: Callable[[str], Path]) -> list[str]:
    """The files of a repository that a growth reads: weights of the first format that it has, config, tokenizer.

    Args:
        files: Every path in the repository.
        where: The repository, for messages.
        local: Fetches one file; called for the index of shards.

    Raises:
        InputError: There are no weights, several that no index joins, or an index that names what is not there.
    """
    plain = {name for name in files if "/" not in name and "\\" not in name and not has_control(name)}
    beside = sorted(name for name in plain if name == "config.json" or is_carried(name))
    for format in FORMATS.values():
        found = _weights(format, plain, where, local)
        if found:
            return [*found, *(name for name in beside if name not in found)]
    onnx = sorted(name for name in files if name.startswith("onnx/") and _is_onnx(name.removeprefix("onnx/")))
    if onnx:
        return [*onnx, *beside]
    singles = ", ".join(format.single for format in FORMATS.values())
    raise InputError(Problem(where, f"no weights in it: neither {singles}, nor any file of their kinds"))


def _weights(format: Format, plain: Collection[str], where: str, local: Callable[[str], Path]) -> list[str]:
    """The files of one format, in the order in which a directory is searched (``Format.places``)."""
    if format.single in plain:
        return sorted(name for name in plain if name == format.single or _beside_graph(format, name))
    if format.index is not None and format.index in plain:
        return [format.index, *_shards(local(format.index), plain, where)]
    others = sorted(name for name in plain if name.endswith(format.suffixes) and name not in NOT_WEIGHTS)
    if len(others) > 1:
        names = ", ".join(printable(name, 60) for name in others[:5])
        message = f"{len(others)} {format.name} files ({names}) and no {format.single} or {format.index or 'index'}"
        raise InputError(Problem(where, f"{message}; fetch it yourself and name the file that you mean"))
    return others


def _beside_graph(format: Format, name: str) -> bool:
    return format.single == "model.onnx" and _is_onnx(name)


_ONNX = re.compile(r"model\.onnx(?:_data(?:_[0-9]+)?|\.data)?|model-[0-9]{5}-of-[0-9]{5}\.onnx\.data")


def _is_onnx(name: str) -> bool:
    """Whether a file is the graph, or holds its weights under one of the names that exporters give them."""
    return _ONNX.fullmatch(name) is not None


def _shards(index: Path, plain: Collection[str], where: str) -> list[str]:
    value = read_json(index, _INDEX_LIMIT)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(Problem(where, f"{index.name}: weight_map is not an object of file names"))
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in plain]
    if missing:
        message = f"{index.name} names the shard {{}}, which is not there"
        raise InputError(Problem(where, message.format(repr(printable(shard)))) for shard in missing)
    return shards
