"""Tables and progress bars for people; ``as_data`` for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ligo_spec.certify import Broken
from ligo_spec.convert import Converted
from ligo_spec.diff import Diff
from ligo_spec.diff_sides import Stored
from ligo_spec.diff_table import folded
from ligo_spec.difference import Difference
from ligo_spec.errors import printable
from ligo_spec.events import Events
from ligo_spec.explain import Explanation
from ligo_spec.family_check import FamilyCheck
from ligo_spec.family_list import FamilyRow, columns
from ligo_spec.fitting import FitResult
from ligo_spec.grow import Grown
from ligo_spec.inspection import Inspection
from ligo_spec.operator import Operator
from ligo_spec.optimizer import OptimizerSummary
from ligo_spec.verify import Verification

_NUMERIC = frozenset(
    (
        *("small", "large", "×", "times", "learnable", "size", "shape", "max abs", "max rel", "entries", "cosine"),
        *("rank", "learning rate", "after growth", "chosen", "reported", "steps", "FLOPs", "difference"),
    )
)
_UNITS = ("B", "kB", "MB", "GB", "TB")


def explanation(found: Explanation) -> None:
    """Print a dry run."""
    console = console_for()
    console.print(found.plan.rstrip(), markup=False, highlight=False)
    sizes = table_of("size", "small", "large", title=f"family {found.family}")
    for name, (small, large) in found.sizes.items():
        sizes.add_row(name, str(small), str(large) if small != large else "=")
    console.print(sizes)
    if found.maps:
        maps = table_of("map", "shape", "times", "structure", "learnable", "used by", title="operator")
        for item in found.maps:
            shape = "×".join(map(str, item.shape))
            row = (shape, str(item.count), item.structure, f"{item.parameters:,}", ", ".join(item.used_by))
            maps.add_row(item.name, *row)
        console.print(maps)
    for sources in found.depth:
        console.print(f"layers come from: {sources}", highlight=False)
    tensors = table_of("tensor", "small", "large", "×", "how", title="tensors")
    for change in found.tensors:
        tensors.add_row(change.name, _shape(change.small), _shape(change.large), str(change.count), change.how)
    console.print(tensors)
    for key, (old, new) in found.config.items():
        console.print(f"config.json {key}: {printable(old)} → {printable(new)}", highlight=False)
    for name, reason in found.dropped.items():
        console.print(f"not written: {printable(name)} ({reason})", markup=False, highlight=False)
    for name in found.copied:
        console.print(f"copied as it is: {printable(name)}", markup=False, highlight=False)
    if found.untied:
        console.print("the file stores different values for tied tensors: they are kept apart", highlight=False)
    before, after = found.parameters
    console.print(
        f"parameters {before:,} → {after:,} (×{after / max(before, 1):.2f}), "
        f"{_bytes(found.bytes[0])} → {_bytes(found.bytes[1])}; a fit would learn {found.learned:,}",
        highlight=False,
    )
    if found.optimizer is not None:
        _optimizer(console, found.optimizer)
    _certificate(console, found.broken)
    if found.alike:
        console.print("copies that training cannot part, as their gradients are equal:", highlight=False)
        for units in found.alike:
            console.print(f"  {units}", markup=False, highlight=False)
        console.print("  give the width method noise or an uneven split, or take one that does not copy")


def inspection(found: Inspection) -> None:
    """Print what a checkpoint is."""
    console = console_for()
    console.print(
        f"{printable(found.path)}: family {found.family}, {found.parameters:,} parameters, {_bytes(found.bytes)}, "
        f"{', '.join(found.dtypes)}" + (", tied" if found.ties else ""),
        markup=False,
        highlight=False,
    )
    console.print(", ".join(f"{name} {size}" for name, size in found.sizes.items()), highlight=False)
    table = table_of("tensor", "in the file", "shape", "×", "dtype")
    for row in found.tensors:
        table.add_row(row.name, row.file_name, _shape(row.shape), str(row.count), row.dtype)
    console.print(table)
    for name, reason in found.dropped.items():
        console.print(f"no weight: {printable(name)} ({reason})", markup=False, highlight=False)


def spaces(found: Inspection) -> None:
    """Print what touches which space."""
    table = table_of("space", "axes", "size", "written by", "read by", "gains")
    for row in found.spaces:
        size = "as in the file" if row.size is None else str(row.size)
        touched = ("\n".join(row.written_by), "\n".join(row.read_by), "\n".join(row.gains))
        table.add_row(row.name, " × ".join(row.axes), size, *touched)
    console_for().print(table)


def converted(found: Converted) -> None:
    """Print what was written."""
    console = console_for()
    names = ", ".join(found.files[:3]) + (f" and {len(found.files) - 3} more" if len(found.files) > 3 else "")
    console.print(
        f"{printable(found.path)}: {found.source_format} → {found.format}, {found.tensors:,} tensors, "
        f"{_bytes(found.bytes)} in {names}",
        markup=False,
        highlight=False,
    )
    for name, reason in found.dropped.items():
        console.print(f"not written: {printable(name)} ({reason})", markup=False, highlight=False)
    for name in found.undeclared:
        console.print(f"not declared, written as it is: {printable(name)}", markup=False, highlight=False)


def families(found: tuple[FamilyRow, ...]) -> None:
    """Print what is shipped."""
    shown = columns(found)
    table = table_of("family", "can grow", *shown, title="lossless in: (×k: by whole factors only)")
    for number, row in enumerate(found):
        table.add_row(row.name, ", ".join(row.grows), *(column[number] for column in shown.values()))
    console_for().print(table)


def family_check(found: FamilyCheck) -> None:
    """Print what a family says of a checkpoint, tensor by tensor."""
    console = console_for()
    console.print(f"family {found.family}: " + ", ".join(f"{name} {size}" for name, size in found.sizes.items()))
    table = table_of("in the file", "shape", "is", "verdict")
    for item in found.tensors:
        table.add_row(printable(item.name), _shape(item.shape), ", ".join(item.holds), item.verdict)
    console.print(table)
    for text in found.missing:
        console.print(text)
    if not found.problems:
        console.print(f"all {len(found.tensors)} tensors are declared and come back bit for bit")


def difference(found: Diff) -> None:
    """Print what differs between two checkpoints, layers that fare alike in one line."""
    console = console_for()
    for note in found.notes:
        console.print(note, soft_wrap=True)
    table = table_of("tensor", "×", "verdict", "A", "B", "max abs", "max rel", "entries", "cosine")
    for row in folded(found):
        places = [_stored(stored, row.name) for stored in (row.a, row.b)]
        places[1] = "=" if row.verdict == "same" and row.a == row.b else places[1]
        table.add_row(printable(row.name), str(row.count), row.verdict, *places, *_numbers(row.worst))
    console.print(table)
    for item in found.config:
        texts = ["absent" if text is None else printable(text) for text in (item.a, item.b)]
        console.print(f"config.json {printable(item.key)}: {texts[0]} → {texts[1]}", soft_wrap=True)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    console.print(f"{counts or 'no tensors'}; keys of config.json that differ: {len(found.config)}")


def fit_result(found: FitResult) -> None:
    """Print what a fit gave."""
    console_for().print(
        f"held-out loss {found.heldout_before:.4f} → {found.heldout_after:.4f} nats {found.unit} in "
        f"{len(found.losses)} steps, {found.parameters:,} numbers learned",
        highlight=False,
    )


def grown(found: Grown) -> None:
    """Print what a growth gave."""
    console = console_for()
    if found.fit is not None:
        fit_result(found.fit)
    _certificate(console, found.broken)
    if found.optimizer is not None:
        _optimizer(console, found.optimizer)
    if found.reference_error is not None:
        console.print(f"reference: within {found.reference_error:.3f} of the rounding bound", highlight=False)
    if found.verification is not None:
        verification(found.verification)
    console.print(f"written: {printable(found.path)}", markup=False, highlight=False, soft_wrap=True)


def verification(found: Verification) -> None:
    """Print what the forward passes showed."""
    loss = ""
    if found.loss_small is not None and found.loss_large is not None:
        loss = f"; loss {found.loss_small:.4f} → {found.loss_large:.4f}"
    console_for().print(
        f"forward: {found.compared} differ by at most {found.difference:.3g} (of {found.scale:.3g}), "
        f"argmax agrees at {found.agreement:.1%}{loss}; "
        f"{len(found.missing)} tensors missing, {len(found.unexpected)} unexpected",
        highlight=False,
    )


@contextmanager
def progress(quiet: bool) -> Iterator[Events]:
    """Bars for the fit and for the writing, on the error stream; nothing where it is no terminal's."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bars:
        yield _events(bars)


