"""The starts that are compared: a plan's own list, or those that make sense for what grows (SPEC.md 6.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ligo_spec.certify import certify
from ligo_spec.documents import Document, dump
from ligo_spec.errors import PlanError, printable
from ligo_spec.explain import grown_config
from ligo_spec.fit_data import Data, WindowData
from ligo_spec.fitting import FitTask
from ligo_spec.job import Job, Small, data_files
from ligo_spec.layer_kinds import settled
from ligo_spec.learning import learnable
from ligo_spec.methods import DepthMethod, WidthMethod, build_operator
from ligo_spec.methods.bert2bert import Bert2Bert
from ligo_spec.methods.hypercloning import HyperCloning
from ligo_spec.methods.identity import Identity
from ligo_spec.methods.interpolate import Interpolate
from ligo_spec.methods.lemon import Lemon
from ligo_spec.methods.net2net import Net2Net
from ligo_spec.methods.noisy_average import NoisyAverage
from ligo_spec.methods.noisy_stack import NoisyStack
from ligo_spec.methods.stack import Stack
from ligo_spec.methods.zero_pad import ZeroPad
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import Candidate, CandidateFit, Fit, OperatorChoice, Plan

SHARED = (
    "objective",
    "mask_probability",
    "micro_batches",
    "device",
    "threads",
    "precision",
    "compile",
    "gradient_checkpointing",
)
"""Keys of ``compare`` that are those of the plan's ``fit`` where they are left out."""

_PAPERS_NOISE = 10.0
"""HyperCloning's, in dB (arXiv 2409.12903)."""

WIDTHS: tuple[WidthMethod, ...] = (
    HyperCloning(),
    HyperCloning(noise=_PAPERS_NOISE),
    Lemon(),
    Net2Net(),
    ZeroPad(),
    Bert2Bert(),
)
"""Widths that are combined with ``stack`` where layers grow."""

INTERPOLATED: tuple[WidthMethod, ...] = (HyperCloning(), ZeroPad())
"""Widths that are combined with ``interpolate`` too."""

DEPTHS: tuple[DepthMethod, ...] = (Stack(), Interpolate(), Identity())
"""Depths where nothing is widened."""


@dataclass(frozen=True)
class Start:
    """A candidate of a comparison, presets spelled out.

    Args:
        name: Unlike all others.
        choice: Width and depth.
        fit: How the operator is fitted first, if it is.
    """

    name: str
    choice: OperatorChoice
    fit: CandidateFit | None


def candidates_of(plan: Plan, growth: Growth) -> list[Start]:
    """The starts that a plan compares: those that it lists, or its own and the usual ones."""
    assert plan.compare is not None, "the caller has looked"
    listed = plan.compare.candidates or (_own(plan), *usual(growth))
    starts: list[Start] = []
    for candidate in listed:
        choice = OperatorChoice(width=candidate.resolved().width, depth=candidate.resolved().depth)
        same = any((start.choice, start.fit) == (choice, candidate.fit) for start in starts)
        if same and not plan.compare.candidates:
            continue  # the plan's own is one of the usual ones
        name = candidate.name or _name(choice, candidate.fit)
        taken = sum(start.name == name or start.name.startswith(f"{name} #") for start in starts)
        starts.append(Start(f"{name} #{taken + 1}" if taken else name, choice, candidate.fit))
    return starts


def usual(growth: Growth) -> list[Candidate]:
    """The starts that are compared where a plan lists none, for the axes that grow."""
    family = growth.small.family
    widths = [name for name, space in family.spaces.items() if not space.fixed]
    wider = any(growth.small.width(name) != growth.large.width(name) for name in widths)
    deeper = growth.small.depths != growth.large.depths
    found: list[tuple[WidthMethod | None, DepthMethod | None]] = []
    if wider:
        found += [(width, Stack() if deeper else None) for width in WIDTHS]
        found += [(width, Interpolate()) for width in INTERPOLATED if deeper]
    elif deeper:
        found += [(None, depth) for depth in DEPTHS]
    if not found:
        return []
    ligo = (NoisyAverage() if wider else None, NoisyStack() if deeper else None)
    starts = [Candidate(width=width, depth=depth) for width, depth in (*found, ligo)]
    return [*starts, Candidate(width=ligo[0], depth=ligo[1], fit=CandidateFit())]


def fit_options(plan: Plan, fit: CandidateFit | None) -> Fit:
    """The ``fit`` of a plan whose operator is learned as a candidate's is; without one, what trainings share with it.

    Raises:
        PlanError: Neither ``compare`` nor ``fit`` has data.
    """
    assert plan.compare is not None, "the caller has looked"
    data = data_of(plan)
    if data is None:
        raise PlanError("compare.data: neither compare nor fit says what to train on")
    given = {name: getattr(plan.compare, name) for name in SHARED}
    theirs = {name: getattr(plan.fit, name) for name in SHARED} if plan.fit else {}
    shared = {name: theirs.get(name) if value is None else value for name, value in given.items()}
    shared["heldout_batches"] = plan.fit.heldout_batches if plan.fit else None
    own = {name: getattr(fit, name) for name in CandidateFit.model_fields} if fit else {}
    chosen: dict[str, Any] = {name: value for name, value in shared.items() if value is not None}
    return Fit(data=data, **chosen, **own)


