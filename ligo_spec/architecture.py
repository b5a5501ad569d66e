"""A family at given sizes: what a ``config.json`` says, and the config of the grown model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any

from ligo_spec import expressions
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family, FlagRule, SizeRule, at_layer
from ligo_spec.layer_lists import lists_of, wrong_lists
from ligo_spec.relations import Activation, Attention, NumberRule, holds

MAX_SIZE = 2**31
"""No dimension of a real model comes near; larger claims are refused before anything is computed from them."""

MAX_LAYERS = 100_000


@dataclass(frozen=True)
class Architecture:
    """A family with sizes: enough to know the shape of every tensor.

    Args:
        declared: The declaration.
        family: What it says of models with these flags.
        config: The ``config.json`` that the sizes come from.
        sizes: Every size of the family.
        flags: Every flag of the family.
        apart: Whether a file stores different values for tied tensors, so that none are tied.
    """

    declared: Family
    family: Family
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    flags: Mapping[str, bool]
    apart: bool = False

    @classmethod
    def from_hf_config(cls, family: Family, config: Mapping[str, Any], where: str = "config.json") -> Architecture:
        """Read the sizes of ``family`` out of a Hugging Face config.

        Raises:
            InputError: Sizes are missing or no positive integers, do not divide, or the config asks for a variant
                that the family does not describe. All problems at once.
        """
        problems = [
            Problem(where, f"{key} is {printable(repr(config[key]))}; family {family.name} describes only {wanted!r}")
            for key, wanted in family.requires.items()
            if key in config and config[key] != wanted
        ]
        named = config.get("architectures")
        if named is not None and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
            found = printable(repr(named))
            problems.append(Problem(where, f"architectures must be a list of class names, found {found}"))
        sizes = _read_sizes(family, config, where, problems)
        flags = _read_flags(family, config, sizes, where, problems)
        if not problems:
            problems = [Problem(where, text) for text in wrong_sizes(family, sizes)]
        if problems:
            raise InputError(problems)
        frozen = MappingProxyType(dict(config)), MappingProxyType(sizes), MappingProxyType(flags)
        made = cls(family, family.at(flags), *frozen)
        problems = [Problem(where, text) for text in wrong_lists(made)]
        if problems:
            raise InputError(problems)
        return made.settled(lists_of(made))

    def __repr__(self) -> str:
        """Family, sizes and flags: what tells it from others."""
        return f"<{self.family.name} {dict(self.sizes)} {dict(self.flags)}>"

    def depth(self, stack: str) -> int:
        """How many layers a stack has."""
        return self.sizes[self.family.stacks[stack].count]

    @property
    def depths(self) -> dict[str, int]:
        """How many layers every stack has."""
        return {stack: self.depth(stack) for stack in self.family.stacks}

    def width(self, space: str) -> int | None:
        """The size of a space, or None where only the file knows."""
        axes = self.family.spaces[space].axes
        return None if "*" in axes else prod(self.sizes[axis] for axis in axes)

    def shape(self, template: str) -> tuple[int | None, ...]:
        """The shape of a canonical tensor; None for a side that only the file knows."""
        return tuple(self.width(dim.space) for dim in self.family.tensors[template].touches)

    def experts(self, template: str) -> int:
        """How many experts a tensor holds, one slice each: its first dimension."""
        count = self.shape(template)[0]
        assert count is not None, "the rules of families want a size there"
        return count

    def layers_of(self, template: str) -> list[int | None]:
        """The layers that have a tensor; None for one outside the layers."""
        return self.family.layers_of(template, self.sizes)

    def names(self, template: str) -> list[str]:
        """The tensors that a template stands for: one, or one per layer that has it."""
        return [at_layer(template, i) for i in self.layers_of(template)]

    def number(self, rule: NumberRule) -> float:
        """A number of the config, at the first of the rule's keys that holds one."""
        for path in rule.config:
            value: Any = self.config
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value
        return rule.default

    def turning(self, attention: Attention) -> int:
        """How many coordinates of a head turn under rotary positions, the first ones."""
        side = self.sizes[self.family.spaces[attention.query].axes[1]]
        return side if attention.rotary_share is None else int(side * self.number(attention.rotary_share))

    def function(self, activation: Activation) -> str:
        """The name of an activation's function."""
        key = activation.function.config
        value = self.config.get(key) if key is not None else None
        name = value if isinstance(value, str) else activation.function.default
        return activation.function.names.get(name, name)

    @cached_property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """The groups of tensors that are one tensor here."""
        groups = (
            tuple(name for name in tie.same if name in self.family.tensors)
            for tie in self.family.relations.ties
            if not self.apart and holds(tie.when, self.flags)
        )
        return tuple(group for group in groups if len(group) > 1)

    def settled(self, lists: Mapping[str, Sequence[Any]]) -> Architecture:
        """The same architecture, its tensors in the layers in which these lists have them."""
        return replace(self, family=self.declared.at(self.flags, lists)) if self.declared.by_list else self

    def untie(self) -> Architecture:
        """The same architecture with every tie undone (a file that stores different values for tied tensors)."""
        named = {tie.when: self.family.flags[tie.when].config for tie in self.family.relations.ties if tie.when}
        flags = {**self.flags, **dict.fromkeys(named, False)}
        config = {**self.config, **{key: False for key in named.values() if key is not None}}
        return replace(
            self,
            family=self.declared.at(flags, lists_of(self)),
            flags=MappingProxyType(flags),
            config=MappingProxyType(config),
            apart=True,
        )

    def grown(self, target: Mapping[str, int]) -> Architecture:
        """The architecture at the sizes of ``target``; sizes that it leaves out stay, or follow from their default.

        Which layers have a tensor that depends on lists is not settled: that follows the layers they come from.

        Raises:
            InputError: A size shrinks, is too large, or does not divide. All problems at once.
        """
        sizes = self._grown_sizes(target)
        problems = [Problem("", text) for text in wrong_sizes(self.family, sizes)]
        problems += [
            Problem("", f"{name}: large {value} is smaller than small {self.sizes[name]}; growth cannot shrink an axis")
            for name, value in sizes.items()
            if value < self.sizes[name]
        ]
        limits = _limits(self.family)
        problems += [
            Problem("", f"{name}: {value} is too large; at most {limits[name] - 1}")
            for name, value in sizes.items()
            if value >= limits[name]
        ]
        problems += [
            Problem("", f"{' and '.join(flag.differ)} {'differ' if was else 'are equal'}; the large model's must too")
            for name, flag in self.family.flags.items()
            if flag.differ and (was := self.flags[name]) != (sizes[flag.differ[0]] != sizes[flag.differ[1]])
        ]
        if problems:
            raise InputError(problems)
        config = {**self.config, **self._grown_config(sizes)}
        family = self.declared.at(self.flags) if self.declared.by_list else self.family
        return replace(self, family=family, config=MappingProxyType(config), sizes=MappingProxyType(sizes))

    def _grown_sizes(self, target: Mapping[str, int]) -> dict[str, int]:
        """Sizes of the target: as asked; else computed where they always are; else as before.

        A size with a config key and a default keeps its value when the config states it, and follows its default
        (``intermediate_size`` of a config that leaves it out) when the config does not.
        """
        sizes: dict[str, int] = {}
        for name in _in_order(self.family):
            rule = self.family.sizes[name]
            stated = bool(rule.stated(self.config))
            if name in target and rule.config is not None:
                sizes[name] = target[name]
            elif stated or rule.default is None:
                sizes[name] = self.sizes[name]
            else:
                sizes[name] = expressions.evaluate(rule.default, sizes)
        return {name: sizes[name] for name in self.family.sizes}

    def _grown_config(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name, rule in self.family.sizes.items():
            if rule.config is None:
                continue
            stated = rule.stated(self.config)
            follows = rule.default is not None and expressions.evaluate(rule.default, sizes) == sizes[name]
            if stated or not follows:
                changed |= dict.fromkeys(stated or (rule.config,), sizes[name])
        return changed


def wrong_sizes(family: Family, sizes: Mapping[str, int]) -> list[str]:
    """The rules of the family that ``sizes`` break, as messages: what divides what, no more experts chosen than are."""
    wrong = [
        f"{small} {sizes[small]} does not divide {big} {sizes[big]}"
        for small, big in family.divides
        if sizes[big] % sizes[small]
    ]
    wrong += [
        f"{chosen} {sizes[chosen]} is more than {experts} {sizes[experts]}"
        for chosen, experts in family.routed
        if sizes[chosen] > sizes[experts]
    ]
    return wrong


def _in_order(family: Family) -> list[str]:
    """Size names, each after those that its default needs."""
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path or name not in family.sizes:
            raise InputError(f"family {family.name}: sizes.{path[-1]}: default uses {name!r}, which is not to be had")
        if name in ordered:
            return
        rule = family.sizes[name]
        for needed in sorted(expressions.names_in(rule.default)) if rule.default else ():
            visit(needed, (*path, name))
        ordered.append(name)

    for name in family.sizes:
        visit(name, ())
    return ordered


def _read_sizes(family: Family, config: Mapping[str, Any], where: str, problems: list[Problem]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    limits = _limits(family)
    for name in _in_order(family):
        rule = family.sizes[name]
        stated = rule.stated(config)
        value = next(iter(stated.values()), None)
        if any(other != value for other in stated.values()):
            said = " and ".join(f"{key} {printable(repr(other))}" for key, other in stated.items())
            problems.append(Problem(where, f"{said} are one size, and differ"))
            continue
        if value is None and rule.default is not None:
            if not expressions.names_in(rule.default) <= sizes.keys():
                continue  # what it needs is already a problem
            value = expressions.evaluate(rule.default, sizes)
        limit = limits[name]
        if type(value) is not int or not 1 <= value < limit:
            rest = f"must be an integer from 1 to {limit - 1}, found {printable(repr(value))}"
            problems.append(Problem(where, f"{_key(name, rule)} {'is missing' if value is None else rest}"))
            continue
        sizes[name] = value
    return {name: sizes[name] for name in family.sizes if name in sizes}


def _read_flags(
    family: Family, config: Mapping[str, Any], sizes: Mapping[str, int], where: str, problems: list[Problem]
) -> dict[str, bool]:
    flags: dict[str, bool] = {}

    def settle(name: str) -> bool:
        if name not in flags:
            flags[name] = read(family.flags[name])
        return flags[name]

    def read(flag: FlagRule) -> bool:
        if flag.differ is not None:
            return sizes.get(flag.differ[0]) != sizes.get(flag.differ[1])
        value = config.get(str(flag.config))
        if value is None:
            return settle(flag.default) if isinstance(flag.default, str) else flag.default
        if flag.equals is not None:
            return value in (flag.equals if isinstance(flag.equals, tuple) else (flag.equals,))
        if not isinstance(value, bool):
            problems.append(Problem(where, f"{flag.config} must be true or false, found {printable(repr(value))}"))
        return value is True

    return {name: settle(name) for name in family.flags}


def _limits(family: Family) -> dict[str, int]:
    """What every size must stay below; layers and experts are counted out, tensor by tensor."""
    counted = {stack.count for stack in family.stacks.values()} | {experts for _, experts in family.routed}
    return {name: MAX_LAYERS if name in counted else MAX_SIZE for name in family.sizes}


def _key(name: str, rule: SizeRule) -> str:
    return name if rule.config in (None, name) else f"{rule.config} ({name})"
