"""ONNX models run by onnxruntime, so that a graph is verified and not only its weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from ligo_spec.checkpoint import Checkpoint
from ligo_spec.errors import InputError, printable
from ligo_spec.inputs import refusal


def can_run(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is a graph, and what runs it is installed."""
    return checkpoint.files[0].suffix == ".onnx" and find_spec("onnxruntime") is not None


def run_onnx(checkpoint: Checkpoint, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph by name, on the CPU; of its inputs, a mask that is left out lets everything through.

    Raises:
        InputError: The runtime refuses the graph or fails in it.
    """
    import onnxruntime

    file = checkpoint.files[0]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not of initializers that no node uses: we keep them
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        ids = next((inputs[name] for name in ("input_ids", "decoder_input_ids") if name in inputs), None)
        given = dict(inputs) if ids is None else {"attention_mask": torch.ones_like(ids), **inputs}
        missing = [name for name in names if name not in given]
        if missing:
            raise refusal(file, f"the graph wants inputs that are not known: {', '.join(map(printable, missing))}")
        values = session.run(None, {name: given[name].numpy() for name in names})
    except InputError:
        raise
    except Exception as error:  # the runtime's own kinds, which have no common base
        line = printable(str(error).strip().split("\n")[0])
        raise refusal(file, f"onnxruntime cannot run it: {line}") from error
    outputs = [value.name for value in session.get_outputs()]
    return {name: torch.as_tensor(value) for name, value in zip(outputs, values, strict=True)}
