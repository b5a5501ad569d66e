"""One comparison, while it runs: candidates are built, trained and dropped one after another, and ranked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ligo_spec.candidates import Start, alone, candidates_of, data_of, drawn, task_of, winner_text
from ligo_spec.errors import NumericalError, PlanError, Problem
from ligo_spec.fit_data import WindowData
from ligo_spec.fitting import FitTask, Log
from ligo_spec.job import Job, Small
from ligo_spec.operator import Growth
from ligo_spec.plan import Compare
from ligo_spec.racing import Entrant, Kind, Raced, Racer, open_racer
from ligo_spec.ranking import Row, Status, compared, ranked, row_of, too_close, untrained

RANDOM = "random large model"
SMALL = "small model alone, as it is"

HALVED_AT = 1 / 3
"""The share of the budget after which the worse half drops out, where a plan asks for that."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison has shown.

    Args:
        winner: Name of the best candidate.
        rows: Candidates, best first; those that dropped out or diverged after those that are ranked.
        references: What candidates are held against.
        missing: Candidates that are not to be had, and why.
        notes: What a reader of the table should know.
        budget_steps: Steps of training that the budget is worth, without a fit.
        budget_flops: What each candidate could spend.
        batch_size: Windows or images of a step.
        tokens: Of a step, where data are windows of tokens.
        learning_rates: That were tried.
        seeds: That were tried.
        plan: The winner's plan, as YAML.
        plan_sha256: Of the plan that was compared, resolved.
        path: The directory that was written, if one was.
        files: What is in it.
    """

    winner: str
    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    missing: Mapping[str, str]
    notes: tuple[str, ...]
    budget_steps: int
    budget_flops: float
    batch_size: int
    tokens: int | None
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    plan: str
    plan_sha256: str
    path: Path | None = None
    files: tuple[str, ...] = ()


@dataclass
class Contest:
    """One comparison, while it runs; models are built, trained and dropped one after another.

    Args:
        job: The plan and its places.
        small: The small model.
        growth: What it should become.
        log: Is told of every step.
    """

    job: Job
    small: Small
    growth: Growth
    log: Log
    missing: dict[str, str] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    step_flops: float = 0.0

    @property
    def options(self) -> Compare:
        """The plan's ``compare``."""
        assert self.job.plan.compare is not None, "require_data has looked"
        return self.job.plan.compare

    @property
    def seeds(self) -> tuple[int, ...]:
        """From the plan's on."""
        return tuple(self.job.plan.seed + n for n in range(self.options.seeds))

    def result(self) -> Comparison:
        """Race all, and rank them.

        Raises:
            PlanError: No candidate is to be had.
            NumericalError: All diverge.
        """
        starts, racer = self._to_be_had(), open_racer(self.options, self.job.plan.seed)
        out: list[Row] = []
        if self.options.halving and len(starts) > 1:
            self._expect(starts[: (len(starts) + 1) // 2], starts)  # which half stays, nobody knows yet
            starts, out = self._halved(starts, racer)
        self._expect(starts)
        rows = self._race_all(starts, racer, 1.0, "ranked")
        if not rows and not out:
            raise self._none()
        rows = ranked([*rows, *out])
        if rows[0].status != "ranked":
            raise NumericalError(Problem("", f"{row.name}: {row.reason}") for row in rows if row.reason)
        return self._comparison(rows, self._references(starts, racer))

    def _comparison(self, rows: list[Row], references: list[Row]) -> Comparison:
        winner = rows[0]
        start = next(start for start in candidates_of(self.job.plan, self.growth) if start.name == winner.name)
        data = data_of(self.job.plan)
        assert data is not None, "require_data has looked"
        steps = self._budget()
        return Comparison(
            winner.name,
            tuple(compared(row, winner) for row in rows),
            tuple(compared(row, winner) for row in references),
            dict(self.missing),
            tuple(self._notes(rows, references)),
            steps,
            steps * self.step_flops,
            data.batch_size,
            data.batch_size * data.seq_len if isinstance(data, WindowData) else None,
            self.options.learning_rates,
            self.seeds,
            winner_text(self.job.plan, start),
            self.job.sha256,
        )

    def _notes(self, rows: Sequence[Row], references: Sequence[Row]) -> list[str]:
        first, *others = [row for row in rows if row.status == "ranked"]
        notes = []
        if others and (close := too_close(first, others[0])):
            notes.append(close)
        notes += [
            f"{row.name} ends lower than the winner: at this budget growth does not pay"
            for row in references
            if row.reported is not None and first.reported is not None and row.reported < first.reported
        ]
        if len(self.seeds) == 1:
            notes.append("one seed: how much trainings differ by chance is in no number; compare.seeds: 3 tells")
        if len(self.options.learning_rates) > 2 and first.learning_rate in (
            min(self.options.learning_rates),
            max(self.options.learning_rates),
        ):
            notes.append(
                f"the winner's learning rate, {first.learning_rate:g}, is at the edge of those that were tried"
            )
        return notes

    def _to_be_had(self) -> list[Start]:
        """The candidates whose methods have rules for the target; the others are noted."""
        kept = []
        for start in candidates_of(self.job.plan, self.growth):
            try:
                task_of(self.job, self.small, self.growth, start, self.job.plan.seed)
            except PlanError as error:
                self.missing[start.name] = "; ".join(problem.message for problem in error.problems)
            else:
                kept.append(start)
        if not kept:
            raise self._none()
        return kept

    def _none(self) -> PlanError:
        return PlanError(
            self.job.problem(f"candidate {name} is not to be had: {reason}", "compare")
            for name, reason in self.missing.items()
        )

    def _halved(self, starts: list[Start], racer: Racer) -> tuple[list[Start], list[Row]]:
        """The better half after a third of the budget, and the rows of the others.

        One whose fit alone costs a third has not been trained by then, so nothing is known of it, and it stays.
        """
        rows = ranked(self._race_all(starts, racer, HALVED_AT, "dropped"))
        known = [row for row in rows if row.steps or row.status == "diverged"]
        kept = {row.name for row in rows if row not in known[(len(known) + 1) // 2 :]}
        return [start for start in starts if start.name in kept], [row for row in rows if row.name not in kept]

    def _race_all(self, starts: Sequence[Start], racer: Racer, share: float, status: Status) -> list[Row]:
        rows = []
        for start in starts:
            raced = self._race(start.name, racer, share, start=start)
            if raced is not None:
                operator = start.choice.model_dump(mode="json", exclude_none=True)
                fit = None if start.fit is None else start.fit.model_dump(mode="json")
                rows.append(replace(row_of(start.name, raced, status), operator=operator, fit=fit))
        return rows

    def _race(self, name: str, racer: Racer, share: float, *, start: Start, kind: Kind = "grown") -> list[Raced] | None:
        """An entrant under every seed; None where its fit leaves nothing of the budget."""
        found = []
        for seed in self.seeds:
            task = _AS[kind](task_of(self.job, self.small, self.growth, start, seed))
            entrant = Entrant(name, task, start.fit is not None and kind == "grown", kind)
            before = self.done
            raced = racer.race(entrant, self.options.learning_rates, share, self._counting(name))
            self.total += self.done - before - self._planned(start, share)
            self.step_flops = raced.step_flops
            if raced.steps < 1:
                self.total -= self._planned(start, share) * (len(self.seeds) - 1)
                spent = raced.fit_flops / raced.step_flops
                reason = f"its fit costs as much as {spent:.1f} steps, and the budget is {self._budget()}"
                self.missing[name] = reason
                return None
            found.append(raced)
        return found

    def _references(self, starts: Sequence[Start], racer: Racer) -> list[Row]:
        """The large model at random, trained as the candidates are, and the small one as it is."""
        start = replace(starts[0], fit=None)
        raced = self._race(RANDOM, racer, 1.0, start=start, kind="random")
        assert raced is not None, "without a fit the whole budget is left"
        rows = [row_of(RANDOM, raced, "reference")]
        task = alone(task_of(self.job, self.small, self.growth, start, self.job.plan.seed))
        try:
            rows.append(untrained(SMALL, racer.race(Entrant(SMALL, task, kind="small"), (), 1.0, self.log)))
        except PlanError as error:  # windows that only the large model has positions for
            self.missing[SMALL] = str(error)
        return rows

    def _budget(self) -> int:
        data = data_of(self.job.plan)
        assert data is not None, "require_data has looked"
        return self.options.budget_steps(data)

    def _expect(self, whole: Sequence[Start], halved: Sequence[Start] = ()) -> None:
        """How many steps there will be, for the progress bar; the random model trains for the whole budget."""
        each = self._budget() * len(self.options.learning_rates)
        each += sum(self._planned(start, 1.0) for start in whole)
        each += sum(self._planned(start, HALVED_AT) for start in halved)
        self.total = self.done + each * len(self.seeds)

    def _planned(self, start: Start, share: float) -> int:
        """Steps of one entrant under one seed, before it is known how many its fit leaves it."""
        fit = start.fit.steps if start.fit else 0
        return fit + int(self._budget() * share) * len(self.options.learning_rates)

    def _counting(self, name: str) -> Log:
        def log(record: Mapping[str, Any]) -> None:
            self.done += 1
            self.log({**record, "candidate": name, "done": self.done, "total": self.total})

        return log


def _as_it_is(task: FitTask) -> FitTask:
    return task


_AS: Mapping[Kind, Callable[[FitTask], FitTask]] = {"grown": _as_it_is, "random": drawn, "small": alone}
