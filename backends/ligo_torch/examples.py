"""What a model is fitted on, whatever its kind: examples in two parts, as batches that belong to names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, Protocol

import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.draws import Draws

Part = Literal["train", "heldout"]
"""What is fitted on, and what losses are measured on."""

PARTS: tuple[Part, Part] = ("train", "heldout")

Arrays = dict[str, npt.NDArray[Any]]
"""A batch, by the names of the model's inputs; ``labels`` among them, and the batch is the first axis of all."""


class Examples(Protocol):
    """Data of one kind, read for one objective; see ``ligo_torch.open_data``."""

    @property
    def unit(self) -> str:
        """What a loss is per: ``a token``, ``an image``."""
        ...

    def require_room(self, architecture: Architecture) -> None:
        """Refuse examples that a model cannot take.

        Raises:
            PlanError: They are too long for it.
        """
        ...

    def drawn(self, part: Part, draws: Draws, name: str) -> Arrays:
        """A batch of ``batch_size`` examples, at places that belong to ``name``.

        Raises:
            PlanError: The objective cannot be had of these data.
        """
        ...

    def disjoint(self) -> int:
        """Into how many examples the held-out part can be cut, none of which shares anything with another."""
        ...

    def at(self, places: npt.NDArray[Any], draws: Draws, name: str) -> Arrays:
        """Those of the disjoint held-out examples; what else is random of them belongs to ``name``."""
        ...

    def forward_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward pass over one example, by formula."""
        ...

    def training_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward and backward pass over one example, by formula."""
        ...
