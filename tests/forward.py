"""Forward passes of the models that families are held against, in float64, with parameters from canonical tensors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
from ligo_spec.layout import Binding, bind, pack, unpack
from ligo_spec.operator import Growth, Operator
from tests.family_table import ROWS
from tests.models import as_in_file, made, takes

Arrays = Mapping[str, npt.NDArray[Any]]

TOKENS = 8
"""How many tokens a text has where the model's positions have no table."""

FRAMES = 2
"""How many frames of a spectrogram make one position."""


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
    placed = _placed(architecture, config, weights, dtype)
    with torch.no_grad():
        found: npt.NDArray[Any] = _called(placed, asked, dtype).numpy()
    return found


@dataclass(frozen=True, eq=False)
class _Placed:
    """A model of the library with canonical tensors in place.

    Args:
        model: The module; its own parameters are not used.
        binding: What the tensors of its files are.
        places: Where each entry of each of them goes, among all parameters in one row.
        flat: That row.
    """

    model: Any
    binding: Binding
    places: Mapping[str, Any]
    flat: Any


def _placed(architecture: Architecture, config: Mapping[str, Any], weights: Arrays, dtype: str) -> _Placed:
    import torch

    name = architecture.family.name
    model = _model(name, json.dumps(dict(config), sort_keys=True), dtype)
    places = _places(model)
    infos = {key: TensorInfo(key, "F64", tuple(place.shape)) for key, place in places.items()}
    binding = bind(architecture, infos, name)
    flat = torch.full((sum(value.numel() for value in model.parameters()),), torch.nan, dtype=getattr(torch, dtype))
    for key, slot in binding.slots.items():
        flat[places[key]] = torch.tensor(pack(slot.taken(weights), slot.steps), dtype=flat.dtype)
    return _Placed(model, binding, places, flat)


def _called(placed: _Placed, asked: Architecture, dtype: str) -> Any:
    """What the family's head gives, a tensor that may be differentiated by ``placed.flat``."""
    import torch

    model = placed.model
    parts = placed.flat.split([value.numel() for value in model.parameters()])
    parameters = {
        key: part.reshape(value.shape) for (key, value), part in zip(model.named_parameters(), parts, strict=True)
    }
    with all_in(dtype):
        out = torch.func.functional_call(model, parameters, (), inputs(asked, takes(model), dtype))
    return out[ROWS[asked.family.name].output]


def present(architecture: Architecture) -> list[str]:
    """Canonical templates of the tensors that the family's head class has."""
    name = architecture.family.name
    places = _places(_model(name, json.dumps(dict(architecture.config), sort_keys=True), "float64"))
    infos = {key: TensorInfo(key, "F64", tuple(place.shape)) for key, place in places.items()}
    return bind(architecture, infos, name).templates()


def inputs(architecture: Architecture, names: Collection[str], dtype: str) -> dict[str, Any]:
    """Ids, pixels or sounds that use every row of every embedding: all tokens, all positions, all types.

    Args:
        architecture: Its sizes.
        names: Those that the forward pass takes.
        dtype: Of what is no id.
    """
    import torch

    sizes = architecture.sizes
    found: dict[str, Any] = {}
    if "pixel_values" in names:
        found["pixel_values"] = _normal((sizes["num_channels"], sizes["image_size"], sizes["image_size"]), dtype)
    if "input_features" in names:
        found["input_features"] = _normal((sizes["num_mel_bins"], FRAMES * sizes["max_source_positions"]), dtype)
    if "input_ids" in names:
        ids = found["input_ids"] = _all_ids(sizes["vocab_size"], sizes.get("max_position_embeddings", TOKENS))
        found["attention_mask"] = torch.ones_like(ids)
        if "type_vocab_size" in sizes:
            found["token_type_ids"] = torch.arange(ids.numel()).reshape(ids.shape) % sizes["type_vocab_size"]
    if "decoder_input_ids" in names:
        ids = _all_ids(sizes["vocab_size"], sizes.get("max_target_positions", TOKENS), seed=1)
        found["decoder_input_ids"] = ids
    return _as_many(found)


def _all_ids(vocab: int, length: int, seed: int = 0) -> Any:
    """Texts of a length that have every token of a vocabulary, ``(batch, length)``."""
    import torch

    order = np.random.default_rng(seed).permutation(-(-vocab // length) * length) % vocab
    return torch.tensor(order.reshape(-1, length))


def _normal(shape: tuple[int, ...], dtype: str) -> Any:
    """A batch of two, ``(2, *shape)``."""
    import torch

    return torch.tensor(np.random.default_rng(0).standard_normal((2, *shape)), dtype=getattr(torch, dtype))


def _as_many(inputs: dict[str, Any]) -> dict[str, Any]:
    """Batches of one size: an encoder's and a decoder's, the shorter one from its start again."""
    import torch

    count = max(len(value) for value in inputs.values())
    return {name: value[torch.arange(count) % len(value)] for name, value in inputs.items()}


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
    torch = pytest.importorskip("torch")
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with all_in(dtype):  # constants and tables of rotary frequencies are made here
            return made(ROWS[family].head, {**json.loads(config), "model_type": family})
    finally:
        torch.set_default_dtype(default)


def _places(model: Any) -> dict[str, Any]:
    """Where each entry of each tensor of a file goes, by its name there, among all parameters in one row."""
    import torch

    found, start = {}, 0
    for name, value in model.named_parameters():
        found[name] = torch.arange(start, start + value.numel()).reshape(value.shape)
        start += value.numel()
    return as_in_file(model, found)


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


def gradients(growth: Growth, operator: Operator, small: Arrays, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Gradients of one loss of the outputs with respect to every canonical tensor, of the small and the grown model.

    The models must be one function, or the losses are two.
    """
    large = reference.grow(growth.small.family, operator, small)
    before = _gradients(growth.small, growth.small.config, small, growth.small, seed)
    after = _gradients(settled(growth, operator).large, grown_config(growth, operator), large, growth.small, seed)
    return before, after


def _gradients(
    architecture: Architecture, config: Mapping[str, Any], weights: Arrays, asked: Architecture, seed: int
) -> Arrays:
    torch = pytest.importorskip("torch")
    placed = _placed(architecture, config, weights, "float64")
    binding, places, flat = placed.binding, placed.places, placed.flat.requires_grad_()
    with all_in("float64"):
        out = _called(placed, asked, "float64")
        wanted = torch.tensor(np.random.default_rng(seed).standard_normal(out.shape))
        loss = (wanted * out).sum() + (out**2).mean()  # no output counts like another, and the loss is not linear
    (found,) = torch.autograd.grad(loss, flat)
    parts_of = {
        part: value
        for key, slot in binding.slots.items()
        for part, value in zip(slot.holds, unpack(found[places[key]].numpy(), slot.steps), strict=True)
    }
    whole = {n: np.stack([parts_of[held[e]] for e in range(len(held))]) for n, held in binding.pieces.items()}
    return {n: whole[n] if n in whole else parts_of[n] for n in binding.names()}
