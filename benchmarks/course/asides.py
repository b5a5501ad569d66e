"""Of runs that are no track's: the log's eight seeds, and more seeds of two starts (docs/experiments.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from course.savings import Measured, Record, final_records, paired
from course.tracks import Track

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
        yield f"| {spec} | {_mean(values)} |"


def by_seed(
    track: Track, records: Sequence[Record], methods: Sequence[str], other: str, measured: Measured
) -> Iterator[str]:
    """How much higher each method ends than another, seed by seed."""
    theirs = final_records(records, other, measured=measured)
    for method in methods:
        gaps = paired(track, final_records(records, method, measured=measured), theirs)
        listed = ", ".join(f"seed {seed}: {gap:+.4f}" for seed, gap in gaps.items())
        yield f"- {method}: {listed}; in the mean {_mean(list(gaps.values()))}"


def _mean(values: Sequence[float]) -> str:
    """With its standard error."""
    return f"{mean(values):+.4f} ± {stdev(values) / math.sqrt(len(values)):.4f}"
