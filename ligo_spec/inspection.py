"""What a checkpoint is: its family and sizes, every tensor by both its names, and what touches which space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ligo_spec.family import Dim, load_family
from ligo_spec.job import Small, open_model


@dataclass(frozen=True)
class TensorRow:
    """A kind of tensor, folded over the layers: canonical name, name in the file, shape in canonical order.

    Experts that a file holds one by one are one tensor, whose first side counts them.
    """

    name: str
    file_name: str
    shape: tuple[int, ...]
    count: int
    dtype: str


@dataclass(frozen=True)
class SpaceRow:
    """A space: its axes and size, and the canonical tensors that touch it, by role."""

    name: str
    axes: tuple[str, ...]
    size: int | None
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    gains: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What ``ligo inspect`` shows."""

    path: str
    family: str
    sizes: Mapping[str, int]
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    tensors: tuple[TensorRow, ...]
    spaces: tuple[SpaceRow, ...]
    dropped: Mapping[str, str]


def inspect(source: str | Path, *, family: str | None = None) -> Inspection:
    """Look at a checkpoint: headers and config are read, no weight is.

    Raises:
        InputError: It is refused, or of no known family.
        PlanError: ``family`` is not to be had.
    """
    small = open_model(source, load_family(family) if family else None)
    infos = [small.checkpoint.tensors[key] for key in small.binding.slots]
    return Inspection(
        path=str(source),
        family=small.architecture.family.name,
        sizes=dict(small.architecture.sizes),
        parameters=sum(prod(info.shape) for info in infos),
        bytes=sum(info.nbytes for info in infos),
        dtypes=tuple(sorted({info.dtype for info in infos})),
        ties=small.architecture.ties,
        tensors=tuple(_tensor_rows(small)),
        spaces=tuple(_space_rows(small)),
        dropped=small.binding.dropped,
    )


def _tensor_rows(small: Small) -> list[TensorRow]:
    rows: dict[str, TensorRow] = {}
    for slot in small.binding.slots.values():
        for name, template in zip(slot.names, slot.canonical, strict=True):
            count = len(small.architecture.layers_of(template))
            if template not in rows:
                rows[template] = TensorRow(template, slot.template, small.shape(name), count, small.dtype(name))
    return [rows[template] for template in small.architecture.family.tensors if template in rows]


def _space_rows(small: Small) -> list[SpaceRow]:
    family = small.architecture.family
    present = set(small.binding.templates())
    rows = []
    for name, space in family.spaces.items():
        touching = {
            role: tuple(
                tensor
                for tensor, declared in family.tensors.items()
                if tensor in present and Dim(name, role) in declared.touches
            )
            for role in ("out", "in", "gain")
        }
        size = small.architecture.width(name)
        rows.append(SpaceRow(name, space.axes, size, touching["out"], touching["in"], touching["gain"]))
    return rows
