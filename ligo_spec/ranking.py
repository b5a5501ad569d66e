"""The table of a comparison: the best rate of every candidate, their order, and whether it is more than noise.

What is chosen (learning rate, winner) is chosen by one held-out draw, what is reported comes from another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Literal

from ligo_spec.racing import Losses, Raced, Trial

Status = Literal["ranked", "dropped", "diverged", "reference"]

SIGNIFICANT = 2.0
"""Differences of fewer standard errors are called noise."""


@dataclass(frozen=True)
class Row:
    """A candidate, or a reference, and what became of it.

    Args:
        name: What tables call it.
        status: ``ranked``; ``dropped`` after a third of the budget; ``diverged`` at every rate; or a ``reference``.
        rank: From 1; None for what is not ranked.
        operator: Its width and depth; empty for references.
        fit: How it was fitted first; None where it was not.
        learning_rate: The one that did best.
        steps: Of training.
        flops: Spent, the fit counted.
        fit_flops: Of the fit.
        start: Held-out loss after growth (and fit), before training, on the draw that is reported.
        chosen: Held-out loss after the budget, on the draw that everything is chosen by.
        reported: The same on the other draw.
        error: Standard error of ``reported`` over its batches.
        difference: ``reported`` above the winner's.
        spread: Standard deviation of that difference over seeds; None for one seed.
        trials: Every training.
        reason: Why it diverged.
    """

    name: str
    status: Status
    rank: int | None = None
    operator: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] | None = None
    learning_rate: float | None = None
    steps: int = 0
    flops: float = 0.0
    fit_flops: float = 0.0
    start: float | None = None
    chosen: float | None = None
    reported: float | None = None
    error: float | None = None
    difference: float | None = None
    spread: float | None = None
    trials: tuple[Trial, ...] = ()
    reason: str | None = None

    @property
    def best(self) -> list[Trial]:
        """The trainings at the best rate, one a seed."""
        return [trial for trial in self.trials if trial.learning_rate == self.learning_rate]


def row_of(name: str, raced: Sequence[Raced], status: Status = "ranked") -> Row:
    """The row of an entrant, from what it did under every seed, at the rate with the lowest chosen loss."""
    first, starts = raced[0], [one.start for one in raced if one.start is not None]
    row = Row(
        name,
        status,
        fit_flops=first.fit_flops,
        start=fmean(starts) if len(starts) == len(raced) else None,
        trials=tuple(trial for one in raced for trial in one.trials),
    )
    failed = next((one.failed for one in raced if one.failed is not None), None)
    means = _means(row.trials)
    if failed is not None or not means:
        return replace(
            row, status="diverged" if status != "reference" else status, reason=failed or _diverged(row.trials)
        )
    rate = min(means, key=lambda key: (means[key], key))
    row = replace(row, learning_rate=rate, chosen=means[rate])
    reported = [trial.reported for trial in row.best if trial.reported is not None]
    errors = [_error(losses.batches) for losses in reported]
    steps = len(row.best[0].curve)
    return replace(
        row,
        reported=fmean(losses.mean for losses in reported),
        error=fmean(errors) if len(reported[0].batches) > 1 else None,
        steps=steps,
        flops=first.fit_flops + steps * first.step_flops,
    )


def untrained(name: str, raced: Raced) -> Row:
    """The row of a model as it is."""
    return Row(name, "reference", start=raced.start, reported=raced.start)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Candidates in the order of their chosen losses, then those that dropped out, then those that diverged."""
    order = {"ranked": 0, "dropped": 1, "diverged": 2}
    found = sorted(rows, key=lambda row: (order[row.status], row.chosen or 0.0))
    return [replace(row, rank=n if row.status == "ranked" else None) for n, row in enumerate(found, start=1)]


def compared(row: Row, winner: Row) -> Row:
    """The row with its difference to the winner's, paired by seeds."""
    if row.reported is None or winner.reported is None or row.status == "dropped":
        return row
    if not row.trials:
        return replace(row, difference=row.reported - winner.reported)
    differences = _paired(row, winner, "reported")
    spread = stdev(differences) if len(differences) > 1 else None
    return replace(row, difference=fmean(differences), spread=spread)


def too_close(first: Row, second: Row) -> str | None:
    """A note where the first two are closer than noise; None where they are not."""
    assert first.chosen is not None
    assert second.chosen is not None
    errors = {"held-out text": _paired_error(first, second)}
    seeds = _paired(second, first, "chosen")
    if len(seeds) > 1:
        errors["seeds"] = stdev(seeds) / sqrt(len(seeds))
    kind, largest = max(
        ((k, v) for k, v in errors.items() if v is not None), key=lambda pair: pair[1], default=("", 0.0)
    )
    difference = second.chosen - first.chosen
    if difference >= SIGNIFICANT * largest:
        return None
    return (
        f"the first two differ by {difference:.4f}, less than two standard errors ({SIGNIFICANT * largest:.4f}, of the "
        f"{kind}): this comparison does not tell them apart"
    )


def _means(trials: Sequence[Trial]) -> dict[float, float]:
    """Mean chosen loss by learning rate; of those that no seed diverged at."""
    found: dict[float, list[Losses | None]] = {}
    for trial in trials:
        found.setdefault(trial.learning_rate, []).append(trial.chosen)
    kept = {rate: [losses.mean for losses in all_ if losses is not None] for rate, all_ in found.items() if all(all_)}
    return {rate: fmean(means) for rate, means in kept.items()}


def _diverged(trials: Sequence[Trial]) -> str:
    steps = [f"{trial.learning_rate:g} at step {trial.diverged}" for trial in trials if trial.diverged is not None]
    return f"diverged at every learning rate: {', '.join(steps)}"


def _error(values: Sequence[float]) -> float:
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def _paired(row: Row, other: Row, draw: Literal["chosen", "reported"]) -> list[float]:
    """Differences of two rows on a draw, one a seed."""
    means = [
        {trial.seed: losses.mean for trial in one.best if (losses := getattr(trial, draw))} for one in (row, other)
    ]
    return [mean - means[1][seed] for seed, mean in means[0].items()]


def _paired_error(first: Row, second: Row) -> float | None:
    """Standard error of the difference of two rows over the batches that choose; None for one batch."""
    by_seed = [
        [b - a for a, b in zip(one.chosen.batches, two.chosen.batches, strict=True)]
        for one, two in zip(first.best, second.best, strict=True)
        if one.chosen is not None and two.chosen is not None
    ]
    means = [fmean(values) for values in zip(*by_seed, strict=True)]
    return _error(means) if len(means) > 1 else None
