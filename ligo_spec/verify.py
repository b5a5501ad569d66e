"""Forward passes of the small and the large model, compared; done by an installed package, found by entry point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ligo_spec.errors import Problem
from ligo_spec.family import Family
from ligo_spec.hub import located
from ligo_spec.job import open_model
from ligo_spec.plugins import load_plugin

TOLERANCE = 1e-3
"""Largest difference, as a share of the outputs' size, that float32 forward passes of equal functions may show."""


@dataclass(frozen=True)
class Verification:
    """What the forward passes showed.

    Args:
        compared: What was compared: ``logits``, or ``hidden states`` of a model without a head.
        difference: Largest absolute difference.
        scale: Largest absolute value of the small model's output.
        agreement: Share of positions at which the largest output is the same one.
        loss_small: Cross entropy of the small model on the inputs, in nats per token; None without a head.
        loss_large: The same for the large model.
        missing: Tensors that the library wanted and the large checkpoint does not have.
        unexpected: Tensors of the large checkpoint that the library does not want.
    """

    compared: str
    difference: float
    scale: float
    agreement: float
    loss_small: float | None
    loss_large: float | None
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the outputs are equal up to float32 rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.scale)

    def problems(self, *, lossless: bool) -> Iterator[Problem]:
        """What is wrong: tensors that do not load, and outputs that differ where the certificate says they do not."""
        for name in self.missing:
            yield Problem(name, "missing from the large checkpoint; Transformers would initialise it at random")
        for name in self.unexpected:
            yield Problem(name, "in the large checkpoint, but Transformers has no place for it")
        if lossless and not self.same:
            yield Problem(
                self.compared,
                f"differ by up to {self.difference:.3g} (of {self.scale:.3g}), though the certificate says lossless",
            )


def verify(
    small: str | Path,
    large: str | Path,
    *,
    data: Sequence[str | Path] = (),
    seed: int = 0,
    family: Family | None = None,
) -> Verification:
    """Compare forward passes of two checkpoints.

    Args:
        small: The small model's directory, or ``hf://owner/name@revision``.
        large: The large model's.
        data: Text files to run on; random tokens where there are none.
        seed: Of the tokens.
        family: Of both models, where it is not a shipped one.

    Raises:
        InputError: A checkpoint is refused, or has no class that is known.
        PlanError: Transformers is not installed, or has no models of this kind.
    """
    run = load_plugin("ligo_spec.verifiers", "torch")
    places = [located(model) for model in (small, large)]
    for path in places:
        open_model(path, family)  # the strict reader first: the library follows paths out of a directory
    found: Verification = run(*places, [Path(path) for path in data], seed, family)
    return found
