"""Windows of tokens as examples: for next-token prediction, or masked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError
from ligo_spec.flops import forward_flops, training_flops
from ligo_torch.examples import Arrays, Part
from ligo_torch.text import Cut, Tokens, causal_batch, masked, masked_batch, masked_room, runs


@dataclass(frozen=True)
class Windows:
    """Windows of a text, as ``ligo_torch.examples.Examples``.

    Args:
        tokens: The text.
        data: How it is cut.
        masking: The share of tokens that are predicted behind a mask; None for next-token prediction.
    """

    tokens: Tokens
    data: Cut
    masking: float | None = None

    @property
    def unit(self) -> str:
        """A loss is per token."""
        return "a token"

    def require_room(self, architecture: Architecture) -> None:
        """Refuse windows that are longer than a model has positions.

        Raises:
            PlanError: They are.
        """
        positions = architecture.sizes.get("max_position_embeddings")
        if positions is not None and self.data.seq_len > positions:
            raise PlanError(f"fit.data.seq_len {self.data.seq_len} is more than the model's {positions} positions")

    def drawn(self, part: Part, draws: Draws, name: str) -> Arrays:
        """``batch_size`` windows at places that belong to ``name``; they may overlap."""
        ids = self.tokens.train if part == "train" else self.tokens.heldout
        if self.masking is None:
            return causal_batch(self.tokens, ids, self.data, draws, name)
        return masked_batch(self.tokens, ids, self.data, draws, name, self.masking)

    @property
    def room(self) -> int:
        """Tokens of the text in a window: all but those that frame it.

        Raises:
            PlanError: The tokenizer has no mask token, the model has no embedding for it, or a window has no room.
        """
        return self.data.seq_len if self.masking is None else masked_room(self.tokens, self.data)

    def disjoint(self) -> int:
        """Windows of the held-out text, cut side by side."""
        return len(self.tokens.heldout) // self.room

    def at(self, places: npt.NDArray[Any], draws: Draws, name: str) -> Arrays:
        """Those windows of the held-out text, cut side by side."""
        ids = runs(self.tokens.heldout, places * self.room, self.room)
        if self.masking is None:
            return {"input_ids": ids, "labels": ids}
        return masked(self.tokens, ids, draws, name, self.masking)

    def forward_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward pass over one window."""
        return forward_flops(architecture, templates, self.data.seq_len)

    def training_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward and backward pass over one window."""
        return training_flops(architecture, templates, self.data.seq_len)
