"""The report of a growth or a fit: one page of HTML with tables and drawings, which needs nothing beside it.

What is said follows from the inputs alone (no dates, no paths but the plan's), so that a growth done again gives the
same page. Everything that comes from a file is text (`markup`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ligo_spec import figures
from ligo_spec.certify import Broken
from ligo_spec.documents import dump
from ligo_spec.explain import byte_counts, config_changes, parameter_counts, tensor_changes
from ligo_spec.job import Job
from ligo_spec.markup import Markup, element, items, page, paragraph, section, table, verbatim
from ligo_spec.operator import Growth, Operator
from ligo_spec.optimizer import OptimizerSummary
from ligo_spec.origins import Origin
from ligo_spec.outputs import Outputs
from ligo_spec.report_fit import Learned, fit_section
from ligo_spec.report_maps import depth_section, map_section
from ligo_spec.report_spectra import spectra_section
from ligo_spec.spectra import Spectra
from ligo_spec.staging import StagedFile
from ligo_spec.symmetry import alike

MOST_ROWS = 400
"""Rows of a table; a model of hundreds of experts could have more."""

HOW_TO_GET_FIGURES = "Figures are left out: matplotlib is not installed. pip install 'ligo-spec[report]' and run again."


@dataclass(frozen=True, eq=False)
class Story:
    """All that a report is made of.

    Args:
        job: The plan.
        growth: Small and large architecture.
        outputs: What the large checkpoint holds.
        operator: As applied, or as learned.
        config: The large model's ``config.json``.
        broken: Conditions for losslessness that the operator breaks.
        learned: What a fit did, where there was one.
        origins: Where the tensors of the large file come from, folded.
        spectra: Singular values, where weights were written.
        optimizer: What became of the optimizer's state.
        files: What was written so far, by name.
    """

    job: Job
    growth: Growth
    outputs: Outputs
    operator: Operator
    config: Mapping[str, Any]
    broken: Sequence[Broken]
    learned: Learned | None = None
    origins: Sequence[Origin] = ()
    spectra: Spectra | None = None
    optimizer: OptimizerSummary | None = None
    files: Mapping[str, StagedFile] = field(default_factory=dict)


def report(story: Story) -> bytes:
    """The page, in UTF-8."""
    family = story.growth.small.family.name
    before, after = parameter_counts(story.outputs)
    title = f"{family}: {before:,} → {after:,} parameters"
    drawn = figures.available()
    parts = [
        section("What grew", *_sizes(story)),
        section("Is it the same function?", *_verdict(story)),
        fit_section(story.learned, drawn) if story.learned else Markup(),
        map_section(story.operator, story.learned, drawn),
        depth_section(story.operator, story.growth.small.family, story.learned, drawn),
        spectra_section(story.spectra, drawn) if story.spectra else Markup(),
        section("What each tensor became", *_tensors(story)),
        section("What changed in config.json", *_config(story)),
        section("Files, and how to make them again", *_files(story)),
    ]
    lead = Markup() if drawn else paragraph(HOW_TO_GET_FIGURES, class_="bad")
    return page(title, lead, *parts).encode("utf-8")


def _sizes(story: Story) -> Iterator[Markup]:
    small, large = story.growth.small.sizes, story.growth.large.sizes
    grown = [(name, size, large[name]) for name, size in small.items() if size != large[name]]
    kept = [f"{name} {size:,}" for name, size in small.items() if size == large[name]]
    parameters, bytes_ = parameter_counts(story.outputs), byte_counts(story.outputs)
    rows = [*grown, ("parameters", *parameters), ("bytes of tensors", *bytes_)]
    factors = (f"×{new / old:.3g}" if old else "" for _, old, new in rows)
    yield table(
        ["size", "small", "large", "factor"], [(*row, factor) for row, factor in zip(rows, factors, strict=True)]
    )
    if kept:
        yield paragraph("As it was: ", ", ".join(kept), ".", class_="soft")


def _verdict(story: Story) -> Iterator[Markup]:
    if not story.broken:
        yield paragraph("Lossless: the large model computes the small model's function.", class_="good")
        yield paragraph("Read off the operator's maps: every condition of the certificate holds.")
    else:
        yield paragraph(f"Not lossless: {len(story.broken)} conditions are broken.", class_="bad")
        rows = [(item.condition, item.where, item.message, item.error) for item in story.broken[:MOST_ROWS]]
        yield table(["condition", "where", "what is wrong", "off by"], rows)
        yield from _more(len(story.broken))
    yield paragraph(
        "Forward passes are compared after this page is written: ",
        element("code", "ligo grow"),
        " prints what came out, and ",
        element("code", "ligo verify SMALL LARGE"),
        " says it again at any time.",
        class_="soft",
    )
    same = alike(story.growth, story.operator, story.outputs.small.binding.templates())
    if same:
        yield paragraph("Copies that training cannot part, as their gradients are equal:")
        yield items(same[:MOST_ROWS])
    if story.optimizer is not None:
        yield paragraph(
            f"The optimizer's state grew with the weights: {story.optimizer.rule}; "
            f"{story.optimizer.new:.1%} of its entries start anew."
        )


def _tensors(story: Story) -> Iterator[Markup]:
    changes = tensor_changes(story.outputs, story.growth, story.operator)
    rows = [(element("code", c.name), _shape(c.small), _shape(c.large), c.count, c.how) for c in changes]
    yield table(["tensor", "small", "large", "how many", "how"], rows[:MOST_ROWS])
    yield from _more(len(rows))
    binding = story.outputs.small.binding
    if binding.dropped:
        yield paragraph("Not written:")
        yield items([f"{name} ({why})" for name, why in list(binding.dropped.items())[:MOST_ROWS]])
    if binding.copied:
        yield paragraph("Copied as they are: ", ", ".join(binding.copied[:MOST_ROWS]), ".")
    if story.outputs.small.untied:
        yield paragraph("The small file stores different values for tied tensors; they are kept apart.")
    if story.origins:
        yield from _origins(story.origins)


def _origins(found: Sequence[Origin]) -> Iterator[Markup]:
    kinds = Counter(origin.kind for origin in found)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in ("copied", "mixed", "new") if kinds[kind])
    yield element("h3", "Where they come from, by the names of the file")
    yield paragraph(
        f"Of {len(found)} entries: {counted}. Copied: every old entry is one small entry, times the factor. Mixed: "
        "some are sums of several. New: there is no old entry."
    )
    rows = [(element("code", o.name), o.kind, _factor(o), _new(o), "yes" if o.silent else "") for o in found]
    yield table(["tensor", "kind", "factor", "new rows, by dimension", "adds nothing yet"], rows[:MOST_ROWS])
    yield from _more(len(rows))


def _factor(origin: Origin) -> str:
    return "" if origin.factor is None else f"{origin.factor:.6g}"


def _new(origin: Origin) -> str:
    """``0: 12-23``: the ranges of new rows by dimension, with their last row."""
    parts = []
    for axis, ranges in origin.new.items():
        shown = ", ".join(f"{start}-{stop - 1}" for start, stop in ranges[:8])
        parts.append(f"{axis}: {shown}" + (f" and {len(ranges) - 8} more ranges" if len(ranges) > 8 else ""))
    return "; ".join(parts)


def _config(story: Story) -> Iterator[Markup]:
    changes = config_changes(story.outputs.small, story.config)
    if not changes:
        yield paragraph("Nothing.")
        return
    rows = [(element("code", key), _json(old), _json(new)) for key, (old, new) in changes.items()]
    yield table(["key", "small", "large"], rows)


def _files(story: Story) -> Iterator[Markup]:
    if story.files:
        rows = [(element("code", name), file.size, element("code", file.sha256)) for name, file in story.files.items()]
        yield table(["file", "bytes", "sha256"], rows[:MOST_ROWS])
        yield from _more(len(rows))
    yield paragraph(
        "The same source and this plan, in the same versions and with as many threads, give the same bytes. "
        f"The resolved plan (sha256 {story.job.sha256}):"
    )
    yield verbatim(dump(story.job.plan))


def _more(count: int) -> Iterator[Markup]:
    if count > MOST_ROWS:
        yield paragraph(f"and {count - MOST_ROWS:,} more", class_="soft")


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(f"{side:,}" for side in shape) or "scalar"


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
