"""Forward passes of two checkpoints through Transformers, compared in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from ligo_spec.errors import InputError, PlanError, Problem, printable
from ligo_spec.family import Family
from ligo_spec.formats import format_of
from ligo_spec.job import Small, open_model
from ligo_spec.operator_file import load_operator
from ligo_spec.verify import Verification
from ligo_torch.backend import apply_map
from ligo_torch.forward_inputs import forward_inputs
from ligo_torch.huggingface import config_of, model_class, runnable
from ligo_torch.onnx_run import can_run, run_onnx


@dataclass(frozen=True)
class _Run:
    """One model's outputs: by name, and the loss where the model has one."""

    outputs: Mapping[str, Tensor]
    loss: float | None
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def verify(small: Path, large: Path, data: Sequence[Path], seed: int, family: Family | None) -> Verification:
    """Compare forward passes; see ``ligo_spec.verify.verify``.

    Raises:
        InputError: A checkpoint names no class of Transformers, or the two have no output in common.
        PlanError: Transformers has no models of this kind at all.
    """
    before, after = open_model(small, family), open_model(large, family)
    inputs = partial(forward_inputs, before, data, seed)
    # The graph of the small model is a stranger's, that of the large one is what is to be proven.
    first, second = _run(before, inputs), _run(after, inputs, graph=True)
    ours, theirs, compared = _comparable(before, large, first, second)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    agreement = float((ours[0].argmax(-1) == theirs[0].argmax(-1)).float().mean())
    return Verification(
        compared=compared,
        difference=difference,
        scale=max(float(a.abs().max()) for a in ours),
        agreement=agreement,
        loss_small=first.loss,
        loss_large=second.loss,
        missing=second.missing,
        unexpected=second.unexpected,
    )


def _run(model: Small, inputs_for: Callable[[Any], Mapping[str, Tensor]], *, graph: bool = False) -> _Run:
    """One model's outputs; with ``graph``, those of an ONNX file's own graph where that can be run."""
    kind = _class_of(model)
    loaded, info = _loaded(kind, model)
    inputs = inputs_for(loaded)
    predicts = kind.__name__.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM"))
    labels = {"labels": inputs["input_ids"]} if predicts else {}
    try:
        with torch.no_grad():
            out: Any = loaded(**inputs, **labels)
    except IndexError as error:  # a table of positions or types that is too short for what the config promises
        raise InputError(Problem(str(model.directory), f"the model cannot take its inputs: {error}")) from error
    loss = None if out.get("loss") is None else float(out["loss"])
    if graph and can_run(model.checkpoint):
        out = run_onnx(model.checkpoint, inputs)
    outputs = {key: value for key, value in out.items() if key.endswith("logits") or key == "last_hidden_state"}
    return _Run(outputs, loss, tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])))


def _loaded(kind: Any, model: Small) -> tuple[Any, Mapping[str, Any]]:
    """The library's module with a checkpoint's weights in float32, and what did not fit.

    Of formats that the library does not read, the weights are those that we read.
    """
    transformers.utils.logging.disable_progress_bar()  # ours is shown instead
    options = {"dtype": torch.float32, "output_loading_info": True}
    checkpoint = model.checkpoint
    if format_of(checkpoint.path).name == "safetensors":
        loaded, info = kind.from_pretrained(model.directory, **options)
    else:
        state = {name: torch.tensor(checkpoint.read(name).astype(np.float32)) for name in model.binding.slots}
        loaded, info = kind.from_pretrained(None, config=config_of(model.architecture), state_dict=state, **options)
    return runnable(loaded).eval(), info


def _class_of(model: Small) -> Any:
    """The library's class for a checkpoint."""
    config = model.architecture.config
    name = (config.get("architectures") or ["AutoModel"])[0]
    kind = model_class(name)
    known = config.get("model_type") in transformers.CONFIG_MAPPING
    if not known and kind in (None, transformers.AutoModel):
        found = printable(repr(config.get("model_type")))
        raise PlanError(f"Transformers has no models of type {found}, so no forward passes can be compared")
    if kind is None:
        where = f"{model.directory}/config.json"
        raise InputError(Problem(where, f"architectures names {printable(name)}, which Transformers has not"))
    return kind


def _comparable(small: Small, large: Path, first: _Run, second: _Run) -> tuple[list[Tensor], list[Tensor], str]:
    """Outputs that can be held against each other: logits as they are, hidden states carried over by the operator."""
    logits = [key for key in first.outputs if key.endswith("logits") and key in second.outputs]
    if logits:
        ours = [first.outputs[key] for key in logits]
        theirs = [second.outputs[key][..., : a.shape[-1]] for key, a in zip(logits, ours, strict=True)]
        return ours, theirs, "logits"  # of a larger vocabulary, those that the small model has
    hidden = "last_hidden_state"
    if hidden not in first.outputs or hidden not in second.outputs:
        raise InputError(Problem(str(large), "the two models have no output in common"))
    a, b = first.outputs[hidden], second.outputs[hidden]
    operator = large / "operator.safetensors"
    if operator.exists():
        space = small.architecture.family.only(small.binding.templates()).output[0]
        term = load_operator(operator).terms[0]
        a = apply_map(term.map(space, "out", None), a, a.ndim - 1, lambda array: torch.tensor(array, dtype=a.dtype))
    if a.shape != b.shape:
        raise InputError(
            Problem(
                str(large), f"hidden states of {a.shape[-1]} and {b.shape[-1]} entries, and no operator.safetensors"
            )
        )
    return [a], [b], "hidden states"
