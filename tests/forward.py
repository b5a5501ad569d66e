"""Forward passes of Transformers' own models in float64, with parameters from canonical tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.explain import grown_config
from ligo_spec.layer_kinds import settled
from ligo_spec.layout import bind, pack
from ligo_spec.operator import Growth, Operator
from tests.family_table import ROWS

Arrays = Mapping[str, npt.NDArray[Any]]

TOKENS = 8
"""How many tokens a text has where the model's positions have no table."""


def outputs(
    architecture: Architecture, config: Mapping[str, Any], weights: Arrays, dtype: str, asked: Architecture
) -> npt.NDArray[Any]:
    """What the family's head gives on fixed inputs that use every row of every embedding.

    Args:
        architecture: What the model is.
        config: Its ``config.json``, epsilons included.
        weights: Canonical tensors.
        dtype: ``float32`` or ``float64``: of weights and of all arithmetic.
        asked: Whose vocabulary and positions the inputs use.
    """
    torch = pytest.importorskip("torch")
    name = architecture.family.name
    model = _model(name, json.dumps(dict(config), sort_keys=True), dtype)
    places = _places(model)
    infos = {key: TensorInfo(key, "F64", tuple(place.shape)) for key, place in places.items()}
    flat = torch.full((sum(value.numel() for value in model.parameters()),), torch.nan, dtype=getattr(torch, dtype))
    for key, slot in bind(architecture, infos, name).slots.items():
        flat[places[key]] = torch.tensor(pack(slot.taken(weights), slot.steps), dtype=flat.dtype)
    parts = flat.split([value.numel() for value in model.parameters()])
    parameters = {
        key: part.reshape(value.shape) for (key, value), part in zip(model.named_parameters(), parts, strict=True)
    }
    with torch.no_grad(), all_in(dtype):
        out = torch.func.functional_call(model, parameters, (), inputs(asked, model.config, dtype))
    found: npt.NDArray[Any] = out[ROWS[name].output].numpy()
    return found


def present(architecture: Architecture) -> list[str]:
    """Canonical templates of the tensors that the family's head class has."""
    name = architecture.family.name
    places = _places(_model(name, json.dumps(dict(architecture.config), sort_keys=True), "float64"))
    infos = {key: TensorInfo(key, "F64", tuple(place.shape)) for key, place in places.items()}
    return bind(architecture, infos, name).templates()


def inputs(architecture: Architecture, config: Any, dtype: str) -> dict[str, Any]:
    """Ids or pixels that use every row of every embedding: all tokens, all positions, all types."""
    import torch

    sizes, found = architecture.sizes, {}
    if "vocab_size" in sizes:
        vocab, length = sizes["vocab_size"], sizes.get("max_position_embeddings", TOKENS)
        order = np.random.default_rng(0).permutation(-(-vocab // length) * length) % vocab
        found["input_ids"] = torch.tensor(order.reshape(-1, length))
        found["attention_mask"] = torch.ones_like(found["input_ids"])
        if "type_vocab_size" in sizes:
            types = np.arange(order.size).reshape(-1, length) % sizes["type_vocab_size"]
            found["token_type_ids"] = torch.tensor(types)
    else:
        shape = (2, config.num_channels, config.image_size, config.image_size)
        pixels = np.random.default_rng(0).standard_normal(shape)
        found["pixel_values"] = torch.tensor(pixels, dtype=getattr(torch, dtype))
    return found


def difference(growth: Growth, operator: Operator, small: Arrays, dtype: str = "float64") -> float:
    """Largest difference of the small and the grown model's outputs, as a share of the small model's largest.

    Infinite where the outputs have other shapes: a larger vocabulary predicts what the small one cannot.
    """
    large = reference.grow(growth.small.family, operator, small)
    before = outputs(growth.small, growth.small.config, small, dtype, growth.small)
    after = outputs(settled(growth, operator).large, grown_config(growth, operator), large, dtype, growth.small)
    if before.shape != after.shape:
        return float("inf")
    return float(np.abs(after - before).max() / max(1.0, np.abs(before).max()))


@lru_cache(maxsize=64)
def _model(family: str, config: str, dtype: str) -> Any:
    transformers = pytest.importorskip("transformers")
    import torch

    options = json.loads(config)
    options.pop("model_type", None)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with all_in(dtype):  # constants and tables of rotary frequencies are made here
            made = transformers.AutoConfig.for_model(family, **options)
            made._attn_implementation = "eager"
            made._experts_implementation = "eager"
            return getattr(transformers, ROWS[family].head)(made).eval()
    finally:
        torch.set_default_dtype(default)


def _places(model: Any) -> dict[str, Any]:
    """Where each entry of each tensor of a file goes, by its name there, among all parameters in one row.

    The library renames and cuts some families' tensors between file and memory; it is asked to undo that on indices.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    found, start = {}, 0
    for name, value in model.named_parameters():
        found[name] = torch.arange(start, start + value.numel()).reshape(value.shape)
        start += value.numel()
    return dict(revert_weight_conversion(model, found))


def all_in(dtype: str) -> AbstractContextManager[Any]:
    """Everything computes in the model's own dtype: the library's norms and softmax go through float32."""
    return _in_float64() if dtype == "float64" else nullcontext()


def _in_float64() -> AbstractContextManager[Any]:
    import torch
    from torch.overrides import TorchFunctionMode

    def wide(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    class Wide(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            function = torch.Tensor.double if function is torch.Tensor.float else function
            named = {key: wide(value) for key, value in (kwargs or {}).items()}
            return function(*(wide(value) for value in args), **named)

    return Wide()
