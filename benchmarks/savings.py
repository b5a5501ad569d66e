"""Does growth pay? Every way to grow against a tuned scratch and the small model alone, at equal FLOPs.

    python benchmarks/savings.py llama            one track, about an hour on two cores
    python benchmarks/savings.py llama --scale 4 --device cuda    the same track four times as wide, on a GPU
    python benchmarks/savings.py --quick llama    a few steps of everything: for its working, not for its numbers
    python benchmarks/savings.py llama --compare  what `ligo compare` chooses on a track that has been run
    python benchmarks/savings.py llama --when     growth later in the budget, on a track that has been run
    python benchmarks/savings.py --show           tables and plots from the results that are there

Rules, tracks and what came out: docs/savings.md. Results are in benchmarks/results/, a line of JSON a run; a track that
was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from course import when
from course.asides import against_base, by_seed
from course.choosing import chosen, judged
from course.data import prepare_corpus
from course.methods import SCRATCH, SMALL, methods_for
from course.plots import plot, plot_times
from course.runs import Place, Run, execute
from course.savings import final_records, rows_of
from course.stages import EXTENSIONS, Do, Results, course
from course.tables import CONTROL, main_table, tables
from course.tracks import TRACKS, Track

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
OUT = HERE.parent / "out" / "savings"

DECAYED = (
    "noisy copies + stack",
    "zero_pad + identity",
    "zero_pad + stack",
    "bert2bert AKI + stack",
    "LiGO, not fitted",
    "LiGO, 60 steps",
    "zero_pad + stack, 20 steps",
)
"""What is grown from a decayed small model too."""

CHOSEN_AFTER = (0.2, 0.1)
"""Shares of the budget that ``ligo compare`` is given."""

QUICK_STEPS = 40
QUICK_METHODS = ("even copies + stack", "LiGO, not fitted", "LiGO, 20 steps", "zero_pad + stack, together")


class Bench:
    """Makes runs in processes of their own, and keeps what they showed.

    Args:
        place: The track and its places.
        results: A file of one line a run; read where it is there.
        pool: The processes.
    """

    def __init__(self, place: Place, results: Path, pool: Executor) -> None:
        self.place, self.path, self.pool = place, results, pool
        self.results = {record["key"]: record for record in read(results)}

    def do(self, runs: Sequence[Run]) -> Results:
        """Make those that are not there yet."""
        wanted = [run for run in runs if run.key not in self.results or self._lost(run)]
        if not wanted:
            return self.results
        with Progress() as bar:
            task = bar.add_task(f"{self.place.track.name}: {wanted[0].method} ...", total=len(wanted))
            for done in as_completed([self.pool.submit(execute, run, self.place) for run in wanted]):
                self._keep(done.result())
                bar.advance(task)
        return self.results

    def _lost(self, run: Run) -> bool:
        """Whether a small model to grow was made, but not in this folder."""
        return run.method == SMALL and not run.totals and not self.place.source(run.seed, decayed=True).exists()

    def _keep(self, record: dict[str, Any]) -> None:
        self.results[record["key"]] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read(results: Path) -> list[dict[str, Any]]:
    """The records of a file; none where there is none."""
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []


def race(place: Place, results: Path, asked: argparse.Namespace, pool: Executor) -> None:
    """Make all runs of a track that are not there yet."""
    track = place.track
    methods = methods_of(track, asked)
    decayed = [method for method in DECAYED if method in methods]
    do = Bench(place, results, pool).do
    course(do, track.rates, methods, decayed, asked.seeds, extensions=0 if asked.quick else EXTENSIONS)


def methods_of(track: Track, asked: argparse.Namespace) -> tuple[str, ...]:
    """The ways to grow that are run."""
    return QUICK_METHODS if asked.quick else track.methods or methods_for(track.deeper)


def choose(place: Place, results: Path, asked: argparse.Namespace, pool: Executor) -> None:
    """Have ``ligo compare`` choose for every seed."""
    path = compared_in(results)
    scratch = final_records(read(results), SCRATCH)
    if not scratch or not all(place.source(seed, decayed=False).exists() for seed in range(asked.seeds)):
        sys.exit(f"run the track first: its learning rates and small models are needed ({results}, {place.folder})")
    rate = scratch[0]["rate"]
    methods = methods_of(place.track, asked)
    there = {(one["seed"], one["share"]) for one in read(path)}
    shares = CHOSEN_AFTER[:1] if asked.quick else CHOSEN_AFTER
    cases = [(seed, share) for share in shares for seed in range(asked.seeds) if (seed, share) not in there]
    for done in as_completed([pool.submit(chosen, place, seed, rate, share, methods) for seed, share in cases]):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done.result()) + "\n")


def grow_at_other_times(place: Place, results: Path, asked: argparse.Namespace, pool: Executor) -> None:
    """Make the runs that grow after other shares of the budget."""
    records = read(results)
    if not final_records(records, SCRATCH):
        sys.exit(f"run the track first: its learning rates are needed ({results})")

    def by(share: float) -> Do:
        later = replace(place, track=replace(place.track, source=share), folder=place.folder / f"when-{share:g}")
        later.folder.mkdir(parents=True, exist_ok=True)
        return Bench(later, when_in(results, share), pool).do

    starts = when.starts_of(place.track, methods_of(place.track, asked))
    if asked.quick:
        when.grown_at(by, records, starts[:1], asked.seeds, when.SHARES[:1])
    else:
        when.grown_at(by, records, starts, asked.seeds)


def when_in(results: Path, share: float) -> Path:
    """Beside a track's results, those of growth after a share of the budget."""
    return results.with_name(f"{results.stem}-when-{share:g}.jsonl")


