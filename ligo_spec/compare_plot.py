"""The plot of a comparison, by matplotlib where it is installed: losses over FLOPs, and after growth against after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.errors import printable
from ligo_spec.figures import available
from ligo_spec.ranking import Row

_STYLE = {
    "font.size": 8,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that text has one size everywhere
    "svg.hashsalt": "ligo",  # the same numbers give the same bytes
    "text.parse_math": False,  # names are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.dpi": 150,
}

_FORMATS = {"png": {"Software": None}, "svg": {"Date": None}}
"""What is written, and which metadata is left out: what would differ from run to run or from version to version."""

_SMOOTHED = 20
"""A curve is the mean over so many parts of it: batches differ more than starts do."""


def plots(rows: Sequence[Row], references: Sequence[Row], name: str) -> dict[str, bytes]:
    """The plot as files, by their names; none where matplotlib is not installed."""
    if not available():
        return {}
    import matplotlib.style
    from matplotlib.figure import Figure

    found = {}
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, [row for row in (*rows, *references) if row.trials])
        _ranks(right, [row for row in (*rows, *references) if row.reported is not None and row.start is not None])
        for kind, metadata in _FORMATS.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            found[f"{name}.{kind}"] = buffer.getvalue()
    return found


def _curves(axes: Any, rows: Sequence[Row]) -> None:
    """Losses of the first seed at the best rate, over FLOPs; a fit moves a curve to the right."""
    for number, row in enumerate(rows):
        if not row.best or not row.best[0].curve:
            continue
        each = (row.flops - row.fit_flops) / row.steps
        steps, losses = smoothed(row.best[0].curve)
        axes.plot(row.fit_flops + each * steps, losses, label=_label(row), color=_colour(row, number), lw=1.1)
    axes.set(xlabel="FLOPs, fit counted", ylabel="training loss (nats)")
    if axes.lines:
        axes.legend()


def _ranks(axes: Any, rows: Sequence[Row]) -> None:
    """Loss after growth (open) and after the budget (filled; a cross: after a third), a line a row, best on top."""
    for number, row in enumerate(rows):
        colour, mark = _colour(row, number), "x" if row.status == "dropped" else "o"
        axes.plot([row.start], [number], "o", mfc="none", color=colour, ms=5)
        axes.errorbar([row.reported], [number], xerr=[row.error or 0.0], fmt=mark, color=colour, ms=5)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.invert_yaxis()
    dropped = ", after a third of it (cross)" if any(row.status == "dropped" for row in rows) else ""
    axes.set(xlabel=f"held-out loss: after growth (open), after the budget (filled){dropped}")


def _label(row: Row) -> str:
    return " " + printable(row.name)  # names that begin with an underscore are in no legend


def _colour(row: Row, number: int) -> str:
    return "0.4" if row.status == "reference" else f"C{number % 10}"


def smoothed(curve: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means over parts of a curve, and the steps in their middle."""
    parts = np.array_split(np.arange(len(curve)), min(_SMOOTHED, len(curve)))
    values = np.asarray(curve)
    return np.array([part.mean() + 1 for part in parts]), np.array([values[part].mean() for part in parts])
