"""Small sizes that obey a family's rules: for tests, and for what can be told of a family without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from ligo_spec import expressions
from ligo_spec.architecture import Architecture, wrong_sizes
from ligo_spec.errors import InputError
from ligo_spec.family import Family, Space
from ligo_spec.layer_kinds import fixed_kinds


def small_configs(family: Family) -> list[dict[str, int]]:
    """Configs of small sizes, all combinations of a few values a size; the same list for the same family."""
    if family.name not in _KNOWN or _KNOWN[family.name][0] is not family:
        _KNOWN[family.name] = family, _configs(family)
    return _KNOWN[family.name][1]


_KNOWN: dict[str, tuple[Family, list[dict[str, int]]]] = {}


def _configs(family: Family) -> list[dict[str, int]]:
    """Configs of small sizes that obey the family's rules, all combinations of a few values a size."""
    rules = {name: rule for name, rule in family.sizes.items() if rule.config is not None}
    counts = {stack.count for stack in family.stacks.values()}
    divisors = {small for small, _ in family.divides}
    alike = {size for flag in family.flags.values() for size in flag.differ or ()}
    chosen, experts = ({pair[side] for pair in family.routed} for side in (0, 1))
    turning = {family.spaces[a.query].axes[1] for a in family.relations.attention if a.rotary != "none"}
    values: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(rules):
        if name in counts:
            values[name] = (1, 2, 3) if len(counts) == 1 else (1, 2)
        elif name in turning:
            values[name] = (2, 4)
        elif name in chosen or name in experts:
            values[name] = (1, 2) if name in chosen else (2, 3)
        else:
            several = (4, 6, 16) if name in alike or _divided(family, name) else (5 + number,)
            values[name] = (1, 2, 4) if name in divisors else several
    found = []
    for combination in product(*values.values()):
        stated = dict(zip(values, combination, strict=True))
        sizes = _computed(family, stated)
        if not wrong_sizes(family, sizes) and not any(sizes[axis] % 2 for axis in turning):
            found.append({rules[name].config or name: size for name, size in stated.items()})
    return found


def _divided(family: Family, name: str) -> bool:
    return any(big == name for _, big in family.divides)


def _computed(family: Family, stated: Mapping[str, int]) -> dict[str, int]:
    sizes = dict(stated)
    for name, rule in family.sizes.items():
        if rule.config is None and rule.default is not None:
            sizes[name] = expressions.evaluate(rule.default, sizes)
    return sizes


def small_targets(small: Architecture) -> list[dict[str, int]]:
    """Targets of twice some sizes, all combinations; vocabularies and positions stay."""
    parts = target_parts(small, twice=True)
    whole = ({name: size for part in parts for name, size in part.items()} for parts in product(*parts))
    return [target for target in whole if can_grow(small, target)]


def target_parts(small: Architecture, *, twice: bool = False) -> list[list[dict[str, int]]]:
    """Targets of at most twice each size, and some sizes between, part by part: sizes of two parts no rule links.

    One choice of every part makes a target; nearly all of those can grow. Vocabularies and positions stay.

    Args:
        small: What grows.
        twice: Each size stays or doubles; none lies between.
    """
    found = []
    for names in _linked(small.family):
        values = [[small.sizes[name], small.sizes[name] * 2] for name in names]
        for some, name in zip(values, names, strict=True):
            between = small.sizes[name] * 3 // 2
            some[1:1] = [] if twice or between in some else [between]
        choices = [dict(zip(names, combination, strict=True)) for combination in product(*values)]
        found.append([choice for choice in choices if can_grow(small, choice)])
    return found


def can_grow(small: Architecture, target: Mapping[str, int]) -> bool:
    """Whether a target is one that the family's rules allow."""
    try:
        large = small.grown(target)
    except InputError:
        return False
    kept = all(set(fixed_kinds(large, s)) <= set(fixed_kinds(small, s)) for s in small.family.stacks)
    return turns_pairs(large) and kept


def _linked(family: Family) -> list[list[str]]:
    """The sizes of a target, in groups that rules link: what divides what, what is computed from what."""
    indices = index_sizes(family)
    free = [name for name in growing_sizes(family) if name not in indices]
    rules = [set(pair) for pair in (*family.divides, *family.routed)]
    rules += [set(flag.differ) for flag in family.flags.values() if flag.differ]
    rules += [{name, *expressions.names_in(rule.default)} for name, rule in family.sizes.items() if rule.default]
    group = {name: {name} for name in family.sizes}
    for rule in rules:
        one = set().union(*(group[name] for name in rule))
        group |= dict.fromkeys(one, one)
    groups: list[list[str]] = []
    for name in free:
        if not any(name in names for names in groups):
            groups.append([other for other in free if other in group[name]])
    return groups


def growing_sizes(family: Family) -> list[str]:
    """The sizes that a target may name and that a method can have a rule for: no fixed ones without ``new``."""
    kept = _settling(family, [space for space in family.spaces.values() if space.fixed and space.new is None])
    return [name for name, rule in family.sizes.items() if rule.config is not None and name not in kept]


def index_sizes(family: Family) -> list[str]:
    """The growing sizes whose entries are indices: vocabularies, positions."""
    indices = _settling(family, [space for space in family.spaces.values() if space.new is not None])
    return [name for name in growing_sizes(family) if name in indices]


def _settling(family: Family, spaces: Sequence[Space]) -> set[str]:
    """The sizes that settle how large spaces are."""
    axes = {axis for space in spaces for axis in space.axes}
    return axes.union(*(_computed_from(family, axis) for axis in axes))


def _computed_from(family: Family, axis: str) -> set[str]:
    """The sizes that settle a size which no key of a config states."""
    rule = family.sizes.get(axis)
    needed = expressions.names_in(rule.default) if rule and rule.config is None and rule.default else set()
    return needed.union(*(_computed_from(family, name) for name in needed))


def turns_pairs(architecture: Architecture) -> bool:
    """Whether rotary positions turn whole pairs of coordinates: an even number of each head's, and some."""
    rotary = [a for a in architecture.family.relations.attention if a.rotary != "none"]
    return all(architecture.turning(a) and architecture.turning(a) % 2 == 0 for a in rotary)
