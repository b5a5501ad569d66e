"""Forward passes of two checkpoints through Transformers, compared in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family
from ligo_spec.job import Small, open_model
from ligo_spec.operator_file import load_operator
from ligo_spec.plan import TextData
from ligo_spec.verify import Verification
from ligo_torch.backend import apply_map
from ligo_torch.huggingface import config_of, runnable
from ligo_torch.text import read_tokens, windows

BATCH = 4
"""Windows that are compared."""

LENGTH = 128
"""Tokens in a window, where the model has as many positions."""


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
    """
    before, after = open_model(small, family), open_model(large, family)
    inputs = _inputs(before, data, seed)
    first, second = _run(before, inputs), _run(after, inputs)
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


def _inputs(model: Small, data: Sequence[Path], seed: int) -> dict[str, Tensor]:
    """Tokens of the texts, or random ones; random pixels for a model of images."""
    sizes = model.architecture.sizes
    if "vocab_size" not in sizes:
        return {"pixel_values": _pixels(model, seed)}
    length = min(LENGTH, sizes.get("max_position_embeddings", LENGTH))
    if not data:
        ids = Draws(seed).of("verify").integers(0, sizes["vocab_size"], (BATCH, length))
        return {"input_ids": torch.tensor(ids)}
    options = TextData(path=(".",), seq_len=length)
    tokens = read_tokens(options, data, data, model.directory, sizes["vocab_size"])
    return {"input_ids": torch.tensor(windows(tokens.heldout, length, BATCH, Draws(seed), "verify"))}


def _pixels(model: Small, seed: int) -> Tensor:
    config = config_of(model.architecture)
    side, channels = (getattr(config, key, None) for key in ("image_size", "num_channels"))
    if not isinstance(side, int) or not isinstance(channels, int):
        where = f"{model.directory}/config.json"
        raise InputError(
            Problem(where, "says neither a vocab_size nor an image_size and num_channels: no inputs to run")
        )
    pixels = Draws(seed).of("verify").standard_normal((BATCH, channels, side, side))
    return torch.tensor(pixels, dtype=torch.float32)


def _run(model: Small, inputs: Mapping[str, Tensor]) -> _Run:
    path = model.directory
    names = model.architecture.config.get("architectures") or ["AutoModel"]
    kind = _model_class(names[0])
    if kind is None:
        raise InputError(
            Problem(f"{path}/config.json", f"architectures names {printable(names[0])}, which Transformers has not")
        )
    transformers.utils.logging.disable_progress_bar()  # ours is shown instead
    loaded, info = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    runnable(loaded).eval()
    predicts = names[0].endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM"))
    labels = {"labels": inputs["input_ids"]} if predicts else {}
    try:
        with torch.no_grad():
            out: Any = loaded(**inputs, **labels)
    except IndexError as error:  # a table of positions or types that is too short for what the config promises
        raise InputError(Problem(str(path), f"the model cannot take its inputs: {error}")) from error
    outputs = {key: value for key, value in out.items() if key.endswith("logits") or key == "last_hidden_state"}
    loss = None if out.get("loss") is None else float(out["loss"])
    return _Run(outputs, loss, tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])))


def _model_class(name: str) -> Any:
    """The model class of that name; None for anything else that the library offers."""
    found = getattr(transformers, name, None) if name.isidentifier() else None
    a_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if a_model or name == "AutoModel" else None


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
        space = small.architecture.family.output
        term = load_operator(operator).terms[0]
        a = apply_map(term.map(space, "out", None), a, a.ndim - 1, lambda array: torch.tensor(array, dtype=a.dtype))
    if a.shape != b.shape:
        raise InputError(
            Problem(
                str(large), f"hidden states of {a.shape[-1]} and {b.shape[-1]} entries, and no operator.safetensors"
            )
        )
    return [a], [b], "hidden states"
