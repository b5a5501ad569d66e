"""The starts that are held against one another, as a plan would say them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from course.learned import LookAhead
from ligo_spec.plan import CandidateFit, OperatorChoice

PUBLISHED_WARMUP = 10_000
"""Steps of the official code's warm-up, which its 100 steps never leave; plans do not allow it, so it is set here."""


@dataclass(frozen=True)
class Method:
    """A way to grow.

    Args:
        name: In results and tables.
        width: The plan's ``operator.width``.
        depth: The plan's ``operator.depth``, where layers grow.
        fit: The plan's ``fit``, where the operator is learned; its learning rate is the track's.
        published_warmup: Whether the fit has the official code's warm-up.
        together: The operator is learned along with the weights for so many steps, at a rate; ``fit`` says what of it.
        ahead: The operator is fitted for the future; ``fit`` says what of it.
    """

    name: str
    width: Mapping[str, Any]
    depth: Mapping[str, Any]
    fit: Mapping[str, Any] | None = None
    published_warmup: bool = False
    together: tuple[int, float] | None = None
    ahead: LookAhead | None = None

    def choice(self, deeper: bool) -> OperatorChoice:
        """As a plan's ``operator``."""
        return OperatorChoice.model_validate({"width": self.width, "depth": self.depth if deeper else None})

    def candidate(self, rate: float) -> CandidateFit | None:
        """As a candidate's ``fit``."""
        return None if self.fit is None else CandidateFit.model_validate({"learning_rate": rate, **self.fit})


def _method(name: str) -> dict[str, Any]:
    return {"method": name}


STACK, IDENTITY, INTERPOLATE = _method("stack"), _method("identity"), _method("interpolate")

EVEN = {"method": "net2net", "choice": "even"}
"""Copies of each unit in turn, which every ratio allows."""

AVERAGE, NOISY_STACK = _method("noisy_average"), _method("noisy_stack")
"""LiGO's start."""


STATIC = (
    Method("even copies + stack", EVEN, STACK),
    Method("even copies + interpolate", EVEN, INTERPOLATE),
    Method("net2net + stack", _method("net2net"), STACK),
    Method("bert2bert AKI + stack", _method("bert2bert"), STACK),
    Method("noisy copies + stack", {**EVEN, "noise": 10.0}, STACK),
    Method("lemon + identity", _method("lemon"), IDENTITY),
    Method("zero_pad + identity", _method("zero_pad"), IDENTITY),
    Method("zero_pad + stack", _method("zero_pad"), STACK),
)

UNFITTED = Method("LiGO, not fitted", AVERAGE, NOISY_STACK)

FITTED = tuple(
    Method(f"LiGO, {steps} steps", AVERAGE, NOISY_STACK, fit={"steps": steps, "warmup_steps": min(10, steps // 4)})
    for steps in (20, 60, 100)
)

PUBLISHED = Method("LiGO, published warm-up", AVERAGE, NOISY_STACK, fit={"steps": 100}, published_warmup=True)

FREE = {"learn": {"width": "two_sided", "structure": "dense", "depth": "tensor"}}
"""Every entry of every map is learned, ``A`` apart from ``B``."""

PADDED = _method("zero_pad")

OURS = (
    Method("zero_pad + stack, 20 steps", PADDED, STACK, fit={"steps": 20, "learning_rate": 1e-3, **FREE}),
    Method("zero_pad + stack, together", PADDED, STACK, fit=FREE, together=(20, 1e-3)),
    Method("zero_pad + stack, look-ahead", PADDED, STACK, fit=FREE, ahead=LookAhead(4, 4, 4e-3, 3e-3)),
)
"""What came of the search for a better one (docs/experiments.md)."""

METHODS = {method.name: method for method in (*STATIC, UNFITTED, *FITTED, PUBLISHED, *OURS)}


def methods_for(deeper: bool) -> tuple[str, ...]:
    """The methods of a track; where no layers grow, one of those that differ in depth alone."""
    if deeper:
        return tuple(METHODS)
    first: dict[str, str] = {}
    for method in METHODS.values():
        first.setdefault(repr(replace(method, name="", depth={})), method.name)
    return tuple(first.values())


SCRATCH, SMALL = "scratch", "small alone"
