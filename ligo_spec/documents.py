"""The one door for documents: text to model, with every problem at its place, and model to text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from ruamel.yaml import YAML

from ligo_spec.complaints import problems_of
from ligo_spec.errors import InputError, PlanError, Problem, printable
from ligo_spec.inputs import parse_json, read_text_file
from ligo_spec.yaml_reader import MAX_BYTES, Tree, read_tree

Misfit = tuple[tuple[str | int, ...], str]
"""A path of keys, and what is wrong there."""


class Document(BaseModel):
    """The base of every document: unknown keys refused, nothing coerced, nothing changed afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        # Documents are immutable, so their lists are tuples; a text has only lists.
        return _frozen(value)

    def misfits(self) -> Iterator[Misfit]:
        """Problems that no single key can see, each with the path of keys where it stands."""
        return iter(())

    @model_validator(mode="after")
    def _no_misfits(self, info: ValidationInfo) -> Self:
        # The loader asks for them itself, to say where each stands; one built in code has no places.
        if info.context != _PLACED and (problems := [message for _, message in self.misfits()]):
            raise ValueError("; ".join(problems))
        return self


_PLACED = "misfits are placed by the loader"

M = TypeVar("M", bound=Document)


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A document, and where its keys stand.

    Args:
        document: The model.
        path: The file.
        tree: Values and positions.
    """

    document: M
    path: Path
    tree: Tree

    def where(self, *place: str | int, key: bool = False) -> str:
        """``plan.yaml:9:7 target.hidden_size`` for a path of keys; its nearest parent where it is not there.

        Args:
            place: Keys and indices from the top.
            key: Point at the key itself, not at its value.
        """
        return self.tree.where(*place, key=key)


def load(path: str | Path, model: type[M]) -> M:
    """Read a YAML document.

    Raises:
        PlanError: The file is refused or is not a valid document. All problems at once.
    """
    return load_with_positions(path, model).document


def load_with_positions(path: str | Path, model: type[M]) -> Loaded[M]:
    """Read a YAML document and keep the positions of its keys, for checks that look at several keys.

    Raises:
        PlanError: As for ``load``.
    """
    try:
        text = read_text_file(path, MAX_BYTES)
    except InputError as error:
        raise PlanError(error.problems) from error
    tree = read_tree(text, str(path))
    return Loaded(_validated(tree, model), Path(path), tree)


def loads(text: str, model: type[M], name: str = "<text>") -> M:
    """Read a YAML document from a text; ``name`` stands for the file in messages.

    Raises:
        PlanError: As for ``load``.
    """
    return _validated(read_tree(text, name), model)


def loads_json(text: str, model: type[M], name: str = "<text>") -> M:
    """Read a document from JSON.

    Raises:
        PlanError: As for ``load``.
    """
    try:
        value = parse_json(text, name)
    except InputError as error:
        raise PlanError(error.problems) from error
    return _validated(Tree(name, value), model)


def dump(document: Document) -> str:
    """The YAML text of a document; reads back as an equal one."""
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    out = io.StringIO()
    yaml.dump(document.model_dump(mode="json", by_alias=True, exclude_none=True), out)
    return out.getvalue()


def _validated(tree: Tree, model: type[M]) -> M:
    try:
        document = model.model_validate(tree.value, context=_PLACED)
        misfits = sorted((tree.position(place), str(place), place, message) for place, message in document.misfits())
    except ValidationError as error:
        raise PlanError(problems_of(error, tree, model)) from error
    except RecursionError as error:
        raise PlanError(Problem(printable(tree.name), "is nested too deeply")) from error
    if misfits:
        raise PlanError(Problem(tree.where(*place), message) for *_, place, message in misfits)
    return document


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
