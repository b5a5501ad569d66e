"""Plots: the loss that each start ends at, what it is at each budget, and what at each time of growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from course import when
from course.methods import METHODS, SCRATCH, SMALL
from course.savings import MEASURED, Record, final_records, loss_at, rows_of
from course.stages import WHOLE
from course.tracks import Track

SHOWN = ("LiGO, not fitted", "LiGO, 60 steps", "noisy copies + stack", "zero_pad + stack")
"""Starts whose losses are drawn over the budget, beside scratch."""


def plot_times(tracks: Sequence[tuple[Track, Sequence[Record], when.Later]], path: Path) -> None:
    """Write what each start ends at over the time of its growth, a panel a track."""
    figure = Figure(figsize=(4.4 * len(tracks), 4.4), layout="constrained")
    for panel, (track, records, later) in zip(figure.subplots(1, len(tracks), squeeze=False)[0], tracks, strict=True):
        found = list(when.rows(track, records, later))
        for number, start in enumerate(when.STARTS):  # one colour for a start, in all panels
            points = [(share, row.loss) for share, row in found if row.method == start]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", label=start, color=f"C{number}")
        for method, color in ((SCRATCH, "black"), (SMALL, "tab:gray")):
            level = mean(loss_at(track, run, WHOLE) for run in final_records(records, method))
            panel.axhline(level, color=color, linestyle="--", linewidth=1, label=method)
        panel.set_title(track.name)
        panel.set_xlabel("grown after, share of the whole budget")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small")
    figure.supylabel("final loss at equal FLOPs, mean of seeds", fontsize="medium")
    figure.savefig(path, dpi=110)


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
