"""Between a file's names and shapes and the canonical ones, both ways, from one declaration.

``bind`` looks at the names in a file and settles, before any value is read, which canonical tensors each of them
holds. The steps (transpose, split) work on any array library that has ``.T`` and ``concat``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import accumulate, islice
from types import ModuleType
from typing import Any, Literal

import numpy as np

from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, PlanError, Problem, printable
from ligo_spec.family import LAYER, at_layer, piece, template_pattern
from ligo_spec.file_layout import EXPERT, Entry, Layout, Split, Step

BASE = "{base}"
"""Stands for the prefix that a file uses throughout, or not at all."""


@dataclass(frozen=True)
class Cut:
    """A split at given sizes: the first dimension is ``groups`` times the sum of ``sizes``, part after part.

    Args:
        sizes: Rows of every part in one group.
        groups: How many groups there are.
    """

    sizes: tuple[int, ...]
    groups: int = 1


Turn = Literal["transpose"] | Cut
"""A step whose sizes are settled."""


@dataclass(frozen=True)
class Slot:
    """One tensor of a file: its name there, the steps, and the canonical tensors that it holds.

    Args:
        name: Name in the file, as the layout writes it (old names are read, new ones written).
        template: The same with ``{i}`` for the layer and ``{e}`` for the expert.
        layer: The layer, or None.
        expert: The expert, where it holds one slice of its canonical tensors; or None.
        declared: The steps as the family has them, from the file's side to the canonical one.
        steps: The same at the sizes of one model.
        canonical: Canonical templates, in the order of the split.
    """

    name: str
    template: str
    layer: int | None
    expert: int | None
    declared: tuple[Step, ...]
    steps: tuple[Turn, ...]
    canonical: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors, whole ones."""
        return tuple(at_layer(template, self.layer) for template in self.canonical)

    @property
    def holds(self) -> tuple[str, ...]:
        """Canonical names of the tensors, or of the slices of them that it holds."""
        return self.names if self.expert is None else tuple(piece(name, self.expert) for name in self.names)

    def taken(self, canonical: Mapping[str, Any]) -> list[Any]:
        """What it holds, out of whole canonical tensors."""
        whole = [canonical[name] for name in self.names]
        return whole if self.expert is None else [value[self.expert] for value in whole]

    def at(self, layer: int | None, expert: int | None) -> Slot:
        """The same tensor in another layer, or of another expert."""
        name = at_layer(self.template, layer)
        name = name if expert is None else name.replace(EXPERT, str(expert))
        return replace(self, name=name, layer=layer, expert=expert)

    def sized(self, architecture: Architecture) -> Slot:
        """The same tensor at the sizes of another model of the family."""
        steps = settled(self.declared, self.canonical, architecture, sliced=self.expert is not None)
        return replace(self, steps=steps)


@dataclass(frozen=True)
class Binding:
    """What a file's tensors are.

    Args:
        slots: By the name that the file uses.
        dropped: Names that are not written, with the reason.
        copied: Undeclared names that are written as they are.
    """

    slots: Mapping[str, Slot]
    dropped: Mapping[str, str]
    copied: tuple[str, ...] = ()

    def sources(self) -> dict[str, tuple[str, int]]:
        """Canonical name, of a slice where files hold those -> (name in the file, which part of the split)."""
        return {name: (key, part) for key, slot in self.slots.items() for part, name in enumerate(slot.holds)}

    def templates(self) -> list[str]:
        """The canonical templates that the file has, each once."""
        return list(dict.fromkeys(template for slot in self.slots.values() for template in slot.canonical))

    def names(self) -> list[str]:
        """The canonical names of the tensors, whole ones, each once."""
        return list(dict.fromkeys(name for slot in self.slots.values() for name in slot.names))

    @cached_property
    def pieces(self) -> dict[str, dict[int, str]]:
        """For every canonical tensor that lies in slices: the canonical name of each, by expert."""
        found: dict[str, dict[int, str]] = {}
        for slot in self.slots.values():
            if slot.expert is not None:
                for name, held in zip(slot.names, slot.holds, strict=True):
                    found.setdefault(name, {})[slot.expert] = held
        return found

    @property
    def in_pieces(self) -> set[str]:
        """The canonical templates whose tensors lie in slices."""
        return {template for slot in self.slots.values() if slot.expert is not None for template in slot.canonical}


