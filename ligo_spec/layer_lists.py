"""Lists of a config with an entry a layer: read, made up where they are not there, stated for another (SPEC 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ligo_spec.errors import printable
from ligo_spec.relations import holds

if TYPE_CHECKING:
    from ligo_spec.architecture import Architecture
    from ligo_spec.family import LayerList


def lists_of(architecture: Architecture) -> dict[str, list[Any]]:
    """The per-layer lists of a config: as it states them, or as the library makes them up."""
    found = {}
    for key, rule in architecture.family.layer_lists.items():
        stated = architecture.config.get(key)
        if rule.listed is not None:
            made = _made_up(architecture, key, rule)
            found[key] = [rule.listed if i in (stated or ()) else entry for i, entry in enumerate(made)]
        elif stated is not None:
            found[key] = list(stated)
        elif rule.period is not None or rule.after is not None:
            found[key] = _made_up(architecture, key, rule)
    return found


def stated(architecture: Architecture, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The keys of a config that say these lists, where the architecture's config does not say them already."""
    found: dict[str, Any] = {}
    said = lists_of(architecture)
    for key, entries in lists.items():
        rule = architecture.family.layer_lists[key]
        if rule.listed is None:
            found[key] = list(entries)
        elif said[key] != list(entries):
            found[key] = [i for i, entry in enumerate(entries) if entry == rule.listed]
            made = _made_up(architecture, key, rule)
            others = [made for made, entry in zip(made, entries, strict=True) if entry != rule.listed]
            if rule.period is not None and rule.listed in others:  # no other layer is to have it: every one is special
                there = [name for name in rule.period.config if name in architecture.config]
                found |= dict.fromkeys(there or rule.period.config[:1], 1)
    return found


def wrong_lists(architecture: Architecture) -> list[str]:
    """The lists that have another number of entries, or numbers of layers that are not there, as messages."""
    wrong = []
    for key, rule in architecture.family.layer_lists.items():
        value = architecture.config.get(key)
        layers = architecture.depth(architecture.family.stack_of_list(key))
        a_list = isinstance(value, list | tuple)
        if value is None:
            continue
        if rule.listed is not None and not (a_list and all(type(i) is int and 0 <= i < layers for i in value)):
            wrong.append(f"{key} must list numbers of layers from 0 to {layers - 1}, found {printable(repr(value))}")
        elif rule.listed is None and not (a_list and len(value) == layers):
            count = f"{len(value)} entries" if a_list else printable(repr(value))
            wrong.append(f"{key} must have an entry for each of {layers} layers, found {count}")
    return wrong


def _made_up(architecture: Architecture, key: str, rule: LayerList) -> list[Any]:
    layers = range(architecture.depth(architecture.family.stack_of_list(key)))
    chosen = _special(rule, architecture, layers) if holds(rule.when, architecture.flags) else [False for _ in layers]
    return [rule.value if each else rule.otherwise for each in chosen]


def _special(rule: LayerList, architecture: Architecture, layers: range) -> list[bool]:
    if rule.after is not None:
        first = architecture.number(rule.after)
        return [i >= first for i in layers]
    period = int(architecture.number(rule.period)) if rule.period is not None else 0
    if period < 1:
        return [False for _ in layers]
    start = period - 1 if rule.start is None else rule.start
    return [i % period == start % period for i in layers]
