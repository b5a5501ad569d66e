"""Opening a model: the graph is walked, every parameter located, none read but small constants and doubles of ties."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_onnx._absent import zero_biases
from ligo_onnx._claims import claims_of
from ligo_onnx._model import CONFIG, OnnxModel, parse
from ligo_onnx._places import config_file, model_file
from ligo_onnx._recover import Found, Recovery, named_otherwise, recovered, tied
from ligo_onnx._refused import problems
from ligo_onnx._rest import by_shape, explain_missing, unexplained
from ligo_onnx._shapes import base_of, expected, required
from ligo_onnx._sizes import config_from_graph
from ligo_onnx._stored import Stored
from ligo_onnx._uses import Use, uses_of
from ligo_onnx._values import Values
from ligo_onnx._wire import Wire
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family, family_of
from ligo_spec.inputs import Identity, open_input, parse_json, read_json, refusal, require_unchanged
from ligo_spec.layout import bind

_CONFIG_LIMIT = 1 << 24
_MAX_NUMBERS = 64


class OnnxCheckpoint:
    """A lazy checkpoint over one ONNX model; made by `read`.

    Attributes:
        path: The directory or file that it was read from.
        config: The config beside the model, in it, or made from its graph.
        tensors: Header of every parameter, under the names and with the shapes of the family's files, sorted by name.
        files: The model, then the files beside it that hold its values.
        recovery: How each parameter was found.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], recovery: Recovery, values: Values, other: Mapping[Path, Identity]
    ) -> None:
        self.path = path
        self.config = config
        self.recovery = recovery
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, found.tensor.info.dtype, found.shape)
            for name, found in sorted(recovery.found.items())
        }
        self.files: tuple[Path, ...] = values.files({found.tensor.name for found in recovery.found.values()})
        self._values = values
        self._other = other

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one parameter, C-contiguous, in the dtype of the file.

        Raises:
            InputError: A file was replaced, or changed its size or time, since it was opened.
            KeyError: No parameter has this name.
        """
        return turned(self.recovery.found[name], self._values)

    def check_unchanged(self) -> None:
        """Compare every file with what it was when the checkpoint was opened.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        self._values.check_unchanged()
        for path, identity in self._other.items():
            require_unchanged(path, identity)


def turned(found: Found, values: Values) -> npt.NDArray[Any]:
    """The values of a parameter, as its family's files have them."""
    value = np.ascontiguousarray(found.turned(values(found.tensor)))
    return value.reshape(found.shape)


def read(path: str | Path, /, *, family: Family | None = None) -> OnnxCheckpoint:
    """Open an ONNX model as a checkpoint of its family.

    Args:
        path: An ONNX file, or a directory with ``model.onnx``, ``onnx/model.onnx``, or one file of another name that
            ends in ``.onnx`` and does not say that it is quantised.
        family: What the model is; found in the config where it is left out. A model without a config needs it.

    Raises:
        InputError: There is no model, it is no strict ONNX, is quantised or fused, is of another architecture, or
            does not give every parameter of its family whole. All that is known to be wrong at once.
    """
    path = Path(path)
    file = model_file(path)
    where = printable(file)
    with open_input(file) as opened:
        model = parse(Wire(opened))
        identity = opened.identity
    wrong = list(problems(model, where))
    if wrong:
        raise InputError(wrong)
    values = Values(file, identity, model.tensors)
    numbers = _numbers(model, values)
    uses = uses_of(model, numbers)
    other: dict[Path, Identity] = {}
    found = _config(file, model, other)
    if found is None and family is None:
        message = f"no config.json beside it and no {CONFIG} in it; say which family it is (source.family)"
        raise refusal(file, f"{message}, or put the model's config.json there")
    if found is None:
        assert family is not None
        config = config_from_graph(model, uses, numbers, family, values, where)
    else:
        config, named = found
        family = family_of(config, named) if family is None else family
    architecture = Architecture.from_hf_config(family, config, where if not other else printable(next(iter(other))))
    recovery = _recovery(model, uses, architecture, values, where)
    checkpoint = OnnxCheckpoint(path, config, recovery, values, other)
    bind(architecture, checkpoint.tensors, where)
    return checkpoint


