"""From one format to another: the same tensors, bit for bit, unless another dtype is asked for."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from ligo_spec.carried import carry
from ligo_spec.checkpoint import FLOATS, Checkpoint, TensorInfo, load_converter, read_checkpoint
from ligo_spec.errors import PlanError
from ligo_spec.events import Events
from ligo_spec.family import Family, family_names, load_family
from ligo_spec.formats import FORMATS, FormatName, format_of, model_directory
from ligo_spec.hub import fetch, on_hub
from ligo_spec.inputs import sha256_of
from ligo_spec.job import Small, family_in, identify
from ligo_spec.layout import Model
from ligo_spec.outputs import PLAN_DTYPES, cast
from ligo_spec.plan import DtypeName, parse_bytes
from ligo_spec.staging import Stage, check_target, json_bytes, staged_directory

MANIFEST_FILE = "conversion_manifest.json"


@dataclass(frozen=True)
class Converted:
    """A finished conversion.

    Args:
        path: The new directory.
        source_format: What was read.
        format: What was written.
        family: The model's family; None where it was not needed and is none that is shipped.
        tensors: How many were written.
        bytes: Of their values.
        dropped: Tensors of the source that are no weights and were not written, with the reason.
        undeclared: Tensors that the family does not declare; they were written as they are.
        files: The new files of weights.
    """

    path: Path
    source_format: str
    format: str
    family: str | None
    tensors: int
    bytes: int
    dropped: Mapping[str, str]
    undeclared: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Content:
    """What is written: headers by the name that is written, the name to read each under, and what they are."""

    infos: Mapping[str, TensorInfo]
    sources: Mapping[str, str]
    config: Mapping[str, Any]
    model: Model | None
    dropped: Mapping[str, str]
    undeclared: tuple[str, ...]


def convert(
    source: str | Path,
    output: str | Path,
    to: FormatName,
    *,
    family: str | Path | None = None,
    dtype: DtypeName = "keep",
    max_shard_size: int | str = "5GB",
    events: Events | None = None,
) -> Converted:
    """Write a checkpoint in another format, or in the same one at another dtype or in other shards.

    Tensors stream: one at a time is in memory. Config, tokenizer and the like are copied.

    Args:
        source: A directory, a file or ``hf://owner/name@revision``.
        output: The directory to make.
        to: The format to write.
        family: What the model is, where its ``config.json`` does not tell; a name or a file.
        dtype: Of the floating-point tensors; ``keep``: every tensor in its own.
        max_shard_size: Bytes of tensors a file, or a text as in a plan.
        events: Is told of every tensor that is written.

    Raises:
        LigoError: The source is refused, the format has no place for it, or the output cannot be written; nothing is
            left then.
    """
    limit = parse_bytes(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    named = None if family is None else load_family(family)
    snapshot = None
    if on_hub(source):
        check_target(output)  # before anything is fetched
        snapshot = fetch(str(source))
    source, output = Path(source) if snapshot is None else snapshot.path, Path(output)
    source_format = format_of(source).name
    checkpoint = read_checkpoint(source, family=named)
    content = _content(checkpoint, named, to)
    if dtype != "keep":
        content = _in_dtype(content, dtype)
    total = sum(info.nbytes for info in content.infos.values())
    done, shown = 0, events or Events()

    def value(name: str) -> npt.NDArray[Any]:
        nonlocal done
        made = cast(checkpoint.read(content.sources[name]), content.infos[name])
        done += made.nbytes
        shown.written(done, total)
        return made

    converter = load_converter(to)
    with staged_directory(output, sources=[source]) as stage:
        infos = content.infos.values()
        files = converter.write(stage, infos, value, max_shard_size=limit, model=content.model)
        _write_config(stage, checkpoint, content)
        fetched = None if snapshot is None else snapshot.files
        carry(stage, model_directory(checkpoint.path), checkpoint.files, fetched=fetched)
        checkpoint.check_unchanged()  # after the last look at the source
        manifest = _manifest(checkpoint, source_format, to, content, stage)
        manifest["source_revision"] = None if snapshot is None else snapshot.source
        stage.write_bytes(MANIFEST_FILE, [json_bytes(manifest)])
    name = None if content.model is None else content.model.architecture.family.name
    left = (content.dropped, content.undeclared, tuple(files))
    return Converted(output, source_format, to, name, len(content.infos), total, *left)


def _content(checkpoint: Checkpoint, named: Family | None, to: FormatName) -> _Content:
    """What is written: everything as it is, or, where the format needs to know what is what, under today's names."""
    if FORMATS[to].named:
        as_they_are = {name: name for name in checkpoint.tensors}
        return _Content(checkpoint.tensors, as_they_are, checkpoint.config, None, {}, ())
    small = identify(checkpoint, _family(checkpoint, named, to), copy=["*"])
    slots = {slot.name: slot for slot in small.binding.slots.values()}
    sources = {slot.name: key for key, slot in small.binding.slots.items()} | {n: n for n in small.binding.copied}
    again = _stored_again(small)
    kept = {name: key for name, key in sources.items() if name not in again}
    infos = {name: replace(checkpoint.tensors[key], name=name) for name, key in kept.items()}
    config = small.architecture.config
    dropped = {**small.binding.dropped, **again}
    return _Content(infos, kept, config, Model(small.architecture, slots), dropped, small.binding.copied)


def _family(checkpoint: Checkpoint, named: Family | None, to: FormatName) -> Family:
    if named is not None:
        return named
    if not checkpoint.config:
        names = ", ".join(family_names())
        raise PlanError(
            f"{checkpoint.path}: no config.json beside the weights; {to} files need to know what the tensors are. "
            f"Put it there, or name the family (one of {names}, or a file)"
        )
    return family_in(checkpoint)


def _stored_again(small: Small) -> dict[str, str]:
    """Tensors of the file that hold what a tied one before them holds."""
    found: dict[str, str] = {}
    for first, *others in small.architecture.ties:
        names = {name: slot.name for slot in small.binding.slots.values() for name in slot.names}
        if first in names:
            found |= {names[other]: f"tied to {names[first]}" for other in others if other in names}
    return found


def _in_dtype(content: _Content, dtype: str) -> _Content:
    kind = PLAN_DTYPES[dtype]
    infos = {name: replace(info, dtype=kind) if info.dtype in FLOATS else info for name, info in content.infos.items()}
    if not content.config:
        return replace(content, infos=infos)
    config = {key: value for key, value in content.config.items() if key != "torch_dtype"} | {"dtype": dtype}
    model = content.model
    if model is not None:
        model = replace(model, architecture=replace(model.architecture, config=MappingProxyType(config)))
    return replace(content, infos=infos, config=config, model=model)


def _write_config(stage: Stage, checkpoint: Checkpoint, content: _Content) -> None:
    """The config, byte for byte where nothing in it changed."""
    place = model_directory(checkpoint.path) / "config.json"
    if content.config == checkpoint.config and os.path.exists(place):
        stage.copy_file(place, "config.json")
    elif content.config:
        stage.write_bytes("config.json", [json_bytes(dict(content.config))])


def _manifest(
    checkpoint: Checkpoint, source_format: str, to: FormatName, content: _Content, stage: Stage
) -> dict[str, Any]:
    packages = ["ligo-spec", "numpy"]
    return {
        "spec": "ligo/conversion/1",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "from": source_format,
        "to": to,
        "source": {path.name: sha256_of(path) for path in checkpoint.files},
        "tensors": {"dropped": dict(content.dropped), "undeclared": list(content.undeclared)},
        "files": {name: {"size": file.size, "sha256": file.sha256} for name, file in sorted(stage.files.items())},
    }
