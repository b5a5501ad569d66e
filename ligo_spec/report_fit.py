"""The part of a report on a fit: losses and learning rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ligo_spec import figures
from ligo_spec.figures import BLUE, ORANGE, Line
from ligo_spec.fitting import FitResult
from ligo_spec.map_views import means
from ligo_spec.markup import Markup, figure, gallery, paragraph, section, table
from ligo_spec.operator import Operator

POINTS = 1000
"""Most points of a curve; of more steps, means are drawn."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What a fit did.

    Args:
        result: Its operator and losses.
        start: The operator that it began with, in the structure of the learned one.
        records: What it logged.
    """

    result: FitResult
    start: Operator
    records: Sequence[Mapping[str, Any]]

    @property
    def log(self) -> bytes:
        """The records as lines of JSON."""
        return "".join(json.dumps(record, sort_keys=True) + "\n" for record in self.records).encode("utf-8")


def fit_section(learned: Learned, drawn: bool) -> Markup:
    """Losses and learning rate of a fit."""
    result = learned.result
    rows: list[Sequence[object]] = [
        (f"held-out loss, nats {result.unit}", result.heldout_before, result.heldout_after),
    ]
    if result.losses:
        rows.append(("training loss, first and last step", result.losses[0], result.losses[-1]))
    facts = paragraph(f"{len(result.losses):,} steps; {result.parameters:,} numbers were learned.")
    shown = gallery(_curves(learned)) if drawn and result.losses else Markup()
    return section("What the fit did", facts, table(["", "before", "after"], rows), shown)


def _curves(learned: Learned) -> list[Markup]:
    steps = [record for record in learned.records if record.get("event") == "step"]
    losses, rates = (np.array([float(record[key]) for record in steps]) for key in ("loss", "learning_rate"))
    result = learned.result
    x, y = means(losses, POINTS)
    ends, heldout = np.array([0, len(result.losses)]), np.array([result.heldout_before, result.heldout_after])
    loss = [Line("training", x, y, BLUE), Line("held out", ends, heldout, ORANGE, "o")]
    note = f" Each point is a mean of about {len(steps) / POINTS:.3g} steps." if len(steps) > POINTS else ""
    return [
        figure(figures.plot(loss, "step", f"loss (nats {result.unit})"), "Loss at each step, and held out.", note),
        figure(figures.plot([Line("", *means(rates, POINTS))], "step", "learning rate"), "Learning rate."),
    ]
