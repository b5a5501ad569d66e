"""Which tensor of a file each parameter of the library's module is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem
from ligo_spec.layout import Model, bind
from ligo_torch.parameters import units_of


def tensors_of(module: Any, model: Model, infos: Mapping[str, TensorInfo], where: str) -> dict[str, str]:
    """The name in the file of every parameter, by each of the names that the module has for it.

    Args:
        module: The library's module.
        model: What the tensors of the file are.
        infos: Their headers.
        where: The file, for messages.

    Raises:
        InputError: The module joins tensors that files keep apart, needs one that the file lacks, or in another shape.
    """
    kind, architecture = type(module).__name__, model.architecture
    units = units_of(module)
    joined = [name for unit in units if unit.places for name in unit.parameters]
    if joined:
        text = f"{kind} joins tensors of the file in memory ({joined[0]}); such models cannot be written as ONNX yet"
        raise InputError(Problem(where, text))
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    wanted = {unit.tensors[0]: unit.parameters[0] for unit in units}
    headers = {name: TensorInfo(name, "F32", shapes[parameter]) for name, parameter in wanted.items()}
    first = {name: group[0] for group in architecture.ties for name in group}
    held = {tuple(first.get(part, part) for part in slot.holds): name for name, slot in model.slots.items()}
    found: dict[str, str] = {}
    problems = []
    for name, slot in bind(architecture, headers, where).slots.items():
        stored = held.get(tuple(first.get(part, part) for part in slot.holds))
        if stored is None:
            problems.append(Problem(where, f"{kind} needs {name}, which is not there"))
        elif infos[stored].shape != headers[name].shape:
            text = f"{stored} has shape {infos[stored].shape}, {kind} needs {headers[name].shape}"
            problems.append(Problem(where, text))
        else:
            found[wanted[name]] = stored
    if problems:
        raise InputError(problems)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    by_identity = {id(parameters[name]): stored for name, stored in found.items()}
    return {name: by_identity[id(value)] for name, value in parameters.items()}
