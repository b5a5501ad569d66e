"""Hold a backend's grown tensors against the float64 reference, one of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ligo_spec import reference
from ligo_spec.backend import Backend
from ligo_spec.errors import VerificationError
from ligo_spec.family import Dim, Family, at_layer, piece
from ligo_spec.layer_kinds import grown_layers
from ligo_spec.maps import Identity, dense
from ligo_spec.operator import Operator, Term
from ligo_spec.outputs import Outputs
from ligo_spec.recipe import run

Array = npt.NDArray[np.float64]


def reference_error(outputs: Outputs, operator: Operator, backend: Backend[Any]) -> float:
    """The largest error of one tensor of every kind, in units of its rounding bound.

    It is that of the last layer; of tensors in slices, the last expert's.

    Raises:
        VerificationError: It is above 1: the backend does not compute the equation.
    """
    family = outputs.small.architecture.family
    worst, where = 0.0, ""
    for template in outputs.small.binding.templates():
        layer = grown_layers(family, operator, template)[-1]
        name = at_layer(template, layer)
        expert = _last_expert(operator, family, template, layer) if name not in outputs.recipes else None
        name = name if expert is None else piece(name, expert)
        got = run(outputs.recipes[name], outputs.small.read, backend)
        want, bound = _expected(family, operator, template, layer, expert, outputs, got.dtype)
        error = float((np.abs(got.astype(np.float64) - want) / bound).max(initial=0.0))
        if error > worst:
            worst, where = error, name
    if worst > 1:
        raise VerificationError(f"{where}: backend {backend.name} is {worst:.3g} times its rounding bound off")
    return worst


def _last_expert(operator: Operator, family: Family, template: str, layer: int | None) -> int:
    return operator.main.map(*family.tensors[template].touches[0], layer).shape[0] - 1


def _expected(
    family: Family,
    operator: Operator,
    template: str,
    layer: int | None,
    expert: int | None,
    outputs: Outputs,
    dtype: np.dtype[Any],
) -> tuple[Array, Array]:
    """The reference's value and the bound on rounding: the same equation on absolute values.

    Of a tensor in slices, only those are read that the slice of ``expert`` is made of; the first map is that slice's
    row, so the result is the equation's, of one entry along the first dimension.
    """
    touches = family.tensors[template].touches
    layers = family.layers_of(template, operator.small)
    names = [at_layer(template, j) for j in layers]
    used = None if expert is None else _used_experts(operator.terms_of(template), touches[0], layer, expert)
    offset = family.tensors[template].offset
    stored = np.stack([_stored(outputs, name, used).astype(np.float64) for name in names])
    stack, absolute = stored + offset, np.abs(stored) + abs(offset)
    value: Array = np.zeros(1)
    size: Array = np.zeros(1)
    terms = 4
    for term in operator.terms_of(template):
        row = np.ones((1, 1)) if layer is None else _row(term, template, layer, layers)
        maps = [_dense(term, dim.space, dim.role, layer) for dim in touches]
        if expert is not None:
            maps[0] = term.map(*touches[0], layer).rows(expert, expert + 1)[:, used]
        value = value + reference.widen(reference.mix_layers(stack, row)[0], maps)
        sizes = [None if matrix is None else np.abs(matrix) for matrix in maps]
        size = size + reference.widen(reference.mix_layers(absolute, np.abs(row))[0], sizes)
        terms += row.shape[1] + sum(0 if matrix is None else matrix.shape[1] for matrix in maps)
    value, size = (value, size) if expert is None else (value[0], size[0])
    return value - offset, rounding_bound(size + abs(offset), terms, dtype)


def _row(term: Term, template: str, layer: int, layers: Sequence[int | None]) -> Array:
    """One layer's row of a depth map, ``(1, len(layers))``, at the layers that have the tensor."""
    return term.mix(template)[layer : layer + 1, [j for j in layers if j is not None]].astype(np.float64)


def _used_experts(terms: Sequence[Term], dim: Dim, layer: int | None, expert: int) -> list[int]:
    """The small experts that a large one is made of; the first where it is made of none."""
    rows = np.concatenate([term.map(*dim, layer).rows(expert, expert + 1) for term in terms])
    return np.flatnonzero(rows.any(axis=0)).tolist() or [0]


def _stored(outputs: Outputs, name: str, used: list[int] | None) -> npt.NDArray[Any]:
    """A small tensor, or the slices of some of its experts."""
    read = outputs.small.read
    return read(name) if used is None else np.stack([read(piece(name, expert)) for expert in used])


def rounding_bound(size: Array, terms: int, dtype: np.dtype[Any]) -> Array:
    """How far a value may be from the equation's when it is computed in float32 (float64 for float64) and stored once.

    A sum of ``terms`` products errs by at most ``terms`` roundings of the sum of their absolute values, in any order
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).

    Args:
        size: The same equation on absolute values, of the shape of the result.
        terms: How many products and sums an entry takes.
        dtype: What the result is stored in.
    """
    kind = np.float64 if dtype == np.float64 else np.float32
    bound: Array = size * (terms * np.finfo(kind).eps + _eps(dtype)) + np.finfo(kind).tiny
    return bound


def _dense(term: Term, space: str, role: Any, layer: int | None) -> Array | None:
    map_ = term.map(space, role, layer)
    return None if isinstance(map_, Identity) else dense(map_)


def _eps(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)
