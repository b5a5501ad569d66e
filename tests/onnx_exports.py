"""Models as ``torch.onnx.export`` writes them: both exporters, optimised or not, at fixed or free shapes."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import numpy.typing as npt

import ligo_safetensors
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import Checkpoint
from ligo_spec.family import load_family
from tests.forward import inputs
from tests.models import takes
from tests.tiny_checkpoints import random_model


@dataclass(frozen=True)
class Setting:
    """How a model is exported.

    Args:
        dynamo: With the new exporter or the old one.
        optimise: Constants folded away (old), the graph optimised (new).
        free: Whether the sizes of inputs stay free.
    """

    dynamo: bool
    optimise: bool
    free: bool = False

    def __str__(self) -> str:
        kind = "dynamo" if self.dynamo else "legacy"
        return f"{kind}-{'optimised' if self.optimise else 'plain'}{'-free' if self.free else ''}"


def exported(model: Any, path: Path, setting: Setting, given: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Write a model of Transformers as one ONNX file; its inputs use every row of every table.

    Args:
        model: What to export; its config must name its family.
        path: The file.
        setting: How.
        given: Inputs by name; those that use every row of every table where they are left out.
        more: Further arguments of ``torch.onnx.export``.
    """
    import torch

    given = _inputs(model) if given is None else dict(given)
    names = list(given)
    sides = {name: _free_sides(name, value) for name, value in given.items()}
    options: dict[str, Any] = {"dynamo": setting.dynamo}
    options["optimize" if setting.dynamo else "do_constant_folding"] = setting.optimise
    if setting.free and setting.dynamo:
        options["dynamic_shapes"] = {
            name: dict.fromkeys(free, torch.export.Dim.DYNAMIC) for name, free in sides.items()
        }
    elif setting.free:
        options["dynamic_axes"] = {name: {side: f"{name}_{side}" for side in free} for name, free in sides.items()}
    with _quiet(), nullcontext() if setting.dynamo else _taking(model, names):
        torch.onnx.export(
            model, (), path, kwargs=given, input_names=names, external_data=False, verbose=False, **options | more
        )


@contextmanager
def _taking(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Let a model take these inputs and no others: the old exporter gives some models an input twice otherwise."""
    kind = type(model)

    def forward(self: Any, *given: Any) -> Any:
        return kind.forward(self, **dict(zip(names, given, strict=True)))

    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    forward.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    try:
        yield
    finally:
        model.__class__ = kind


def exported_directory(
    model: Any, directory: Path, setting: Setting, given: Mapping[str, Any] | None = None, **more: Any
) -> Path:
    """A directory as people have it: ``model.onnx``, and the config beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    exported(model, directory / "model.onnx", setting, given, **more)
    (directory / "config.json").write_text(json.dumps(config_of(model)))
    return directory


def config_of(model: Any) -> dict[str, Any]:
    """The config as ``save_pretrained`` writes it: with the class, which tells one name's meanings apart."""
    model.config.architectures = [type(model).__name__]
    found: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return found


def in_files(model: Any, directory: Path) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of a model as Transformers stores it, by its name there."""
    model.save_pretrained(directory)
    checkpoint = ligo_safetensors.read(directory)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def wrong(checkpoint: Checkpoint, wanted: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """What a checkpoint has differently: names, shapes, dtypes, bits; empty where it is the same."""
    found = [f"{name} is only in one" for name in sorted(checkpoint.tensors.keys() ^ wanted.keys())]
    for name in sorted(checkpoint.tensors.keys() & wanted.keys()):
        value, info = checkpoint.read(name), checkpoint.tensors[name]
        same = value.dtype == wanted[name].dtype and value.shape == wanted[name].shape == info.shape
        if not same or value.tobytes() != wanted[name].tobytes() or not value.flags.c_contiguous:
            found.append(f"{name} {info.dtype} {info.shape}")
    return found


def model_of(class_name: str, config: Mapping[str, Any], seed: int = 0, **more: Any) -> Any:
    """A random model that can be exported: no cache among its outputs."""
    model = random_model(class_name, config, seed, **more)
    model.config.use_cache = False
    return model


def _inputs(model: Any) -> dict[str, Any]:
    config = config_of(model)
    architecture = Architecture.from_hf_config(load_family(config["model_type"]), config)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    wanted = takes(model) - {"use_cache", "cache_position", "past_key_values"}
    return inputs(architecture, wanted, dtype)


def _free_sides(name: str, value: Any) -> list[int]:
    """The batch, and the length of texts; images are of one size."""
    return [0, 1] if value.ndim == 2 else [0]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of themselves, of branches that a trace takes and of operators that nobody uses here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
