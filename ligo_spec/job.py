"""A plan with its files: where the small model lies, what it is, and what it grows into."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.carried import RESUMED
from ligo_spec.certify import Broken, certify
from ligo_spec.checkpoint import Checkpoint, read_checkpoint
from ligo_spec.documents import Loaded, dump, load_with_positions
from ligo_spec.errors import InputError, PlanError, Problem, printable
from ligo_spec.family import Family, family_of, load_family
from ligo_spec.fit_data import Data, TextData
from ligo_spec.formats import model_directory
from ligo_spec.hub import Snapshot, fetch, on_hub
from ligo_spec.layout import Binding, bind, unpack, unpacked_shapes
from ligo_spec.learning import Learn, Learnable, learnable
from ligo_spec.methods import build_operator
from ligo_spec.operator import Growth, Operator
from ligo_spec.operator_check import check_operator
from ligo_spec.operator_file import load_operator
from ligo_spec.plan import Plan, target_problems
from ligo_spec.sharded import read_config


@dataclass(frozen=True)
class Job:
    """A plan and the places that it names.

    Args:
        loaded: The plan and where its keys stand.
        model: The small model, as the caller or the plan names it.
        output: Where the large one goes.
        train: Patterns of the files to fit on.
        heldout: Patterns of those that are held out.
    """

    loaded: Loaded[Plan]
    model: str | Path
    output: Path
    train: tuple[Path, ...]
    heldout: tuple[Path, ...]

    @cached_property
    def plan(self) -> Plan:
        """The plan with presets and short forms spelled out."""
        return self.loaded.document.resolved()

    @cached_property
    def sha256(self) -> str:
        """Of the resolved plan's text."""
        return hashlib.sha256(dump(self.plan).encode("utf-8")).hexdigest()

    @property
    def source(self) -> Path:
        """The small model's directory or file; one on the Hub is fetched when it is first asked for.

        Raises:
            LigoError: It cannot be fetched.
        """
        return Path(self.model) if self.snapshot is None else self.snapshot.path

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """What was fetched of a small model on the Hub; None for one on this machine.

        Raises:
            LigoError: It cannot be fetched.
        """
        state = self.plan.optimizer
        also = () if state is None else (state.path, *RESUMED)
        return fetch(str(self.model), also=also) if on_hub(self.model) else None

    @property
    def at_hand(self) -> tuple[Path, ...]:
        """The small model where it is on this machine already: no output may be in its way."""
        return () if on_hub(self.model) else (Path(self.model),)

    def problem(self, message: str, *place: str | int) -> Problem:
        """A problem at a key of the plan."""
        return Problem(self.loaded.where(*place), message)


@dataclass(frozen=True)
class Small:
    """The small model: its files, and what its tensors are."""

    checkpoint: Checkpoint
    architecture: Architecture
    binding: Binding
    untied: bool
    """The file stores different values for tensors that the config ties; they are kept apart."""

    @property
    def directory(self) -> Path:
        """Where config, tokenizer and the like lie: the checkpoint's directory, also where it was named by its file."""
        return model_directory(self.checkpoint.path)

    @cached_property
    def _sources(self) -> dict[str, tuple[str, int]]:
        return self.binding.sources()

    def read(self, name: str) -> npt.NDArray[Any]:
        """The values of a canonical tensor or of one expert's slice, in the dtype of the file.

        A whole tensor that lies in slices is put together in memory.
        """
        if name in self._sources:
            key, part = self._sources[name]
            parts: list[npt.NDArray[Any]] = unpack(self.checkpoint.read(key), self.binding.slots[key].steps)
            return parts[part]
        pieces = self.binding.pieces[name]
        return np.stack([self.read(pieces[expert]) for expert in range(len(pieces))])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a canonical tensor or of one expert's slice."""
        if name in self._shapes:
            return self._shapes[name]
        pieces = self.binding.pieces[name]
        return len(pieces), *self._shapes[pieces[0]]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for key, slot in self.binding.slots.items():
            parts = unpacked_shapes(self.checkpoint.tensors[key].shape, slot.steps)
            assert parts is not None, "bind has checked the steps"
            shapes.update(zip(slot.holds, parts, strict=True))
        return shapes

    def dtype(self, name: str) -> str:
        """The dtype of a canonical tensor or of one expert's slice (the first's, of a whole one)."""
        stored = name if name in self._sources else self.binding.pieces[name][0]
        return self.checkpoint.tensors[self._sources[stored][0]].dtype