def as_data(found: Any) -> Any:
    """Plain data for JSON; operators are left out (they have a file of their own)."""
    if is_dataclass(found) and not isinstance(found, type):
        kept = {f.name: getattr(found, f.name) for f in fields(found)}
        extra = {name: getattr(found, name) for name in ("lossless", "same", "counts") if hasattr(found, name)}
        return {k: as_data(v) for k, v in {**kept, **extra}.items() if not isinstance(v, Operator)}
    if isinstance(found, Mapping):
        return {str(key): as_data(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [as_data(value) for value in found]
    if isinstance(found, np.generic):
        return found.item()
    return str(found) if isinstance(found, Path) else found


def _events(bars: Progress) -> Events:
    tasks: dict[str, TaskID] = {}

    def task(name: str, total: float | None) -> TaskID:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, note="")
        return tasks[name]

    def fit(record: Mapping[str, Any]) -> None:
        if record.get("event") == "step":
            note = f"loss {record['loss']:.4f}"
            bars.update(task("fit", record["steps"]), completed=record["step"], note=note)

    def written(done: int, total: int) -> None:
        bars.update(task("write", total), completed=done, note=f"{_bytes(done)} of {_bytes(total)}")

    def race(record: Mapping[str, Any]) -> None:
        what = "fit" if record["event"] == "fit" else f"rate {record['learning_rate']:g}"
        note = f"{printable(record['candidate'])}, {what}, loss {record['loss']:.4f}"
        total = record["total"]
        bars.update(task("compare", total), completed=record["done"], total=total, note=note)

    return Events(fit, written, race)


def _certificate(console: Console, broken: tuple[Broken, ...]) -> None:
    if not broken:
        console.print("certificate: lossless, the large model is the small model's function", highlight=False)
        return
    console.print(f"certificate: not lossless, {len(broken)} conditions are broken", highlight=False)
    for item in broken:
        console.print(f"  {item}", markup=False, highlight=False)


def _optimizer(console: Console, found: OptimizerSummary) -> None:
    small, large = found.parameters
    console.print(f"optimizer: {found.rule}", soft_wrap=True)
    console.print(
        f"optimizer: {small} → {large} parameters with a state in {found.groups} groups, step {found.step}, "
        f"{_bytes(found.bytes)}; {found.new:.1%} of the entries start anew"
        + (f", {found.anew} parameters at step 0" if found.anew else "")
    )


def console_for() -> Console:
    """Where tables go: no text of a file is markup there, and a pipe is wide."""
    # a pipe or file has no width: never cut what a program may read; and no text of a file is markup or an emoji
    width = None if Console().is_terminal else 200
    return Console(width=width, soft_wrap=False, markup=False, emoji=False, highlight=False)


def table_of(*columns: str, title: str | None = None) -> Table:
    """An empty table, its columns of numbers to the right."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = column in _NUMERIC
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _stored(stored: Stored | None, name: str) -> str:
    """Dtype and shape, and the name in the file where that is another."""
    if stored is None:
        return ""
    text = f"{stored.dtype} {_shape(stored.shape)}"
    return text if stored.name == name else f"{printable(stored.name)} {text}"


def _numbers(found: Difference | None) -> tuple[str, ...]:
    if found is None:
        return ()
    share = f"{found.share:.2%}" + (f", {found.nonfinite} not finite" if found.nonfinite else "")
    largest = str(found.max_abs) if isinstance(found.max_abs, int) else f"{found.max_abs:.3g}"
    relative, cosine = (
        None if x is None else f"{x:{form}}" for x, form in ((found.max_rel, ".3g"), (found.cosine, ".6f"))
    )
    return largest, relative or "", share, cosine or ""


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _bytes(count: float) -> str:
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
