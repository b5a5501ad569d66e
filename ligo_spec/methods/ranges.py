"""Layers by number, in any order: depth up-scaling by hand (SOLAR, arXiv 2312.15166; mergekit's slices, 2403.13257)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, Discriminator, Tag, WithJsonSchema

from ligo_spec.complaints import did_you_mean
from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError, Problem, printable
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every

_NUMBER = "(0|[1-9][0-9]{0,5})"
_RANGE = f" *{_NUMBER}(?: *- *{_NUMBER})?(?: *x *{_NUMBER})? *"


class Range(NamedTuple):
    """Layers ``first`` to ``last``, both included, one after another, the whole ``times`` times."""

    first: int
    last: int
    times: int

    @property
    def layers(self) -> int:
        """How many layers it gives."""
        return (self.last - self.first + 1) * self.times


def parse(text: str) -> list[Range]:
    """The ranges of ``0-3, 4-7 x2, 8``.

    Raises:
        ValueError: A part is no range, or runs backwards.
    """
    found = []
    for number, part in enumerate(text.split(","), 1):
        match = re.fullmatch(_RANGE, part)
        where = f"part {number}, {printable(repr(part.strip()), 40)}"
        if match is None:
            raise ValueError(f"{where}: expected a layer (8), a range (0-3) or a repeated one (4-7 x2)")
        first, last, times = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first:
            raise ValueError(f"{where}: runs backwards; both ends count, the first is the smaller")
        if not times:
            raise ValueError(f"{where}: names no layer; leave it out")
        found.append(Range(first, last, times))
    return found


def _checked(text: str) -> str:
    parse(text)
    return text


_PATTERN = f"^{_RANGE}(?:,{_RANGE})*$"

_Text = Annotated[str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": _PATTERN})]


def _form(value: Any) -> str:
    return "by stack" if isinstance(value, Mapping) else "text"


class Ranges(Document):
    """Options of ``ranges``."""

    method: Literal["ranges"] = "ranges"
    layers: Annotated[
        Annotated[_Text, Tag("text")] | Annotated[dict[str, _Text], Tag("by stack")], Discriminator(_form)
    ]
    """Small layers in the order of the large ones: ``0-3, 4-7 x2, 8``, ends included, ``x2`` the whole range twice.

    Where a family has several stacks, a text for each one that grows: ``{encoder.layers: 0-5, ...}``.
    """


def depth(growth: Growth, stack: str, options: Ranges, draws: Draws) -> dict[str, Mix]:
    """``D[i, s] = 1`` where ``s`` is the ``i``-th layer that the text names; a stack without a text stays as it is.

    Raises:
        PlanError: The text is for another stack, names other layers than there are, or another number of them.
    """
    text = _text_for(growth, stack, options.layers)
    small = growth.small.depth(stack)
    ranges = parse(text) if text is not None else [Range(0, small - 1, 1)]
    whose = f"{stack}: " if len(growth.small.family.stacks) > 1 else ""
    problems = [Problem("depth.layers", whose + wrong) for wrong in _misfits(growth, stack, ranges)]
    if problems:
        raise PlanError(problems)
    sources = [layer for each in ranges for layer in [*range(each.first, each.last + 1)] * each.times]
    return {every(stack): one_hot(np.array(sources), small)}


def _text_for(growth: Growth, stack: str, layers: str | Mapping[str, str]) -> str | None:
    stacks = list(growth.small.family.stacks)
    if isinstance(layers, str) and len(stacks) > 1:
        wanted = ", ".join(f"{name}: ..." for name in stacks)
        message = f"the family has {len(stacks)} stacks; say which layers are whose, {{{wanted}}}"
        raise PlanError(Problem("depth.layers", message))
    if isinstance(layers, str):
        return layers
    unknown = [name for name in layers if name not in stacks]
    if unknown:
        known = f"{did_you_mean(unknown[0], stacks)}; the family has {', '.join(stacks)}"
        raise PlanError(Problem("depth.layers", f"no stack is named {printable(repr(unknown[0]))}{known}"))
    return layers.get(stack)


def _misfits(growth: Growth, stack: str, ranges: list[Range]) -> Iterator[str]:
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    highest = max(each.last for each in ranges)
    if highest >= small:
        yield f"layer {highest} is named, but the small model has {small} layers, 0 to {small - 1}"
    named = sum(each.layers for each in ranges)
    if named != large:
        count = growth.small.family.stacks[stack].count
        yield f"{named} layers are named, but the large model has {large} ({count} in the target)"
