"""Race starts on the user's own model and data: which way to grow suits them (SPEC.md 6.5).

Loss right after growth does not rank starts; the loss after a few steps does better (LAG, Karp et al., arXiv
2406.02469). So each start is trained for as many FLOPs as all others, its fit counted, and they are ranked by the loss
after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from ligo_spec.candidates import data_of, require_data, section_of
from ligo_spec.compare_plot import plots
from ligo_spec.contest import Comparison, Contest
from ligo_spec.events import Events
from ligo_spec.job import Job, growth_of, load_job, open_small, with_data
from ligo_spec.staging import check_target, json_bytes, staged_directory

COMPARISON_FILE = "compare.json"
WINNER_FILE = "winner.yaml"
PLOT_NAME = "compare"


def compare(
    plan: str | Path,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    data: Sequence[str | Path] = (),
    events: Events | None = None,
) -> Comparison:
    """Grow by every candidate of a plan, train each for the same FLOPs, and rank them by their loss after that.

    Args:
        plan: Has a ``compare``.
        output: A directory to make, with everything that was measured, the winner's plan, and a plot.
        source: The small model, instead of the plan's.
        data: Patterns of the text, instead of the plan's.
        events: What to tell of every step.

    Raises:
        LigoError: The plan, the checkpoint or the text is refused, no candidate can be had, all diverge, or the output
            cannot be written; nothing is left then.
    """
    job = load_job(plan, source=source)
    job = with_data(job, data_of(job.plan), data, section_of(job.plan))
    require_data(job)
    if output is not None:
        check_target(output, sources=job.at_hand)
    small = open_small(job)
    contest = Contest(job, small, growth_of(job, small.architecture), (events or Events()).race)
    found = contest.result()
    small.checkpoint.check_unchanged()
    return found if output is None else _written(found, Path(output), job)


def _written(found: Comparison, output: Path, job: Job) -> Comparison:
    with staged_directory(output, sources=[job.source]) as stage:
        packages = ("ligo-spec", "numpy", "torch", "transformers")
        head = {"spec": "ligo/comparison/1", "versions": {name: version(name) for name in packages}}
        measured = {key: value for key, value in asdict(found).items() if key not in ("path", "files")}
        stage.write_bytes(COMPARISON_FILE, [json_bytes(head | measured)])
        stage.write_bytes(WINNER_FILE, [found.plan.encode("utf-8")])
        for name, content in plots(found.rows, found.references, PLOT_NAME).items():
            stage.write_bytes(name, [content])
        return replace(found, path=output, files=tuple(stage.files))
