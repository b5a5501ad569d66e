"""The dry run: what each tensor becomes, how many parameters and bytes, and whether the function is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ligo_spec.certify import Broken
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.documents import dump
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import LAYER, Family
from ligo_spec.job import Job, Small, certificate, growth_of, learned_operator, load_job, open_small, start_of
from ligo_spec.layer_kinds import grown_layers, settled, sources
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select, arrays_of
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator import Growth, Mix, Operator, Term, every
from ligo_spec.optimizer import OptimizerSummary, optimizer_of
from ligo_spec.outputs import Outputs, plan_outputs
from ligo_spec.silence import silent
from ligo_spec.symmetry import Alike, alike

MAX_EPS = 1e30
"""No norm has an epsilon of this size; what is scaled stays below, and so a number."""


@dataclass(frozen=True)
class TensorChange:
    """What a kind of tensor becomes, folded over the layers.

    Args:
        name: Canonical name, with ``{i}`` for the layer.
        small: Shape in the small model.
        large: Shape in the large model.
        count: How many of them the large model has.
        how: In words: which maps on which dimension, how the layers are mixed.
    """

    name: str
    small: tuple[int, ...]
    large: tuple[int, ...]
    count: int
    how: str


@dataclass(frozen=True)
class MapSummary:
    """A map of the operator: its structure, shape, and how many numbers a fit would learn in it."""

    name: str
    used_by: tuple[str, ...]
    shape: tuple[int, int]
    count: int
    structure: str
    parameters: int


@dataclass(frozen=True)
class Explanation:
    """Everything that a growth will do, before a byte is written."""

    plan: str
    family: str
    sizes: Mapping[str, tuple[int, int]]
    config: Mapping[str, tuple[Any, Any]]
    tensors: tuple[TensorChange, ...]
    maps: tuple[MapSummary, ...]
    depth: tuple[str, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    learned: int
    broken: tuple[Broken, ...]
    alike: tuple[Alike, ...]
    dropped: Mapping[str, str]
    copied: tuple[str, ...]
    untied: bool
    optimizer: OptimizerSummary | None

    @property
    def lossless(self) -> bool:
        """Whether the certificate holds."""
        return not self.broken


def explain(plan: str | Path, *, source: str | Path | None = None, operator: str | Path | None = None) -> Explanation:
    """The dry run of a plan: headers are read, no weight is, nothing is written.

    Raises:
        LigoError: The plan, the checkpoint or the operator is refused.
    """
    job = load_job(plan, source=source)
    small = open_small(job)
    growth = growth_of(job, small.architecture)
    start = start_of(job, growth, operator)
    broken = certificate(job, growth, start, small.binding.templates())
    return describe(job, small, growth, start, broken)


def describe(job: Job, small: Small, growth: Growth, operator: Operator, broken: list[Broken]) -> Explanation:
    """The explanation of a growth whose parts are settled."""
    outputs = plan_outputs(small, growth, operator, job.plan.output.dtype)
    learned = learned_operator(job, growth, operator)
    shown = learned.operator if job.plan.fit else operator
    new = written_config(job, growth, operator)
    state = optimizer_of(job, small, growth, operator, new, NumpyBackend())
    return Explanation(
        plan=dump(job.plan),
        family=growth.small.family.name,
        sizes={name: (size, growth.large.sizes[name]) for name, size in growth.small.sizes.items()},
        config=config_changes(small, new),
        tensors=tuple(tensor_changes(outputs, growth, operator)),
        maps=tuple(_map_summaries(shown.main, small, learned.frozen)),
        depth=tuple(depth_rows(operator, growth.small.family)),
        parameters=parameter_counts(outputs),
        bytes=byte_counts(outputs),
        learned=learned.count,
        broken=tuple(broken),
        alike=tuple(alike(growth, operator, small.binding.templates())),
        dropped=small.binding.dropped,
        copied=small.binding.copied,
        untied=small.untied,
        optimizer=None if state is None else state.summary,
    )


def grown_config(growth: Growth, operator: Operator) -> dict[str, Any]:
    """The large model's ``config.json``: sizes, and the epsilons that must scale with their spaces.

    Raises:
        InputError: An epsilon that must be scaled is not a number that can be. All problems at once.
    """
    config = dict(settled(growth, operator).large.config)
    if growth.small.depths != growth.large.depths:
        config = {key: value for key, value in config.items() if key not in growth.small.family.recounted}
    problems = []
    for key, factor in operator.eps_scale.items():
        if factor == 1:
            continue
        eps = config.get(key, growth.large.family.defaults.get(key))
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < MAX_EPS / factor:
            found = "it is not there" if eps is None else f"found {printable(eps)}"
            problems.append(Problem("config.json", f"{key} must be a number to be scaled by {factor:.6g}, {found}"))
        else:
            config[key] = eps * factor
    if problems:
        raise InputError(problems)
    return config


def written_config(job: Job, growth: Growth, operator: Operator) -> dict[str, Any]:
    """The ``config.json`` that a plan writes: that of the large model, with the plan's dtype.

    Raises:
        InputError: As for ``grown_config``.
    """
    config = grown_config(growth, operator)
    if job.plan.output.dtype != "keep":
        config.pop("torch_dtype", None)
        config["dtype"] = job.plan.output.dtype
    config.pop("_name_or_path", None)
    return config


def config_changes(small: Small, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of ``config.json`` that differ between the small model and ``config``: both values, None for none."""
    old = small.checkpoint.config
    return {key: (old.get(key), config.get(key)) for key in {**old, **config} if old.get(key) != config.get(key)}


