"""What runs amount to: final losses at equal FLOPs, and what a start saves of a tuned scratch run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Any

from course.methods import METHODS, SCRATCH, SMALL
from course.stages import HALF, WHOLE, last
from course.tracks import Track

Record = Mapping[str, Any]

MEASURED = (HALF, WHOLE)


@dataclass(frozen=True)
class Row:
    """One way to get a large model, over its seeds.

    Args:
        method: Its name.
        decayed: Grown from a decayed small model.
        rate: The learning rate that was chosen.
        losses: At the whole budget, on the part to report, a seed each.
        accuracies: The same, where classes are told.
        saved: Share that it takes less to the loss of scratch's best seed, source counted; of each seed that reaches
            it.
        sunk: The same with the source not counted.
        of_own: As ``saved``, to the loss of the scratch run of the same seed.
        fit: What the fit cost, in steps of the large model.
        crossed: Share of scratch's FLOPs at which its curve first was at scratch's last loss, in the mean.
        most: What is saved at the smallest budget that was measured. A seed that is at scratch's loss there counts as
            this: it may have been there before.
    """

    method: str
    decayed: bool
    rate: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    saved: tuple[float, ...]
    sunk: tuple[float, ...]
    of_own: tuple[float, ...]
    fit: float
    crossed: float | None
    most: float

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return mean(self.losses)


@dataclass(frozen=True)
class Measured:
    """Which budgets runs are measured at, in shares of the whole.

    Args:
        tried: Where learning rates are tried, on the first seed.
        final: At the rate that was chosen.
    """

    tried: tuple[float, ...] = (HALF,)
    final: tuple[float, ...] = MEASURED


OF_TRACKS = Measured()


def final_records(
    records: Sequence[Record], method: str, *, decayed: bool = False, measured: Measured = OF_TRACKS
) -> list[Record]:
    """The runs of a method to the whole budget at the rate that was chosen, by seed.

    That is the rate with the most seeds: the others were tried on one. Of several, as ranges of rates became wider, it
    is the one that was best where rates are tried, or else at the whole budget.
    """
    ours = [record for record in records if record["method"] == method]
    tried = {record["rate"]: last(record) for record in ours if tuple(record["totals"]) == measured.tried}
    by_rate: dict[float, dict[int, Record]] = {}
    for record in ours:
        if record["decayed"] == decayed and tuple(record["totals"]) == measured.final:
            by_rate.setdefault(record["rate"], {})[record["seed"]] = record
    if not by_rate:
        return []

    def worth(rate: float) -> tuple[float, ...]:
        runs = by_rate[rate]
        return -len(runs), tried.get(rate, math.inf), last(runs[min(runs)])

    chosen = by_rate[min(by_rate, key=worth)]
    return [chosen[seed] for seed in sorted(chosen)]


def rows_of(track: Track, records: Sequence[Record]) -> list[Row]:
    """All methods that have been run to the whole budget, best first.

    What is saved is counted against the best of scratch's seeds, so that a seed that fails flatters nobody, and against
    the run of the same seed, which saw the same batches, so that a lucky one does not hide what is there.
    """
    targets = scratch_losses(track, records)
    best = next(run for run in final_records(records, SCRATCH) if targets[run["seed"]] == min(targets.values()))
    glance = best["curve"][-1][1]
    rows = []
    for method in (SCRATCH, SMALL, *METHODS):
        for decayed in (False, True):
            runs = final_records(records, method, decayed=decayed)
            if runs:
                crossed = [one for run in runs if (one := _crossed(track, run, glance)) is not None]
                row = row_of(track, method, runs, targets)
                rows.append(replace(row, crossed=mean(crossed) if len(crossed) == len(runs) else None))
    return sorted(rows, key=lambda row: row.loss)


def scratch_losses(track: Track, records: Sequence[Record]) -> dict[int, float]:
    """What tuned scratch runs end at, by seed."""
    return {run["seed"]: loss_at(track, run, WHOLE) for run in final_records(records, SCRATCH)}


def row_of(track: Track, method: str, runs: Sequence[Record], targets: Mapping[int, float]) -> Row:
    """What the runs of one start amount to, but for where its curve crosses scratch's.

    Args:
        track: What they were made on; its source is what growing has taken.
        method: The start.
        runs: One a seed.
        targets: Scratch's last losses by seed.
    """
    source = 0.0 if method in (SCRATCH, SMALL) else track.source
    target = min(targets.values())
    saved = _saved(track, method, runs, dict.fromkeys(targets, target))
    lasts = [run["finals"].get(f"{track.total:g}", {}) for run in runs]  # nothing where a training diverged
    return Row(
        method,
        runs[0]["decayed"],
        runs[0]["rate"],
        tuple(loss_at(track, run, WHOLE) for run in runs),
        tuple(one["report_accuracy"] for one in lasts if "report_accuracy" in one),
        saved,
        tuple(share + source for share in saved),
        _saved(track, method, runs, targets),
        runs[0]["fit"],
        None,
        1 - runs[0]["totals"][0],
    )


def _saved(track: Track, method: str, runs: Sequence[Record], targets: Mapping[int, float]) -> tuple[float, ...]:
    known = [] if method == SCRATCH else [run for run in runs if run["seed"] in targets]
    reached = [reached_at(track, run, targets[run["seed"]]) for run in known]
    return tuple(1 - share for share in reached if share is not None)


def loss_at(track: Track, record: Record, share: float, part: str = "report") -> float:
    """A run's loss at the end of a budget; infinite where it diverged."""
    finals = record["finals"].get(f"{share * track.total:g}")
    return float(finals[part]) if finals else math.inf


def reached_at(track: Track, record: Record, target: float) -> float | None:
    """The share of the budget at which a run's final loss would be ``target``; None where it is above it to the end.

    Between two budgets that were measured, the loss is taken to be linear in the logarithm of the budget. Nothing is
    known of smaller ones than the first.
    """
    points = [(share, loss_at(track, record, share)) for share in record["totals"]]
    if points[0][1] <= target:
        return float(points[0][0])
    for (less, above), (more, below) in pairwise(points):
        if above > target >= below:
            part = (above - target) / (above - below)
            return math.exp(math.log(less) + part * (math.log(more) - math.log(less)))
    return None


def paired(track: Track, ours: Sequence[Record], theirs: Sequence[Record]) -> dict[int, float]:
    """Final losses of one start's runs less those of another's, by seed."""
    ends, others = ({run["seed"]: loss_at(track, run, WHOLE) for run in runs} for runs in (ours, theirs))
    return {seed: ends[seed] - others[seed] for seed in sorted(ends.keys() & others.keys())}


def tuning(records: Sequence[Record], method: str) -> Iterator[tuple[float, str, float]]:
    """What a method was tried at on the first seed: rate, budget, and the loss on the part to choose by."""
    for record in records:
        first = record["method"] == method and record["seed"] == 0 and not record["decayed"]
        if first and tuple(record["totals"]) in ((HALF,), MEASURED):
            for total, losses in record["finals"].items():
                yield record["rate"], total, losses["choose"]


def _crossed(track: Track, record: Record, glance: float) -> float | None:
    first = next((at for at, loss in record["curve"] if loss <= glance), None)
    return None if first is None else first / track.total
