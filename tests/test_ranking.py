"""Ranking: rates and order by one draw, numbers from the other, and what is called noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec.racing import Losses, Raced, Trial
from ligo_spec.ranking import compared, ranked, row_of, too_close

RATES = (1e-3, 1e-2)


def trial(
    rate: float, chosen: float | None, seed: int = 0, noise: tuple[float, ...] = (0.0, 0.0), **more: float
) -> Trial:
    """A training with this loss; reported is chosen plus 1, unless said otherwise."""
    if chosen is None:
        return Trial(rate, seed, (9.0,), None, None, 2)
    batches = tuple(chosen + each for each in noise)
    reported = more.get("reported", chosen + 1)
    return Trial(rate, seed, (9.0, 8.0), Losses(chosen, batches), Losses(reported, (reported - 0.1, reported + 0.1)))


def raced(*trials: Trial, start: float | None = 5.0, fit: float = 0.0) -> Raced:
    return Raced(10.0, fit, 2, start, trials)


def test_the_rate_is_chosen_by_one_draw_and_the_other_is_reported() -> None:
    row = row_of("a", [raced(trial(1e-3, 2.0, reported=7.0), trial(1e-2, 3.0, reported=1.0), fit=3.5)])
    assert (row.learning_rate, row.chosen, row.reported) == (1e-3, 2.0, 7.0)
    assert (row.steps, row.flops, row.fit_flops) == (2, 23.5, 3.5)
    assert row.error == pytest.approx(0.1)


def test_a_rate_at_which_one_seed_diverged_is_not_chosen() -> None:
    seeds = [raced(trial(1e-3, 2.0, 0), trial(1e-2, 1.0, 0)), raced(trial(1e-3, 4.0, 1), trial(1e-2, None, 1))]
    row = row_of("a", seeds)
    assert (row.learning_rate, row.chosen, row.status) == (1e-3, 3.0, "ranked")
    assert row_of("b", [raced(trial(1e-3, None), trial(1e-2, None))]).status == "diverged"
    failed = row_of("c", [replace(raced(), failed="the fit diverged at step 3")])
    assert (failed.status, failed.reason) == ("diverged", "the fit diverged at step 3")


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.lists(st.floats(0, 10), min_size=6, max_size=6))
def test_the_order_is_that_of_the_chosen_losses(chosen: list[float], starts: list[float]) -> None:
    """Not that of the losses after growth; those that diverged come last."""
    rows = [row_of(str(n), [raced(trial(1e-3, loss), start=starts[n])]) for n, loss in enumerate(chosen)]
    rows.insert(0, row_of("lost", [raced(trial(1e-3, None))]))
    found = ranked(rows)
    assert [row.chosen for row in found[:-1]] == sorted(chosen)
    assert [row.rank for row in found] == [*range(1, len(chosen) + 1), None]
    assert found[-1].name == "lost"


def test_dropped_rows_come_after_ranked_ones_whatever_their_loss() -> None:
    rows = [row_of("low", [raced(trial(1e-3, 0.5))], "dropped"), row_of("high", [raced(trial(1e-3, 3.0))])]
    assert [(row.name, row.rank) for row in ranked(rows)] == [("high", 1), ("low", None)]
    assert compared(ranked(rows)[1], ranked(rows)[0]).difference is None


def test_differences_are_paired_by_seed() -> None:
    first = row_of("a", [raced(trial(1e-3, 1.0, 0)), raced(trial(1e-3, 2.0, 1))])
    second = row_of("b", [raced(trial(1e-3, 1.5, 0)), raced(trial(1e-3, 2.7, 1))])
    row = compared(second, first)
    assert row.difference == pytest.approx(0.6)
    assert row.spread == pytest.approx(0.2 / 2**0.5)
    assert compared(row_of("c", [raced(trial(1e-3, 3.0))]), first).spread is None


def test_the_noise_of_heldout_text_is_that_of_the_difference() -> None:
    """Batches that are hard for both say nothing; 0.1 apart in every batch is no noise, whatever the batches are."""
    hard = (-2.0, 0.0, 2.0)
    first = row_of("a", [raced(trial(1e-3, 1.0, noise=hard))])
    assert too_close(first, row_of("b", [raced(trial(1e-3, 1.1, noise=hard))])) is None
    mixed = row_of("c", [raced(trial(1e-3, 1.1, noise=(-1.5, -0.5, 2.0)))])
    note = too_close(first, mixed)
    assert note is not None
    assert "held-out text" in note
    assert "differ by 0.1000" in note


def test_the_noise_of_seeds_is_seen() -> None:
    first = row_of("a", [raced(trial(1e-3, 1.0, 0)), raced(trial(1e-3, 2.0, 1))])
    apart = row_of("b", [raced(trial(1e-3, 1.5, 0)), raced(trial(1e-3, 2.5, 1))])
    mixed = row_of("c", [raced(trial(1e-3, 2.5, 0)), raced(trial(1e-3, 1.2, 1))])
    assert too_close(first, apart) is None
    assert "of the seeds" in (too_close(first, mixed) or "")
