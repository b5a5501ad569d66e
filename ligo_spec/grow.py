"""Fit, apply, grow: from a plan to a checkpoint that appears whole or not at all."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from ligo_spec import figures
from ligo_spec.advice import advice_for, facts, param_groups
from ligo_spec.backend import Backend, load_backend
from ligo_spec.carried import RESUMED, carry
from ligo_spec.certify import Broken
from ligo_spec.checkpoint import load_converter
from ligo_spec.documents import dump
from ligo_spec.errors import PlanError, VerificationError
from ligo_spec.events import Events
from ligo_spec.explain import grown_config, written_config
from ligo_spec.family import Family
from ligo_spec.fitting import FitResult, FitTask, run_fit
from ligo_spec.inputs import sha256_of
from ligo_spec.job import (
    Job,
    Small,
    certificate,
    data_files,
    growth_of,
    learned_operator,
    load_job,
    open_small,
    start_of,
)
from ligo_spec.layer_kinds import settled
from ligo_spec.layout import Model
from ligo_spec.operator import Growth, Operator
from ligo_spec.operator_file import write_operator
from ligo_spec.optimizer import OPTIMIZER_FILE, OptimizerSummary, optimizer_of
from ligo_spec.origins import Origin, folded, origins
from ligo_spec.outputs import Outputs, plan_outputs
from ligo_spec.reference_check import reference_error
from ligo_spec.report import Story, report
from ligo_spec.report_fit import Learned
from ligo_spec.spectra import Spectra
from ligo_spec.staging import Stage, check_target, json_bytes, staged_directory, staged_file
from ligo_spec.verify import Verification, verify

PLAN_FILE = "growth_plan.yaml"
OPERATOR_FILE = "operator.safetensors"
MANIFEST_FILE = "growth_manifest.json"
GROUPS_FILE = "param_groups.json"
FIT_LOG_FILE = "fit_log.jsonl"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Grown:
    """A finished growth.

    Args:
        path: The large checkpoint's directory.
        broken: Conditions for losslessness that its operator breaks; empty when it is the small model's function.
        fit: What the fit gave, where there was one.
        verification: What the forward passes showed, where they were run.
        reference_error: Largest error against the float64 reference as a multiple of rounding, where it was checked.
        optimizer: What became of the optimizer's state, where the plan has one.
    """

    path: Path
    broken: tuple[Broken, ...]
    fit: FitResult | None = None
    verification: Verification | None = None
    reference_error: float | None = None
    optimizer: OptimizerSummary | None = None

    @property
    def lossless(self) -> bool:
        """Whether the certificate holds."""
        return not self.broken


def fit(
    plan: str | Path,
    output: str | Path,
    *,
    source: str | Path | None = None,
    data: Sequence[str | Path] = (),
    events: Events | None = None,
) -> FitResult:
    """Learn the operator of a plan and write it to ``output``; beside it its log and a report, ``.jsonl``, ``.html``.

    Raises:
        LigoError: The plan, the checkpoint or the text is refused, the loss stopped being a number, or the output
            cannot be written; nothing is left then.
    """
    job = load_job(plan, source=source, data=data)
    output = Path(output)
    log_file, report_file = (output.with_name(output.name + ending) for ending in (".jsonl", ".html"))
    for target in (output, log_file, report_file):
        check_target(target, sources=job.at_hand)
    small, growth, start = _settle(job, None)
    learned = _learn(job, small, growth, start, events or Events())
    operator = learned.result.operator
    with staged_file(output, sources=[job.source]) as stage:
        write_operator(stage, output.name, operator, plan_sha256=job.sha256)
        files = dict(stage.files)
    with staged_file(log_file) as stage:
        stage.write_bytes(log_file.name, [learned.log])
        files |= stage.files
    outputs = plan_outputs(small, growth, operator, job.plan.output.dtype)
    broken = certificate(job, growth, operator, small.binding.templates())
    config = written_config(job, growth, operator)
    with staged_file(report_file) as stage:
        page = report(Story(job, growth, outputs, operator, config, broken, learned, files=files))
        stage.write_bytes(report_file.name, [page])
    return learned.result


def apply(
    plan: str | Path,
    *,
    operator: str | Path | None = None,
    source: str | Path | None = None,
    output: str | Path | None = None,
    backend: str = "numpy",
    events: Events | None = None,
) -> Grown:
    """Apply an operator (from a file, or the plan's start without any fit) and write the large checkpoint.

    Raises:
        LigoError: Something is refused or cannot be written; nothing is left then.
    """
    job = load_job(plan, source=source, output=output)
    check_target(job.output, sources=job.at_hand)
    small, growth, start = _settle(job, operator)
    return _write(job, small, growth, start, load_backend(backend), None, events or Events())


def grow(
    plan: str | Path,
    *,
    source: str | Path | None = None,
    output: str | Path | None = None,
    data: Sequence[str | Path] = (),
    backend: str = "numpy",
    events: Events | None = None,
) -> Grown:
    """Fit where the plan says so, apply, verify.

    Raises:
        LigoError: Something is refused or cannot be written; nothing is left then. A ``VerificationError`` comes
            after the checkpoint was written, which stays to be looked at.
    """
    job = load_job(plan, source=source, output=output, data=data)
    check_target(job.output, sources=job.at_hand)
    small, growth, operator = _settle(job, None)
    events = events or Events()
    learned = None
    if job.plan.fit is not None:
        learned = _learn(job, small, growth, operator, events)
        operator = learned.result.operator
    grown = _write(job, small, growth, operator, load_backend(backend), learned, events)
    return replace(grown, verification=_verified(job, growth.small.family, grown))


def grow_optimizer(
    plan: str | Path,
    output: str | Path,
    *,
    operator: str | Path | None = None,
    source: str | Path | None = None,
    backend: str = "numpy",
) -> OptimizerSummary:
    """Grow the optimizer's state of a plan by itself, for a checkpoint that is grown already.

    Args:
        plan: Has an ``optimizer``.
        output: The file to make.
        operator: The operator that the weights were grown by; the plan's start where it is left out.
        source: The small model, instead of the plan's.
        backend: What applies the maps.

    Raises:
        LigoError: Something is refused or cannot be written; nothing is left then.
    """
    job = load_job(plan, source=source)
    output = Path(output)
    check_target(output, sources=job.at_hand)
    small = open_small(job)
    growth = growth_of(job, small.architecture)
    chosen = start_of(job, growth, operator)
    config = written_config(job, growth, chosen)
    state = optimizer_of(job, small, growth, chosen, config, load_backend(backend))
    if state is None:
        raise PlanError(job.problem("has no optimizer section; there is no state to grow"))
    with staged_file(output, sources=[job.source]) as stage:
        stage.require_space(state.summary.bytes)
        state.write(stage, output.name)
    return state.summary


def _settle(job: Job, operator: str | Path | None) -> tuple[Small, Growth, Operator]:
    """Everything that is settled before the first value is read."""
    small = open_small(job)
    growth = growth_of(job, small.architecture)
    start = start_of(job, growth, operator)
    if job.plan.fit is None or operator is not None:
        certificate(job, growth, start, small.binding.templates())
    elif job.plan.checks.lossless == "require":
        raise PlanError(job.problem("a fit changes the function; drop fit or lossless: require", "checks", "lossless"))
    return small, growth, start


def fit_task(job: Job) -> FitTask:
    """What the fit of a plan works on: both architectures, the operator's start, the small weights, the text.

    Raises:
        LigoError: The plan has no fit, or the checkpoint or the text is refused.
    """
    small, growth, start = _settle(job, None)
    return _task(job, small, growth, start)


def _task(job: Job, small: Small, growth: Growth, start: Operator) -> FitTask:
    options = job.plan.fit
    if options is None:
        raise PlanError(job.problem("has no fit section; there is nothing to learn"))
    train, heldout = data_files(job.train), data_files(job.heldout)
    large = replace(settled(growth, start).large, config=MappingProxyType(grown_config(growth, start)))
    growth = replace(growth, large=large)  # the fit must see the model that is written, epsilons and lists included
    learned = learned_operator(job, growth, start)
    if not learned.count:
        message = "nothing is left to learn; the start has no arrays, so ask for structure: dense or new"
        raise PlanError(job.problem(message, "fit", "learn"))
    return FitTask(
        growth,
        learned.operator,
        small.binding,
        small.read,
        options,
        job.plan.seed,
        small.directory,
        train,
        heldout,
        learned.frozen,
    )


def _learn(job: Job, small: Small, growth: Growth, start: Operator, events: Events) -> Learned:
    records: list[Mapping[str, Any]] = []

    def log(record: Mapping[str, Any]) -> None:
        records.append(record)
        events.fit(record)

    task = _task(job, small, growth, start)
    return Learned(run_fit(task, log), task.operator, records)


def _write(
    job: Job,
    small: Small,
    growth: Growth,
    operator: Operator,
    backend: Backend[Any],
    learned: Learned | None,
    events: Events,
) -> Grown:
    outputs = plan_outputs(small, growth, operator, job.plan.output.dtype)
    config = written_config(job, growth, operator)
    broken = certificate(job, growth, operator, small.binding.templates())
    state = optimizer_of(job, small, growth, operator, config, backend)
    error = reference_error(outputs, operator, backend) if job.plan.checks.reference else None
    result, spectra = learned.result if learned else None, Spectra(outputs)
    with staged_directory(job.output, sources=[job.source]) as stage:
        more = 0 if state is None else state.summary.bytes
        large = replace(settled(growth, operator).large, config=MappingProxyType(config))
        _write_weights(stage, job, outputs, Model(large, outputs.slots), backend, events, more, spectra)
        if state is not None:
            state.write(stage, OPTIMIZER_FILE)
        stage.write_bytes("config.json", [json_bytes(config)])
        resumed: dict[str, Any] = {} if state is None else {"more": RESUMED, "check": state.check_companion}
        fetched = None if job.snapshot is None else job.snapshot.files
        left = carry(stage, small.directory, small.checkpoint.files, fetched=fetched, **resumed)
        stage.write_bytes(PLAN_FILE, [dump(job.plan).encode("utf-8")])
        write_operator(stage, OPERATOR_FILE, operator, plan_sha256=job.sha256)
        found = origins(outputs, growth, operator)
        grows = growth.small.sizes != growth.large.sizes
        held = facts(found, lossless=not broken, grows=grows, state=state is not None)
        groups = {"spec": "ligo/param-groups/1", "advice": advice_for(held), "groups": param_groups(found, held)}
        stage.write_bytes(GROUPS_FILE, [json_bytes(groups)])
        if learned:
            stage.write_bytes(FIT_LOG_FILE, [learned.log])
        rows = folded(found, outputs.slots)
        summary = None if state is None else state.summary
        story = Story(
            job, growth, outputs, operator, config, broken, learned, rows, spectra, summary, dict(stage.files)
        )
        stage.write_bytes(REPORT_FILE, [report(story)])
        manifest = _manifest(job, small, growth, broken, result, backend, left)
        manifest["parameters"] = [_origin_entry(origin) for origin in rows]
        manifest["advice"] = groups["advice"]
        manifest["optimizer"] = None if summary is None else _optimizer_entry(summary)
        small.checkpoint.check_unchanged()  # after the last look at the source
        manifest["files"] = {name: {"size": f.size, "sha256": f.sha256} for name, f in sorted(stage.files.items())}
        stage.write_bytes(MANIFEST_FILE, [json_bytes(manifest)])
    return Grown(job.output, tuple(broken), result, None, error, summary)


def _write_weights(
    stage: Stage,
    job: Job,
    outputs: Outputs,
    model: Model,
    backend: Backend[Any],
    events: Events,
    more: int,
    spectra: Spectra,
) -> None:
    """Write the weights; ``more`` bytes will follow, and must fit too. ``spectra`` looks at each."""
    total = sum(info.nbytes for info in outputs.infos.values())
    stage.require_space(total + more)
    done = 0

    def value(name: str) -> npt.NDArray[Any]:
        nonlocal done
        made = outputs.value(name, backend)
        spectra.look(name, made)
        done += made.nbytes
        events.written(done, total)
        return made

    converter = load_converter(job.plan.output.format)
    limit = job.plan.output.max_shard_size
    converter.write(stage, outputs.infos.values(), value, max_shard_size=limit, model=model)


def _manifest(
    job: Job,
    small: Small,
    growth: Growth,
    broken: Sequence[Broken],
    result: FitResult | None,
    backend: Backend[Any],
    left: Sequence[str],
) -> dict[str, Any]:
    packages = ["ligo-spec", "numpy", "safetensors", *(["torch", "transformers"] if result else [])]
    packages += ["matplotlib"] if figures.available() else []
    return {
        "spec": "ligo/manifest/1",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "family": growth.small.family.name,
        "sizes": {"small": dict(growth.small.sizes), "large": dict(growth.large.sizes)},
        "source": {path.name: sha256_of(path) for path in _source_files(small)},
        "source_revision": None if job.snapshot is None else job.snapshot.source,
        "plan_sha256": job.sha256,
        "seed": job.plan.seed,
        "backend": backend.name,
        "certificate": {"lossless": not broken, "broken": [str(item) for item in broken]},
        "fit": None if result is None else _fit_summary(result),
        "ties_undone": small.untied,
        "tensors": {"dropped": dict(small.binding.dropped), "copied": list(small.binding.copied)},
        "files_left_behind": list(left),
    }


def _origin_entry(origin: Origin) -> dict[str, Any]:
    return {**asdict(origin), "new": {str(axis): ranges for axis, ranges in origin.new.items()}}


def _optimizer_entry(summary: OptimizerSummary) -> dict[str, Any]:
    return {
        **asdict(summary),
        "file": OPTIMIZER_FILE,
        "source": {Path(summary.file).name: sha256_of(Path(summary.file))},
    }


def _source_files(small: Small) -> Iterator[Path]:
    yield from small.checkpoint.files
    if (small.directory / "config.json").exists():
        yield small.directory / "config.json"


def _fit_summary(result: FitResult) -> dict[str, Any]:
    return {
        "heldout_before": result.heldout_before,
        "heldout_after": result.heldout_after,
        "steps": len(result.losses),
        "parameters": result.parameters,
        "threads": result.threads,
    }


def _verified(job: Job, family: Family, grown: Grown) -> Verification | None:
    mode = job.plan.checks.forward
    if mode == "skip":
        return None
    try:
        found = verify(job.source, grown.path, family=family)
    except PlanError:
        if mode == "require":
            raise
        return None  # auto: Transformers is not installed, or has no such models
    problems = list(found.problems(lossless=grown.lossless))
    if problems:
        raise VerificationError([*problems])
    return found
