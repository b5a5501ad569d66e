"""What a fit is given and gives back; the fitting itself is a module of a backend's package, found by entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ligo_spec.layout import Binding
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import Fit
from ligo_spec.plugins import load_plugin

Log = Callable[[Mapping[str, Any]], None]
"""Is given a record a step (``step``, ``loss``, ``learning_rate``, ``gradient_norm``) and one per held-out loss."""


@dataclass(frozen=True)
class FitTask:
    """All that a trainer needs.

    Args:
        growth: Small and large architecture.
        operator: Where the learning starts; its float arrays are what is learned.
        binding: What the file's tensors are.
        read: Gives a small tensor's values by its canonical name.
        options: The plan's ``fit``.
        seed: Of the batches.
        checkpoint: Directory of the small model, for its tokenizer.
        train: Files to fit on.
        heldout: Files for the held-out loss; empty for a tenth of ``train``.
        frozen: Arrays of the operator that stay, by identity.
    """

    growth: Growth
    operator: Operator
    binding: Binding
    read: Callable[[str], npt.NDArray[Any]]
    options: Fit
    seed: int
    checkpoint: Path
    train: Sequence[Path]
    heldout: Sequence[Path]
    frozen: frozenset[int] = frozenset()


@dataclass(frozen=True)
class FitResult:
    """A learned operator.

    Args:
        operator: As learned.
        heldout_before: Mean held-out loss of the start, in nats per prediction.
        heldout_after: The same after the fit.
        losses: Of every step.
        parameters: How many numbers were learned.
        threads: CPU threads that computed it; another number may round differently.
        unit: What a prediction is: ``a token``, ``an image``.
    """

    operator: Operator
    heldout_before: float
    heldout_after: float
    losses: tuple[float, ...]
    parameters: int
    threads: int = 1
    unit: str = "a token"


def run_fit(task: FitTask, log: Log = lambda record: None) -> FitResult:
    """Learn an operator with the trainer that the plan's ``fit.backend`` names.

    Raises:
        PlanError: The trainer is not installed, or the plan asks for what it cannot do.
        InputError: Data or head are missing.
        NumericalError: The loss stopped being a number.
    """
    result: FitResult = load_plugin("ligo_spec.trainers", task.options.backend)(task, log)
    return result
