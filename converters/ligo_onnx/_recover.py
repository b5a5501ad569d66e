"""The core: which tensor of a graph is which parameter of the family, turned as its files have it.

Which way round a matrix is, the operator that consumes it says, never its shape. What is not decided is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from ligo_onnx._claims import Claim, How, declared
from ligo_onnx._model import Node
from ligo_onnx._shapes import Shape, fits, wanted_shape
from ligo_onnx._stored import Stored
from ligo_onnx._uses import Role, Step, Use, simplified
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import FLOATS
from ligo_spec.errors import Problem, printable
from ligo_spec.family import Family
from ligo_spec.layout import Slot

_TURNED = Step("transpose", (1, 0))
_SHOWN = 4


@dataclass(frozen=True)
class Found:
    """A parameter: the tensor that holds it, what to do to the values, how it was known, and who consumes it."""

    tensor: Stored
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    how: How
    node: Node | None = None

    def turned(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The parameter's values out of the tensor's."""
        for step in self.steps:
            value = step(value)
        return value


@dataclass
class Recovery:
    """What was recovered of a graph, and how.

    Args:
        found: By the name that the family's files use.
        slots: What each of them is.
        missing: Names that the family asks for and the graph does not give.
        constants: Tensors that are no parameters, and why.
        problems: What was ambiguous, lossy or of no known orientation.
    """

    found: dict[str, Found] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def taken(self) -> set[str]:
        """The tensors that are explained."""
        return {found.tensor.name for found in self.found.values()} | self.constants.keys()

    def by(self, how: How) -> list[str]:
        """The names that were recovered in one way."""
        return [name for name, found in self.found.items() if found.how == how]

    def __str__(self) -> str:
        """One line: the rate, and how many were known by what."""
        total = len(self.found) + len(self.missing)
        parts = (
            f"{len(self.by('name'))} by name",
            f"{len(self.by('scope'))} by scope",
            f"{len(self.by('shape'))} by shape",
            f"{len(self.by('absence'))} by absence",
        )
        return f"{len(self.found)} of {total} tensors: {', '.join(parts)}"


def recovered(claims: Iterable[Claim], architecture: Architecture, where: str) -> Recovery:
    """The parameters that the names in a graph give away.

    Args:
        claims: All that the graph's names say.
        architecture: What the graph should hold.
        where: The file, for messages.
    """
    slots, by_name = declared(claims, architecture)
    recovery = Recovery()
    for name, slot in slots.items():
        wanted = wanted_shape(slot, architecture)
        fitting = [(claim, found) for claim in by_name[name] if (found := _fitting(claim, slot, wanted, architecture))]
        chosen = _chosen(name, fitting, where, recovery.problems)
        if chosen is not None:
            recovery.found[name], recovery.slots[name] = chosen, slot
    return recovery


def _chosen(name: str, fitting: Sequence[tuple[Claim, Found]], where: str, problems: list[Problem]) -> Found | None:
    """The one tensor that a parameter can be. What a module consumes counts before what a tensor is called."""
    for how in ("scope", "name"):
        kind = {_key(found): (claim, found) for claim, found in fitting if claim.how == how}
        named = {_key(found) for claim, found in fitting if claim.how == "name"}
        both = {key: pair for key, pair in kind.items() if key in named} or kind
        if len(both) > 1:
            texts = ", ".join(printable(key[0], 60) for key in list(both)[:_SHOWN])
            problems.append(Problem(where, f"{name} may be any of {texts}: the graph does not say which"))
            return None
        for key, (claim, found) in both.items():
            if claim.use.lossy:
                text = (
                    f"{name} is {printable(claim.use.tensor.name, 60)}, which is cast to fewer bits before it is used"
                )
                problems.append(Problem(where, f"{text}; export the model in the dtype that it is stored in"))
            by: How = "name" if key in named else "scope"
            return replace(found, how=by)
    return None


def _key(found: Found) -> tuple[str, tuple[Step, ...]]:
    return found.tensor.name, found.steps


