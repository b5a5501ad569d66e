"""Staged training: copies beside one another that do not see each other (Shen et al., arXiv 2203.06211, section 4.2).

Every matrix both of whose sides grow ``k``-fold becomes block-diagonal, ``[[W, 0], [0, W]]``: with ``E_t`` the rows of
``1_k ⊗ I`` that are the copy ``t``, ``W' = Σ_t E_t W E_tᵀ``. All else is HyperCloning's: embeddings ``[E, E]``, biases
and norms side by side, and a tied head makes the last norm's gain ``1/k`` as large. Lossless; and unlike a tiling, the
rank doubles at once (methods 3.7).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Select
from ligo_spec.methods.hypercloning import repeated
from ligo_spec.methods.parts import part, read, rows_of, selection, written
from ligo_spec.methods.shares import counts, ranks
from ligo_spec.methods.width import Part, Width, copies, named
from ligo_spec.operator import Growth


class Staged(Document):
    """Options of ``staged``."""

    method: Literal["staged"] = "staged"


def width(growth: Growth, options: Staged, draws: Draws) -> Width:
    """The maps of staged training.

    Raises:
        PlanError: A size does not grow by an integer factor, or ``head_dim`` grows under rotary positions.
    """
    copied = named(copies(growth, options.method, repeated(options.method)))
    blocks = sorted(_blocks(growth, copied).items())
    parts = [_block(growth, copied, frozenset(tensors), t) for k, tensors in blocks for t in range(k)]
    return replace(copied, parts=tuple(parts))


def _block(growth: Growth, width: Width, tensors: frozenset[str], t: int) -> Part:
    """``E_t W E_tᵀ``: the copy ``t`` of what is written from the copy ``t`` of what is read."""
    writes, reads = ({str(of(growth, name)) for name in tensors} for of in (written, read))
    out = {space: _copy(width, space, t) for space in writes}
    return part(growth, width, tensors, (out, {space: _undone(_copy(width, space, t)) for space in reads}))


def _blocks(growth: Growth, width: Width) -> dict[int, list[str]]:
    """By factor, the matrices both of whose sides grow by it."""
    found: dict[int, list[str]] = {}
    for name in growth.small.family.tensors:
        factors = {_factor(width, space) for space in (written(growth, name), read(growth, name))}
        if len(factors) == 1 and (k := factors.pop()) > 1:
            found.setdefault(k, []).append(name)
    return found


def _factor(width: Width, space: str | None) -> int:
    """How often each entry of a space is copied; 1 where it is not, or no space."""
    select = None if space is None else selection(width, space)
    often = set() if select is None else set(counts(select).astype(int).tolist())
    return often.pop() if len(often) == 1 else 1


def _copy(width: Width, space: str, t: int) -> Select:
    """The rows of a space that are the copy ``t`` of their entry."""
    select = selection(width, space)
    assert select is not None
    return rows_of(select, ranks(select) == t)


def _undone(select: Select) -> Select:
    """What reads those rows back."""
    live = select.weights != 0
    return Select(select.index, select.small, np.where(live, 1 / np.where(live, select.weights, 1.0), 0.0))