def parameter_counts(outputs: Outputs) -> tuple[int, int]:
    """Entries of all tensors that are kept of the small file, and of the large one."""
    return sum(prod(info.shape) for info in _kept(outputs.small)), sum(prod(i.shape) for i in outputs.infos.values())


def byte_counts(outputs: Outputs) -> tuple[int, int]:
    """Bytes of the same."""
    return sum(info.nbytes for info in _kept(outputs.small)), sum(info.nbytes for info in outputs.infos.values())


def _kept(small: Small) -> list[TensorInfo]:
    return [small.checkpoint.tensors[key] for key in (*small.binding.slots, *small.binding.copied)]


def structure(map_: Map) -> str:
    """A map in a few words: ``[I; dense]``, ``select``, ``dense ⊗ I``."""
    match map_:
        case Identity():
            return "I"
        case Select(weight=None):
            return "select"
        case Select():
            return "weighted select"
        case Dense():
            return "dense"
        case Blocks(parts=parts):
            return "[" + "; ".join(structure(part) for part in parts) + "]"
        case Kron(outer=outer, inner=inner):
            return f"{structure(outer)} ⊗ {structure(inner)}"


def tensor_changes(outputs: Outputs, growth: Growth, operator: Operator) -> list[TensorChange]:
    """What each kind of tensor becomes, in the family's order."""
    small = outputs.small
    held = [pair for slot in small.binding.slots.values() for pair in zip(slot.canonical, slot.names, strict=True)]
    shapes = {template: small.shape(name) for template, name in dict(held).items()}
    layers = {template: slot.layer for slot in outputs.slots.values() for template in slot.canonical}
    family = growth.small.family
    changes = []
    for template in (name for name in family.tensors if name in layers):
        terms = operator.terms_of(template)
        of_terms = [[t.map(*dim, layers[template]) for dim in family.tensors[template].touches] for t in terms]
        maps, ways = of_terms[0], [_how(template, some, t) for some, t in zip(of_terms, terms, strict=True)]
        how = ways[0] if len(ways) == 1 else f"sum of {len(ways)}: {' + '.join(dict.fromkeys(ways))}"
        sides = zip(shapes[template], maps, strict=True)
        large = tuple(side if isinstance(map_, Identity) else map_.shape[0] for side, map_ in sides)
        count = len(grown_layers(family, operator, template))
        changes.append(TensorChange(template, shapes[template], large, count, how))
    return changes


def _how(template: str, maps: Sequence[Map], term: Term) -> str:
    changed = [structure(map_) for map_ in maps if not isinstance(map_, Identity)]
    widened = " × ".join(changed) if changed else "as it is"
    if LAYER not in template:
        return widened
    mix = term.mix(template)
    one_hot = bool((((mix == 0) | (mix == 1)).all()) and (mix.sum(axis=1) <= 1).all())
    return f"{widened}, layer {('copied' if mix.any(axis=1).all() else 'copied or zero') if one_hot else 'mixed'}"


def _map_summaries(term: Term, small: Small, frozen: Collection[int]) -> list[MapSummary]:
    """The maps that some tensor of the model uses, apart from identities."""
    declared = small.architecture.family.tensors
    touched = {dim for template in small.binding.templates() for dim in declared[template].touches}
    users: dict[str, list[str]] = {}
    for space, role in sorted(touched):
        users.setdefault(term.spaces[space].of(role), []).append(f"{space}.{role}")
    summaries = []
    for name, choices in term.maps.items():
        if name not in users or all(isinstance(map_, Identity) for map_ in choices):
            continue
        arrays = (array for map_ in choices for array in arrays_of(map_))
        learned = sum(array.size for array in arrays if id(array) not in frozen)
        summaries.append(
            MapSummary(name, tuple(users[name]), choices[0].shape, len(choices), structure(choices[0]), learned)
        )
    return summaries


def depth_rows(operator: Operator, family: Family) -> list[str]:
    """One line a stack whose layers each come from one: ``0-3, 3 (silent), 4-7``, as ``ranges`` would have it."""
    rows = []
    for stack in family.stacks:
        mix = operator.main.depth.get(every(stack))
        if mix is not None:
            main = enumerate(sources(operator.main, family, stack))
            quiet = [silent(operator, family, stack, layer, source) for layer, source in main]
            names = [_source(row, quiet=each) for row, each in zip(mix, quiet, strict=True)]
            rows.append(("" if len(family.stacks) == 1 else f"{stack}: ") + _runs(names))
    return rows


def _source(row: Mix, *, quiet: bool) -> int | str:
    if not row.any():
        return "silent"
    if row.max() != 1 or row.sum() != 1:
        return "mixed"
    return f"{row.argmax()} (silent)" if quiet else int(row.argmax())


def _runs(sources: Sequence[int | str]) -> str:
    """``0, 1, 2, 5`` as ``0-2, 5``."""
    runs: list[list[int | str]] = []
    for source in sources:
        follows = runs and isinstance(source, int) and runs[-1][-1] == source - 1
        runs[-1].append(source) if follows else runs.append([source])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
