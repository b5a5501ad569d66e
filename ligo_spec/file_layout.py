"""The part of a family that says how a file lays its tensors out: names, steps, what is dropped (SPEC 2.6)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ligo_spec.documents import Document

EXPERT = "{e}"
"""Stands for the expert in the name of a tensor that holds one expert only: one slice of canonical tensors."""


def _short_entry(value: Any) -> Any:
    return {"is": (value,)} if isinstance(value, str) else value


def _short_list(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict) else value


class Split(Document):
    """Cut the first dimension into parts, one per canonical tensor, in order."""

    split: Annotated[int, Field(ge=2)]
    """How many; each is as long as its canonical tensor."""
    per: str | None = None
    """A size: the dimension holds that many groups, each with its share of every part (heads with their q, k, v)."""


Step = Literal["transpose"] | Split


class Entry(Document):
    """How one tensor of a file becomes canonical ones: the steps, in order, from the file's side."""

    steps: tuple[Step, ...] = ()
    is_: Annotated[
        tuple[str, ...],
        BeforeValidator(_short_list, json_schema_input_type=Annotated[tuple[str, ...], Field(min_length=1)] | str),
        Field(min_length=1, alias="is"),
    ]
    """The canonical tensors that it holds, in the order of the split."""
    for_: Annotated[str | None, Field(alias="for")] = None
    """Holds only for this class in the config's ``architectures`` (one name, two meanings)."""

    def splits_into(self, count: int) -> bool:
        """Whether the steps give ``count`` tensors."""
        parts = [step.split for step in self.steps if isinstance(step, Split)]
        return len(parts) <= 1 and count == (parts[0] if parts else 1)


OneEntry = Annotated[Entry, BeforeValidator(_short_entry, json_schema_input_type=Entry | str)]
_Entries = Annotated[tuple[OneEntry, ...], Field(min_length=1)]


class Layout(Document):
    """A file's own names and shapes; one declaration serves reading and writing."""

    base: tuple[str, ...] = ("",)
    """What ``{base}`` in a name may stand for; a file uses one of them throughout."""
    aliases: dict[str, str] = {}
    """Old endings of names, and what they are called now."""
    tensors: dict[
        str,
        Annotated[
            tuple[OneEntry, ...],
            BeforeValidator(_short_list, json_schema_input_type=_Entries | Entry | str),
            Field(min_length=1),
        ],
    ]
    """By name in the file; where one name has several meanings, the first entry that holds."""
    drop: dict[str, str] = {}
    """Names that are no weights (buffers), and why they are not written."""

    @property
    def in_pieces(self) -> frozenset[str]:
        """The canonical templates that a file holds expert by expert."""
        named = (entry for key, choices in self.tensors.items() if EXPERT in key for entry in choices)
        return frozenset(name for entry in named for name in entry.is_)
