"""The tracks: a small model, what it grows to, and what both are trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Objective = Literal["masked_lm", "causal_lm", "image_classification"]

WIDTHS = ("hidden_size", "intermediate_size", "head_dim")
"""What a larger scale multiplies; heads stay as many, and get wider."""


@dataclass(frozen=True)
class Track:
    """One course that all methods run.

    Args:
        name: On the command line and in results.
        title: In tables and plots.
        config: The small model's ``config.json``.
        target: What grows, and to what.
        objective: What is minimised.
        batch_size: Windows, or images, in a step.
        seq_len: Tokens in a window; of an image its patches and special tokens.
        total: The whole budget, in steps of the large model: what scratch trains for.
        source: Which share of it the small model has had when it is grown.
        rates: Peak learning rates of models that start at random; the first ones are tried, more where the best is at
            an edge.
        warmup: Steps of linear warm-up from scratch.
        rewarmup: The same after growth.
        fit_rate: LiGO's learning rate, tuned for 20 steps (docs/experiments.md).
        methods: The ways to grow that are run, by name; None for all.
    """

    name: str
    title: str
    config: Mapping[str, Any]
    target: Mapping[str, int]
    objective: Objective
    batch_size: int
    seq_len: int
    total: int
    source: float
    rates: tuple[float, ...]
    warmup: int = 100
    rewarmup: int = 20
    fit_rate: float = 1e-3
    weight_decay: float = 0.1
    methods: tuple[str, ...] | None = None

    @property
    def deeper(self) -> bool:
        """Whether layers grow."""
        return "num_hidden_layers" in self.target

    def shortened(self, total: int) -> Track:
        """The same with a smaller budget."""
        share = total / self.total
        warmup, rewarmup = (max(2, int(steps * share)) for steps in (self.warmup, self.rewarmup))
        return replace(self, total=total, warmup=warmup, rewarmup=rewarmup)

    def scaled(self, factor: int) -> Track:
        """The same with models so many times as wide, and as many times the steps and the batch: tokens by the square.

        Rates and initial weights follow the width, as far as can be told beforehand: rates are tuned anyway.
        """
        config, target = (
            {key: value * factor if key in WIDTHS else value for key, value in sizes.items()}
            for sizes in (self.config, self.target)
        )
        if "initializer_range" in config:
            config["initializer_range"] /= math.sqrt(factor)
        larger = self.shortened(self.total * factor)
        return replace(
            larger,
            name=f"{self.name}-x{factor}",
            config=config,
            target=target,
            batch_size=self.batch_size * factor,
            rates=tuple(rate / factor for rate in self.rates),
        )


BERT = Track(
    name="bert",
    title="post-norm BERT, masked LM, width ×1.5, depth ×2",
    config={
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "vocab_size": 264,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "type_vocab_size": 1,
        "initializer_range": 0.07,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    },
    target={"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96},
    objective="masked_lm",
    batch_size=64,
    seq_len=32,
    total=2400,
    source=0.15,
    rates=(4e-3, 8e-3, 1.6e-2),
    fit_rate=1e-2,
)

LLAMA = Track(
    name="llama",
    title="RMSNorm, rotary, grouped queries, SwiGLU, tied; width ×2, depth ×2",
    config={
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "use_cache": False,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    target={
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
    },
    objective="causal_lm",
    batch_size=4,
    seq_len=128,
    total=1400,
    source=0.12,
    rates=(4e-3, 8e-3, 1.6e-2),
)

LLAMA_TWICE = replace(
    LLAMA,
    name="llama-twice",
    title=f"{LLAMA.title}; twice the budget, growth at the same place",
    total=2 * LLAMA.total,
    source=LLAMA.source / 2,
    methods=(
        "noisy copies + stack",
        "zero_pad + stack",
        "LiGO, not fitted",
        "LiGO, 20 steps",
        "zero_pad + stack, together",
    ),
)

DEIT = Track(
    name="deit",
    title="DeiT on scikit-learn's digits, width ×2",
    config={
        "model_type": "deit",
        "architectures": ["DeiTForImageClassification"],
        "image_size": 8,
        "patch_size": 2,
        "num_channels": 1,
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_labels": 10,
    },
    target={"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64},
    objective="image_classification",
    batch_size=64,
    seq_len=18,
    total=2000,
    source=0.15,
    rates=(2e-3, 4e-3, 8e-3),
    warmup=40,
    rewarmup=10,
)

TRACKS = {track.name: track for track in (BERT, LLAMA, LLAMA_TWICE, DEIT)}
