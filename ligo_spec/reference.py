"""The equations, in float64, one tensor at a time: what every backend is held to.

This module reads like SPEC.md section 3 and shares no code with the recipe compiler, so that a mistake there cannot
hide on both sides of a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ligo_spec.errors import InputError
from ligo_spec.family import Family, at_layer
from ligo_spec.layer_kinds import grown_layers
from ligo_spec.maps import Identity, dense
from ligo_spec.operator import Operator, Term

if TYPE_CHECKING:  # only its name: this module shares no code with what makes duals and recipes
    from ligo_spec.dual import TensorDual

Array = npt.NDArray[np.float64]


def widen(weight: Array, maps: Sequence[Array | None]) -> Array:
    """Width growth ``B W Aᵀ`` (SPEC 3.1; LiGO, arXiv 2303.00980, section 3.2). ``None`` stands for the identity.

    Args:
        weight: ``(d_out, d_in)``, or ``(d_out,)`` for a bias or a norm's gain.
        maps: One per dimension: ``(d_out_large, d_out)`` and ``(d_in_large, d_in)``.

    Returns:
        ``(d_out_large, d_in_large)``, or ``(d_out_large,)``.

    Raises:
        InputError: A map does not fit its dimension.
    """
    if len(maps) != weight.ndim:
        raise InputError(f"a weight of shape {weight.shape} needs {weight.ndim} maps, found {len(maps)}")
    for axis, matrix in enumerate(maps):
        if matrix is not None and matrix.shape[1] != weight.shape[axis]:
            raise InputError(f"a map of shape {matrix.shape} does not fit axis {axis} of a weight {weight.shape}")
    grown = weight
    for axis, matrix in enumerate(maps):
        if matrix is not None:
            grown = np.moveaxis(np.tensordot(matrix, grown, axes=(1, axis)), 0, axis)
    return grown


def mix_layers(layers: Array, mix: Array) -> Array:
    """Depth growth ``Σ_j D[i, j] W_j`` (SPEC 3.2; LiGO, arXiv 2303.00980, section 3.2).

    Args:
        layers: ``(layers_small, ...)``, one tensor of every small layer.
        mix: ``(layers_large, layers_small)``.

    Returns:
        ``(layers_large, ...)``.

    Raises:
        InputError: The mix is for another number of layers.
    """
    if mix.shape[1] != layers.shape[0]:
        raise InputError(f"a mix of shape {mix.shape} does not fit {layers.shape[0]} layers")
    return np.tensordot(mix, layers, axes=1)


def grow(family: Family, operator: Operator, small: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, Array]:
    """All tensors of the large model: ``W'_i = Σ_t Σ_j D_t[i, j] · B_t W_j A_tᵀ`` (SPEC 3.3).

    The equation holds for values, not for what is stored: where a family states an offset, it is added before and
    taken away after.

    Args:
        family: The declaration of the tensors.
        operator: The maps.
        small: The small model's tensors by canonical name; optional ones may be absent.

    Returns:
        The large model's tensors by canonical name, float64.
    """
    large: dict[str, Array] = {}
    for template in family.tensors:
        offset = family.tensors[template].offset
        stack = family.stack_of(template)
        if stack is None:
            if template not in small:
                continue
            weight = small[template].astype(np.float64) + offset
            terms = [widen(weight, _maps(family, term, template, None)) for term in operator.terms_of(template)]
            large[template] = _sum(terms) - offset
            continue
        count = family.stacks[stack].count
        there = [j for j in range(operator.small[count]) if family.in_layer(template, j)]
        if at_layer(template, there[0] if there else 0) not in small:
            continue
        layers = np.stack([small[at_layer(template, j)].astype(np.float64) + offset for j in there])
        own = operator.terms_of(template)
        mixed = [mix_layers(layers, term.mix(template)[:, there].astype(np.float64)) for term in own]
        for i in (layer for layer in grown_layers(family, operator, template) if layer is not None):
            terms = [widen(m[i], _maps(family, term, template, i)) for m, term in zip(mixed, own, strict=True)]
            large[at_layer(template, i)] = _sum(terms) - offset
    return large


def widen_vjp(weight: Array, maps: Sequence[Array | None], cotangent: Array) -> tuple[Array, tuple[Array | None, ...]]:
    """The vector-Jacobian product of ``widen``: what a gradient of the grown tensor means for its inputs.

    With ``W' = B W Aᵀ`` and ``G = ∂loss/∂W'``: ``∂W = Bᵀ G A``, ``∂B = G A Wᵀ``, ``∂A = Gᵀ B W``.

    Args:
        weight: ``(d_out, d_in)`` or ``(d_out,)``.
        maps: As for ``widen``.
        cotangent: ``G``, of the grown tensor's shape.

    Returns:
        The gradient of the weight, and that of every map (None where the map is the identity).
    """
    back = widen(cotangent, [None if matrix is None else matrix.T for matrix in maps])
    gradients: list[Array | None] = []
    for axis, matrix in enumerate(maps):
        if matrix is None:
            gradients.append(None)
            continue
        others = [None if other == axis else m for other, m in enumerate(maps)]
        half = widen(weight, others)  # grown along every other axis
        rest = [other for other in range(weight.ndim) if other != axis]
        gradients.append(np.tensordot(cotangent, half, axes=(rest, rest)))
    return back, tuple(gradients)


def mix_layers_vjp(layers: Array, mix: Array, cotangent: Array) -> tuple[Array, Array]:
    """The vector-Jacobian product of ``mix_layers``: gradients of the layers and of the mix."""
    rest = list(range(1, layers.ndim))
    return np.tensordot(mix.T, cotangent, axes=1), np.tensordot(cotangent, layers, axes=(rest, rest))


def moments(
    duals: Mapping[str, TensorDual], small: Mapping[str, npt.NDArray[np.floating]], *, squared: bool = False
) -> dict[str, Array]:
    """Gradients and first moments of the large model, ``G' = E_out G F_inᵀ``; second ones by squares (SPEC 7.5).

    Args:
        duals: What becomes of each tensor, by canonical name.
        small: The small model's gradients or moments by canonical name.
        squared: Whether they are second moments.

    Returns:
        By canonical name; zeros for what starts anew.
    """
    large: dict[str, Array] = {}
    for name, dual in duals.items():
        mixed = np.sum([weight * small[source].astype(np.float64) for source, weight in dual.term.sources], axis=0)
        maps = [None if map_ is None else dense(map_) for map_ in dual.term.maps]
        if squared:
            maps = [None if matrix is None else matrix**2 for matrix in maps]
        large[name] = widen(mixed, maps) * (not dual.starts_anew)
    return large


def _maps(family: Family, term: Term, template: str, layer: int | None) -> list[Array | None]:
    maps = [term.map(dim.space, dim.role, layer) for dim in family.tensors[template].touches]
    return [None if isinstance(map_, Identity) else dense(map_) for map_ in maps]


def _sum(terms: Sequence[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
