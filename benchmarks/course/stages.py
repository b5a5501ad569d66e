"""Which runs a track takes, and in which order: each stage is chosen by what the one before it showed.

Scratch and the small model alone are tuned first. Every way to grow gets the same number of learning rates, on one seed
and at half of the budget, more where the best is at an edge; the best one by the part to choose by is then run on all
seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from course.methods import SCRATCH, SMALL
from course.runs import Run

Results = Mapping[str, Mapping[str, Any]]
"""Records by the key of their run."""

Do = Callable[[Sequence[Run]], Results]
"""Makes the runs that are not there yet, and gives all results."""

WIDER = 2.0
"""Between a rate at the edge of those that were tried and the next one."""

EXTENSIONS = 2
"""So often the range of rates is made wider, where the best one is at an edge."""

GROWN = (0.25, 0.5, 1.0)
"""Rates after growth, in those of the tuned scratch."""

HALF, WHOLE = 0.5, 1.0


def course(
    do: Do, rates: Sequence[float], methods: Sequence[str], decayed: Sequence[str], seeds: int, *, extensions: int
) -> Results:
    """All runs of a track.

    Args:
        do: Makes runs.
        rates: That scratch and the small model alone are tried at first.
        methods: Ways to grow.
        decayed: Those of them that are grown from a decayed small model too.
        seeds: How many.
        extensions: As for ``tuned``.
    """
    everyone = range(seeds)
    do([Run(SMALL, 0, rate, (HALF,)) for rate in rates] + [Run(SCRATCH, 0, rate, (HALF, WHOLE)) for rate in rates])
    small = tuned(do, [SMALL], rates, (HALF,), extensions)[SMALL]
    scratch = tuned(do, [SCRATCH], rates, (HALF, WHOLE), extensions)[SCRATCH]
    sources = [Run(SMALL, seed, small, ()) for seed in everyone]  # what is grown
    do(sources + [Run(SCRATCH, seed, scratch, (HALF, WHOLE)) for seed in everyone])
    grown = [scratch * share for share in GROWN]
    chosen = tuned(do, methods, grown, (HALF,), extensions)
    last = [Run(SMALL, seed, small, (HALF, WHOLE)) for seed in everyone]  # the longest first
    last += [Run(method, seed, chosen[method], (HALF, WHOLE)) for seed in everyone for method in methods]
    return do(
        last + [Run(method, seed, chosen[method], (HALF, WHOLE), True) for seed in everyone for method in decayed]
    )


def tuned(
    do: Do, methods: Sequence[str], rates: Sequence[float], totals: tuple[float, ...], extensions: int
) -> dict[str, float]:
    """The best learning rate of each method at the last of some budgets.

    Args:
        do: Makes runs.
        methods: What is tuned, each by itself.
        rates: That are tried at first.
        totals: The budgets.
        extensions: So often a method's range is made wider where its best rate is at an edge of it.
    """
    tried = {method: sorted(rates) for method in methods}
    for _ in range(extensions):
        results = do([Run(method, 0, rate, totals) for method in methods for rate in tried[method]])
        for method in methods:
            tried[method] = wider(tried[method], best(results, method, tried[method], totals))
    results = do([Run(method, 0, rate, totals) for method in methods for rate in tried[method]])
    return {method: best(results, method, tried[method], totals) for method in methods}


def wider(rates: Sequence[float], found: float) -> list[float]:
    """The rates in order, with one more where the best of them is at an edge."""
    if found == rates[0]:
        return [rates[0] / WIDER, *rates]
    if found == rates[-1]:
        return [*rates, rates[-1] * WIDER]
    return list(rates)


def best(results: Results, method: str, rates: Sequence[float], totals: tuple[float, ...]) -> float:
    """The rate with the lowest loss on the part to choose by, at the last budget, on the first seed."""
    losses = {rate: last(results[Run(method, 0, rate, totals).key]) for rate in rates}
    return min(losses, key=lambda rate: losses[rate])


def last(record: Mapping[str, Any], part: str = "choose") -> float:
    """The loss at the largest budget; infinite where the training diverged."""
    finals = record["finals"]
    return float(finals[max(finals, key=float)][part]) if finals else float("inf")
