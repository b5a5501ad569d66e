"""A table of runs that are no track's: the log's eight seeds (docs/experiments.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from course.savings import Record

BASE = "none:base=zp"
"""The best static start, as the log's records call it."""


def against_base(records: Sequence[Record]) -> Iterator[str]:
    """How much higher than ``BASE`` each way ends, both held-out parts together: mean over seeds ± standard error."""
    losses: dict[str, dict[int, float]] = {}
    for record in records:
        last = record["finals"][max(record["finals"], key=float)]
        losses.setdefault(record["spec"], {})[record["seed"]] = (last["choose"] + last["report"]) / 2
    gaps = {spec: [by[seed] - losses[BASE][seed] for seed in by] for spec, by in losses.items() if spec != BASE}
    for spec, values in sorted(gaps.items(), key=lambda item: mean(item[1])):
        yield f"| {spec} | {mean(values):+.4f} ± {stdev(values) / math.sqrt(len(values)):.4f} |"
