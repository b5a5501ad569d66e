"""A family file held against a checkpoint, tensor by tensor: for those who write one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import read_checkpoint
from ligo_spec.family import load_family
from ligo_spec.layout import Findings, examine, pack, unpack

Verdict = Literal["declared", "dropped", "unclaimed", "claimed twice", "another shape", "does not come back"]


@dataclass(frozen=True)
class TensorVerdict:
    """What a family file says of one tensor of a checkpoint.

    Args:
        name: Name in the file.
        shape: Shape in the file.
        holds: Canonical tensors that it is, or is part of.
        verdict: Whether that is right.
        note: More in words, where there is more to say.
    """

    name: str
    shape: tuple[int, ...]
    holds: tuple[str, ...]
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True)
class FamilyCheck:
    """What ``ligo family check`` found.

    Args:
        family: Name of the family.
        sizes: What the config gives for its sizes.
        tensors: Every tensor of the checkpoint.
        missing: Canonical tensors that are declared and not there, and others that do not fit, in words.
    """

    family: str
    sizes: dict[str, int]
    tensors: tuple[TensorVerdict, ...]
    missing: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong, one line each; empty when the family describes the checkpoint."""
        wrong = [item for item in self.tensors if item.verdict not in ("declared", "dropped")]
        return (*(item.note or f"{item.name}: {item.verdict}" for item in wrong), *self.missing)


def check_family(family: str | Path, source: str | Path) -> FamilyCheck:
    """Hold a family against a checkpoint: what is unclaimed, claimed twice, of another shape; then a round trip.

    Every tensor that fits is read, made canonical, and laid out again; it must come back bit for bit.

    Raises:
        PlanError: The family is not a valid one.
        InputError: The checkpoint is refused, or its config lacks a size.
    """
    declared = load_family(family)
    checkpoint = read_checkpoint(source, family=declared)
    architecture = Architecture.from_hf_config(declared, checkpoint.config, f"{source}/config.json")
    found = examine(architecture, checkpoint.tensors)
    claims = Counter(name for slot in found.binding.slots.values() for name in slot.holds)
    verdicts = []
    for name, info in checkpoint.tensors.items():
        verdict, note = _verdict(found, name, claims)
        if verdict == "declared" and not _comes_back(checkpoint.read(name), found, name):
            verdict = "does not come back"
        slot = found.binding.slots.get(name)
        verdicts.append(TensorVerdict(name, info.shape, slot.holds if slot else (), verdict, note))
    twice = {name for name, count in claims.items() if count > 1}
    missing = tuple(text for text in found.wrong_set if text.split(" ")[0] not in twice)
    return FamilyCheck(architecture.family.name, dict(architecture.sizes), tuple(verdicts), missing)


def _verdict(found: Findings, name: str, claims: Counter[str]) -> tuple[Verdict, str]:
    if name in found.binding.dropped:
        return "dropped", found.binding.dropped[name]
    if name in found.undeclared:
        return "unclaimed", ""
    if name in found.wrong_shapes:
        return "another shape", found.wrong_shapes[name]
    if any(claims[canonical] > 1 for canonical in found.binding.slots[name].holds):
        return "claimed twice", ""
    return "declared", ""


def _comes_back(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]], found: Findings, name: str) -> bool:
    steps = found.binding.slots[name].steps
    again = np.ascontiguousarray(pack(unpack(value, steps), steps))
    return again.shape == value.shape and again.tobytes() == np.ascontiguousarray(value).tobytes()