def load_job(
    path: str | Path,
    *,
    source: str | Path | None = None,
    output: str | Path | None = None,
    data: Sequence[str | Path] = (),
) -> Job:
    """Read a plan; paths given here win over those in it.

    Raises:
        PlanError: The plan is not valid. All problems at once.
    """
    loaded = load_with_positions(Path(path), Plan)
    plan, base = loaded.document, Path(path).parent
    job = Job(
        loaded=loaded,
        model=source if source is not None else _beside(base, plan.source.path),
        output=Path(output) if output is not None else base / plan.output.path,
        train=(),
        heldout=(),
    )
    return with_data(job, plan.fit.data if plan.fit else None, data, "fit")


def with_data(job: Job, found: Data | None, named: Sequence[str | Path], section: str) -> Job:
    """The same job with the files that its data names, or with text that the caller names instead.

    Args:
        job: The plan and its places.
        found: The data of a section of the plan, if it has any.
        named: Patterns of text; none for those in the plan.
        section: Where the data stand.

    Raises:
        PlanError: The caller names text, and the plan's data are none.
    """
    if named:
        if found is not None and not isinstance(found, TextData):
            message = f"only text can be named elsewhere, and this is kind: {found.kind}; name its files in the plan"
            raise PlanError(job.problem(message, section, "data"))
        return replace(job, train=tuple(Path(pattern) for pattern in named), heldout=())
    base = job.loaded.path.parent
    train, heldout = ((), ()) if found is None else found.files
    return replace(job, train=tuple(base / path for path in train), heldout=tuple(base / path for path in heldout))


def _beside(base: Path, path: str) -> str | Path:
    return path if on_hub(path) else base / path


def named_family(job: Job) -> Family | None:
    """The family that the plan names, if it does.

    Raises:
        PlanError: It is not there or not valid.
    """
    name = job.plan.source.family
    if name is None:
        return None
    if name.endswith((".yaml", ".yml")):
        return load_family(Path(job.loaded.path).parent / name)
    try:
        return load_family(name)
    except PlanError as error:
        raise PlanError([job.problem(problem.message, "source", "family") for problem in error.problems]) from error


def open_small(job: Job) -> Small:
    """Open the small model: headers and config are checked, and every tensor is accounted for.

    Raises:
        InputError: The checkpoint is refused, or is of no shipped family and the plan names none.
        PlanError: The plan's family is not to be had.
    """
    return open_model(job.source, named_family(job), job.plan.source.drop, job.plan.source.copy_)


def open_model(
    path: str | Path, family: Family | None = None, drop: Sequence[str] = (), copy: Sequence[str] = ()
) -> Small:
    """Open a checkpoint: headers and config are checked, and every tensor is accounted for.

    Raises:
        InputError: The checkpoint is refused, or is of no shipped family and none is given.
    """
    checkpoint = read_checkpoint(path, family=family)
    return identify(checkpoint, family or family_in(checkpoint), drop, copy)


def family_in(checkpoint: Checkpoint) -> Family:
    """The family that a checkpoint's config names.

    Raises:
        InputError: None has its ``model_type``.
    """
    return family_of(dict(checkpoint.config), f"{checkpoint.path}/config.json")


def identify(checkpoint: Checkpoint, family: Family, drop: Sequence[str] = (), copy: Sequence[str] = ()) -> Small:
    """Settle what every tensor of a checkpoint is.

    Raises:
        InputError: Sizes or tensors do not fit the family. All problems at once.
    """
    where = str(checkpoint.path)
    architecture = Architecture.from_hf_config(family, checkpoint.config, f"{where}/config.json")
    binding = bind(architecture, checkpoint.tensors, where, drop=drop, copy=copy)
    small = Small(checkpoint, architecture, binding, untied=False)
    if any(_differ(small, group) for group in architecture.ties):
        return replace(small, architecture=architecture.untie(), untied=True)
    return small


