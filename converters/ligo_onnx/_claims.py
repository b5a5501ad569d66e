"""From ways of tensors to names of parameters: what a graph calls them, and what the family's files call them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ligo_onnx._uses import Role, Use
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.family import Family
from ligo_spec.layout import BASE, Slot, examine

How = Literal["name", "scope", "shape", "absence"]
"""What told which parameter a tensor is: its own name, the module that consumes it, nothing but its shape; or that it
is not there, as optimisers leave biases of zeros out."""

_ENDINGS: Mapping[Role, tuple[str, ...]] = {
    "matrix": ("weight",),
    "table": ("weight",),
    "kernel": ("weight",),
    "gain": ("weight",),
    "shift": ("bias",),
    "times": ("weight",),
    "plus": ("bias", "weight"),  # a gain that is stored as its difference from 1 is a summand first
    "other": (),
}

IN_MEMORY: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\b{old}\b"), new)
    for old, new in (
        (r"layers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
        (r"layers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
        (r"layers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
        (r"layers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
        (r"layers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
        (r"layers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
        (r"layers\.(\d+)\.(layernorm_\w+)", r"encoder.layer.\1.\2"),
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"lm_head", "embed_out"),
        (r"mlp\.gate", "block_sparse_moe.gate"),
    )
)
"""What Transformers 5 calls modules in memory, and in files. Graphs show the names in memory."""

_MAX_PREFIX = 4


@dataclass(frozen=True)
class Claim:
    """A way of a tensor that may be a parameter: the parameter's name, and how it is known."""

    name: str
    how: How
    use: Use


def claims_of(uses: Iterable[Use], family: Family, *, ours: bool = False) -> list[Claim]:
    """All that the graph's names say, under the names that files use; wrappers' prefixes still on.

    Args:
        uses: Every way of every tensor.
        family: Says which names its files have.
        ours: Whether `ligo_spec` wrote the model: then parameters that no operator takes are in it under their names.
    """
    found: list[Claim] = []
    uses = [use for use in uses if ours or use.node is not None]
    left_out = _left_out(uses)
    in_file = _InFiles(family)
    for use in uses:
        found += [Claim(in_file(name), "name", use) for name in use.names if is_path(name)]
        found += [
            Claim(in_file(f"{left_out.get(_first(scope), '')}{scope}.{ending}"), "scope", use)
            for scope in use.scopes
            if scope and use.tensor.info.shape
            for ending in _ENDINGS[use.role]
        ]
    return found


def _left_out(uses: Iterable[Use]) -> dict[str, str]:
    """What modules' paths lack, by the first part that they have.

    The path of a node has the modules whose forward pass was called: where one calls a grandchild itself, as OPT does,
    the child is not in it. Tensors that kept their names tell.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for use in uses:
        for scope in use.scopes[:1]:
            for ending in _ENDINGS[use.role]:
                short = f"{scope}.{ending}"
                for name in use.names:
                    if scope and (name == short or name.endswith("." + short)):
                        seen[_first(scope)][name.removesuffix(short)] += 1
    return {first: counts.most_common(1)[0][0] for first, counts in seen.items()}


def _first(scope: str) -> str:
    return scope.partition(".")[0]


def is_path(name: str) -> bool:
    """Whether a value has the name of a parameter, not one that an exporter made up (``onnx::MatMul_12``, ``/a/b``)."""
    return "." in name and not set(name) & set("/:")


class _InFiles:
    """Names as a family's files have them.

    Args:
        family: Says which names are declared.
    """

    def __init__(self, family: Family) -> None:
        templates = (re.escape(name.replace(BASE, "")) for name in family.layouts["hf"].tensors)
        numbered = (re.sub(r"\\\{[ie]\\\}", r"[0-9]+", template) for template in templates)
        self._declared = re.compile(rf"(?:.*\.)?(?:{'|'.join(numbered)})")

    def __call__(self, name: str) -> str:
        """The declared name of a parameter that has another one in memory; else the name as it is."""
        if self._declared.fullmatch(name):
            return name
        others = (pattern.sub(new, name) for pattern, new in IN_MEMORY)
        return next((other for other in others if self._declared.fullmatch(other)), name)


def declared(claims: Iterable[Claim], architecture: Architecture) -> tuple[dict[str, Slot], dict[str, list[Claim]]]:
    """The claims whose names the family declares: what each of them is, and the claims for it.

    A module that exporters wrap a model in puts its name before all others (``0.auto_model.``); the prefix under which
    most names are declared is taken off.
    """
    by_name: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_name[claim.name].append(claim)
    best: dict[str, Slot] = {}
    prefix = ""
    for candidate in prefixes(by_name):
        names = [name.removeprefix(candidate) for name in by_name if name.startswith(candidate)]
        slots = slots_among(names, architecture)
        if len(slots) > len(best):
            best, prefix = slots, candidate
    # A second wrapper's claims (`model.lm_head` beside `lm_head`) do not count: one prefix, consistently.
    kept = {name: [replace(c, name=name) for c in by_name[prefix + name]] for name in best}
    return best, kept


def slots_among(names: Iterable[str], architecture: Architecture) -> dict[str, Slot]:
    """What the names are that the family declares; shapes do not matter yet."""
    headers = {name: TensorInfo(name, "F32", ()) for name in names}
    return dict(examine(architecture, headers).binding.slots)


def prefixes(names: Iterable[str]) -> list[str]:
    """Prefixes that many names share, the shortest first."""
    counts: Counter[str] = Counter()
    total = 0
    for name in names:
        total += 1
        parts = name.split(".")
        counts.update(".".join(parts[:n]) + "." for n in range(1, min(_MAX_PREFIX, len(parts) - 1) + 1))
    shared = [prefix for prefix, count in counts.items() if count * 4 >= total]
    return ["", *sorted(shared, key=lambda prefix: (prefix.count("."), prefix))]
