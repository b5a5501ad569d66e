"""The middle block copied in place (MIDAS, Saunshi et al., arXiv 2409.19044).

A model of ``n`` blocks of ``b`` layers gets a copy of block ``ceil(n/2)``, counted from 1, behind that block, as often
as needed. ``centre: layers`` takes the ``b`` layers in the middle of the stack, wherever blocks begin (after LIDAS,
arXiv 2512.08819); the two differ where ``n`` is even.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.blocks import block_of, repeated
from ligo_spec.operator import Growth, Mix


class CopyMiddle(Document):
    """Options of ``copy_middle``."""

    method: Literal["copy_middle"] = "copy_middle"
    block: Annotated[int | None, Field(ge=1)] = None
    """Layers in a block, which divides ``L' - L`` and, under ``centre: blocks``, ``L``; the most, where it is left out.
    """
    centre: Literal["blocks", "layers"] = "blocks"
    """What has a middle: the stack as blocks, or as layers."""


def depth(growth: Growth, stack: str, options: CopyMiddle, draws: Draws) -> dict[str, Mix]:
    """One-hot rows: stage by stage, the layers of the middle block once more behind it.

    Raises:
        PlanError: The block does not fit the layers.
    """
    whole = options.centre == "blocks"
    block = block_of(growth, stack, options.method, options.block, whole=whole)
    if whole:
        return repeated(growth, stack, block, lambda layers: (layers // block - 1) // 2 * block)
    return repeated(growth, stack, block, lambda layers: (layers - block) // 2)
