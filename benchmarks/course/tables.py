"""Tables in Markdown, as docs/savings.md has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from course.lag import choices
from course.methods import METHODS, SCRATCH, SMALL
from course.savings import Record, Row, final_records, paired, rows_of, tuning
from course.tracks import Track

CONTROL = "LiGO, not fitted"


def tables(track: Track, records: Sequence[Record]) -> str:
    """Everything that a track has shown."""
    rows = rows_of(track, records)
    parts = [_head(track, records), "\n".join(main_table(rows)), "\n".join(_paired(track, records))]
    parts += ["\n".join(lines) for lines in (_decayed(track, records), _chosen(track, records), _tuned(records))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _head(track: Track, records: Sequence[Record]) -> str:
    large = next(record for record in records if "step_flops" in record)
    cost = next(record["cost"] for record in records if record["method"] == SMALL)
    flops, counted = large["step_flops"], large["torch_flops"]
    return (
        f"### {track.title}\n\n"
        f"Budget {track.total} steps of the large model, {track.total * flops:.2e} FLOPs (a step by formula over "
        f"torch's counter: {flops / counted:.3f}); a small step costs {cost:.3f} of a large one; growth after "
        f"{track.source:.0%} of the budget."
    )


def main_table(rows: Sequence[Row]) -> Iterator[str]:
    """A line a start, as they come."""
    accurate = any(row.accuracies for row in rows)
    yield (
        "| start | rate | final loss, mean ± sd | "
        + "accuracy | " * accurate
        + "whole run saved | source sunk | of the same seed's | curve crosses at | fit |"
    )
    yield "|---|---|---|" + "---|" * accurate + "---|---|---|---|---|"
    for row in rows:
        name = row.method + (", decayed source" if row.decayed else "")
        cells = [name, f"{row.rate:g}", f"{row.loss:.4f}{spread(row.losses)}"]
        cells += [f"{mean(row.accuracies):.1%}"] if row.accuracies else ["-"] * accurate
        cells += saved_cells(row)
        cells += ["" if row.crossed is None else f"{row.crossed:.0%}", f"{row.fit:.0f}" if row.fit else ""]
        yield f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """How far seeds are apart, and how many there are, after their mean."""
    if not all(map(math.isfinite, values)):
        return f" ({sum(map(math.isinf, values))} of {len(values)} diverged)"
    return f" ± {stdev(values):.4f} ({len(values)} seeds)" if len(values) > 1 else " (one seed)"


def saved_cells(row: Row) -> list[str]:
    """What a start saves: of the whole run, with the source sunk, and of the same seed's."""
    return [_saved(row, row.saved, row.saved), _saved(row, row.sunk, row.saved), _saved(row, row.of_own, row.of_own)]


def _saved(row: Row, shares: Sequence[float], counted: Sequence[float]) -> str:
    """Shares of the seeds that save; ``counted`` are the same with the source."""
    if row.method == SCRATCH:
        return ""
    if not shares:
        return "none"
    least = "at least " * any(share >= row.most for share in counted)
    short = "" if len(shares) == len(row.losses) else f" ({len(shares)} of {len(row.losses)} seeds)"
    return f"{least}{mean(shares):.0%}{f' ± {stdev(shares):.0%}' if len(shares) > 1 else ''}{short}"


def _paired(track: Track, records: Sequence[Record]) -> Iterator[str]:
    control = final_records(records, CONTROL)
    yield f"Final loss less that of `{CONTROL}`, seed by seed:"
    yield ""
    for method in (SCRATCH, SMALL, *METHODS):
        gaps = paired(track, final_records(records, method), control)
        if gaps and method != CONTROL:
            yield f"- {method}: {_signed(gaps)}"


def _decayed(track: Track, records: Sequence[Record]) -> Iterator[str]:
    """What growing a decayed source is worth, against growing one in mid-training by the same start."""
    found = {}
    for method in METHODS:
        gaps = paired(track, final_records(records, method, decayed=True), final_records(records, method))
        if gaps:
            found[method] = gaps
    if not found:
        return
    yield "Final loss from a decayed source less that from one in mid-training, seed by seed:"
    yield ""
    for method, gaps in found.items():
        yield f"- {method}: {_signed(gaps)}"
    every = [gap for gaps in found.values() for gap in gaps.values()]
    yield f"- in the mean {mean(every):+.4f}, from {min(every):+.4f} to {max(every):+.4f}"


def _signed(gaps: Mapping[int, float]) -> str:
    return ", ".join(f"{gap:+.4f}" for gap in gaps.values())


def _chosen(track: Track, records: Sequence[Record]) -> Iterator[str]:
    yield "| seed | share of the budget | lowest loss then | its final loss above the best | Kendall's τ |"
    yield "|---|---|---|---|---|"
    for one in choices(track, records):
        share = "right after growth" if one.share is None else f"{one.share:.0%}"
        yield f"| {one.seed} | {share} | {one.picked} | {one.gap:.4f} | {one.agreement:+.2f} |"


def _tuned(records: Sequence[Record]) -> Iterator[str]:
    yield "Rates that were tried on the first seed (loss on the part to choose by, at half of the budget; scratch and"
    yield "the small model also at the whole of it):"
    yield ""
    for method in (SCRATCH, SMALL, *METHODS):
        found = sorted(tuning(records, method))
        if found:
            yield f"- {method}: " + ", ".join(f"{rate:g} @ {total}: {loss:.4f}" for rate, total, loss in found)
