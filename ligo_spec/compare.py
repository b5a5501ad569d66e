"""Which start suits this model and this data: candidates are grown, trained for a short while, and ranked.

Each spends the same operations, its fit counted; they are ranked by the loss after that, not by the loss at the start,
which predicts nothing or the reverse (Karp et al., "Landscape-Aware Growing", arXiv 2406.02469).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ligo_spec.documents import dump
from ligo_spec.errors import PlanError
from ligo_spec.events import Events
from ligo_spec.fitting import FitTask, Log
from ligo_spec.grow import fit_task
from ligo_spec.job import Job, growth_of, load_job, open_small
from ligo_spec.plan import Candidate, Compare, Fit, Plan
from ligo_spec.plugins import load_plugin
from ligo_spec.staging import check_target, json_bytes, staged_file

SMALL, SCRATCH = "the small model as it is", "a large model from scratch"
"""Names of the two rows that candidates are seen against."""


@dataclass(frozen=True)
class RaceTask:
    """What is raced.

    Args:
        name: Of the candidate.
        fit: The growth, the operator's start, and the fit with as many steps as the candidate has.
        options: The plan's ``compare``.
        fit_steps: Steps of the operator's fit before the training.
        seed: Of the batches; those of a fit, of training and of the two held-out draws are all different.
        grown: False for a large model with random weights.
    """

    name: str
    fit: FitTask
    options: Compare
    fit_steps: int
    seed: int
    grown: bool = True


@dataclass(frozen=True)
class Lap:
    """One training of a candidate.

    Args:
        learning_rate: Its peak.
        seed: Of the batches.
        steps: Of the large model's training.
        chosen: Held-out loss after it on the draw that rates and winners are chosen by, in nats a predicted token.
        reported: The same on a draw that nothing is chosen by.
        errors: Standard error of the reported loss.
        losses: Of every training step.
        diverged: Whether a loss stopped being a number; the losses after it are infinite.
    """

    learning_rate: float
    seed: int
    steps: int
    chosen: float
    reported: float
    errors: float
    losses: tuple[float, ...]
    diverged: bool


@dataclass(frozen=True)
class Outcome:
    """What a candidate did.

    Args:
        name: Of the candidate.
        fit_steps: Steps of its fit.
        start: Held-out loss before any training, after its fit.
        laps: One for each learning rate and seed.
        flops: Operations of the fit and of one training together.
    """

    name: str
    fit_steps: int
    start: float
    laps: tuple[Lap, ...]
    flops: float

    @cached_property
    def best(self) -> tuple[Lap, ...]:
        """The laps at the learning rate with the lowest mean chosen loss, one a seed."""
        rates = {lap.learning_rate for lap in self.laps}
        by_rate = {rate: tuple(lap for lap in self.laps if lap.learning_rate == rate) for rate in sorted(rates)}
        return min(by_rate.values(), key=lambda laps: _mean([lap.chosen for lap in laps]))

    @property
    def chosen(self) -> float:
        """Mean held-out loss that it is ranked by."""
        return _mean([lap.chosen for lap in self.best])

    @property
    def reported(self) -> float:
        """Mean held-out loss on the draw that nothing is chosen by."""
        return _mean([lap.reported for lap in self.best])

    @property
    def noise(self) -> float:
        """Half the spread over seeds, or the standard error of the reported loss, whichever is larger."""
        losses = [lap.reported for lap in self.best]
        return max((max(losses) - min(losses)) / 2, _mean([lap.errors for lap in self.best]))


@dataclass(frozen=True)
class Comparison:
    """What ``ligo compare`` found.

    Args:
        ranking: Candidates that were raced, the lowest chosen loss first.
        absent: Candidates that this growth cannot have, with the reason.
        small: Held-out loss of the small model on the reported draw.
        scratch: A large model from scratch over the same operations.
        close: Names of candidates that the noise does not tell from the winner.
        winner: The plan of the winner.
        results: The file with all numbers.
    """

    ranking: tuple[Outcome, ...]
    absent: dict[str, str]
    small: float
    scratch: Outcome
    close: tuple[str, ...]
    winner: Path
    results: Path


class Racer(Protocol):
    """What a module in the entry-point group ``ligo_spec.racers`` has."""

    def race(self, task: RaceTask, log: Log, /) -> Outcome:
        """Fit a candidate if it has a fit, then train it at every rate and seed."""
        ...

    def small_loss(self, task: RaceTask, /) -> float:
        """Held-out loss of the small model on the draw that nothing is chosen by."""
        ...


def compare(
    plan: str | Path,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    data: Sequence[str | Path] = (),
    events: Events | None = None,
) -> Comparison:
    """Race starts on a plan's own model and data, and write the winner as a plan.

    Args:
        plan: Has ``compare``, and ``fit`` for the data and the objective.
        output: The winner's plan, in the directory of ``plan`` since its paths are relative to that; all numbers go
            beside it as ``OUTPUT.json``. ``PLAN.winner.yaml`` where it is left out.
        source: The small model, instead of the plan's.
        data: Text, instead of the plan's.
        events: Is told of every training step.

    Raises:
        LigoError: The plan, the checkpoint or the text is refused, no candidate is to be had, or the outputs cannot be
            written; nothing is left then.
    """
    job = load_job(plan, source=source, data=data)
    options = job.plan.compare
    if options is None or job.plan.fit is None:
        message = "compare needs a compare section, and a fit section for the data and the objective"
        raise PlanError(job.problem(message))
    target = Path(plan).with_suffix(".winner.yaml") if output is None else Path(output)
    results = target.with_name(target.name + ".json")
    if target.resolve().parent != Path(plan).resolve().parent:
        raise PlanError(f"{target}: the winner's plan must lie beside {plan}, since its paths are relative to that")
    for file in (target, results):
        check_target(file, sources=[job.source])
    entries = dict(_entries(job, options))
    log = (events or Events()).fit
    racer: Racer = load_plugin("ligo_spec.racers", job.plan.fit.backend)
    outcomes, absent = [], {}
    for name, candidate in entries.items():
        try:
            task = _task(job, name, candidate, options)
        except PlanError as error:
            absent[name] = str(error)
            continue
        outcomes.append(racer.race(task, log))
    if not outcomes:
        raise PlanError([job.problem(f"{name} is not to be had: {why}", "compare") for name, why in absent.items()])
    first = next(name for name in entries if name not in absent)
    base = _task(job, first, entries[first], options)
    scratch = racer.race(replace(base, name=SCRATCH, fit_steps=0, grown=False), log)
    small = racer.small_loss(base)
    ranking = tuple(sorted(outcomes, key=lambda outcome: outcome.chosen))
    found = Comparison(ranking, absent, small, scratch, _close(ranking), target, results)
    with staged_file(results) as stage:
        stage.write_bytes(results.name, [json_bytes(_data(found))])
    winner = _winner(job, entries[ranking[0].name])
    with staged_file(target) as stage:
        stage.write_bytes(target.name, [dump(winner).encode("utf-8")])
    return found


def _entries(job: Job, options: Compare) -> Iterator[tuple[str, Candidate]]:
    """The candidates by name: the plan's own, or those that are worth a try."""
    growth = growth_of(job, open_small(job).architecture)
    deep = growth.small.depths != growth.large.depths
    for candidate in options.candidates or tuple(default_candidates(deep=deep)):
        yield candidate.title, candidate


