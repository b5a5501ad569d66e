"""ONNX files that run: the graph of the library's own module, over the weights as the file has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch

from ligo_onnx._export import export
from ligo_onnx._module import module_of, with_fake_parameters
from ligo_onnx._names import tensors_of
from ligo_onnx._stream import EMBEDDED_LIMIT, Initializer, embedded, placed, values
from ligo_spec.checkpoint import DTYPES, TensorInfo, dtype_name
from ligo_spec.errors import InputError
from ligo_spec.formats import FORMATS
from ligo_spec.layout import Model, require_model
from ligo_spec.sharded import fill, sorted_by_name
from ligo_spec.staging import Stage

CONFIG_KEY = "ligo.config"
"""Where a model's metadata holds its ``config.json``, so that the file alone says what it is."""


def write(
    stage: Stage,
    tensors: Iterable[TensorInfo],
    value: Callable[[str], npt.NDArray[Any]],
    /,
    *,
    max_shard_size: int,
    model: Model | None,
) -> list[str]:
    """Write ``model.onnx``, a model that runs; the names of the files.

    The graph is that of the class in the config's ``architectures``, from tokens (or pixels, or sound) to its outputs,
    with free batch and length. Its initializers have the names and the orientation of the family's ``hf`` layout.
    Tensors that the class does not use stay in the file as initializers without a consumer, so that nothing is lost.

    Args:
        stage: The output directory in the making.
        tensors: What the file will hold, in any order.
        value: Gives the values of one tensor, by name; called once for each, in the order of names.
        max_shard_size: Up to so many bytes of tensors (and the 2 GB that the format allows) lie in ``model.onnx``
            itself; more lie beside it in files of at most so many.
        model: What the tensors are.

    Raises:
        InputError: Transformers has no such class, cannot export it, or it needs a tensor that is not there.
        OutputError: The files do not fit, or cannot be written.
    """
    model = require_model(model, "onnx")
    infos = {info.name: info for info in sorted_by_name(tensors)}
    total = sum(info.nbytes for info in infos.values())
    stage.require_space(total)
    graph = traced(model, infos, f"{stage.target}/config.json")
    initializers = [*graph.constants, *(Initializer(info, partial(value, name)) for name, info in infos.items())]
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.model)
    name = FORMATS["onnx"].single
    if total <= min(max_shard_size, EMBEDDED_LIMIT):
        stage.write_bytes(name, embedded(proto, initializers))
        return [name]
    files: list[str] = []
    items = {item.info.name: item for item in initializers}
    shards = list(fill([item.info for item in initializers], max_shard_size))
    for number, shard in enumerate(shards, start=1):
        file = f"{name}.data" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.onnx.data"
        held = [items[info.name] for info in shard]
        stage.write_bytes(file, values(held))
        proto.graph.initializer.extend(placed(held, file))
        files.append(file)
    stage.write_bytes(name, [proto.SerializeToString()])
    return [name, *files]


@dataclass(frozen=True)
class Graph:
    """A model without its weights.

    Args:
        model: Its initializers are only used, not there.
        constants: Those of them that are no weights.
    """

    model: onnx.ModelProto
    constants: tuple[Initializer, ...]


def traced(model: Model, infos: Mapping[str, TensorInfo], where: str) -> Graph:
    """The graph over initializers with the names of the file's tensors; of their values nothing is asked."""
    module, names = _module(model, infos, where)
    with_fake_parameters(module, lambda parameter: getattr(torch, DTYPES[infos[names[parameter]].dtype].name))
    made = export(module, model.architecture, where)
    made.producer_name, made.producer_version = "ligo-spec", version("ligo-spec")
    made.metadata_props[CONFIG_KEY] = json.dumps(dict(model.architecture.config), sort_keys=True)
    _rename(made.graph, names, set(infos))
    constants = _take_initializers(made)
    return Graph(onnx_ir.to_proto(made), tuple(constants))


def _module(model: Model, infos: Mapping[str, TensorInfo], where: str) -> tuple[Any, dict[str, str]]:
    """The library's module, and which tensor of the file each of its parameters is."""
    module = module_of(model.architecture, where)
    try:
        return module, tensors_of(module, model, infos, where)
    except InputError as error:
        # Many encoders are saved without the pooler that their class has by default, and never use it.
        module = module_of(model.architecture, where, pooler=False)
        try:
            return module, tensors_of(module, model, infos, where)
        except InputError:
            raise error from None


def _rename(graph: onnx_ir.Graph, names: dict[str, str], taken: set[str]) -> None:
    """Parameters get the names of the file's tensors; whatever else has such a name gives way."""
    parameters = {name: value for name, value in graph.initializers.items() if name in names}
    for node in graph.all_nodes():
        for output in node.outputs:
            if output.name in taken:
                output.name = f"{output.name}.computed"
    for name, value in list(graph.initializers.items()):
        if name in taken and name not in parameters:
            value.name = f"{name}.constant"
    # In two rounds: the name of one tensor may be that of another parameter.
    for number, value in enumerate(parameters.values()):
        value.name = f"parameter.{number}"
    first: dict[str, onnx_ir.Value] = {}
    for name, value in parameters.items():
        stored = names[name]
        if stored in first:  # the exporter has a tied one twice
            onnx_ir.convenience.replace_all_uses_with(value, first[stored])
            del graph.initializers[str(value.name)]
        else:
            value.name = stored
            first[stored] = value


def _take_initializers(model: onnx_ir.Model) -> list[Initializer]:
    """Take all initializers out of a graph; those that are constants of the module, with their values."""
    constants = []
    for name, value in model.graph.initializers.items():
        held = value.const_value
        if held is None or isinstance(getattr(held, "raw", None), torch._subclasses.FakeTensor):
            continue
        array = np.ascontiguousarray(held.numpy())
        info = TensorInfo(name, dtype_name(array.dtype), array.shape)
        constants.append(Initializer(info, partial(np.asarray, array)))
    model.graph.initializers.clear()
    return constants
