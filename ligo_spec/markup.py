"""Elements of a page of HTML. All text is escaped, whatever it is, unless an element made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TypeGuard

from ligo_spec.errors import printable

LONGEST = 400
"""Characters of one text; a name of a file may be longer, and nobody reads it."""

SHORT = 24
"""Characters of a cell that stay in one line."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing runs and nothing is loaded, whatever a file has made of the page."""


class Markup(str):
    """HTML that is made by `element` and its like; every other string is text."""

    __slots__ = ()


def text(value: object, limit: int = LONGEST) -> Markup:
    """Any value as text: control characters shown by their codes, markup escaped."""
    return value if isinstance(value, Markup) else Markup(escape(printable(value, limit)))


def element(tag: str, *children: object, **attributes: str) -> Markup:
    """An element; ``class_`` is its class, other attributes are as they are called (``aria_label`` with a hyphen)."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items() if value
    )
    return Markup(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(children: Iterable[object]) -> Markup:
    """One after another."""
    return Markup("".join(text(child) for child in children))


def paragraph(*children: object, class_: str = "") -> Markup:
    """A paragraph."""
    return element("p", *children, class_=class_)


def items(rows: Iterable[object]) -> Markup:
    """A list."""
    return element("ul", *(element("li", row) for row in rows))


def verbatim(content: str) -> Markup:
    """A text of several lines, as it is."""
    return element("pre", Markup("\n".join(text(line, 10_000) for line in content.rstrip().split("\n"))))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table, which scrolls by itself where the page is narrow; numbers stand to the right."""
    rows = list(rows)
    marks = ["number" if rows and _is_number(rows[0][column]) else "" for column in range(len(head))]
    top = element("tr", *(element("th", c, scope="col", class_=m) for c, m in zip(head, marks, strict=True)))
    body = (element("tr", *(_cell(cell) for cell in row)) for row in rows)
    filled = element("table", element("thead", top), element("tbody", *body))
    return element("div", filled, class_="wide", tabindex="0")


def _is_number(cell: object) -> TypeGuard[int | float]:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell(cell: object) -> Markup:
    if _is_number(cell):
        return element("td", f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}", class_="number")
    short = not isinstance(cell, Markup) and len(str(cell)) <= SHORT
    return element("td", cell, class_="short" if short else "")


def figure(drawing: Markup, *caption: object) -> Markup:
    """A drawing with what it shows."""
    return element("figure", drawing, element("figcaption", *caption))


def gallery(figures: Iterable[Markup]) -> Markup:
    """Figures beside one another, as many as there is room for."""
    return element("div", *figures, class_="gallery")


def section(title: str, *children: object) -> Markup:
    """A part of the page under a heading."""
    return element("section", element("h2", title), *children)


def page(title: str, *children: object) -> str:
    """A whole page, which needs nothing beside it."""
    style = files("ligo_spec").joinpath("report.css").read_text("utf-8")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    )
    top = element("head", Markup(head), element("title", title), Markup(f"<style>\n{style}</style>"))
    body = element("body", element("main", element("h1", title), *children))
    return f'<!DOCTYPE html>\n<html lang="en">{top}{body}</html>\n'
