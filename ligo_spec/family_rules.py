"""What no single key of a family document can know: names that others use are declared, each exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ligo_spec import expressions
from ligo_spec.file_layout import EXPERT
from ligo_spec.relations import NOT, SPACES

if TYPE_CHECKING:
    from ligo_spec.documents import Misfit
    from ligo_spec.family import Family
    from ligo_spec.file_layout import Entry

LAYER = "{i}"
ROLES = ("out", "in", "gain")


def misfits(family: Family) -> Iterator[Misfit]:
    """Every broken reference, at the key that makes it."""
    yield from _sizes(family)
    yield from _stacks(family)
    yield from _flags(family)
    yield from _layer_lists(family)
    yield from _spaces(family)
    yield from _relations(family)
    yield from _routing(family)
    yield from _tensors(family)
    yield from _layouts(family)


def _sizes(family: Family) -> Iterator[Misfit]:
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


def _stacks(family: Family) -> Iterator[Misfit]:
    stated = "stacks" in family.model_fields_set
    for name, stack in family.stacks.items():
        place = ("stacks", name) if stated else ("stacks",)
        if stack.count not in family.sizes:
            yield place, f"no size is named {stack.count!r}"
        if stack.residual not in family.spaces:
            yield place, f"no space is named {stack.residual!r}"


def _no_stack(family: Family, place: tuple[str | int, ...], name: str) -> Iterator[Misfit]:
    if name not in family.stacks:
        yield place, f"no stack is named {name!r}; there is {', '.join(family.stacks)}"


def _flags(family: Family) -> Iterator[Misfit]:
    for name, flag in family.flags.items():
        for size in flag.differ or ():
            if size not in family.sizes:
                yield ("flags", name), f"no size is named {size!r}"
        if isinstance(flag.default, str) and flag.default not in family.flags:
            yield ("flags", name), f"no flag is named {flag.default!r}"
        elif name in _followed(family, name):
            yield ("flags", name), "its default depends on itself"


def _followed(family: Family, name: str) -> set[str]:
    """The flags that a flag's default leads to, directly or through others."""
    found: set[str] = set()
    while name in family.flags and isinstance(default := family.flags[name].default, str) and default not in found:
        name = default
        found.add(name)
    return found


def _layer_lists(family: Family) -> Iterator[Misfit]:
    for key, rule in family.layer_lists.items():
        place = "layer_lists", key
        yield from _condition(family, place, rule.when)
        if rule.stack is not None:
            yield from _no_stack(family, place, rule.stack)
        elif len(family.stacks) > 1:
            yield place, f"must say of which stack it is ({', '.join(family.stacks)})"
        dotted = rule.period is not None and any("." in name for name in rule.period.config)
        if rule.listed is not None and (rule.after is not None or rule.when is not None or dotted):
            yield place, "with listed there is only a period, at keys of the config itself, beside it"


def _spaces(family: Family) -> Iterator[Misfit]:
    for name, space in family.spaces.items():
        place = "spaces", name
        for axis in space.axes:
            if axis != "*" and axis not in family.sizes:
                yield place, f"no size is named {axis!r}"
        if space.same_as is not None:
            yield from _condition(family, place, space.same_as.when)
            if space.same_as.space not in family.spaces:
                yield place, f"no space is named {space.same_as.space!r}"
            elif name in _ends(family, name):
                yield place, "is one with itself, through other spaces"
        if space.new is not None and not space.fixed:
            yield place, "is not fixed, so new says nothing: its new entries are a matter of the method"
        if space.per != "model":
            yield from _no_stack(family, place, space.per)
    yield from ((("output",), f"no space is named {n!r}") for n in family.output if n not in family.spaces)


def _ends(family: Family, name: str) -> set[str]:
    """All spaces that a space may be one with, directly or through others, whatever the flags."""
    found: set[str] = set()
    while name in family.spaces and (same := family.spaces[name].same_as) is not None and same.space not in found:
        name = same.space
        found.add(name)
    return found


def _condition(family: Family, place: tuple[str | int, ...], when: str | None) -> Iterator[Misfit]:
    if when is not None and when.removeprefix(NOT) not in family.flags:
        yield place, f"no flag is named {when.removeprefix(NOT)!r}"


