"""Growth methods: pure functions from a growth (family and two sizes), options and draws to maps.

A method is one file. Its options are a model with a ``method`` tag, so that a plan can name it; this module is the
list of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import Field

from ligo_spec import layer_kinds
from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError, Problem
from ligo_spec.methods import (
    bert2bert,
    center_tile,
    copy_last,
    copy_middle,
    hypercloning,
    identity,
    interpolate,
    lemon,
    net2net,
    noisy_average,
    noisy_stack,
    normalized_copy,
    overlap,
    ranges,
    rounding,
    stack,
    staged,
    zero_layers,
    zero_pad,
)
from ligo_spec.methods.width import Width
from ligo_spec.operator import Growth, Mix, Operator

WidthMethod = Annotated[
    hypercloning.HyperCloning
    | net2net.Net2Net
    | lemon.Lemon
    | normalized_copy.NormalizedCopy
    | zero_pad.ZeroPad
    | center_tile.CenterTile
    | bert2bert.Bert2Bert
    | staged.Staged
    | noisy_average.NoisyAverage,
    Field(discriminator="method"),
]
"""The options of every width method, told apart by ``method``."""

DepthMethod = Annotated[
    stack.Stack
    | interpolate.Interpolate
    | noisy_stack.NoisyStack
    | identity.Identity
    | zero_layers.ZeroLayers
    | copy_last.CopyLast
    | copy_middle.CopyMiddle
    | rounding.Rounding
    | overlap.Overlap
    | ranges.Ranges,
    Field(discriminator="method"),
]
"""The options of every depth method, told apart by ``method``."""

_WIDTH: dict[type, Callable[[Growth, Any, Draws], Width]] = {
    hypercloning.HyperCloning: hypercloning.width,
    net2net.Net2Net: net2net.width,
    lemon.Lemon: lemon.width,
    normalized_copy.NormalizedCopy: normalized_copy.width,
    center_tile.CenterTile: center_tile.width,
    bert2bert.Bert2Bert: bert2bert.width,
    staged.Staged: staged.width,
    zero_pad.ZeroPad: zero_pad.width,
    noisy_average.NoisyAverage: noisy_average.width,
}

_DEPTH: dict[type, Callable[[Growth, str, Any, Draws], dict[str, Mix]]] = {
    stack.Stack: stack.depth,
    interpolate.Interpolate: interpolate.depth,
    noisy_stack.NoisyStack: noisy_stack.depth,
    identity.Identity: identity.depth,
    zero_layers.ZeroLayers: zero_layers.depth,
    copy_last.CopyLast: copy_last.depth,
    copy_middle.CopyMiddle: copy_middle.depth,
    rounding.Rounding: rounding.depth,
    overlap.Overlap: overlap.depth,
    ranges.Ranges: ranges.depth,
}

WIDTH_METHODS = tuple(sorted(kind.model_fields["method"].default for kind in _WIDTH))  # type: ignore[attr-defined]
DEPTH_METHODS = tuple(sorted(kind.model_fields["method"].default for kind in _DEPTH))  # type: ignore[attr-defined]

OPTIONS: dict[str, type[Document]] = {kind.model_fields["method"].default: kind for kind in (*_WIDTH, *_DEPTH)}  # type: ignore[attr-defined]
"""The model of every method's options, by the method's name."""


def without_options(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the named methods that need no option, so that a plan may give the name alone."""
    return tuple(
        name for name in names if not any(field.is_required() for field in OPTIONS[name].model_fields.values())
    )


def build_operator(growth: Growth, width: WidthMethod | None, depth: DepthMethod | None, *, seed: int = 0) -> Operator:
    """The operator that a width and a depth method give, freely combined.

    Args:
        growth: Small and large architecture.
        width: Options of a width method; None where the width stays.
        depth: Options of a depth method; None where the number of layers stays.
        seed: Of everything that is drawn.

    Returns:
        An operator of one term, or of those that the width method adds.

    Raises:
        PlanError: A method is needed and not given, or has no rule for what should grow.
    """
    draws = Draws(seed)
    if width is None:
        grown = [name for name in growth.small.family.spaces if growth.small.width(name) != growth.large.width(name)]
        if grown:
            raise PlanError(f"no width method, but {', '.join(grown)} grow; name one ({', '.join(WIDTH_METHODS)})")
        width = net2net.Net2Net()  # with nothing to widen, every map of it is the identity
    if depth is None:
        small, large = growth.small.depths, growth.large.depths
        deeper = [f"{small[stack]} layers become {large[stack]}" for stack in small if small[stack] != large[stack]]
        if deeper:
            raise PlanError(f"no depth method, but {', '.join(deeper)}; name one ({', '.join(DEPTH_METHODS)})")
        depth = stack.Stack()  # with as many layers, each is its own copy
    widened = _WIDTH[type(width)](growth, width, draws)
    mixes: dict[str, Mix] = {}
    for stack_name in growth.small.family.stacks:
        mixes |= _DEPTH[type(depth)](growth, stack_name, depth, draws)
    terms = widened.terms(growth.small.family, mixes)
    mixed = {f"{depth.method}: {text}" for term in terms for text in layer_kinds.misfits(term, growth, terms[0])}
    if mixed:
        raise PlanError([Problem("", text) for text in sorted(mixed)])
    family = growth.small.family.name
    return Operator(family, growth.small.sizes, growth.large.sizes, terms, widened.eps_scale)