def _numbers(model: OnnxModel, values: Values) -> dict[str, tuple[int, ...]]:
    """The values of small lists of whole numbers: what Reshape and its kind are told."""
    found = {
        name: tuple(values(tensor).reshape(-1).tolist())
        for name, tensor in model.tensors.items()
        if tensor.info.dtype in ("I64", "I32") and len(tensor.info.shape) <= 1
        if math.prod(tensor.info.shape) <= _MAX_NUMBERS
    }
    for node in model.nodes:
        for key in ("value_int", "value_ints"):
            value = node.attributes.get(key) if node.op == "Constant" else None
            if value is not None and not isinstance(value, float | str):
                found[node.outputs[0]] = value if isinstance(value, tuple) else (value,)
    return found


def _config(file: Path, model: OnnxModel, other: dict[Path, Identity]) -> tuple[dict[str, Any], str] | None:
    """The config that lies with a model or in it, and its place for messages."""
    beside = config_file(file)
    if beside is not None:
        with open_input(beside) as opened:
            other[beside] = opened.identity
        config, where = read_json(beside, _CONFIG_LIMIT), printable(beside)
    elif CONFIG in model.metadata:
        where = f"{printable(file)}: {CONFIG}"
        config = parse_json(model.metadata[CONFIG], where)
    else:
        return None
    if not isinstance(config, dict):
        raise InputError(Problem(where, "is not a JSON object"))
    return config, where


def _recovery(
    model: OnnxModel, uses: Mapping[str, list[Use]], architecture: Architecture, values: Values, where: str
) -> Recovery:
    _require_layers(model, architecture, where)
    claims = claims_of(
        (use for ways in uses.values() for use in ways), architecture.family, ours=CONFIG in model.metadata
    )
    recovery = recovered(claims, architecture, where)
    base = base_of(architecture, recovery.found)
    wanted = expected(architecture, base)
    tied(recovery, architecture, lambda found: turned(found, values))
    named_otherwise(recovery, wanted, architecture)
    zero_biases(recovery, wanted, architecture)
    needed = required(architecture, wanted)
    missing = {name: slot for name, slot in needed.items() if name not in recovery.found}
    if 2 * len(missing) <= len(needed):
        by_shape(recovery, missing, uses, architecture, values)
        missing = {name: slot for name, slot in missing.items() if name not in recovery.found}
    recovery.missing = list(missing)
    wrong = list(recovery.problems)
    if 2 * len(missing) > len(needed):
        wrong.append(_other_architecture(model, missing, needed, architecture, where))
    else:
        wrong += explain_missing(recovery, missing, uses, architecture, where)
        wrong += _unexplained(unexplained(recovery, uses, model.tensors, values), uses, architecture, where)
    if wrong:
        raise InputError(wrong)
    return recovery


def _require_layers(model: OnnxModel, architecture: Architecture, where: str) -> None:
    """Refuse a config that claims more layers than there are tensors, before anything is made for each of them."""
    for stack, depth in architecture.depths.items():
        if depth > len(model.tensors):
            text = f"the config says {depth} {stack}, the graph has {len(model.tensors)} tensors in all"
            raise InputError(Problem(where, text))


def _other_architecture(
    model: OnnxModel, missing: Mapping[str, Any], needed: Mapping[str, Any], architecture: Architecture, where: str
) -> Problem:
    parts = [node.scope or node.name for node in model.nodes if node.op in ("MatMul", "Gemm", "Gather", "Conv")]
    seen = ", ".join(printable(part, 60) for part in dict.fromkeys(filter(None, parts[:200])))[:300]
    text = f"{len(missing)} of {len(needed)} tensors of family {architecture.family.name} are not in the graph"
    first = printable(next(iter(missing)), 80)
    return Problem(
        where, f"{text}, such as {first}; it is of another architecture, or has no names. It has {seen or 'none'}"
    )


def _unexplained(
    tensors: list[Stored], uses: Mapping[str, list[Use]], architecture: Architecture, where: str
) -> list[Problem]:
    found: list[Problem] = []
    for tensor in tensors:
        users = ", ".join(str(use.node) for use in uses.get(tensor.name, [])[:2] if use.node is not None) or "nothing"
        text = f"tensor {printable(tensor.name, 60)} {tensor.info.shape} is no parameter of {architecture.family.name}"
        found.append(Problem(where, f"{text} and no constant that we know; {users} takes it"))
    return found
