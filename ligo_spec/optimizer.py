"""The optimizer's state, grown with the weights: what a format is given, and how a moment is made (SPEC 7.5).

Reading and writing a state is a module of a backend's package, found by entry point; the mathematics is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ligo_spec.backend import Backend
from ligo_spec.dual import Dual, TensorDual, dual_of
from ligo_spec.errors import InputError, Problem
from ligo_spec.job import Job, Small
from ligo_spec.layer_kinds import settled
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import OptimizerState
from ligo_spec.plugins import load_plugin
from ligo_spec.recipe import grown_shape, run
from ligo_spec.staging import Stage

OPTIMIZER_FILE = "optimizer.pt"
"""What the grown state is called: the name that trainers look for."""

Array = npt.NDArray[Any]
Moment = Literal["first", "second"]


@dataclass(frozen=True)
class OptimizerTask:
    """All that a format needs.

    Args:
        path: The state of the small model's optimizer.
        options: The plan's ``optimizer``.
        small: The small model.
        growth: Small and large architecture; the large config is the one that is written.
        dual: From the templates of a model's tensors to what becomes of their moments.
        backend: What applies the maps.
    """

    path: Path
    options: OptimizerState
    small: Small
    growth: Growth
    dual: Callable[[Collection[str]], Dual]
    backend: Backend[Any]


@dataclass(frozen=True)
class OptimizerSummary:
    """What becomes of an optimizer's state.

    Args:
        file: The state that is read.
        groups: How many groups of parameters it has.
        parameters: Parameters with a state, in the small and in the large model.
        step: The largest step counter in it.
        rule: In words, how moments are carried over.
        exact: Whether that is exact, wherever the small model's state says anything.
        new: Share of the large model's entries that start anew.
        anew: Parameters that start anew as a whole, at step 0.
        bytes: Size of the tensors of the grown state.
    """

    file: str
    groups: int
    parameters: tuple[int, int]
    step: int
    rule: str
    exact: bool
    new: float
    anew: int
    bytes: int


class GrownOptimizer(Protocol):
    """A state that was read, checked and is ready to be written grown; no moment has been computed yet."""

    @property
    def summary(self) -> OptimizerSummary:
        """What will be written."""
        ...

    def write(self, stage: Stage, name: str, /) -> None:
        """Write the grown state as a file of a stage, and look whether what was read is unchanged.

        Raises:
            InputError: The file changed, or a part of it is damaged.
            NumericalError: A moment is not finite.
            OutputError: It cannot be written.
        """
        ...

    def check_companion(self, path: Path, /) -> None:
        """Look at a file that is carried over with the state.

        Raises:
            InputError: It is none that may be passed on.
        """
        ...


def open_optimizer(task: OptimizerTask) -> GrownOptimizer:
    """Read the head of a state with the format that the plan names, and settle what is whose.

    Raises:
        PlanError: The format is not installed.
        InputError: The state is damaged, hostile, of another model, or of an optimizer that is not known.
    """
    opened: GrownOptimizer = load_plugin("ligo_spec.optimizers", task.options.format)(task)
    return opened


def optimizer_of(
    job: Job, small: Small, growth: Growth, operator: Operator, config: Mapping[str, Any], backend: Backend[Any]
) -> GrownOptimizer | None:
    """The state that a plan asks to grow, read and checked; None where it asks for none.

    Args:
        job: The plan.
        small: The small model.
        growth: Small and large architecture.
        operator: Of the weights.
        config: The large ``config.json``, as it is written.
        backend: What applies the maps.

    Raises:
        PlanError: The format is not installed.
        InputError: The state is refused.
    """
    options = job.plan.optimizer
    if options is None:
        return None
    large = replace(settled(growth, operator).large, config=MappingProxyType(dict(config)))

    def dual(templates: Collection[str]) -> Dual:
        return dual_of(growth, operator, templates)

    return open_optimizer(
        OptimizerTask(small.directory / options.path, options, small, replace(growth, large=large), dual, backend)
    )


def anew(dual: TensorDual, options: OptimizerState) -> bool:
    """Whether the whole tensor starts anew, with its own step counter."""
    return dual.starts_anew or options.reset == "all" or (options.reset == "new" and dual.repeats)


def renewed(dual: TensorDual, options: OptimizerState, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Entries of a large tensor that have no old state, or lose it (``reset: new``: all but the first copies)."""
    if anew(dual, options):
        return np.ones(shape, dtype=np.bool_)
    entries = dual.outer("new")
    if options.reset == "new":
        entries = entries | dual.outer("later")
    return np.broadcast_to(entries, shape)


def grown_moment(
    dual: TensorDual,
    kind: Moment,
    read: Callable[[str], Array],
    options: OptimizerState,
    backend: Backend[Any],
) -> Array:
    """A moment of one large tensor, in the dtype of the small one's.

    Args:
        dual: What becomes of it.
        kind: ``second`` for moments of squares, which map by squared entries.
        read: Gives a small tensor's moment by canonical name.
        options: What entries without an old state get.
        backend: What applies the maps.

    Raises:
        InputError: Small moments of several dtypes, or of none that can be mixed.
        NumericalError: A moment that takes part in arithmetic is not finite.
    """
    recipe = dual.first if kind == "first" else dual.second
    if anew(dual, options):
        source = read(dual.source)
        return np.zeros(grown_shape(recipe, source.shape), dtype=source.dtype)
    value = run(recipe, read, backend)
    entries = renewed(dual, options, value.shape)
    if not entries.any():
        return value
    kept = value[~entries].astype(np.float64)
    if (kept < 0).any() and kind == "second":
        raise InputError(Problem(dual.name, "its second moment has negative entries; it is no moment of squares"))
    fill = kept.mean() if kind == "second" and options.new == "fill" and kept.size else 0.0
    return np.where(entries, np.asarray(fill).astype(value.dtype), value)


def rule_of(dual: Dual, options: OptimizerState) -> str:
    """How moments are carried over, in words."""
    if options.reset == "all":
        return "a fresh state: only the groups and their options are carried over"
    kept = "first moments A_out m B_inᵀ, second moments by squared entries"
    if options.reset == "new":
        kept += ", of the first copy of every entry; the other copies start anew"
    if dual.exact:
        return kept
    why = "the operator changes the function" if dual.broken else "copies are not read alike"
    return f"{kept}; an approximation, since {why}"


def share_of_new(dual: Dual, options: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The share of entries that start anew, over all canonical tensors of ``shapes``."""
    total = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    new = sum(_count_new(dual.tensors[name], options, shape) for name, shape in shapes.items())
    return new / max(total, 1)


def _count_new(dual: TensorDual, options: OptimizerState, shape: tuple[int, ...]) -> int:
    """How many entries start anew, without an array of their number."""
    size = int(np.prod(shape, dtype=np.int64))
    if anew(dual, options):
        return size
    kept = 1
    for rows, side in zip(dual.rows, shape, strict=True):
        gone = rows.new | rows.later if options.reset == "new" else rows.new
        kept *= side if gone.size != side else int(np.count_nonzero(~gone))
    return size - kept
