"""Does ``ligo compare`` choose well? It gets a track's small model and text; its pick is held to the end's best."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import ligo_spec
from course.methods import METHODS, Method
from course.runs import Place, plan_for, write_plan
from course.savings import Record, final_records, loss_at
from course.stages import GROWN, WHOLE
from course.tracks import Track

HELDOUT_BATCHES = 16


def asked(track: Track, methods: Sequence[str]) -> list[Method]:
    """Those of some methods that a plan can say."""
    found = [METHODS[name] for name in methods]
    return [one for one in found if not one.published_warmup and one.together is None and one.ahead is None]


def chosen(place: Place, seed: int, rate: float, share: float, methods: Sequence[str]) -> dict[str, Any]:
    """What ``ligo compare`` says of the small model of a seed.

    Args:
        place: The track and its places; the small model is there.
        seed: Its number, and the plan's.
        rate: Scratch's; the same shares of it are tried as the benchmark tries.
        share: Of the track's budget, that every candidate is trained for.
        methods: The candidates, by name.
    """
    track = place.track
    steps = round(share * track.total)
    candidates = []
    for method in asked(track, methods):
        fit = method.candidate(track.fit_rate)
        said = method.choice(track.deeper).model_dump(mode="json", exclude_none=True) | {"name": method.name}
        candidates.append(said | ({} if fit is None else {"fit": fit.model_dump(mode="json", exclude_unset=True)}))
    compare = {
        "budget": {"steps": steps},
        "learning_rates": [rate * part for part in GROWN],
        "warmup_steps": track.rewarmup,
        "heldout_batches": HELDOUT_BATCHES,
        "candidates": candidates,
    }
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_for(place, METHODS[candidates[0]["name"]], compare) | {"seed": seed}
        path, data = write_plan(place, plan, Path(folder))
        found = ligo_spec.compare(path, source=place.source(seed, decayed=False), data=data)
    order = [[row.name, row.reported] for row in found.rows if row.status == "ranked"]
    return {"seed": seed, "share": share, "steps": steps, "order": order, "notes": list(found.notes)}


def judged(track: Track, records: Sequence[Record], choices: Sequence[Record]) -> Iterator[str]:
    """What was chosen, and how its loss at the whole budget compares with the best of the candidates'.

    On its own seed the best of many is best by chance too, so the same is said of the means over all seeds.
    """
    if not choices:
        return
    yield "| seed | steps of `ligo compare` | chosen | above the best candidate at the end | the best | in the mean |"
    yield "|---|---|---|---|---|---|"
    names = {name for choice in choices for name, _ in choice["order"]}
    losses = {name: {run["seed"]: loss_at(track, run, WHOLE) for run in final_records(records, name)} for name in names}
    for choice in sorted(choices, key=lambda choice: (choice["steps"], choice["seed"])):
        ran = [name for name, _ in choice["order"] if choice["seed"] in losses[name]]
        finals = {name: losses[name][choice["seed"]] for name in ran}
        means = {name: mean(losses[name].values()) for name in ran}
        (winner, _), best = choice["order"][0], min(finals, key=lambda name: finals[name])
        cells = [f"{finals[winner] - finals[best]:.4f}", best, f"{means[winner] - min(means.values()):.4f}"]
        yield f"| {choice['seed']} | {choice['steps']} | {winner} | {' | '.join(cells)} |"
