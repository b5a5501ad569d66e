"""The formats of checkpoints, as data: how their files are called, and which of them a path holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ligo_spec.errors import InputError, Problem, printable

FormatName = Literal["safetensors", "pytorch", "onnx", "flax"]
"""The formats that there are."""


@dataclass(frozen=True)
class Format:
    """How the files of one format are called.

    Args:
        name: The format, and the name of its converter.
        single: The file of a checkpoint that is not cut; a directory's first choice.
        index: What lists the shards of one that is cut; None where the format has no shards.
        shard: Name of shard ``number`` of ``count``.
        suffixes: Endings of its files.
        named: Whether its files hold the tensors of the ``hf`` layout as they are, so that none needs to be known.
    """

    name: str
    single: str
    index: str | None
    shard: str
    suffixes: tuple[str, ...]
    named: bool

    def places(self, directory: Path) -> Iterator[Path]:
        """The files in a directory that may be a checkpoint of this format, the best first."""
        yield directory / self.single
        if self.index is not None:
            yield directory / self.index
        yield from self.others(directory)

    def others(self, directory: Path) -> list[Path]:
        """The files with one of its endings, by name, whatever they are called."""
        return sorted(path for suffix in self.suffixes for path in directory.glob(f"*{suffix}"))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format.name: format
        for format in (
            Format(
                "safetensors",
                "model.safetensors",
                "model.safetensors.index.json",
                "model-{number:05}-of-{count:05}.safetensors",
                (".safetensors",),
                named=True,
            ),
            Format(
                "pytorch",
                "pytorch_model.bin",
                "pytorch_model.bin.index.json",
                "pytorch_model-{number:05}-of-{count:05}.bin",
                (".bin", ".pt", ".pth", ".ckpt"),
                named=True,
            ),
            Format(
                "flax",
                "flax_model.msgpack",
                "flax_model.msgpack.index.json",
                "flax_model-{number:05}-of-{count:05}.msgpack",
                (".msgpack", ".npz"),
                named=False,
            ),
            Format("onnx", "model.onnx", None, "", (".onnx",), named=False),
        )
    }
)
"""Every format, in the order in which a directory is searched: the one that holds the least danger first."""

NOT_WEIGHTS = (
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "training_args.bin",
    "rng_state.pth",
    "operator.safetensors",
)
"""Files that lie beside weights, have the ending of weights, and are none."""


HUB_ONNX = "onnx"
"""The folder that ONNX files lie in on the Hub; ``config.json`` and the like lie above it."""


def model_directory(path: Path) -> Path:
    """Where ``config.json``, tokenizer and the like of the checkpoint at ``path`` lie, which may be a file."""
    directory = path if os.path.isdir(path) else path.parent
    in_hub_folder = directory.name == HUB_ONNX and not os.path.exists(directory / "config.json")
    return directory.parent if in_hub_folder and os.path.exists(directory.parent / "config.json") else directory


def format_of(path: Path) -> Format:
    """The format of the checkpoint at ``path``: a file's by its ending, a directory's by the files in it.

    Raises:
        InputError: There is no such path, or nothing of a known format in it.
    """
    # os.path, not Path: its tests raise for what lies behind a directory that may not be searched.
    if not os.path.exists(path):
        raise InputError(f"{printable(path)}: no such file or directory")
    if not os.path.isdir(path):
        return _format_of_file(path)
    for format in FORMATS.values():
        if any(os.path.lexists(place) and place.name not in NOT_WEIGHTS for place in format.places(path)):
            return format
    if os.path.exists(path / HUB_ONNX):
        return FORMATS["onnx"]
    singles = ", ".join(format.single for format in FORMATS.values())
    raise InputError(Problem(printable(path), f"no weights in it: neither {singles}, nor any file of their kinds"))


def _format_of_file(path: Path) -> Format:
    for format in FORMATS.values():
        if path.name.endswith(format.suffixes):
            return format
    endings = ", ".join(suffix for format in FORMATS.values() for suffix in format.suffixes)
    raise InputError(Problem(printable(path), f"is of no known format; the files of checkpoints end in {endings}"))
