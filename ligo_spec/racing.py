"""What a racer is given and gives back; the training is a module of a backend's package, found by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ligo_spec.fitting import FitTask, Log
from ligo_spec.plan import Compare
from ligo_spec.plugins import load_plugin

Kind = Literal["grown", "random", "small"]
"""What is raced: a start, the large model as the library draws it, or the small model by itself."""


@dataclass(frozen=True)
class Entrant:
    """A model to be trained.

    Args:
        name: What tables call it.
        task: Both architectures, the operator, the text; its options are those of the fit, where there is one.
        fitted: Whether the operator is fitted first.
        kind: What it is.
    """

    name: str
    task: FitTask
    fitted: bool = False
    kind: Kind = "grown"


@dataclass(frozen=True)
class Losses:
    """A loss over held-out text, in nats per predicted token.

    Args:
        mean: Over all predicted tokens.
        batches: Of every batch by itself, in the same order for all models.
    """

    mean: float
    batches: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        learning_rate: Its peak.
        seed: Of maps and batches.
        curve: The loss of every step's batch.
        chosen: Held-out loss at the end, on the draw that everything is chosen by; None where it diverged.
        reported: The same on the other draw.
        diverged: The step (from 1) whose loss or gradient was no number; one more than there are, where that was the
            held-out loss.
    """

    learning_rate: float
    seed: int
    curve: tuple[float, ...]
    chosen: Losses | None
    reported: Losses | None
    diverged: int | None = None


@dataclass(frozen=True)
class Raced:
    """An entrant, trained at every learning rate under one seed.

    Args:
        step_flops: Of one step of training.
        fit_flops: Of the whole fit.
        steps: Of training that the budget leaves.
        start: Held-out loss before training, after the fit, on the draw that is reported; None where it is no number.
        trials: One a learning rate; none where the fit diverged, or left no step.
        failed: What went wrong with the fit.
    """

    step_flops: float
    fit_flops: float
    steps: int
    start: float | None
    trials: tuple[Trial, ...]
    failed: str | None = None


class Racer(Protocol):
    """Trains entrants of one comparison, one at a time."""

    def race(self, entrant: Entrant, rates: Sequence[float], share: float, log: Log, /) -> Raced:
        """Fit an entrant where it is to be fitted, and train it at every rate.

        Args:
            entrant: What to train.
            rates: Peak learning rates; none to measure the start only.
            share: Of the budget after which to stop.
            log: Is given a record a step: ``event`` is ``fit`` for those of the fit, ``step`` for those of training.

        Raises:
            PlanError: The plan asks for what cannot be done.
            InputError: Text, tokenizer or head are missing.
        """
        ...


def open_racer(options: Compare, seed: int) -> Racer:
    """The racer that a plan's ``compare.backend`` names, for one comparison.

    Args:
        options: The plan's ``compare``.
        seed: The plan's; held-out windows are the same under all seeds.

    Raises:
        PlanError: It is not installed.
    """
    racer: Racer = load_plugin("ligo_spec.racers", options.backend)(options, seed)
    return racer
