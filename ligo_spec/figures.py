"""Drawings for the report, as SVG that stands inside a page, by matplotlib where it is installed.

Text and axes take the colour of the page (`currentColor`) and images are transparent where a value is 0, so that one
drawing serves light and dark. No text of a file gets into a drawing; names belong into captions. The same numbers
give the same bytes: no dates, no random ids, none of the user's own settings of matplotlib.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Matrix, Select
from ligo_spec.markup import Markup

BLUE, ORANGE, GREY = "#3b82f6", "#e8590c", "#868e96"

_INK = "#010203"
"""Drawn in this colour, which nothing else has, is what takes the colour of the page."""

_STYLE = {
    "font.size": 9,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that text has one size everywhere
    "svg.fonttype": "none",
    "svg.hashsalt": "ligo",
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.titlesize": 9,
    "savefig.transparent": True,
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], _INK),
}

_SIZE = (4.0, 2.9)
_AXES = (0.14, 0.17, 0.64, 0.77)
_BAR = (0.81, 0.17, 0.03, 0.77)
_GAP = 0.07
_MANY = 200
"""Points of an index plot from which it is an image, not a shape each."""


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: name in the legend, ``(n,)`` places and values, colour, style (matplotlib's), width in pt."""

    label: str
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    colour: str = BLUE
    style: str = "-"
    width: float = 1.4


def available() -> bool:
    """Whether matplotlib is installed; importing it waits until here."""
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return False
    return True


def plot(lines: Sequence[Line], x: str, y: str, *, log: bool = False) -> Markup:
    """Curves over one another; ``x`` and ``y`` are the axes' names."""
    with _figure() as figure:
        axes = figure.add_axes((0.17, 0.17, 0.8, 0.77))
        for line in lines:
            axes.plot(
                line.x, line.y, line.style, color=line.colour, label=line.label, markersize=5, linewidth=line.width
            )
        axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
        if log:  # plain numbers, not formulas
            axes.yaxis.set_major_formatter(importlib.import_module("matplotlib.ticker").LogFormatter())
            axes.yaxis.set_minor_formatter(importlib.import_module("matplotlib.ticker").LogFormatter())
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        if len(lines) > 1:
            axes.legend()
        return _svg(figure)


def heat_map(panels: Mapping[str, Matrix], limit: float, size: tuple[int, int], x: str, y: str) -> Markup:
    """Matrices beside one another as images, from ``-limit`` (blue) by 0 (nothing) to ``limit`` (orange).

    Args:
        panels: One entry a pixel, by what stands above.
        limit: The colour scale's end.
        size: Rows and columns that each image stands for, shown on the axes.
        x: Name of the columns' axis.
        y: Name of the rows'.
    """
    rows, columns = size
    left, bottom, width, height = _AXES
    scale = {"cmap": _diverging(), "vmin": -limit or -1, "vmax": limit or 1}
    with _figure() as figure:
        for number, (title, values) in enumerate(panels.items()):
            wide = (width + _GAP) / len(panels)
            axes = figure.add_axes((left + number * wide, bottom, wide - _GAP, height - (0.05 if title else 0)))
            image = axes.imshow(values, aspect="auto", interpolation="none", extent=(0, columns, rows, 0), **scale)
            axes.set(xlabel=x, title=title, ylabel=y if number == 0 else None)
            axes.tick_params(labelleft=number == 0)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_major_locator().set_params(integer=True, nbins=max(2, 6 // len(panels)))
            axes.spines[:].set_visible(True)
        figure.colorbar(image, cax=figure.add_axes(_BAR)).outline.set_linewidth(0.6)
        return _svg(figure)


def index_plot(select: Select) -> Markup:
    """Where each large unit comes from: a point each, coloured by weight where weights differ; zero rows below."""
    live = np.flatnonzero(select.weights)
    weights = select.weights[live]
    dead = np.flatnonzero(select.weights == 0)
    with _figure() as figure:
        axes = figure.add_axes(_AXES)
        area = float(np.clip(4000 / max(select.index.size, 1), 3, 25))
        image = {"s": area, "linewidths": 0, "rasterized": select.index.size > _MANY}
        if np.unique(weights).size > 1:
            limit = float(np.abs(weights).max())
            points = axes.scatter(
                live, select.index[live], c=weights, cmap=_diverging(), vmin=-limit, vmax=limit, **image
            )
            figure.colorbar(points, cax=figure.add_axes(_BAR), label="weight").outline.set_linewidth(0.6)
        else:
            axes.scatter(live, select.index[live], color=BLUE, **image)
        if dead.size:
            axes.scatter(dead, np.full(dead.size, -0.04 * select.small), color=GREY, **image)
        axes.set(xlabel="large unit", ylabel="small unit it takes")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True, nbins=6)
        return _svg(figure)


@contextmanager
def _figure() -> Iterator[Any]:
    """A new figure under our settings alone; those of the process come back afterwards."""
    matplotlib: Any = importlib.import_module("matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield importlib.import_module("matplotlib.figure").Figure(figsize=_SIZE)


def _diverging() -> Any:
    colours: Any = importlib.import_module("matplotlib.colors")
    ends = [(*colours.to_rgb(BLUE), 1.0), (*colours.to_rgb(BLUE), 0.0), (*colours.to_rgb(ORANGE), 0.0)]
    stops = [0.0, 0.5, 0.5, 1.0]
    return colours.LinearSegmentedColormap.from_list(
        "blue_none_orange", list(zip(stops, [*ends, (*colours.to_rgb(ORANGE), 1.0)], strict=True))
    )


def _svg(figure: Any) -> Markup:
    """The figure as an element: without a prologue, metadata, a style of its own, and ids that nothing refers to."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    figure.savefig(buffer, format="svg", dpi=150, metadata=nothing)
    raw = buffer.getvalue()
    body = raw[raw.index("<svg") :].rstrip()
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    for side in ("width", "height"):
        body = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", body, count=1)
    return Markup(_own_ids(body).replace(_INK, "currentColor"))


def _own_ids(body: str) -> str:
    """Only ids that something refers to, each with the drawing's checksum: a page has every id once."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    mark = hashlib.sha256(body.encode("utf-8")).hexdigest()[:8]

    def renamed(found: re.Match[str]) -> str:
        return f' id="{found[1]}-{mark}"' if found[1] in used else ""

    body = re.sub(r'(url\(#|href="#)([^)"]+)', rf"\1\2-{mark}", body)
    return re.sub(r' id="([^"]*)"', renamed, body)
