"""The part of a report on singular values."""

from __future__ import annotations

import numpy as np

from ligo_spec import figures
from ligo_spec.figures import BLUE, GREY, ORANGE, Line
from ligo_spec.markup import Markup, element, figure, gallery, items, joined, paragraph, section, table
from ligo_spec.spectra import FLOOR, Spectra, Spectrum

EXPLAINED = (
    "Of the first and the last weight of each kind, in falling order, on a logarithmic scale. The rank counts values "
    f"above {FLOOR:g} of the largest. A weight of copies has the rank of the small one; noise and learning fill it."
)


def spectra_section(spectra: Spectra, drawn: bool) -> Markup:
    """Singular values of grown weights beside those of the small ones."""
    rows: list[tuple[object, ...]] = []
    shown = []
    for template, large, small in spectra.pairs():
        rows += [_row(spectrum, "small") for spectrum in small] + [_row(spectrum, "large") for spectrum in large]
        lines = [*_lines(small, "small", GREY), *_lines(large, "large", BLUE)]
        if drawn and lines:
            shown.append(figure(figures.plot(lines, "number", "singular value", log=True), element("code", template)))
    skipped = [joined((element("code", name), ": ", why)) for name, why in spectra.skipped.items()]
    if not rows and not skipped:
        return Markup()
    left_out = [paragraph("Left out:"), items(skipped)] if skipped else []
    ranks = table(["weight", "model", "shape", "largest", "smallest", "rank"], rows) if rows else Markup()
    return section("Singular values", paragraph(EXPLAINED), gallery(shown), ranks, *left_out)


def _row(spectrum: Spectrum, model: str) -> tuple[object, ...]:
    shape = " × ".join(f"{side:,}" for side in spectrum.shape)
    ends = (float(spectrum.values[0]), float(spectrum.values[-1])) if spectrum.values.size else (0.0, 0.0)
    rank = f"{spectrum.values.size:,} of {min(spectrum.shape):,}"
    return element("code", spectrum.name), model, shape, *ends, rank


def _lines(spectra: list[Spectrum], model: str, colour: str) -> list[Line]:
    """Small ones grey and broad, large ones thin over them; the last one dashed. A weight of zeros has no curve."""
    width = 1.2 if model == "large" else 3.0
    styles = [(colour, "-", width), (ORANGE if model == "large" else colour, "--", width)]
    places = ["first", "last"] if len(spectra) > 1 else [""]
    return [
        Line(f"{place} {model}".strip(), np.arange(each.values.size) + 1, each.values, *style)
        for each, style, place in zip(spectra, styles, places, strict=False)
        if each.values.size
    ]