def _fitting(claim: Claim, slot: Slot, wanted: Shape, architecture: Architecture) -> Found | None:
    found = oriented(claim.use, slot, architecture.family, by_name=claim.how == "name")
    if found is None:
        return None
    steps, shape = found
    if not fits(shape, wanted):
        plain = tuple(side for side in shape if side != 1)
        if None in wanted or plain != tuple(side for side in wanted if side != 1):
            return None
        shape = tuple(side for side in wanted if side is not None)
        steps = (*steps, Step("reshape", shape))
    return Found(claim.use.tensor, simplified(steps, claim.use.tensor.info.shape), shape, claim.how, claim.use.node)


def oriented(use: Use, slot: Slot, family: Family, *, by_name: bool) -> tuple[tuple[Step, ...], tuple[int, ...]] | None:
    """The steps that turn a tensor as the family's files have it, and the shape then; None if it is not this one."""
    if use.tensor.info.dtype not in FLOATS:
        return None
    roles = [dim.role for dim in _touches(slot, family)]
    if roles == ["out", "in"]:
        if by_name and use.node is None:
            return use.steps, use.shape
        if use.role not in ("matrix", "table") or len(use.shape) != 2:
            return None
        # A product has [in, out] on its right, a table [out, in]; files have the second, or the first for Conv1D.
        as_product = slot.declared.count("transpose") % 2 == 1
        turn = (use.role == "matrix") != as_product
        return ((*use.steps, _TURNED), use.shape[::-1]) if turn else (use.steps, use.shape)
    if roles == ["in", "out"] and use.role == "table":
        return use.steps, use.shape
    if not by_name and use.role not in _allowed(roles, _offset(slot, family)):
        return None
    return (), use.tensor.info.shape


def _allowed(roles: Sequence[str], offset: float) -> tuple[Role, ...]:
    """What a consumer may take a tensor for, which only the consumer's module tells the name of."""
    if roles == ["gain"]:
        return ("plus",) if offset else ("gain", "times")
    if roles == ["out"]:
        return ("shift", "plus")
    return ("kernel",) if len(roles) > 2 else ()


def _touches(slot: Slot, family: Family) -> Sequence[Any]:
    touches = family.tensors[slot.canonical[0]].touches
    return touches if slot.expert is None else touches[1:]


def _offset(slot: Slot, family: Family) -> float:
    return max(abs(family.tensors[template].offset) for template in slot.canonical)


def tied(recovery: Recovery, architecture: Architecture, read: Callable[[Found], npt.NDArray[Any]]) -> None:
    """Keep tied parameters once, under the name that files store them by, where the graph holds one value for them.

    Args:
        recovery: Changed in place.
        architecture: Says what is tied.
        read: Gives the values of a parameter.
    """
    for group in architecture.ties:
        names = {slot.canonical[0]: name for name, slot in recovery.slots.items() if slot.canonical[0] in group}
        present = [names[template] for template in group if template in names]
        for name in present[1:]:
            first, other = recovery.found[present[0]], recovery.found[name]
            if _key(first) == _key(other) or _same(read(first), read(other)):
                del recovery.found[name], recovery.slots[name]
                recovery.constants.setdefault(other.tensor.name, f"the same values as {present[0]}")


def _same(first: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return first.dtype == other.dtype and first.shape == other.shape and bool((_bits(first) == _bits(other)).all())


def _bits(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.view(f"u{value.dtype.itemsize}")


def named_otherwise(recovery: Recovery, expected: Mapping[str, Slot], architecture: Architecture) -> None:
    """Give tied parameters the name that files store them by, where the graph only has another one of them."""
    held = {name for slot in recovery.slots.values() for name in slot.canonical}
    for group in architecture.ties:
        if group[0] in held:
            continue
        for name, slot in list(recovery.slots.items()):
            if slot.canonical[0] in group:
                first = next((key for key, wanted in expected.items() if wanted.canonical == (group[0],)), None)
                if first is not None:
                    recovery.found[first] = recovery.found.pop(name)
                    recovery.slots[first] = expected[first]
                    del recovery.slots[name]
                break
