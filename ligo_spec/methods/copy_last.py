"""The top block copied on top (MSLT, Yang et al., arXiv 2011.13635)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.blocks import block_of, repeated
from ligo_spec.operator import Growth, Mix


class CopyLast(Document):
    """Options of ``copy_last``."""

    method: Literal["copy_last"] = "copy_last"
    block: Annotated[int | None, Field(ge=1)] = None
    """Layers in a block, which divides ``L' - L``; the most that the small model has, where it is left out."""


def depth(growth: Growth, stack: str, options: CopyLast, draws: Draws) -> dict[str, Mix]:
    """``D[i, L - b + ((i - L) mod b)] = 1`` for the new layers, those from ``L`` on.

    Raises:
        PlanError: The block does not fit the layers.
    """
    block = block_of(growth, stack, options.method, options.block)
    return repeated(growth, stack, block, lambda layers: layers - block)
