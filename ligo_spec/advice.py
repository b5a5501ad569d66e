"""What the literature says of training on after a growth, as data, and groups of parameters for it (SPEC 7.6)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

from ligo_spec.origins import Origin

Fact = Literal["lossless", "changed", "silent", "copies", "new", "state"]
"""What a growth is: keeps the function or not, has layers that add nothing, copies, entries from nothing, a state."""


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Args:
        when: Facts that must hold.
        text: What to do.
        source: Who found it.
    """

    when: frozenset[Fact]
    text: str
    source: str


def _of(when: str, text: str, source: str) -> Advice:
    return Advice(frozenset(when.split()), text, source)  # type: ignore[arg-type]


ADVICE = (
    _of(
        "silent",
        "train only the group new_blocks and freeze the rest, to add knowledge without forgetting",
        "LLaMA-Pro, arXiv 2401.02415",
    ),
    _of(
        "lossless copies",
        "for the small model's dynamics, multiply each group's rate by lr_multiplier and its decoupled decay by "
        "weight_decay_multiplier; copies then stay equal until something parts them",
        "mu-pscaling, arXiv 2602.10545",
    ),
    _of(
        "copies state",
        "copies with equal moments stay equal: optimizer.reset: new keeps only the first copy's; re-warm new "
        "parameters alone, in 250 steps to 1.3 times the rate of that moment, the old ones keep their schedule",
        "SPARKLING, arXiv 2602.02472",
    ),
    _of(
        "lossless",
        "from a converged model with a fresh optimizer: keep the default peak rate and decay faster; a small peak "
        "ends worse",
        "LEMON, arXiv 2310.07999",
    ),
    _of("lossless copies", "the published runs start a fresh optimizer", "HyperCloning, arXiv 2409.12903"),
    _of(
        "changed",
        "published runs of growth that changes the function start a fresh optimizer, for stacks without a warm-up",
        "Gstack, arXiv 2405.15319",
    ),
    _of(
        "new state",
        "with optimizer.new: zero, updates of new entries reach 6.6 times the rate (β₂ = 0.999, after 12 steps); "
        "new: fill avoids it",
        "SPEC 7.5",
    ),
)
"""In the order in which it is given."""


def facts(found: Mapping[str, Origin], *, lossless: bool, grows: bool, state: bool) -> set[Fact]:
    """What a growth is.

    Args:
        found: The origin of every tensor.
        lossless: Whether the certificate holds.
        grows: Whether the large model has more parameters.
        state: Whether the optimizer's state is grown too.
    """
    held: set[Fact] = {"lossless" if lossless else "changed"} if grows else set()
    held |= {"silent"} if any(origin.silent for origin in found.values()) else set()
    held |= {"new"} if any(origin.new or origin.kind == "new" for origin in found.values()) else set()
    scaled = any(origin.factor not in (None, 1.0) for origin in found.values())
    held |= {"copies"} if scaled and not any(origin.new for origin in found.values()) else set()
    return held | ({"state"} if state else set())


def advice_for(held: Set[Fact]) -> list[dict[str, str]]:
    """The advice whose facts hold."""
    return [{"text": item.text, "source": item.source} for item in ADVICE if item.when <= held]


def param_groups(found: Mapping[str, Origin], held: Set[Fact]) -> list[dict[str, Any]]:
    """Groups of parameters by the names in the large file: new blocks, new tensors, and old ones by their factor.

    Rates are those at which a lossless copy trains as the small model does (7.5); 1 where there is no such rate.
    """
    groups: dict[tuple[str, float], list[str]] = {}
    for name, origin in found.items():
        kind = "new_blocks" if origin.silent else "new" if origin.kind == "new" else "old"
        exact = kind == "old" and {"lossless", "copies"} <= held and origin.factor
        groups.setdefault((kind, abs(origin.factor) if exact and origin.factor else 1.0), []).append(name)
    return [
        {
            "name": kind if factor == 1 else f"{kind}_times_{factor:.6g}",
            "lr_multiplier": factor,
            "weight_decay_multiplier": 1 / factor,
            "parameters": names,
        }
        for (kind, factor), names in groups.items()
    ]