def later_in(results: Path) -> dict[float, list[dict[str, Any]]]:
    """The runs of growth at other times that a track has, by the share of the budget."""
    return {share: runs for share in when.SHARES if (runs := read(when_in(results, share)))}


def compared_in(results: Path) -> Path:
    """Beside a track's results, what was chosen."""
    return results.with_name(f"{results.stem}-compare.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", choices=list(TRACKS), nargs="?")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--when", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder; default: %(default)s")
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="models N times as wide, for a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    asked = parser.parse_args()
    if asked.show:
        show()
        return
    if asked.track is None:
        parser.error("name a track, or ask for what is there with --show")
    track = TRACKS[asked.track] if asked.scale == 1 else TRACKS[asked.track].scaled(asked.scale)
    track = track.shortened(QUICK_STEPS) if asked.quick else track
    folder = OUT / (f"{track.name}-quick" if asked.quick else track.name)
    if asked.quick:
        shutil.rmtree(folder, ignore_errors=True)
    results = (folder if asked.quick else asked.results) / f"{track.name}.jsonl"
    place = Place(track, folder, OUT / "corpus", asked.device)
    place.folder.mkdir(parents=True, exist_ok=True)
    prepare_corpus(place.corpus)
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        if asked.quick or not (asked.compare or asked.when):
            race(place, results, asked, pool)
        if asked.quick or asked.compare:
            choose(place, results, asked, pool)
        if asked.quick or asked.when:
            grow_at_other_times(place, results, asked, pool)
    print(shown(track, results))


def shown(track: Track, results: Path) -> str:
    """All tables of a track: its runs, what was chosen, and growth at other times."""
    records = read(results)
    parts = [tables(track, records), *judged(track, records, read(compared_in(results)))]
    return "\n".join([*parts, "", *when.table(track, records, later_in(results))])


def show() -> None:
    """Print the tables of all tracks that have results, and draw their plots beside the document."""
    docs = HERE.parent / "docs"
    there = [(track, results) for name, track in TRACKS.items() if (results := RESULTS / f"{name}.jsonl").exists()]
    for track, results in there:
        print(shown(track, results))
        plot(track, read(results), docs / f"savings-{track.name}.png")
    timed = [(track, read(results), later) for track, results in there if (later := later_in(results))]
    if timed:
        plot_times(timed, docs / "savings-when.png")
    llama = read(RESULTS / "llama.jsonl")
    scratch, faster = [one for one in llama if one["method"] == SCRATCH], read(RESULTS / "llama-fit-1e-2.jsonl")
    print("### LiGO fitted at 1e-2\n", *main_table(rows_of(TRACKS["llama"], [*scratch, *faster])), sep="\n")
    more = [*read(when_in(RESULTS / "bert.jsonl", 0.3)), *read(RESULTS / "bert-more-seeds.jsonl")]
    title = "### BERT grown after 30 %: final losses less those of LiGO's start, not fitted"
    compared = by_seed(TRACKS["bert"], more, ("LiGO, 20 steps", "zero_pad + stack"), CONTROL, when.measured(0.3))
    print(f"\n{title}\n", *compared, sep="\n")
    print("\n### Eight seeds of the log\n", *against_base(read(RESULTS / "experiments.jsonl")), sep="\n")


if __name__ == "__main__":
    main()
