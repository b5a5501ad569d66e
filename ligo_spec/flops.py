"""What a model costs to run and to train, by formula: 6N a token and what attention does (SPEC.md 6.5).

The count of arXiv 2001.08361 and of the appendix of arXiv 2204.02311: two operations for every weight of a matrix that
a token passes, two for every product of attention, and twice the forward pass for the backward pass. Attention is
counted whole, without the half that a causal mask hides, as libraries compute it. Norms, functions and look-ups are
not counted.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from ligo_spec.architecture import Architecture
from ligo_spec.errors import PlanError
from ligo_spec.family import Tensor
from ligo_spec.relations import holds

BACKWARD = 2
"""Backward passes cost so many forward passes: gradients of weights and of activations."""


def matrix_weights(architecture: Architecture, templates: Collection[str]) -> float:
    """How many weights of matrices a token passes: ``N`` of the formula, of chosen experts only.

    Args:
        architecture: With its layers settled.
        templates: Canonical tensors that the model has; of tied ones, one of the group.
    """
    tied = {name for group in architecture.ties if set(group) & set(templates) for name in group}
    total = 0.0
    for template in {*templates, *tied}:
        tensor = architecture.family.tensors[template]
        if not _is_matrix(tensor):
            continue
        weights = 1.0
        for side in architecture.shape(template):
            weights *= side if side is not None else 0  # heads of labels read no token: see image_forward_flops
        total += weights * _share(architecture, tensor) * len(architecture.layers_of(template))
    return total


def forward_flops(architecture: Architecture, templates: Collection[str], seq_len: int) -> float:
    """Operations of a forward pass over one window.

    Args:
        architecture: With its layers settled.
        templates: As for ``matrix_weights``.
        seq_len: Tokens in the window.
    """
    products = 0.0
    for attention in architecture.family.relations.attention:
        stack = architecture.family.spaces[attention.query].per
        layers = 1 if stack is None else architecture.depth(stack)
        for space in (attention.query, attention.context):  # scores, and what they weigh
            width = architecture.width(space)
            assert width is not None, "heads have sizes"
            products += layers * width * seq_len**2
    return 2 * (matrix_weights(architecture, templates) * seq_len + products)


def training_flops(architecture: Architecture, templates: Collection[str], seq_len: int) -> float:
    """Operations of a forward and backward pass over one window; arguments as for ``forward_flops``."""
    return (1 + BACKWARD) * forward_flops(architecture, templates, seq_len)


def image_forward_flops(architecture: Architecture, templates: Collection[str], labels: int) -> float:
    """Operations of a forward pass over one image: its patches, all layers at all positions, and the head of labels.

    Args:
        architecture: With its layers settled.
        templates: As for ``matrix_weights``.
        labels: Rows of the head.

    Raises:
        PlanError: The family does not say into how many patches and positions an image is cut.
    """
    heads = labels * sum(head_width(architecture, template) for template in templates)
    return (
        forward_flops(architecture, templates, _size(architecture, "positions"))
        + 2 * heads
        + _patch_flops(architecture, templates)
    )


def image_training_flops(architecture: Architecture, templates: Collection[str], labels: int) -> float:
    """Operations of a forward and backward pass over one image; pixels themselves need no gradient.

    Args and errors are those of ``image_forward_flops``.
    """
    forward = image_forward_flops(architecture, templates, labels)
    return (1 + BACKWARD) * forward - _patch_flops(architecture, templates)


def head_width(architecture: Architecture, template: str) -> int:
    """How many numbers a head of labels reads, which has a row a label; 0 for other tensors."""
    shape = architecture.shape(template)
    if not _is_matrix(architecture.family.tensors[template]) or shape[-2] is not None:
        return 0
    return shape[-1] or 0


def _patch_flops(architecture: Architecture, templates: Collection[str]) -> float:
    """Operations of cutting an image into patches and embedding each: kernels that do not overlap."""
    patches = (_size(architecture, "image_size") // _size(architecture, "patch_size")) ** 2
    kernels = 0
    for template in templates:
        if [dim.role for dim in architecture.family.tensors[template].touches] == ["out", "in", "in", "in"]:
            kernels += prod(side or 0 for side in architecture.shape(template))
    return 2.0 * patches * kernels


def _size(architecture: Architecture, name: str) -> int:
    found = architecture.sizes.get(name)
    if found is None:
        raise PlanError(
            f"family {architecture.family.name} has no size {name}, by which the cost of an image is counted"
        )
    return found


def _is_matrix(tensor: Tensor) -> bool:
    """Whether tokens are multiplied by it; the rows of a table (``[vocab.in, residual.out]``) are looked up."""
    roles = [dim.role for dim in tensor.touches]
    return roles[-2:] == ["out", "in"]


def _share(architecture: Architecture, tensor: Tensor) -> float:
    """The share of a tensor's experts that a token is given to; 1 where it has none."""
    first = tensor.touches[0].space
    for routing in architecture.family.relations.routing:
        if len(tensor.touches) > 2 and first == routing.space and holds(routing.when, architecture.flags):
            experts = architecture.width(first)
            assert experts is not None, "the rules of families want a size there"
            return architecture.sizes[routing.chosen] / experts
    return 1.0