def data_of(plan: Plan) -> Data | None:
    """What a comparison trains on."""
    if plan.compare is not None and plan.compare.data is not None:
        return plan.compare.data
    return plan.fit.data if plan.fit else None


def section_of(plan: Plan) -> str:
    """The section of the plan that they stand in."""
    return "compare" if plan.compare is not None and plan.compare.data is not None else "fit"


def plan_of(plan: Plan, start: Start) -> Plan:
    """The plan that grows by a start: the same growth, with its operator and its fit, and nothing to compare."""
    fit = fit_options(plan, start.fit) if start.fit else None
    return plan.model_copy(update={"operator": start.choice, "fit": fit, "compare": None})


def winner_text(plan: Plan, start: Start) -> str:
    """``plan_of`` as a YAML file that says what it is."""
    head = (
        f"# The best start of a comparison: {printable(start.name)}.\n"
        "# Paths are relative to the plan that was compared: put this file beside it.\n"
    )
    return head + dump(plan_of(plan, start))


def operator_of(job: Job, small: Small, growth: Growth, start: Start, seed: int) -> Operator:
    """Where a candidate starts.

    Raises:
        PlanError: It is not to be had: a method has no rule for what should grow, or the plan requires what it breaks.
    """
    operator = build_operator(growth, start.choice.width, start.choice.depth, seed=seed)
    if job.plan.checks.lossless == "require":
        broken = certify(growth, operator, small.binding.templates())
        if start.fit is not None or broken:
            reason = "a fit changes the function" if start.fit is not None else broken[0]
            raise PlanError(f"checks.lossless requires what it does not keep: {reason}")
    return operator


def task_of(job: Job, small: Small, growth: Growth, start: Start, seed: int) -> FitTask:
    """What a candidate is trained from.

    Raises:
        PlanError: It is not to be had; as for ``operator_of``, or its fit has nothing to learn.
        InputError: Data are missing, or an epsilon cannot be scaled.
    """
    operator = operator_of(job, small, growth, start, seed)
    options, frozen = fit_options(job.plan, start.fit), frozenset[int]()
    large = replace(settled(growth, operator).large, config=MappingProxyType(grown_config(growth, operator)))
    growth = replace(growth, large=large)  # what is trained is the model that is written
    if start.fit is not None:
        learned = learnable(growth, operator, start.fit.learn)
        if not learned.count:
            raise PlanError("its fit has nothing to learn; ask for structure: dense or new")
        operator, frozen = learned.operator, learned.frozen
    files = data_files(job.train), data_files(job.heldout)
    return FitTask(growth, operator, small.binding, small.read, options, seed, small.directory, *files, frozen)


def alone(task: FitTask) -> FitTask:
    """The small model by itself: growth to its own size."""
    growth = Growth(task.growth.small, task.growth.small)
    return replace(task, growth=growth, operator=build_operator(growth, None, None), frozen=frozenset())


def drawn(task: FitTask) -> FitTask:
    """The large model as the library draws it, its epsilons those of the small model."""
    small, large = task.growth.small, task.growth.large
    stated = {key: small.config[key] for key in task.operator.eps_scale if key in small.config}
    kept = {key: value for key, value in large.config.items() if key not in task.operator.eps_scale}
    config = MappingProxyType({**kept, **stated})
    return replace(task, growth=replace(task.growth, large=replace(large, config=config)))


def _own(plan: Plan) -> Candidate:
    """The plan's own operator and fit."""
    choice, fit = plan.operator.resolved(), None
    if plan.fit is not None:
        fit = CandidateFit(**{name: getattr(plan.fit, name) for name in CandidateFit.model_fields})
    return Candidate(width=choice.width, depth=choice.depth, fit=fit)


def _name(choice: OperatorChoice, fit: CandidateFit | None) -> str:
    methods = [_method(method) for method in (choice.width, choice.depth) if method is not None]
    fitted = [] if fit is None else [f"{'distilled' if fit.distill else 'fitted'} {fit.steps} steps"]
    return ", ".join([" + ".join(methods) or "as it is", *fitted])


def _method(method: Document) -> str:
    options = method.model_dump(exclude_defaults=True)
    said = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in options.items()
    )
    return f"{method.method}{f' ({said})' if said else ''}"  # type: ignore[attr-defined]


def require_data(job: Job) -> None:
    """Refuse a comparison without data, or with a budget below one step.

    Raises:
        PlanError: It is one.
    """
    plan = job.plan
    if plan.compare is None:
        raise PlanError(job.problem("has no compare section; compare: {} compares the usual starts"))
    data = data_of(plan)
    if data is None:
        raise PlanError(job.problem("neither compare nor fit has data to train on", "compare"))
    if not isinstance(data, WindowData) and plan.compare.budget.tokens is not None:
        message = f"{data.kind} have no windows of tokens; say the budget in steps"
        raise PlanError(job.problem(message, "compare", "budget", "tokens"))
    if not plan.compare.budget_steps(data):
        assert isinstance(data, WindowData), "a budget in steps has at least one"
        message = f"fewer tokens than one step has, {data.batch_size} windows of {data.seq_len}"
        raise PlanError(job.problem(message, "compare", "budget", "tokens"))
