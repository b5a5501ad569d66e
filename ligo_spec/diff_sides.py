"""One of the two checkpoints that are compared: its tensors under the names that the other may know them by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import DTYPES, Checkpoint, read_checkpoint
from ligo_spec.difference import rounded
from ligo_spec.errors import InputError
from ligo_spec.family import Family
from ligo_spec.job import Small, family_in
from ligo_spec.layout import Binding, examine

Array = npt.NDArray[Any]


class Key(NamedTuple):
    """What a tensor is called in a comparison: by its canonical name, or, undeclared, by that in the file."""

    declared: bool
    name: str


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint: the file's tensor that it is or is a part of, and its own dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Print(NamedTuple):
    """What tells a tensor's content from any other's."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass
class Side:
    """One of two checkpoints.

    Args:
        checkpoint: Its files.
        small: What its tensors are; None where only the names in the file count.
        tensors: All of them, by key.
    """

    checkpoint: Checkpoint
    small: Small | None
    tensors: Mapping[Key, Stored]
    _prints: dict[Key, Print | None] = field(default_factory=dict)

    @property
    def family(self) -> str | None:
        """The family's name, where canonical names count."""
        return None if self.small is None else self.small.architecture.family.name

    def read(self, key: Key) -> Array:
        """The values of a tensor, in the dtype of the file."""
        if self.small is not None and key.declared:
            return self.small.read(key.name)
        return self.checkpoint.read(key.name)

    def tied_to(self, key: Key) -> Iterator[Key]:
        """The tensors here that the config ties to one that is not here."""
        groups = () if self.small is None or not key.declared else self.small.architecture.ties
        yield from (Key(True, name) for group in groups if key.name in group for name in group)

    def telling_print(self, key: Key) -> Print | None:
        """The print of a tensor that others do not have by chance; None of one value throughout, and of integers."""
        if key not in self._prints:
            value = self.read(key)
            plain = value.dtype.kind in "iub" or value.size < 2 or bool((value == value.flat[0]).all())
            self._prints[key] = None if plain else print_of(value, self.tensors[key].dtype)
        return self._prints[key]


def print_of(value: Array, dtype: str) -> Print:
    """The print of a tensor, rounded to a dtype."""
    held = np.ascontiguousarray(rounded(value, DTYPES[dtype]))
    digest = hashlib.sha256(held.reshape(-1).view(np.uint8).data)
    return Print(dtype, tuple(value.shape), digest.hexdigest())


def open_sides(a: str | Path, b: str | Path, family: Family | None) -> tuple[tuple[Side, Side], tuple[str, ...]]:
    """Open two checkpoints; and say why their tensors go by the names in the files, where they do.

    Canonical names count where both are of known families.

    Raises:
        InputError: A checkpoint is refused, or is not of the family that the caller names.
    """
    opened = [read_checkpoint(path, family=family) for path in (a, b)]
    found: list[Small | None] = []
    notes = []
    for label, checkpoint in zip(("A", "B"), opened, strict=True):
        try:
            found.append(_known(checkpoint, family))
        except InputError as error:
            if family is not None:
                raise
            found.append(None)
            notes.append(f"tensors go by their names in the files, as {label} is of no family that is known: {error}")
    known = None not in found
    sides = [_side(checkpoint, small if known else None) for checkpoint, small in zip(opened, found, strict=True)]
    return (sides[0], sides[1]), tuple(notes)


def _known(checkpoint: Checkpoint, family: Family | None) -> Small:
    """As ``ligo_spec.job.identify``, but what does not fit is left to be compared by its name in the file."""
    named = family or family_in(checkpoint)
    architecture = Architecture.from_hf_config(named, checkpoint.config, f"{checkpoint.path}/config.json")
    found = examine(architecture, checkpoint.tensors)
    claims = Counter(name for slot in found.binding.slots.values() for name in slot.holds)
    slots = {
        key: slot
        for key, slot in found.binding.slots.items()
        if key not in found.wrong_shapes and all(claims[name] == 1 for name in slot.holds)
    }
    return Small(checkpoint, architecture, Binding(slots, found.binding.dropped), untied=False)


def _side(checkpoint: Checkpoint, small: Small | None) -> Side:
    tensors: dict[Key, Stored] = {}
    for name, info in checkpoint.tensors.items():
        slot = None if small is None else small.binding.slots.get(name)
        if small is None or slot is None:
            tensors[Key(False, name)] = Stored(name, info.dtype, info.shape)
        else:
            tensors.update({Key(True, held): Stored(name, info.dtype, small.shape(held)) for held in slot.holds})
    return Side(checkpoint, small, tensors)
