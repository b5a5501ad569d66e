"""What forward passes are compared on: texts, images or sounds, whichever a model's forward pass has names for."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, Problem
from ligo_spec.fit_data import TextData
from ligo_spec.job import Small
from ligo_torch.text import read_tokens, windows

BATCH = 4
"""Windows, images or sounds that are compared."""

LENGTH = 128
"""Tokens in a window, where the model has as many positions."""

FRAMES = 2
"""Frames of a spectrogram that make one position: the stride of the convolutions that read it."""

POSITIONS = ("max_position_embeddings", "max_target_positions")
"""Sizes that say how many tokens a text may have."""


def forward_inputs(small: Small, data: Sequence[Path], seed: int, module: Any) -> dict[str, Tensor]:
    """Inputs that the small model and what grew from it can take, by the names of ``module.forward``.

    Args:
        small: The small model.
        data: Text files, for models of text; random tokens where there are none.
        seed: Of what is random.
        module: Either of the two, as the library has it.

    Raises:
        InputError: The model is none of texts, images or sounds, or the text is refused.
    """
    names = signature(module.forward).parameters
    found: dict[str, Tensor] = {}
    if "pixel_values" in names:
        found["pixel_values"] = _normal(seed, *_image(small, module.config))
    if "input_features" in names:
        bins, positions = (small.architecture.sizes[key] for key in ("num_mel_bins", "max_source_positions"))
        found["input_features"] = _normal(seed, bins, FRAMES * positions)
    texts = [name for name in ("input_ids", "decoder_input_ids") if name in names]
    if texts:
        ids = _tokens(small, data, seed)
        found |= dict.fromkeys(texts, _ended(ids, module.config) if "decoder_input_ids" in texts else ids)
    return found


def _tokens(small: Small, data: Sequence[Path], seed: int) -> Tensor:
    """Windows of the texts, or random tokens, ``(batch, length)``."""
    sizes = small.architecture.sizes
    length = min([LENGTH, *(sizes[name] for name in POSITIONS if name in sizes)])
    if not data:
        return torch.tensor(Draws(seed).of("verify").integers(0, sizes["vocab_size"], (BATCH, length)))
    options = TextData(path=(".",), seq_len=length)
    tokens = read_tokens(options, data, data, small.directory, sizes["vocab_size"])
    return torch.tensor(windows(tokens.heldout, length, BATCH, Draws(seed), "verify"))


def _ended(ids: Tensor, config: Any) -> Tensor:
    """The same texts with one end token each, the last: classifiers that have a decoder read there."""
    end = config.eos_token_id
    if not isinstance(end, int) or not 0 <= end < config.vocab_size:
        return ids
    ids = torch.where(ids == end, (end + 1) % config.vocab_size, ids)
    ids[:, -1] = end
    return ids


def _image(small: Small, config: Any) -> tuple[int, int, int]:
    """Channels, height and width."""
    side, channels = (getattr(config, key, None) for key in ("image_size", "num_channels"))
    if not isinstance(side, int) or not isinstance(channels, int):
        where = f"{small.directory}/config.json"
        raise InputError(Problem(where, "says no image_size and num_channels: no images to run on"))
    return channels, side, side


def _normal(seed: int, *shape: int) -> Tensor:
    """``(batch, *shape)``, float32."""
    return torch.tensor(Draws(seed).of("verify").standard_normal((BATCH, *shape)), dtype=torch.float32)
