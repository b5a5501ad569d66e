"""When is the time to grow? The same starts after more of the budget has gone into the small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from course.methods import SMALL
from course.runs import Run
from course.savings import Measured, Record, Row, final_records, row_of, scratch_losses
from course.stages import HALF, WHOLE, Do, best
from course.tables import saved_cells, spread
from course.tracks import Track

SHARES = (0.3, 0.5)
"""Of the whole budget, that the small model has had when it is grown; beside the track's own."""

STARTS = (
    "zero_pad + stack",
    "lemon + identity",
    "zero_pad + identity",
    "LiGO, not fitted",
    "LiGO, 20 steps",
    "zero_pad + stack, together",
)
"""The best ones without and with learning, and what keeps the function."""

DEEPER_LEFT_OUT = ("lemon + identity",)
"""Not where layers grow: there it was far behind them."""

BETWEEN = (HALF, 0.75, WHOLE)
"""Budgets that a run is measured at, where enough of them is left after growth."""

TRIED_AT = (0.75,)
"""The budget at which learning rates are tried, on the first seed."""

LEFT = 0.15
"""So much of the whole budget is enough."""

Later = Mapping[float, Sequence[Record]]
"""Runs that grow at other times, by the share of the budget."""

By = Callable[[float], Do]
"""What makes the runs that grow after a share of the budget."""


def starts_of(track: Track, methods: Sequence[str]) -> tuple[str, ...]:
    """Those of a track's ways to grow that other times are tried with."""
    left_out = DEEPER_LEFT_OUT if track.deeper else ()
    return tuple(start for start in STARTS if start in methods and start not in left_out)


def grown_at(
    by: By, records: Sequence[Record], starts: Sequence[str], seeds: int, shares: Sequence[float] = SHARES
) -> None:
    """Make the runs of all times to grow that are not there yet.

    The less is left, the smaller a rate may suit: besides the one that the track has chosen, half of it is tried.

    Args:
        by: Makes runs of a time.
        records: The track's own runs.
        starts: Ways to grow.
        seeds: How many.
        shares: Of the budget, that the small model has had.
    """
    small, *rates = (final_records(records, method)[0]["rate"] for method in (SMALL, *starts))
    tried = {start: (rate / 2, rate) for start, rate in zip(starts, rates, strict=True)}
    for share in shares:
        do, at = by(share), measured(share)
        do([Run(SMALL, seed, small, ()) for seed in range(seeds)])
        results = do([Run(start, 0, rate, at.tried) for start, two in tried.items() for rate in two])
        chosen = {start: best(results, start, two, at.tried) for start, two in tried.items()}
        do([Run(start, seed, chosen[start], at.final) for seed in range(seeds) for start in starts])


def measured(share: float) -> Measured:
    """The budgets at which a run that grows after a share of the whole one is measured."""
    return Measured(TRIED_AT, tuple(one for one in BETWEEN if one >= share + LEFT))


def table(track: Track, records: Sequence[Record], later: Later) -> Iterator[str]:
    """A line a time to grow and a start.

    Args:
        track: The track.
        records: Its own runs, scratch among them.
        later: The runs of other times to grow, by the share of the budget.
    """
    if not later:
        return
    yield "| grown after | start | rate | final loss, mean ± sd | whole run saved | source sunk | of the same seed's |"
    yield "|---|---|---|---|---|---|---|"
    for share, row in rows(track, records, later):
        cells = [f"{share:.0%}", row.method, f"{row.rate:g}", f"{row.loss:.4f}{spread(row.losses)}", *saved_cells(row)]
        yield f"| {' | '.join(cells)} |"


def rows(track: Track, records: Sequence[Record], later: Later) -> Iterator[tuple[float, Row]]:
    """What each time and start amount to, the earliest first and the best start of a time first."""
    targets = scratch_losses(track, records)
    for share in sorted({track.source, *later}):
        found = []
        for method in starts_of(track, STARTS):
            if share == track.source:
                runs = final_records(records, method)
            else:
                runs = final_records(later[share], method, measured=measured(share))
            if runs:
                found.append(row_of(replace(track, source=share), method, runs, targets))
        yield from ((share, row) for row in sorted(found, key=lambda row: row.loss))