@dataclass(frozen=True)
class Model:
    """What the tensors of a file are, for a format that lays them out in a way of its own.

    Args:
        architecture: Family, sizes and flags, with the config as it is written.
        slots: By the names of the family's ``hf`` layout; a tensor without one is not declared, and copied.
    """

    architecture: Architecture
    slots: Mapping[str, Slot]


def require_model(model: Model | None, format: str) -> Model:
    """What the tensors are, for a format that cannot do without.

    Raises:
        InputError: It is not known.
    """
    if model is None:
        raise InputError(f"{format} files need to know what the tensors are: put config.json beside them")
    return model


def slots_of(slot: Slot, architecture: Architecture) -> list[Slot]:
    """A tensor of a file in every layer of a model that has it and of every expert, at its sizes."""
    template, sized = slot.canonical[0], slot.sized(architecture)
    experts: Iterable[int | None] = [None] if slot.expert is None else range(architecture.experts(template))
    return [sized.at(layer, expert) for layer in architecture.layers_of(template) for expert in experts]


def settled(
    steps: Sequence[Step], canonical: Sequence[str], architecture: Architecture, *, sliced: bool = False
) -> tuple[Turn, ...]:
    """Steps at the sizes of a model: every part of a split is as long as its canonical tensor, or the slice of it."""
    found: list[Turn] = []
    for number, step in enumerate(steps):
        if not isinstance(step, Split):
            found.append("transpose")
            continue
        axis = -1 if list(steps[number + 1 :]).count("transpose") % 2 else 0
        groups = 1 if step.per is None else architecture.sizes[step.per]
        sides = [architecture.shape(template)[1 if sliced else 0 :][axis] for template in canonical]
        found.append(Cut(tuple((side or 0) // groups for side in sides), groups))
    return tuple(found)


def unpack(value: Any, steps: Iterable[Turn]) -> list[Any]:
    """From a file's tensor to its canonical ones: ``(d_in, 3 d_out)`` -> three ``(d_out, d_in)``."""
    parts = [value]
    for step in steps:
        parts = _cut(parts[0], step) if isinstance(step, Cut) else [part.T for part in parts]
    return parts


def _cut(value: Any, cut: Cut) -> list[Any]:
    rest = value.shape[1:]
    grouped = value.reshape(cut.groups, sum(cut.sizes), *rest)
    ends = list(accumulate(cut.sizes))
    return [
        grouped[:, end - size : end].reshape(cut.groups * size, *rest)
        for size, end in zip(cut.sizes, ends, strict=True)
    ]


def pack(parts: Sequence[Any], steps: Sequence[Turn], library: ModuleType = np) -> Any:
    """The inverse of ``unpack``; ``library`` is the array library (it needs ``concat``)."""
    parts = list(parts)
    for step in reversed(steps):
        parts = [_joined(parts, step, library)] if isinstance(step, Cut) else [part.T for part in parts]
    return parts[0]


def _joined(parts: Sequence[Any], cut: Cut, library: ModuleType) -> Any:
    rest = parts[0].shape[1:]
    if cut.groups == 1:
        return library.concat(parts)
    grouped = [part.reshape(cut.groups, size, *rest) for part, size in zip(parts, cut.sizes, strict=True)]
    return library.concat(grouped, 1).reshape(cut.groups * sum(cut.sizes), *rest)


def unpacked_shapes(shape: tuple[int, ...], steps: Iterable[Turn]) -> list[tuple[int, ...]] | None:
    """Shapes of the canonical tensors in a file's tensor of ``shape``, or None if the steps do not fit it."""
    parts = [shape]
    for step in steps:
        if not isinstance(step, Cut):
            parts = [part[::-1] for part in parts]
        elif not parts[0] or parts[0][0] != step.groups * sum(step.sizes):
            return None
        else:
            parts = [(step.groups * size, *parts[0][1:]) for size in step.sizes]
    return parts


def packed_shape(shapes: Sequence[tuple[int, ...]], steps: Sequence[Turn]) -> tuple[int, ...]:
    """Shape of the file's tensor that holds canonical tensors of ``shapes``."""
    parts = list(shapes)
    for step in reversed(steps):
        if isinstance(step, Cut):
            parts = [(sum(part[0] for part in parts), *parts[0][1:])]
        else:
            parts = [part[::-1] for part in parts]
    return parts[0]


def layout_of(architecture: Architecture, name: str = "hf") -> Layout:
    """A layout of the family.

    Raises:
        PlanError: The family declares no layout of that name.
    """
    layouts = architecture.family.layouts
    if name not in layouts:
        raise PlanError(f"family {architecture.family.name} declares no layout {name!r}; it has {', '.join(layouts)}")
    return layouts[name]


def bind(
    architecture: Architecture,
    tensors: Mapping[str, TensorInfo],
    where: str,
    *,
    drop: Sequence[str] = (),
    copy: Sequence[str] = (),
) -> Binding:
    """Settle what each tensor of a file is.

    Args:
        architecture: What the file should hold.
        tensors: Headers of the file, by name.
        where: The file, for messages.
        drop: Patterns of undeclared tensors to leave out.
        copy: Patterns of undeclared tensors to take over as they are.

    Raises:
        InputError: A tensor that no line names, one claimed twice, one missing, or one of another shape than the
            config's sizes give. All problems at once.
    """
    found = examine(architecture, tensors, drop=drop, copy=copy)
    problems = [
        Problem(
            where,
            f"tensor {printable(name)} is not declared by family {architecture.family.name}; "
            "name it in the plan's source.drop or source.copy",
        )
        for name in found.undeclared
    ]
    problems += [Problem(where, text) for text in (*found.wrong_set, *found.wrong_shapes.values())]
    if problems:
        raise InputError(problems)
    return found.binding


@dataclass(frozen=True)
class Findings:
    """What a file's tensors are, and what is wrong with them.

    Args:
        binding: Of the tensors that are declared.
        undeclared: Names that no line of the family has.
        wrong_set: Canonical tensors that are missing or come twice, as messages.
        wrong_shapes: Messages by name in the file.
    """

    binding: Binding
    undeclared: tuple[str, ...]
    wrong_set: tuple[str, ...]
    wrong_shapes: Mapping[str, str]


def examine(
    architecture: Architecture,
    tensors: Mapping[str, TensorInfo],
    *,
    drop: Sequence[str] = (),
    copy: Sequence[str] = (),
) -> Findings:
    """Look at every tensor of a file; as ``bind``, but what is wrong is told and not raised."""
    layout = layout_of(architecture)
    base = _choose_base(layout, tensors)
    architectures = architecture.config.get("architectures") or []
    slots: dict[str, Slot] = {}
    dropped: dict[str, str] = {}
    copied: list[str] = []
    undeclared: list[str] = []
    for name in tensors:
        renamed = todays_name(layout, name)
        slot = _slot(architecture, layout, base, renamed, architectures)
        if slot is not None:
            slots[name] = slot
            continue
        reason = _reason_to_drop(layout, base, renamed)
        if reason is None and any(fnmatchcase(name, pattern) for pattern in drop):
            reason = "the plan says so"
        if reason is not None:
            dropped[name] = reason
        elif any(fnmatchcase(name, pattern) for pattern in copy):
            copied.append(name)
        else:
            undeclared.append(name)
    binding = Binding(slots, dropped, tuple(copied))
    wrong_shapes = _wrong_shapes(architecture, binding, tensors)
    return Findings(binding, tuple(undeclared), tuple(_wrong_set(architecture, layout, binding)), wrong_shapes)


def todays_name(layout: Layout, name: str) -> str:
    """A name with its old ending, if it has one, replaced by what that is called now."""
    for old, new in layout.aliases.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _choose_base(layout: Layout, names: Iterable[str]) -> str:
    """The prefix under which most names are declared; the first one wins a draw."""
    modern = [todays_name(layout, name) for name in names]
    found = Counter(
        base
        for base in layout.base
        for template in layout.tensors
        if template.startswith(BASE)
        for name in modern
        if template_pattern(template.replace(BASE, base)).fullmatch(name)
    )
    return max(layout.base, key=lambda base: found[base])


def _slot(
    architecture: Architecture, layout: Layout, base: str, name: str, architectures: Sequence[str]
) -> Slot | None:
    for declared, choices in layout.tensors.items():
        template = declared.replace(BASE, base)
        match = template_pattern(template).fullmatch(name)
        if match:
            layer = int(match["i"]) if LAYER in template else None
            expert = int(match["e"]) if EXPERT in template else None
            entry = _entry(choices, architectures)
            if entry is None:
                return None
            return Slot(name, template, layer, expert, entry.steps, (), entry.is_).sized(architecture)
    return None


def _entry(choices: Sequence[Entry], architectures: Sequence[str]) -> Entry | None:
    return next((entry for entry in choices if entry.for_ is None or entry.for_ in architectures), None)


def _reason_to_drop(layout: Layout, base: str, name: str) -> str | None:
    for declared, reason in layout.drop.items():
        if template_pattern(declared.replace(BASE, base)).fullmatch(name):
            return reason
    return None


def _wrong_set(architecture: Architecture, layout: Layout, binding: Binding) -> list[str]:
    """Tensors that are missing, that come twice, or that are of a layer or expert the config does not have."""
    counts = Counter(name for slot in binding.slots.values() for name in slot.holds)
    wrong = [f"{name} comes {count} times (an old and a new name?)" for name, count in counts.items() if count > 1]
    declared = architecture.family.tensors
    present = set(binding.templates())
    groups = {declared[template].optional for template in present}
    for template, tensor in declared.items():
        together = isinstance(tensor.optional, str) and tensor.optional in groups
        if template not in present and tensor.optional and not together:
            continue
        if template in layout.in_pieces and template in present:
            wrong += _missing_experts(architecture, binding, template)
        else:
            wrong += [f"tensor {name} is missing" for name in architecture.names(template) if name not in counts]
    for key, slot in binding.slots.items():
        stack = architecture.family.stack_of(slot.canonical[0])
        if slot.layer is not None and stack is not None and slot.layer >= architecture.depth(stack):
            wrong.append(f"{printable(key)} is in layer {slot.layer}, but there are {architecture.depth(stack)} layers")
    wrong += [
        f"{printable(key)} is expert {slot.expert}, but there are {count} experts"
        for key, slot in binding.slots.items()
        if slot.expert is not None and slot.expert >= (count := architecture.experts(slot.canonical[0]))
    ]
    wrong += [
        f"{printable(key)} is in layer {slot.layer}, which has none {_by_what(architecture, slot)}"
        for key, slot in binding.slots.items()
        if not all(architecture.family.in_layer(template, slot.layer) for template in slot.canonical)
    ]
    return wrong


def _by_what(architecture: Architecture, slot: Slot) -> str:
    """What settles that a layer lacks a tensor."""
    lists = {key for template in slot.canonical for key in architecture.declared.tensors[template].only_in}
    return f"by {', '.join(sorted(lists))} of the config" if lists else f"in family {architecture.family.name}"


def _missing_experts(architecture: Architecture, binding: Binding, template: str) -> list[str]:
    """One message a tensor of which some slices are missing. A config may claim any number of experts."""
    count, wrong = architecture.experts(template), []
    for name in architecture.names(template):
        there = binding.pieces.get(name, {})
        missing = list(islice((expert for expert in range(count) if expert not in there), 4))
        if not there:
            wrong.append(f"tensor {name} is missing")
        elif missing:
            some = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
            wrong.append(f"tensor {name} has {count} experts; missing: {some}")
    return wrong


def _wrong_shapes(architecture: Architecture, binding: Binding, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    for key, slot in binding.slots.items():
        shapes = unpacked_shapes(tensors[key].shape, slot.steps)
        for part, template in enumerate(slot.canonical):
            wanted = architecture.shape(template)[0 if slot.expert is None else 1 :]
            if shapes is None or not _fits(shapes[part], wanted):
                found = tensors[key].shape if shapes is None else shapes[part]
                text = f"{printable(key)} ({template}) has shape {found}, but the config's sizes give {wanted}"
                wrong.setdefault(key, text)  # one for a tensor of the file, however many it holds
    return wrong


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))
