"""From a module of Transformers to a graph: the library's own exporter, on parameters that have no values.

What runs is what the library runs, for every family that it has. The graph is not optimised: names and orientation of
the parameters stay those of the module, and runtimes fold and fuse when they load.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import onnx_ir
import torch
from torch.export import Dim
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError, Problem, printable

OPSET = 20
"""The operator set of the graphs; of ONNX 1.15 (2023), which every runtime of today knows."""

BATCH, LENGTH = 2, 7
"""Of the inputs that a module is traced on: sizes that no axis of a model is likely to have, and none is fixed to."""

_TEXTS = {"input_ids": "sequence", "attention_mask": "sequence", "decoder_input_ids": "decoder_sequence"}
"""Inputs of ``(batch, length)``, with the name of their second axis."""

_FRAMES = 2  # of a spectrogram that make one position: the stride of the convolutions that read it


def export(module: Any, architecture: Architecture, where: str) -> onnx_ir.Model:
    """The graph of a module; its initializers have names, shapes and dtypes.

    Inputs are ``input_ids``, ``attention_mask``, ``decoder_input_ids``, ``pixel_values`` or ``input_features``, as
    many as the module takes; batch and length are free. Outputs are those of the module: logits or hidden states.

    Raises:
        InputError: The library cannot export such a module.
    """
    inputs, axes = _inputs(module, architecture, where)
    shapes = {name: dict.fromkeys(named, Dim.DYNAMIC) for name, named in axes.items()}
    # Attention by formula: no operator that one runtime has and another has not.
    module.set_attn_implementation("eager")
    config = OnnxConfig(dynamic_shapes=shapes, opset_version=OPSET, optimize=False)
    try:
        with _quiet():
            model: onnx_ir.Model = OnnxExporter().export_program(module, inputs, config)[0]
    except Exception as error:  # of the tracer, the translator or the module, of any kind
        line = printable(str(error).strip().split("\n")[0])
        kind = type(module).__name__
        raise InputError(Problem(where, f"Transformers cannot export {kind} to ONNX: {line}")) from error
    _name_axes(model, axes)
    _strip(model)
    return model


def _inputs(
    module: Any, architecture: Architecture, where: str
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    """What to trace on, and the names of the axes that stay free."""
    takes, config = signature(module.forward).parameters, module.config
    inputs: dict[str, torch.Tensor] = {}
    axes: dict[str, dict[int, str]] = {}
    for name, length in _TEXTS.items():
        # The mask of a model that reads sound or images is none of tokens.
        if name in takes and (name != "attention_mask" or "input_ids" in takes):
            inputs[name] = torch.ones(BATCH, LENGTH, dtype=torch.int64)
            axes[name] = {0: "batch", 1: length}
    if "pixel_values" in takes and "input_ids" not in takes:
        side = config.image_size
        inputs["pixel_values"] = torch.zeros(BATCH, config.num_channels, side, side)
        axes["pixel_values"] = {0: "batch"}
    if "input_features" in takes:
        bins, positions = (architecture.sizes[name] for name in ("num_mel_bins", "max_source_positions"))
        inputs["input_features"] = torch.zeros(BATCH, bins, _FRAMES * positions)
        axes["input_features"] = {0: "batch"}
    if not inputs:
        raise InputError(Problem(where, f"{type(module).__name__} takes neither tokens, images nor sound"))
    return inputs, axes


def _name_axes(model: onnx_ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Call the free axes what they are, wherever the graph states a shape."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in axes.get(str(value.name), {}).items():
            assert value.shape is not None
            side = value.shape[axis]
            if isinstance(side, int):
                raise InputError(f"{value.name}: the exporter fixed its axis {axis} ({name}) to {side}")
            names[str(side)] = name
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            sides = [side if isinstance(side, int) else names.get(str(side), str(side)) for side in value.shape]
            value.shape = onnx_ir.Shape(sides)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # stated in terms of names that are gone, and inferred again by every runtime


def _strip(model: onnx_ir.Model) -> None:
    """Without what says where and how it was traced: paths of this machine, and most of the file's bytes."""
    for node in model.graph.all_nodes():
        scope = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        node.metadata_props.clear()
        node.doc_string = None
        if scope is not None:
            node.metadata_props["pkg.torch.onnx.name_scopes"] = scope
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print their progress and warn of their own insides; what fails raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "transformers", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
