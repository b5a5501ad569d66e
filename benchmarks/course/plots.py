"""Plots of a track: the loss that each start ends at, and what it is at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from course.methods import METHODS, SCRATCH, SMALL
from course.savings import MEASURED, Record, final_records, loss_at, rows_of
from course.tracks import Track

SHOWN = ("LiGO, not fitted", "LiGO, 60 steps", "noisy copies + stack", "zero_pad + stack")
"""Starts whose losses are drawn over the budget, beside scratch."""


def plot(track: Track, records: Sequence[Record], path: Path) -> None:
    """Write both plots as one picture."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = rows_of(track, records)[::-1]
    for place, row in enumerate(rows):
        color = {SCRATCH: "black", SMALL: "tab:gray"}.get(row.method, "tab:blue")
        left.plot(row.losses, [place] * len(row.losses), "o", color=color, markersize=4, alpha=0.7)
        left.plot([row.loss], [place], "|", color=color, markersize=14)
    left.set_yticks(range(len(rows)), [row.method + (", decayed source" if row.decayed else "") for row in rows])
    left.set_xlabel("final loss at equal FLOPs, source and fit counted")
    left.grid(axis="x", alpha=0.3)
    for method in (SCRATCH, *(name for name in METHODS if name in SHOWN)):
        runs = final_records(records, method)
        if runs:
            losses = [mean(loss_at(track, run, share) for run in runs) for share in MEASURED]
            right.plot(MEASURED, losses, "o-", label=method, color="black" if method == SCRATCH else None)
    right.set_xlabel("whole budget, in that of scratch")
    right.set_ylabel("final loss, each on a schedule of its own")
    right.grid(alpha=0.3)
    right.legend()
    figure.suptitle(track.title)
    figure.savefig(path, dpi=110)