def _relations(family: Family) -> Iterator[Misfit]:
    for kind, items in family.relations:
        for number, item in enumerate(items):
            place = "relations", kind, number
            for key in SPACES & item.model_fields_set:
                if getattr(item, key) not in (None, *family.spaces):
                    yield place, f"no space is named {getattr(item, key)!r}"
            if getattr(item, "gain", None) not in (None, *family.tensors):
                yield place, f"no tensor is named {item.gain!r}"
            for key in ("root_of", "chosen"):
                if getattr(item, key, None) not in (None, *family.sizes):
                    yield place, f"no size is named {getattr(item, key)!r}"
            yield from (
                (place, f"no tensor is named {n!r}") for n in getattr(item, "same", ()) if n not in family.tensors
            )
            yield from _condition(family, place, getattr(item, "when", None))


def _routing(family: Family) -> Iterator[Misfit]:
    for number, item in enumerate(family.relations.routing):
        space = family.spaces.get(item.space)
        if space is not None and (len(space.axes) != 1 or "*" in space.axes):
            yield ("relations", "routing", number), f"{item.space!r} must have one axis, a size"


def _tensors(family: Family) -> Iterator[Misfit]:
    for name, tensor in family.tensors.items():
        place = "tensors", name
        if EXPERT in name:
            yield place, f"{EXPERT} stands in names of files only; here the experts are a dimension"
        if name.count(LAYER) > 1:
            yield place, f"a name has {LAYER} at most once"
        stack = family.stack_of(name)
        if stack is not None:
            yield from _no_stack(family, place, stack)
        elif LAYER in name:
            yield place, f"has no stack before {LAYER}: names of layers' tensors begin with it and a dot"
        for text in tensor.dims:
            space, _, role = text.partition(".")
            if space not in family.spaces or role not in ROLES:
                yield place, f"{text!r} is not a declared space with a role ({', '.join(ROLES)})"
            elif (per := family.spaces[space].per) not in ("model", stack):
                yield place, f"touches {space}, of which there is one per layer of {per}"
        yield from _condition(family, place, tensor.when)
        if tensor.not_in and LAYER not in name:
            yield place, f"is in no layer, so not_in says nothing (its name has no {LAYER})"
        for key, entry in tensor.only_in.items():
            rule = family.layer_lists.get(key)
            if rule is None or entry not in (rule.listed, rule.value, rule.otherwise):
                yield place, f"no layer list is named {key!r} and has the entry {entry!r}"
            elif family.stack_of_list(key) != stack:
                yield place, f"{key} is a list of the layers of {family.stack_of_list(key)}"
            elif rule.listed is None and rule.period is None and rule.after is None:
                yield place, f"{key} does not say what layers have where a config lacks it"


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
            for step in entry.steps:
                if not isinstance(step, str) and step.per not in (None, *family.sizes):
                    yield place, f"no size is named {step.per!r}"
            if not entry.splits_into(len(entry.is_)):
                yield place, "must split into as many parts as it is tensors"
            if {LAYER in name for name in entry.is_} != {LAYER in key} or key.count(LAYER) > 1:
                yield place, f"{LAYER} stands once in the names on both sides, or in none"
            if EXPERT in key:
                yield from ((place, text) for text in _pieces(family, key, entry))
        for name in family.tensors:
            if name not in claimed:
                yield ("layouts", layout_name, "tensors"), f"{name!r} has no place in a file"


def _pieces(family: Family, key: str, entry: Entry) -> Iterator[str]:
    """What is wrong with an entry that holds one expert: a slice of the first dimension of its tensors."""
    if key.count(EXPERT) > 1:
        yield f"a name has {EXPERT} at most once"
    tensors = [family.tensors[name] for name in entry.is_ if name in family.tensors]
    first = {tensor.dims[0].partition(".")[0] for tensor in tensors}
    routed = {item.space for item in family.relations.routing}
    if any(len(tensor.dims) < 2 for tensor in tensors) or not (len(first) == 1 and first <= routed):
        yield f"{EXPERT} is one of the experts: the first of two dimensions or more, a space that a routing names"
