"""bert2BERT: copies of units, or new units from the layer above (Chen et al., arXiv 2110.07143, sections 3.3 and 3.4).

- ``fpi``, function-preserving initialization, is Net2WiderNet on a transformer: ``B = S``, ``A = S diag(1 / counts)``.
- ``aki``, advanced knowledge initialization, takes the new rows of every layer matrix from the next layer's: with
  ``S_0`` the rows of ``S`` that select an entry for the first time and ``S_1`` the others,
  ``W'_l = S_0 W_l Aᵀ + S_1 W_{l+1} Aᵀ``. The last layer is its own next one. A bias goes with its row.

Embeddings and norms are those of ``fpi``. The next layer is the next one of the same kind. AKI changes the function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ligo_spec import layer_kinds
from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.net2net import chosen
from ligo_spec.methods.parts import part, read, rows_of, selection, written
from ligo_spec.methods.shares import noisily, ranks
from ligo_spec.methods.width import Width, copies, named
from ligo_spec.operator import Growth, Mix


class Bert2Bert(Document):
    """Options of ``bert2bert``."""

    method: Literal["bert2bert"] = "bert2bert"
    variant: Literal["aki", "fpi"] = "aki"
    """Where new rows of a layer's matrices come from: the next layer, or the same one (which keeps the function)."""
    choice: Literal["random", "even"] = "random"
    """Which units are copied: drawn at random, or each in turn (as equally often as the sizes allow)."""
    noise: Annotated[float | None, Field(ge=0, le=300, examples=[10])] = None
    """Signal-to-noise ratio, in dB, of how copies are read: they part in training; null for none."""


def width(growth: Growth, options: Bert2Bert, draws: Draws) -> Width:
    """The maps of bert2BERT.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    share = noisily(options.method, options.noise, draws)
    copied = named(copies(growth, options.method, chosen(options.choice, draws), share))
    tensors = _layer_rows(growth)
    if options.variant == "fpi" or not tensors:
        return copied
    selections = {space: selection(copied, space) for space in set(tensors.values())}
    first = {space: rows_of(s, ranks(s) == 0) for space, s in selections.items() if s is not None}
    again = {space: rows_of(s, ranks(s) > 0) for space, s in selections.items() if s is not None}
    parts = (
        part(growth, copied, frozenset(tensors), (first, {})),
        part(growth, copied, frozenset(tensors), (again, {}), lambda stack, mix: mix @ next_layers(growth, stack)),
    )
    return replace(copied, parts=parts)


def _layer_rows(growth: Growth) -> dict[str, str]:
    """The matrices of layers that get new rows, their biases too, and the spaces that they write."""
    family = growth.small.family
    matrices = {
        name: space
        for name in family.tensors
        if family.stack_of(name) is not None and read(growth, name) is not None
        if (space := written(growth, name)) is not None and growth.small.width(space) != growth.large.width(space)
    }
    stems = {_stem(name): space for name, space in matrices.items()}
    biases = {
        name: space
        for name, tensor in family.tensors.items()
        if (space := stems.get(_stem(name))) is not None and {dim.role for dim in tensor.touches} == {"out"}
    }
    return matrices | biases


def _stem(template: str) -> str:
    return template.rpartition(".")[0]


def next_layers(growth: Growth, stack: str) -> Mix:
    """``N[j, j'] = 1`` where small layer ``j'`` is the next one of the kind of ``j``; the last ones are their own."""
    kinds = layer_kinds.kinds(growth.small, stack)
    found = np.zeros((len(kinds), len(kinds)))
    for j, kind in enumerate(kinds):
        found[j, next((i for i in range(j + 1, len(kinds)) if kinds[i] == kind), j)] = 1
    return found
