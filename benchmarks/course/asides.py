"""Tables of runs that are no track's: the log's eight seeds, and a track at another budget (docs/experiments.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from course.methods import SCRATCH
from course.savings import Record, loss_at, reached_at
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
        yield f"| {spec} | {mean(values):+.4f} ± {stdev(values) / math.sqrt(len(values)):.4f} |"


def at_larger(track: Track, records: Sequence[Record]) -> Iterator[str]:
    """Losses at each budget, and what is saved of the largest: against scratch's best seed, and its seeds' mean."""
    share = max(records[0]["totals"])
    scratch = [loss_at(track, record, share) for record in records if record["method"] == SCRATCH]
    for record in records:
        losses = ", ".join(f"{loss_at(track, record, each):.4f}" for each in record["totals"])
        reached = [reached_at(track, record, target) for target in (min(scratch), mean(scratch))]
        saved = [f"{1 - each / share:.0%}" for each in reached if each is not None]
        yield f"| {record['method']} | {record['seed']} | {losses} | {', '.join(saved)} |"
