"""What a family asks for at given sizes: the names of its files, and their shapes."""

from __future__ import annotations

from collections.abc import Iterable

from ligo_spec.architecture import Architecture
from ligo_spec.file_layout import EXPERT
from ligo_spec.layout import BASE, Cut, Slot, layout_of, slots_of

Shape = tuple[int | None, ...]
"""Sizes; None where only the file knows."""


def wanted_shape(slot: Slot, architecture: Architecture) -> Shape:
    """The shape of a tensor of a file, as the config's sizes give it."""
    parts: list[Shape] = [architecture.shape(name)[0 if slot.expert is None else 1 :] for name in slot.canonical]
    for step in reversed(slot.steps):
        if isinstance(step, Cut):
            parts = [(step.groups * sum(step.sizes), *parts[0][1:])]
        else:
            parts = [part[::-1] for part in parts]
    return parts[0]


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Whether a shape is the one that is wanted."""
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def expected(architecture: Architecture, base: str) -> dict[str, Slot]:
    """Every tensor that files of the family may have, by name, in every layer, under one prefix."""
    found: dict[str, Slot] = {}
    named = architecture.config.get("architectures") or []
    for declared, choices in layout_of(architecture).tensors.items():
        template = declared.replace(BASE, base)
        entry = next((entry for entry in choices if entry.for_ is None or entry.for_ in named), None)
        if entry is not None:
            expert = 0 if EXPERT in template else None
            slot = Slot("", template, None, expert, entry.steps, (), entry.is_)
            found |= {one.name: one for one in slots_of(slot, architecture)}
    return found


def base_of(architecture: Architecture, names: Iterable[str]) -> str:
    """The prefix under which most of the names are declared."""
    present = set(names)
    bases = layout_of(architecture).base
    return max(bases, key=lambda base: len(present & expected(architecture, base).keys()))


def required(architecture: Architecture, slots: dict[str, Slot]) -> dict[str, Slot]:
    """Of the tensors that there may be, those that every file of the family has; tied ones count once."""
    doubles = {template for group in architecture.ties for template in group[1:]}
    declared = architecture.family.tensors
    return {
        name: slot
        for name, slot in slots.items()
        if not all(declared[template].optional or template in doubles for template in slot.canonical)
    }
