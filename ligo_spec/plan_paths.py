"""Paths in a plan: a plan is shared text, so they stay below it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from ligo_spec.hub import on_hub

PATH_PATTERN = r"^(?!hf://|/|.:|[/\\]{2})(?!(?:.*[/\\])?\.\.(?:[/\\]|$)).+$"
"""What ``inside`` accepts, for editors. The loader does not look at it."""


def _short_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def inside(path: str) -> str:
    """A plan is shared text: its paths stay below the plan. The command line may name any path."""
    if on_hub(path):
        raise ValueError("only source.path may name a model on the Hub; this is a path relative to the plan")
    if not path or PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or ".." in re.split(r"[/\\]", path):
        raise ValueError(
            "a path in a plan is relative to the plan and may not climb out of its directory; "
            "name other places on the command line (--source, --output, --data)"
        )
    return path


PlanPath = Annotated[str, AfterValidator(inside), WithJsonSchema({"type": "string", "pattern": PATH_PATTERN})]
"""A path below the plan."""

_Paths = tuple[PlanPath, ...]

Paths = Annotated[_Paths, BeforeValidator(_short_list, json_schema_input_type=_Paths | PlanPath)]
"""Paths; one alone stands for a list of one."""

SomePaths = Annotated[
    _Paths,
    BeforeValidator(_short_list, json_schema_input_type=Annotated[_Paths, Field(min_length=1)] | PlanPath),
    Field(min_length=1),
]
"""The same, and at least one."""
