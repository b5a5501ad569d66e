"""The table of a comparison, for people."""

from __future__ import annotations

from rich.console import Console

from ligo_spec.contest import Comparison
from ligo_spec.display import console_for, table_of
from ligo_spec.errors import printable
from ligo_spec.ranking import Row

_COLUMNS = (
    "rank",
    "start",
    "fit",
    "learning rate",
    "after growth",
    "chosen",
    "reported",
    "steps",
    "FLOPs",
    "difference",
)


def comparison(found: Comparison) -> None:
    """Print the table of a comparison, and what a reader of it should know."""
    console = console_for()
    step, unit = (
        (f"{found.batch_size:,} images", "an image")
        if found.tokens is None
        else (f"{found.tokens:,} tokens", "a token")
    )
    title = f"held-out loss, nats {unit}; {found.budget_steps} steps of {step}, fits counted"
    table = table_of(*_COLUMNS, title=title)
    for row in (*found.rows, *found.references):
        table.add_row(*_cells(row))
    console.print(table)
    console.print("chosen: what learning rate and order come from; reported: the same on other text", soft_wrap=True)
    for row in found.rows:
        if row.reason is not None:
            console.print(f"{printable(row.name)}: {printable(row.reason, 300)}", soft_wrap=True)
    for name, reason in found.missing.items():
        console.print(f"not to be had: {printable(name)}: {printable(reason, 300)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    _written(console, found)


def _written(console: Console, found: Comparison) -> None:
    console.print(f"best: {printable(found.winner)}", soft_wrap=True)
    if found.path is None:
        return
    console.print(f"written: {printable(found.path)}: {', '.join(found.files)}", soft_wrap=True)
    console.print("winner.yaml has the paths of the plan: put it beside the plan, then ligo grow", soft_wrap=True)
    if not any(name.endswith(".svg") for name in found.files):
        console.print("no plot: matplotlib is not installed", soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    place = str(row.rank) if row.rank is not None else {"reference": ""}.get(row.status, row.status)
    fit = f"{row.fit['steps']} steps" if row.fit else ""
    rate = "" if row.learning_rate is None else f"{row.learning_rate:g}"
    difference = "" if row.difference is None or row.rank == 1 else f"{row.difference:+.4f}"
    if row.spread is not None and row.rank != 1:
        difference += f" ± {row.spread:.4f}"
    reported = _loss(row.reported) + ("" if row.error is None else f" ± {row.error:.4f}")
    spent = f"{row.flops:.3g}" if row.flops else ""
    steps = str(row.steps) if row.steps else ""
    losses = (_loss(row.start), _loss(row.chosen), reported)
    return (place, printable(row.name), fit, rate, *losses, steps, spent, difference)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
