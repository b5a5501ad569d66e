"""What no single key of a family document can know: names that others use are declared, each exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ligo_spec import expressions

if TYPE_CHECKING:
    from ligo_spec.documents import Misfit
    from ligo_spec.family import Family

LAYER = "{i}"
ROLES = ("out", "in", "gain")


def misfits(family: Family) -> Iterator[Misfit]:
    """Every broken reference, at the key that makes it."""
    yield from _sizes(family)
    yield from _spaces(family)
    yield from _relations(family)
    yield from _tensors(family)
    yield from _layouts(family)


def _sizes(family: Family) -> Iterator[Misfit]:
    if family.layers not in family.sizes:
        yield ("layers",), f"no size is named {family.layers!r}"
    for name, rule in family.sizes.items():
        for needed in sorted(expressions.names_in(rule.default)) if rule.default else ():
            if needed not in family.sizes:
                yield ("sizes", name), f"no size is named {needed!r}"
    for name in family.sizes:
        if name in _needs(family, name):
            yield ("sizes", name), "its default depends on itself"
    for number, pair in enumerate(family.divides):
        yield from ((("divides", number), f"no size is named {n!r}") for n in pair if n not in family.sizes)


def _needs(family: Family, name: str) -> set[str]:
    """All sizes that a size's default uses, and that theirs use."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        rule = family.sizes.get(waiting.pop())
        new = expressions.names_in(rule.default) - found if rule is not None and rule.default else set()
        found |= new
        waiting += sorted(new)
    return found


def _spaces(family: Family) -> Iterator[Misfit]:
    for name, space in family.spaces.items():
        for axis in space.axes:
            if axis != "*" and axis not in family.sizes:
                yield ("spaces", name), f"no size is named {axis!r}"
    for key in ("residual", "output"):
        if getattr(family, key) not in family.spaces:
            yield (key,), f"no space is named {getattr(family, key)!r}"


def _relations(family: Family) -> Iterator[Misfit]:
    relations = family.relations
    used: list[tuple[tuple[str | int, ...], str]] = []
    for number, norm in enumerate(relations.norms):
        place = "relations", "norms", number
        used += [(place, norm.reads), (place, norm.writes)]
        if norm.gain not in family.tensors:
            yield place, f"no tensor is named {norm.gain!r}"
    for number, a in enumerate(relations.attention):
        used += [(("relations", "attention", number), space) for space in (a.query, a.key, a.value, a.context)]
    used += [(("relations", "activations", n), activation.space) for n, activation in enumerate(relations.activations)]
    yield from ((place, f"no space is named {space!r}") for place, space in used if space not in family.spaces)
    for number, tie in enumerate(relations.ties):
        place = "relations", "ties", number
        yield from ((place, f"no tensor is named {name!r}") for name in tie.same if name not in family.tensors)
        if tie.when not in family.flags:
            yield place, f"no flag is named {tie.when!r}"


def _tensors(family: Family) -> Iterator[Misfit]:
    for name, tensor in family.tensors.items():
        if name.count(LAYER) > 1:
            yield ("tensors", name), f"a name has {LAYER} at most once"
        for text in tensor.dims:
            space, _, role = text.partition(".")
            if space not in family.spaces or role not in ROLES:
                yield ("tensors", name), f"{text!r} is not a declared space with a role ({', '.join(ROLES)})"
        if tensor.when is not None and tensor.when not in family.flags:
            yield ("tensors", name), f"no flag is named {tensor.when!r}"


def _layouts(family: Family) -> Iterator[Misfit]:
    for layout_name, layout in family.layouts.items():
        entries = [(key, entry) for key, choices in layout.tensors.items() for entry in choices]
        claimed = Counter(name for _, entry in entries for name in entry.is_)
        for key, entry in entries:
            place = "layouts", layout_name, "tensors", key
            for name in entry.is_:
                if name not in family.tensors:
                    yield place, f"no tensor is named {name!r}"
                elif claimed[name] > 1:
                    yield place, f"{name!r} is claimed {claimed[name]} times"
            if not entry.splits_into(len(entry.is_)):
                yield place, "must split into as many parts as it is tensors"
            if {LAYER in name for name in entry.is_} != {LAYER in key} or key.count(LAYER) > 1:
                yield place, f"{LAYER} stands once in the names on both sides, or in none"
        for name in family.tensors:
            if name not in claimed:
                yield ("layouts", layout_name, "tensors"), f"{name!r} has no place in a file"
