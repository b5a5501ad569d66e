"""What other packages offer, found by entry point and loaded when it is asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from ligo_spec.errors import PlanError


def load_plugin(group: str, name: str) -> Any:
    """The object that an installed package offers under ``name`` in an entry-point group.

    Raises:
        PlanError: There is none, or what it needs is not installed.
    """
    kind = group.rpartition(".")[2].removesuffix("s")
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise PlanError(f"no {kind} is named {name!r}; installed: {', '.join(sorted(found)) or 'none'}")
    try:
        return found[name].load()
    except ImportError as error:
        raise PlanError(
            f"{kind} {name!r} needs {error.name or error}, which is not installed; pip install 'ligo-spec[all]'"
        ) from error
