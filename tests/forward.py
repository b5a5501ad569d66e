"""Forward passes of Transformers' own models in float64, with parameters from canonical tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.explain import grown_config
from ligo_spec.layout import bind, pack
from ligo_spec.operator import Growth, Operator

Arrays = Mapping[str, npt.NDArray[Any]]

HEAD = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
"""The class of Transformers whose logits are compared, by family."""


def logits(architecture: Architecture, config: Mapping[str, Any], weights: Arrays, dtype: str) -> npt.NDArray[Any]:
    """Logits on fixed tokens, ``(batch, tokens, vocab)``.

    Args:
        architecture: What the model is.
        config: Its ``config.json``, epsilons included.
        weights: Canonical tensors.
        dtype: ``float32`` or ``float64``: of weights and of all arithmetic.
    """
    torch = pytest.importorskip("torch")
    name = architecture.family.name
    model = _model(name, tuple(sorted((key, value) for key, value in config.items() if key != "architectures")))
    model = model.to(getattr(torch, dtype))
    infos = {key: TensorInfo(key, "F64", tuple(value.shape)) for key, value in model.named_parameters()}
    parameters = {
        key: torch.tensor(pack([weights[part] for part in slot.holds], slot.steps), dtype=getattr(torch, dtype))
        for key, slot in bind(architecture, infos, name).slots.items()
    }
    with torch.no_grad(), all_in(dtype):
        out = torch.func.functional_call(model, parameters, (), inputs(architecture))
    found: npt.NDArray[Any] = out.logits.numpy()
    return found


def inputs(architecture: Architecture) -> dict[str, Any]:
    """Token ids that use every row of every embedding: all tokens, all positions, all types."""
    import torch

    vocab, length = architecture.sizes["vocab_size"], architecture.sizes.get("max_position_embeddings", 8)
    order = np.random.default_rng(0).permutation(-(-vocab // length) * length) % vocab
    found = {"input_ids": torch.tensor(order.reshape(-1, length))}
    if "type_vocab_size" in architecture.sizes:
        types = np.arange(order.size).reshape(-1, length) % architecture.sizes["type_vocab_size"]
        found["token_type_ids"] = torch.tensor(types)
    return found


def difference(growth: Growth, operator: Operator, small: Arrays, dtype: str = "float64") -> float:
    """Largest difference of the small and the grown model's logits, as a share of the small model's largest."""
    large = reference.grow(growth.small.family, operator, small)
    before = logits(growth.small, growth.small.config, small, dtype)
    after = logits(growth.large, grown_config(growth, operator), large, dtype)
    return float(np.abs(after - before).max() / max(1.0, np.abs(before).max()))


@lru_cache(maxsize=64)
def _model(family: str, config: tuple[tuple[str, Any], ...]) -> Any:
    transformers = pytest.importorskip("transformers")
    options = {key: value for key, value in config if key != "model_type"}
    made = transformers.AutoConfig.for_model(family, attn_implementation="sdpa", **options)
    return getattr(transformers, HEAD[family])(made).eval()


@contextmanager
def all_in(dtype: str) -> Iterator[None]:
    """RMS norms compute in the model's own dtype: the library's go through float32, whatever comes in."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: Any, hidden: Any) -> Any:
        mean = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(mean + self.variance_epsilon))

    with pytest.MonkeyPatch.context() as patch:
        if dtype == "float64":
            patch.setattr(LlamaRMSNorm, "forward", forward)
        yield
