"""After how long a training can a start be chosen? What the loss at each time would pick (LAG, arXiv 2406.02469)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from course.methods import METHODS
from course.savings import Record, final_records, loss_at
from course.stages import WHOLE
from course.tracks import Track

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Of the whole budget, the source's part of it too."""


@dataclass(frozen=True)
class Choice:
    """What the losses of one seed at one time say of those at the end.

    Args:
        seed: The seed.
        share: The time, in the whole budget; None for right after growth.
        picked: The start with the lowest loss then.
        gap: How much higher than the best its final loss is.
        agreement: Kendall's τ of both orders: 1 for the same, 0 for none, -1 for the reverse.
    """

    seed: int
    share: float | None
    picked: str
    gap: float
    agreement: float


def choices(track: Track, records: Sequence[Record]) -> list[Choice]:
    """For every seed, what right after growth and each of ``SHARES`` would pick; by the trunk's loss, not decayed."""
    runs = [run for method in METHODS for run in final_records(records, method)]
    found = []
    for seed in sorted({run["seed"] for run in runs}):
        same = {run["method"]: run for run in runs if run["seed"] == seed and run["diverged"] is None}
        finals = {method: loss_at(track, run, WHOLE) for method, run in same.items()}
        for share in (None, *SHARES):
            then = {method: curve_at(track, run, share) for method, run in same.items()}
            picked = min(then, key=lambda method: then[method])
            gap = finals[picked] - min(finals.values())
            found.append(Choice(seed, share, picked, gap, agreement(then, finals)))
    return found


def curve_at(track: Track, record: Record, share: float | None) -> float:
    """The loss along a run at a share of the whole budget, linear between points; its first one before that."""
    points = [(at, loss) for at, loss in record["curve"]]
    time = points[0][0] if share is None else share * track.total
    for (before, first), (after, second) in pairwise(points):
        if before <= time < after:
            return float(first + (second - first) * (time - before) / (after - before))
    return float(points[0][1] if time < points[0][0] else points[-1][1])


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Kendall's τ of two orders of the same names, ties counted as disagreement."""
    pairs = list(combinations(one, 2))
    same = sum((one[a] - one[b]) * (other[a] - other[b]) > 0 for a, b in pairs)
    return 2 * same / len(pairs) - 1 if pairs else 1.0
