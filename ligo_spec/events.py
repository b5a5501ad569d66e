"""What a caller may want to see of a run while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ligo_spec.fitting import Log


@dataclass(frozen=True)
class Events:
    """What a caller may want to see of a run; every part may be left out.

    Args:
        fit: One record a step, and one for each held-out loss.
        written: ``(bytes so far, bytes in all)`` after every tensor.
        race: One record a step of every fit and every training that ``compare`` runs.
    """

    fit: Log = lambda record: None
    written: Callable[[int, int], None] = lambda done, total: None
    race: Log = lambda record: None
