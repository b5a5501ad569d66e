"""Of runs that are no track's: the log's eight seeds, and more seeds of two starts (docs/experiments.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from course.savings import Record
from course.stages import WHOLE

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


def by_seed(records: Sequence[Record], methods: Sequence[str], other: str, rate: float) -> Iterator[str]:
    """How much higher each method ends than another, of runs at one rate to the whole budget."""
    ends = {
        (record["method"], record["seed"]): record["finals"][max(record["finals"], key=float)]["report"]
        for record in records
        if record["rate"] == rate and record["totals"] and record["totals"][-1] == WHOLE
    }
    for method in methods:
        seeds = sorted(seed for name, seed in ends if name == method and (other, seed) in ends)
        gaps = {seed: ends[method, seed] - ends[other, seed] for seed in seeds}
        listed = ", ".join(f"seed {seed}: {gap:+.4f}" for seed, gap in gaps.items())
        yield f"- {method}: {listed}; in the mean {_mean(list(gaps.values()))}"


def _mean(values: Sequence[float]) -> str:
    """With its standard error."""
    return f"{mean(values):+.4f} ± {stdev(values) / math.sqrt(len(values)):.4f}"
