"""The parameters of the library's own model, and how they lie in the tensors of a checkpoint.

The model is built without memory. Some families' tensors have other names in memory than in a file, or are joined or
cut; the library is asked to undo that, on names where it only renames and on indices where it does more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem
from ligo_spec.layout import Binding, bind
from ligo_torch.huggingface import config_of, model_class

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Unit:
    """Parameters that hold some tensors of a file between them: one and one, or as many as the library joins.

    Args:
        parameters: Names in the model.
        places: By name in the file, which entries of all parameters in one row it is; empty for one and one.
        tensors: Names in the file.
    """

    parameters: tuple[str, ...]
    tensors: tuple[str, ...]
    places: Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Parameters:
    """All parameters of the library's model of an architecture, in its order.

    Args:
        shapes: By name.
        frozen: Those that the library does not train.
        decayed: Those whose weights Transformers' Trainer lets decay.
        binding: What the tensors of a file are.
        units: Which parameters hold them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    frozen: frozenset[str]
    decayed: frozenset[str]
    binding: Binding
    units: Sequence[Unit]

    @cached_property
    def unit_of(self) -> dict[str, Unit]:
        """The unit of every parameter."""
        return {name: unit for unit in self.units for name in unit.parameters}

    @cached_property
    def unit_of_tensor(self) -> dict[str, Unit]:
        """The unit of every tensor of a file."""
        return {name: unit for unit in self.units for name in unit.tensors}

    @cached_property
    def tensor_of(self) -> dict[str, tuple[str, int]]:
        """Canonical name, of a slice where files hold those -> (name in the file, which part of it)."""
        return self.binding.sources()

    def trained(self) -> list[str]:
        """The parameters that are trained, in the model's order."""
        return [name for name in self.shapes if name not in self.frozen]

    def holds(self, name: str) -> list[str]:
        """The canonical tensors that a parameter has a part in, whole ones."""
        tensors = self.unit_of[name].tensors
        return list(dict.fromkeys(part for tensor in tensors for part in self.binding.slots[tensor].names))

    def tensor_with(self, canonical: str) -> str:
        """A tensor of the file that holds a canonical one, or the first slice of it."""
        held = self.binding.pieces.get(canonical)
        return self.tensor_of[canonical if held is None else held[0]][0]

    def in_file(self, unit: Unit, tensor: str, values: Callable[[str], Array]) -> Array:
        """A tensor of the file from the parameters' values."""
        if not unit.places:
            return values(unit.parameters[0])
        row = np.concatenate([values(name).reshape(-1) for name in unit.parameters])
        return row[unit.places[tensor]]

    def in_memory(self, unit: Unit, values: Callable[[str], Array]) -> dict[str, Array]:
        """The parameters of a unit from the values of the file's tensors."""
        if not unit.places:
            return {unit.parameters[0]: values(unit.tensors[0])}
        made = {tensor: values(tensor) for tensor in unit.tensors}
        sizes = [int(np.prod(self.shapes[name], dtype=np.int64)) for name in unit.parameters]
        row = np.zeros(sum(sizes), dtype=next(iter(made.values())).dtype)
        for tensor, value in made.items():
            row[unit.places[tensor]] = value
        parts = np.split(row, np.cumsum(sizes)[:-1])
        return {name: part.reshape(self.shapes[name]) for name, part in zip(unit.parameters, parts, strict=True)}


def parameters_of(architecture: Architecture, where: str) -> Parameters:
    """The parameters of the class in the config's ``architectures``; it takes no memory.

    Raises:
        InputError: Transformers has no such class, or its parameters are none that the family declares.
    """
    model = _model(architecture, where)
    named = dict(model.named_parameters())
    units = units_of(model)
    infos: dict[str, TensorInfo] = {}
    for unit in units:
        for tensor in unit.tensors:
            shape = unit.places[tensor].shape if unit.places else tuple(named[unit.parameters[0]].shape)
            infos[tensor] = TensorInfo(tensor, "F32", shape)
    decayed = transformers.Trainer.get_decay_parameter_names(None, model)
    return Parameters(
        shapes={name: tuple(value.shape) for name, value in named.items()},
        frozen=frozenset(name for name, value in named.items() if not value.requires_grad),
        decayed=frozenset(decayed),
        binding=bind(architecture, infos, where),
        units=units,
    )


def _model(architecture: Architecture, where: str) -> torch.nn.Module:
    config = config_of(architecture)
    names = architecture.config.get("architectures") or ["AutoModel"]
    kind = model_class(names[0])
    if kind is None:
        raise InputError(Problem(where, f"architectures names {names[0]}, which Transformers has not"))
    with torch.device("meta"):
        made: torch.nn.Module = kind.from_config(config) if names[0] == "AutoModel" else kind(config)
    return made


def units_of(model: torch.nn.Module) -> list[Unit]:
    """How all parameters of a library's model lie in files, each once, in its order."""
    return list(_units(model, dict(model.named_parameters())))


def _units(model: torch.nn.Module, named: Mapping[str, torch.Tensor]) -> Iterator[Unit]:
    """One unit a parameter that is only renamed; what is joined or cut goes by layer."""
    renamed = {id(value): name for name, value in revert_weight_conversion(model, dict(named)).items()}
    rest: dict[str, list[str]] = {}
    for name, value in named.items():
        if id(value) in renamed:
            yield Unit((name,), (renamed[id(value)],), {})
        else:
            layer = re.match(r"(?:.*?\.)?\d+\.", name)
            rest.setdefault(layer[0] if layer else "", []).append(name)
    for names in rest.values():
        places, start = {}, 0
        for name in names:
            size = named[name].numel()
            places[name] = torch.arange(start, start + size, device="cpu").reshape(named[name].shape)
            start += size
        found = {key: value.numpy() for key, value in revert_weight_conversion(model, places).items()}
        yield Unit(tuple(names), tuple(found), found)