def default_candidates(*, deep: bool) -> Iterator[Candidate]:
    """Starts that have won somewhere: exact and inexact ones, LiGO's own with and without its fit.

    Args:
        deep: Whether there will be more layers.
    """
    for depth in ("stack", "interpolate") if deep else (None,):
        for width in ("hypercloning", "normalized_copy", "lemon", "net2net", "zero_pad", "bert2bert"):
            yield _candidate(width, depth)
    for steps in (0, 20, 60):
        yield _candidate("noisy_average", "noisy_stack" if deep else None, steps)


def _candidate(width: str, depth: str | None, fit_steps: int = 0) -> Candidate:
    chosen = {"width": {"method": width}, **({} if depth is None else {"depth": {"method": depth}})}
    return Candidate.model_validate({**chosen, "fit_steps": fit_steps})


def _task(job: Job, name: str, candidate: Candidate, options: Compare) -> RaceTask:
    """A candidate with its operator built.

    Raises:
        PlanError: A method has no rule for this growth.
    """
    changed = job.plan.model_copy(update={"operator": candidate.choice, "fit": _fit(job, candidate)})
    task = fit_task(replace(job, loaded=replace(job.loaded, document=changed)), learns=candidate.fit_steps > 0)
    return RaceTask(name, task, options, candidate.fit_steps, job.plan.seed)


def _close(ranking: Sequence[Outcome]) -> tuple[str, ...]:
    """Candidates whose reported loss differs from the winner's by less than the noise of both."""
    best, *others = ranking
    return tuple(
        other.name for other in others if abs(other.reported - best.reported) <= (best.noise**2 + other.noise**2) ** 0.5
    )


def _winner(job: Job, candidate: Candidate) -> Plan:
    """The plan with the winner's operator, and its fit if it has one."""
    fit = _fit(job, candidate) if candidate.fit_steps else None
    return job.plan.model_copy(update={"operator": candidate.choice, "fit": fit, "compare": None})


def _fit(job: Job, candidate: Candidate) -> Fit:
    """The plan's fit as a candidate has it; of one without a fit, for its data and objective."""
    fit = job.plan.fit
    assert fit is not None, "checked before"
    rate = fit.learning_rate if candidate.fit_learning_rate is None else candidate.fit_learning_rate
    return fit.model_copy(update={"steps": max(candidate.fit_steps, 1), "learning_rate": rate})


def _data(found: Comparison) -> dict[str, Any]:
    return {
        "spec": "ligo/comparison/1",
        "ranking": [_outcome(outcome) for outcome in found.ranking],
        "absent": found.absent,
        "small": found.small,
        "scratch": _outcome(found.scratch),
        "close": list(found.close),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    laps = [{**vars(lap), "losses": list(lap.losses)} for lap in outcome.laps]
    finite = [{key: None if value == float("inf") else value for key, value in lap.items()} for lap in laps]
    return {
        "name": outcome.name,
        "fit_steps": outcome.fit_steps,
        "start": outcome.start,
        "flops": outcome.flops,
        "learning_rate": outcome.best[0].learning_rate,
        "chosen": None if outcome.chosen == float("inf") else outcome.chosen,
        "reported": None if outcome.reported == float("inf") else outcome.reported,
        "noise": outcome.noise if outcome.noise == outcome.noise and outcome.noise != float("inf") else None,
        "laps": finite,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
