"""What training costs, by formula: the products of a model's matrices and of its attention.

A token takes two operations for each entry of a matrix forward and four backward (Kaplan et al., arXiv 2001.08361,
section 2.1), and as many for each pair of a query's and a key's entry, and of a weight and a value's.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from ligo_spec.architecture import Architecture

FORWARD_AND_BACKWARD = 3
"""A step takes three times what its forward pass takes."""

OPERATIONS = 2
"""A product and a sum."""


def training_flops(architecture: Architecture, templates: Iterable[str], length: int) -> float:
    """Floating-point operations that a training step takes for each token.

    Args:
        architecture: The model.
        templates: The canonical tensors that it has.
        length: Tokens in a window; every token is taken to look at all of them.
    """
    weights = sum(_matrix(architecture, template) for template in _with_tied_heads(architecture, templates))
    return FORWARD_AND_BACKWARD * OPERATIONS * (weights + _attention(architecture, length))


def _with_tied_heads(architecture: Architecture, templates: Iterable[str]) -> set[str]:
    """The tensors that are multiplied with: a head that is tied to a table, too, which no file stores again."""
    present = set(templates)
    return present | {name for group in architecture.ties for name in group if present & set(group)}


def _matrix(architecture: Architecture, template: str) -> float:
    """Entries of a matrix that each token meets, in all layers that have it; none of a table or a vector."""
    touches = architecture.family.tensors[template].touches
    if [dim.role for dim in touches][-2:] != ["out", "in"]:
        return 0.0
    entries = prod(side or 0 for side in architecture.shape(template)) * len(architecture.layers_of(template))
    return float(entries) * _share(architecture, template)


def _share(architecture: Architecture, template: str) -> float:
    """The share of the experts that a token is sent to; 1 for a tensor that has none."""
    axes = {axis for dim in architecture.family.tensors[template].touches for axis in _axes(architecture, dim.space)}
    for chosen, experts in architecture.family.routed:
        if experts in axes:
            return architecture.sizes[chosen] / architecture.sizes[experts]
    return 1.0


def _axes(architecture: Architecture, space: str) -> tuple[str, ...]:
    return architecture.family.spaces[space].axes


def _attention(architecture: Architecture, length: int) -> float:
    """Products of queries with keys, and of weights with values, for each token."""
    family, total = architecture.family, 0.0
    for attention in family.relations.attention:
        stack = family.spaces[attention.query].per
        depth = architecture.depth(stack) if stack is not None else 1
        widths = (architecture.width(attention.query) or 0) + (architecture.width(attention.context) or 0)
        total += depth * length * widths
    return total