def growth_of(job: Job, small: Architecture) -> Growth:
    """The growth that a plan asks for.

    Raises:
        PlanError: The target is not one that the small model can grow to. All problems at once.
    """
    target = job.plan.target
    _require_sizes(job, small.family)
    try:
        return Growth(small, small.grown(target))
    except InputError as error:
        keys = {problem: next((k for k in target if problem.message.startswith(k)), None) for problem in error.problems}
        raise PlanError(
            job.problem(problem.message, "target", *([key] if key else [])) for problem, key in keys.items()
        ) from error


def start_of(job: Job, growth: Growth, operator: str | Path | None = None) -> Operator:
    """The operator where a plan starts: from a file, or from its width and depth methods.

    Raises:
        PlanError: A method has no rule for what should grow.
        InputError: The operator file does not fit.
    """
    if operator is not None:
        loaded = load_operator(operator)
        try:
            check_operator(loaded, growth)
        except InputError as error:
            raise InputError(Problem(printable(operator), problem.message) for problem in error.problems) from error
        return loaded
    choice = job.plan.operator
    try:
        return build_operator(growth, choice.width, choice.depth, seed=job.plan.seed)
    except PlanError as error:
        keys = [(problem.message, problem.where.split(".") if problem.where else ()) for problem in error.problems]
        raise PlanError(job.problem(message, "operator", *place) for message, place in keys) from error


def learned_operator(job: Job, growth: Growth, start: Operator) -> Learnable:
    """What the plan's fit works on (or would, without one): the start, in the structure that is learned.

    Raises:
        PlanError: ``fit.learn`` does not fit the family or the start.
    """
    learn = job.plan.fit.learn if job.plan.fit else Learn()
    try:
        return learnable(growth, start, learn)
    except PlanError as error:
        raise PlanError(job.problem(problem.message, "fit", "learn") for problem in error.problems) from error


def certificate(job: Job, growth: Growth, operator: Operator, templates: Sequence[str] | None = None) -> list[Broken]:
    """The broken conditions; empty when the grown model is the same function.

    Raises:
        PlanError: The plan requires losslessness and a condition is broken.
    """
    broken = certify(growth, operator, templates)
    if broken and job.plan.checks.lossless == "require":
        raise PlanError(job.problem(f"lossless is required, but {item}", "checks", "lossless") for item in broken)
    return broken


def data_files(patterns: Sequence[Path]) -> list[Path]:
    """The files that patterns name, in the order of their names.

    Raises:
        InputError: A pattern names no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        names = sorted(glob.glob(str(pattern), recursive=True))
        if not names:
            raise InputError(Problem(str(pattern), "no such file"))
        found += [Path(name) for name in names]
    return found


def check(plan: str | Path, *, source: str | Path | None = None) -> None:
    """Check a plan: its form, and, where the small model is at hand, sizes and methods. Reads no weight.

    Of a small model on the Hub, only ``config.json`` is fetched.

    Raises:
        LigoError: All problems at once.
    """
    job = load_job(plan, source=source)
    family = named_family(job)
    if not on_hub(job.model) and not os.path.exists(job.model):  # os.path: a name that no file can have is not there
        if family is not None:
            _require_sizes(job, family)
        return
    config, where = _config(job, family)
    growth = growth_of(job, Architecture.from_hf_config(family or family_of(config, where), config, where))
    certificate(job, growth, start_of(job, growth))


def _config(job: Job, family: Family | None) -> tuple[dict[str, Any], str]:
    """The small model's config, and the name of its file; of one on the Hub, nothing else is fetched."""
    if not on_hub(job.model):
        return dict(read_checkpoint(job.model, family=family).config), f"{job.model}/config.json"
    directory = fetch(str(job.model), weights=False).path
    return read_config(directory, {}), f"{job.model}/config.json"


def _require_sizes(job: Job, family: Family) -> None:
    wrong = target_problems(job.plan.target, family.sizes)
    if wrong:
        raise PlanError(Problem(job.loaded.where("target", key, key=True), message) for key, message in wrong.items())


def _differ(small: Small, group: Sequence[str]) -> bool:
    """Whether a file stores tied tensors more than once, with different bits."""
    stored = [name for name in group if name in small._sources]
    if len(stored) < 2:
        return False
    first, *others = (small.read(name) for name in stored)
    return any(first.shape != other.shape or first.tobytes() != other.tobytes() for other in others)
