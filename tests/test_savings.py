"""The savings benchmark: what its figures rest on. That it works from end to end is ``make savings-quick``."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course import when
from course.asides import BASE, against_base, by_seed
from course.choosing import asked, judged
from course.data import Text
from course.lag import choices, curve_at
from course.learned import LookAhead, Together, grown, pulled_back
from course.methods import METHODS, SCRATCH, SMALL, methods_for
from course.runs import ANY, Place, Run, _blank, _drawn, _model, _step_flops, _task, counted_flops
from course.savings import Measured, final_records, loss_at, reached_at, row_of, rows_of
from course.stages import HALF, WHOLE, Results, best, course, tuned
from course.tables import main_table, saved_cells, tables
from course.tracks import TRACKS, Track
from course.training import CLIP_NORM, DECAY, Runner, budget
from ligo_torch.fit import gradients, learned_operator, small_values

TRACK = TRACKS["llama"]


# --- schedules --------------------------------------------------------------------------------------------------------


@given(st.integers(50, 5000), st.floats(0, 0.5), st.floats(0.05, 1), st.integers(1, 30))
def test_a_budget_is_spent_and_its_last_fifth_decays(total: int, spent: float, cost: float, warmup: int) -> None:
    made = budget(total, spent * total, cost, warmup)
    assert made is not None
    used = spent * total + made.steps * cost
    assert used <= total + 1e-6 < used + cost + 2e-6
    assert made.decay_from == max(warmup, int(((1 - DECAY) * total - spent * total) / cost))


def test_no_budget_is_left_where_all_is_spent() -> None:
    assert budget(100, 100, 1.0, 5) is None
    assert budget(100, 96, 1.0, 5) is None, "four steps are less than the warm-up"


class _Line(torch.nn.Module):
    """One weight; its loss is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([[2.0]]))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
        logits = x @ self.w
        return SimpleNamespace(loss=((logits - labels) ** 2).mean(), logits=logits[None])


class _Model:
    model = _Line()

    def loss(self, weights: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]) -> Any:
        return torch.func.functional_call(self.model, dict(weights), kwargs=dict(batch)).loss

    def predicted(self, batch: Mapping[str, torch.Tensor]) -> int:
        return len(batch["labels"])


class _Data:
    """A different batch for every name."""

    def batch(self, name: str, seed: int) -> dict[str, torch.Tensor]:
        x = torch.randn(4, 1, generator=torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode())))
        return {"x": x, "labels": 0.5 * x + 0.1}

    def heldout(self, part: str) -> Iterator[dict[str, torch.Tensor]]:
        yield self.batch(part, 0)


def _runner() -> Runner:
    weights = {"w": torch.tensor([[2.0]])}
    options = {"seed": 0, "rate": 0.01, "warmup": 3, "weight_decay": 0.1}
    return Runner(_Model(), weights, _Data(), **options)  # type: ignore[arg-type]


def test_branches_leave_the_trunk_as_it_was() -> None:
    budgets = [budget(total, 0, 1.0, 3) for total in (20, 40, 80)]
    together = _runner().run([one for one in budgets if one is not None])
    for one in budgets:
        assert one is not None
        assert _runner().run([one]).finals[one.total] == together.finals[one.total]
    assert together.finals[80]["report"] < together.finals[20]["report"]


def test_the_rate_warms_up_stays_and_falls() -> None:
    runner, one = _runner(), budget(20, 0, 1.0, 3)
    assert one is not None
    rates = []
    for runner.done in range(20):
        rates.append(runner._rate(one if runner.done >= one.decay_from else None))
    assert rates[0] == pytest.approx(0.0025)
    assert rates[3:16] == [0.01] * 13
    assert all(after < before for before, after in pairwise(rates[15:]))
    assert 0 < rates[-1] < 0.25 * 0.01


def test_a_training_that_diverges_says_when() -> None:
    runner = _runner()
    runner.weights["w"].data.fill_(math.inf)
    found = runner.run([one for one in [budget(20, 0, 1.0, 3)] if one is not None])
    assert (found.diverged, found.finals) == (1, {})


# --- stages -----------------------------------------------------------------------------------------------------------


class _Bench:
    """Losses by a formula: every method has a rate that suits it best."""

    def __init__(self, best_rate: float) -> None:
        self.best_rate, self.made = best_rate, 0
        self.results: dict[str, dict[str, Any]] = {}

    def do(self, runs: Sequence[Run]) -> Results:
        for run in runs:
            if run.key not in self.results:
                self.made += 1
                self.results[run.key] = self._record(run)
        return self.results

    def _record(self, run: Run) -> dict[str, Any]:
        off = abs(math.log(run.rate / self.best_rate)) + 0.1 * (run.method == SCRATCH) + 0.01 * run.seed
        losses = {f"{share * TRACK.total:g}": 2 + off - math.log(share) for share in run.totals}
        finals = {total: {"choose": loss, "report": loss + 0.5} for total, loss in losses.items()}
        record = {"method": run.method, "seed": run.seed, "rate": run.rate, "totals": list(run.totals)}
        rest = {"cost": 0.2, "fit": 0.0, "curve": [[0, 9.0], [TRACK.total, 2.0]], "step_flops": 2.0, "torch_flops": 2.0}
        return record | rest | {"decayed": run.decayed, "finals": finals, "diverged": None}


@pytest.mark.parametrize(("best_rate", "tried"), [(2e-3, 3), (4e-3, 4), (8e-3, 5), (64e-3, 5)])
def test_rates_are_tried_until_the_best_is_at_no_edge(best_rate: float, tried: int) -> None:
    bench = _Bench(best_rate)
    found = tuned(bench.do, [SCRATCH, SMALL], (1e-3, 2e-3, 4e-3), (HALF, WHOLE), extensions=2)
    assert found == {method: pytest.approx(min(best_rate, 16e-3)) for method in (SCRATCH, SMALL)}
    assert bench.made == 2 * tried


def test_a_course_gives_every_method_the_same() -> None:
    bench = _Bench(2e-3)
    methods = list(METHODS)[:3]
    results = course(bench.do, (1e-3, 2e-3, 4e-3), methods, methods[:1], 3, extensions=2)
    for method in methods:
        runs = [record for record in results.values() if record["method"] == method and not record["decayed"]]
        assert sorted((r["rate"], r["seed"], tuple(r["totals"])) for r in runs) == [
            (5e-4, 0, (HALF,)),
            (1e-3, 0, (HALF,)),
            (2e-3, 0, (HALF,)),
            *((2e-3, seed, (HALF, WHOLE)) for seed in range(3)),
            (4e-3, 0, (HALF,)),  # as the best one was at the edge
        ]
    assert [r["seed"] for r in results.values() if r["decayed"]] == [0, 1, 2]
    records = list(results.values())
    assert [r["rate"] for r in final_records(records, SCRATCH)] == [2e-3] * 3
    assert len(final_records(records, SMALL)) == 3
    rows = rows_of(TRACK, records)
    assert [row.method for row in rows if row.method in methods and not row.decayed] == methods
    assert all(len(row.losses) == 3 for row in rows)
    assert f"| {SCRATCH} | 0.002 | 2.6100 ± 0.0100 (3 seeds) |" in tables(TRACK, records)


def test_decayed_sources_are_held_to_the_same_start_in_mid_training() -> None:
    bench, method = _Bench(2e-3), next(iter(METHODS))
    plain = list(course(bench.do, (1e-3, 2e-3, 4e-3), [method], [], 3, extensions=2).values())
    decayed = [_Bench(2e-3)._record(Run(method, seed, 2e-3, (HALF, WHOLE), True)) for seed in range(3)]
    for record in decayed:
        for losses in record["finals"].values():
            losses["report"] += record["seed"]
    shown = tables(TRACK, [*plain, *decayed])
    assert f"- {method}: +0.0000, +1.0000, +2.0000" in shown
    assert "- in the mean +1.0000, from +0.0000 to +2.0000" in shown
    assert "decayed source" not in tables(TRACK, plain)


def test_of_rates_with_as_many_seeds_the_tuned_one_counts() -> None:
    bench = _Bench(2e-3)
    bench.do([Run("m", 0, rate, (HALF,)) for rate in (2e-3, 4e-3)])
    bench.do(
        [
            Run("m", seed, rate, (HALF, WHOLE), decayed)
            for rate in (4e-3, 2e-3)
            for seed in range(2)
            for decayed in (False, True)
        ]
    )
    for record in bench.results.values():
        if tuple(record["totals"]) == (HALF, WHOLE) and record["rate"] == 4e-3:
            record["finals"] = {total: {"choose": 0.0, "report": 0.0} for total in record["finals"]}
    for decayed in (False, True):
        assert [run["rate"] for run in final_records(list(bench.results.values()), "m", decayed=decayed)] == [2e-3] * 2


def test_the_best_rate_is_chosen_on_the_part_to_choose_by() -> None:
    runs = [Run("m", 0, rate, (HALF,)) for rate in (1.0, 2.0)]
    finals = [{"700": {"choose": 1.0, "report": 9.0}}, {"700": {"choose": 2.0, "report": 1.0}}]
    results = {run.key: {"finals": one} for run, one in zip(runs, finals, strict=True)}
    assert best(results, "m", [1.0, 2.0], (HALF,)) == 1.0
    assert best({**results, runs[0].key: {"finals": {}}}, "m", [1.0, 2.0], (HALF,)) == 2.0, "the other diverged"


# --- what it amounts to -----------------------------------------------------------------------------------------------


@given(st.floats(0.51, 0.99), st.floats(0.05, 2))
def test_a_saving_is_read_off_the_logarithm_of_the_budget(share: float, slope: float) -> None:
    losses = {x: 2.0 - slope * math.log(x) for x in (HALF, WHOLE)}
    finals = {f"{x * TRACK.total:g}": {"report": loss} for x, loss in losses.items()}
    record = {"totals": [HALF, WHOLE], "finals": finals}
    assert reached_at(TRACK, record, 2.0 - slope * math.log(share)) == pytest.approx(share)
    assert reached_at(TRACK, record, 2.0 - 1e-6) is None, "not reached"
    assert reached_at(TRACK, record, losses[HALF] + 1) == HALF, "reached before it, perhaps: nobody knows when"
    assert loss_at(TRACK, {"finals": {}}, WHOLE) == math.inf


def test_what_a_time_would_pick() -> None:
    curves = {"even copies + stack": [3.0, 1.0, 2.0], "net2net + stack": [1.0, 2.0, 3.0]}
    records = []
    for method, (start, middle, end) in curves.items():
        curve = [[0.1 * TRACK.total, start], [0.5 * TRACK.total, middle], [TRACK.total, end]]
        finals = {f"{TRACK.total * share:g}": {"choose": end, "report": end} for share in (HALF, WHOLE)}
        names = {"method": method, "seed": 0, "rate": 1.0, "totals": [HALF, WHOLE], "decayed": False}
        records.append({**names, "curve": curve, "finals": finals, "diverged": None})
    found = {one.share: one for one in choices(TRACK, records)}
    assert (found[None].picked, found[None].gap, found[None].agreement) == ("net2net + stack", 1.0, -1.0)
    assert (found[0.2].picked, found[0.5].picked) == ("net2net + stack", "even copies + stack")
    assert (found[0.5].gap, found[0.5].agreement) == (0.0, 1.0)
    assert curve_at(TRACK, records[0], 0.3) == pytest.approx(2.0), "half of the way"
    assert curve_at(TRACK, records[0], 0.05) == 3.0, "the small model's part"


def test_gaps_of_the_log_are_paired() -> None:
    records = [
        {"spec": spec, "seed": seed, "finals": {"1400": {"choose": loss + seed, "report": loss + seed}}}
        for spec, loss in ((BASE, 1.0), ("worse", 1.5))
        for seed in (0, 1)
    ]
    assert list(against_base(records)) == ["| worse | +0.5000 ± 0.0000 |"]


def test_gaps_by_seed_are_of_whole_runs_at_one_rate() -> None:
    def record(method: str, seed: int, end: float, rate: float = 1.0, last: float = WHOLE) -> dict[str, Any]:
        finals = {"700": {"report": 9.0}, "1400": {"choose": end, "report": end}}
        names = {"method": method, "seed": seed, "rate": rate, "totals": [HALF, last], "decayed": False}
        return names | {"finals": finals}

    others = [record("other", 0, 1.0), record("other", 2, 1.0), record("other", 1, 5.0, rate=2.0)]
    ours = [record("ours", 0, 1.5), record("ours", 1, 1.5), record("ours", 2, 0.5), record("ours", 0, 7.0, last=0.75)]
    (line,) = by_seed(TRACK, [*others, *ours], ["ours"], "other", Measured((HALF,), (HALF, WHOLE)))
    assert line == "- ours: seed 0: +0.5000, seed 2: -0.5000; in the mean +0.0000 ± 0.5000"


def test_savings_are_of_scratchs_best_seed_and_of_the_same_one() -> None:
    def record(method: str, seed: int, half: float, whole: float) -> dict[str, Any]:
        losses = ((HALF, half), (WHOLE, whole))
        finals = {f"{share * TRACK.total:g}": {"choose": loss, "report": loss} for share, loss in losses}
        names = {"method": method, "seed": seed, "rate": 1.0, "totals": [HALF, WHOLE], "decayed": False, "fit": 0.0}
        return names | {"finals": finals, "curve": [[0, 9.0], [0.75 * TRACK.total, whole], [TRACK.total, whole]]}

    grown = next(iter(METHODS))
    rows = rows_of(TRACK, [record(SCRATCH, 0, 3, 2), record(SCRATCH, 1, 3.4, 2.4), record(grown, 1, 3, 1.8)])
    (row,) = (row for row in rows if row.method == grown)
    assert row.saved == pytest.approx([1 - 2 ** -(0.2 / 1.2)]), "a sixth of the way back to half of the budget"
    assert row.of_own == pytest.approx([1 - 2 ** -(0.6 / 1.2)])
    assert row.sunk == pytest.approx([row.saved[0] + TRACK.source])
    assert row.crossed == 0.75
    (scratch,) = (row for row in rows if row.method == SCRATCH)
    assert scratch.saved == scratch.of_own == (), "it saves nothing of itself"


@pytest.mark.parametrize("best_rate", [1e-3, 2e-3])
def test_other_times_to_grow_have_the_rate_of_the_track_or_half_of_it(best_rate: float) -> None:
    bench, methods = _Bench(2e-3), ["zero_pad + stack", "net2net + stack", "lemon + identity"]
    records = list(course(bench.do, (1e-3, 2e-3, 4e-3), methods, [], 2, extensions=2).values())
    later = {share: _Bench(best_rate) for share in when.SHARES}
    when.grown_at(lambda share: later[share].do, records, when.starts_of(TRACK, methods), 2)
    for share, made in later.items():
        runs = [(r["method"], r["seed"], r["rate"], tuple(r["totals"])) for r in made.results.values()]
        sources = [(SMALL, seed, 2e-3, ()) for seed in range(2)]
        tried = [("zero_pad + stack", 0, rate, when.TRIED_AT) for rate in (1e-3, 2e-3)]
        starts = [("zero_pad + stack", seed, best_rate, when.measured(share).final) for seed in range(2)]
        assert runs == sources + tried + starts, "only starts that are asked for, and that the track has"
    found = {share: [r for r in made.results.values() if r["totals"]] for share, made in later.items()}
    rows = list(when.rows(TRACK, records, found))
    assert [share for share, _ in rows] == sorted({TRACK.source, *when.SHARES})
    for share, row in rows:
        assert row.losses == pytest.approx((2.5, 2.51))
        assert row.saved == pytest.approx([1 - math.exp(-0.1), 1 - math.exp(-0.09)]), "scratch is 0.1 worse"
        assert row.sunk == pytest.approx([one + share for one in row.saved])
    line = f"| 30% | zero_pad + stack | {best_rate:g} | 2.5050 ± 0.0071 (2 seeds) | 9% ± 1% | 39% ± 1% | 10% ± 0% |"
    assert line in list(when.table(TRACK, records, found))
    assert list(when.table(TRACK, records, {})) == [], "nothing to hold it against"


def test_of_rates_at_another_time_the_one_that_was_tried_best_counts() -> None:
    bench, start = _Bench(1e-3), "zero_pad + stack"
    bench.do([Run(start, 0, rate, when.TRIED_AT) for rate in (1e-3, 2e-3)])
    bench.do([Run(start, seed, rate, when.measured(0.3).final) for rate in (2e-3, 1e-3) for seed in range(2)])
    scratch = _Bench(2e-3).do([Run(SCRATCH, seed, 2e-3, (HALF, WHOLE)) for seed in range(2)])
    ((share, row),) = when.rows(TRACK, list(scratch.values()), {0.3: list(bench.results.values())})
    assert (share, row.rate) == (0.3, 1e-3)
    assert row.losses == pytest.approx((2.5, 2.51))


def test_a_run_is_measured_where_enough_is_left_of_its_budget() -> None:
    assert when.measured(0.05).final == when.measured(0.35).final == (0.5, 0.75, 1.0)
    assert when.measured(0.5).final == (0.75, 1.0)


def test_a_start_that_diverged_has_no_loss() -> None:
    def record(method: str, finals: Mapping[str, Any]) -> dict[str, Any]:
        names = {"method": method, "seed": 0, "rate": 1.0, "totals": [HALF, WHOLE], "decayed": False, "fit": 0.0}
        curve = [[0, 9.0], [TRACK.total, 2.0]] if finals else [[0, 9.0]]
        return names | {"finals": finals, "curve": curve, "diverged": None if finals else 7}

    good = {f"{share * TRACK.total:g}": {"choose": 2.0, "report": 2.0} for share in (HALF, WHOLE)}
    rows = rows_of(TRACK, [record(SCRATCH, good), record("zero_pad + stack", {})])
    assert [(row.method, row.losses, row.saved) for row in rows][1] == ("zero_pad + stack", (math.inf,), ())
    assert "| zero_pad + stack | 1 | inf (1 of 1 diverged) | none | none | none |  |  |" in main_table(rows)


def test_what_was_reached_before_the_first_budget_is_saved_at_least() -> None:
    def record(method: str, seed: int, half: float) -> dict[str, Any]:
        finals = {f"{share * TRACK.total:g}": {"report": loss} for share, loss in ((HALF, half), (WHOLE, 1.0))}
        names = {"method": method, "seed": seed, "rate": 1.0, "totals": [HALF, WHOLE], "decayed": False, "fit": 0.0}
        return names | {"finals": finals, "curve": [[0, 9.0]]}

    runs = [record("m", 0, 1.5), record("m", 1, 4.0)]
    row = row_of(TRACK, "m", runs, {0: 2.0, 1: 2.0})
    assert row.saved == pytest.approx([0.5, 1 - 2 ** -(1 / 3)])
    assert saved_cells(row)[0] == "at least 35% ± 21%"
    assert saved_cells(row)[1].startswith("at least 47%"), "the source of 12 % is sunk"
    assert saved_cells(row_of(TRACK, "m", runs[1:], {1: 2.0}))[0] == "21%"


def test_what_compare_picks_is_held_to_the_best_of_its_candidates() -> None:
    plannable = [method.name for method in asked(TRACK, tuple(METHODS))]
    assert "LiGO, 20 steps" in plannable
    assert not {"LiGO, published warm-up", "zero_pad + stack, together", "zero_pad + stack, look-ahead"} & {*plannable}
    records = []
    ends = {"net2net + stack": (2.4, 3.0), "zero_pad + stack": (2.7, 2.5), "LiGO, not fitted": (2.0, 2.0)}
    for method, of_seeds in ends.items():
        for seed, end in enumerate(of_seeds):
            names = {"method": method, "seed": seed, "rate": 1.0, "totals": [HALF, WHOLE], "decayed": False}
            records.append(names | {"finals": {f"{TRACK.total:g}": {"choose": end, "report": end}}})
    order = [["net2net + stack", 4.0], ["zero_pad + stack", 5.0]]
    *_, row = judged(TRACK, records, [{"seed": 1, "share": 0.2, "steps": 280, "order": order}])
    assert row == "| 1 | 280 | net2net + stack | 0.5000 | zero_pad + stack | 0.1000 |", (
        "what was no candidate does not count"
    )


def test_where_no_layers_grow_no_start_is_there_twice() -> None:
    assert methods_for(deeper=True) == tuple(METHODS)
    kept = methods_for(deeper=False)
    assert "even copies + interpolate" not in kept
    assert "zero_pad + stack" not in kept
    assert {"even copies + stack", "zero_pad + identity", "LiGO, not fitted", "LiGO, 60 steps"} <= set(kept)


@pytest.mark.parametrize("track", [*TRACKS.values(), TRACK.scaled(3)], ids=lambda track: track.name)
def test_steps_cost_what_torch_counts(track: Track, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "part.txt").write_text("text " * 2000)
    place = Place(track, tmp_path, tmp_path)
    task = _task(place, METHODS[ANY], 0, _blank(place, 0))
    model = _model(task, place)
    data = _batch(track, tmp_path)
    assert _step_flops(task, model, track) == pytest.approx(counted_flops(model, _drawn(model, 0), data), rel=0.02)


def _batch(track: Track, corpus: Path) -> Mapping[str, torch.Tensor]:
    if track.objective == "image_classification":
        labels = torch.zeros(track.batch_size, dtype=torch.long)
        return {"pixel_values": torch.zeros(track.batch_size, 1, 8, 8), "labels": labels}
    (corpus / "heldout").mkdir()
    (corpus / "heldout" / "part.txt").write_text("other " * 2000)
    return Text.of(track, corpus, torch.device("cpu")).batch("flops", 0)


# --- ways to learn ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Any, Any, Text]:
    """A model, an operator that is learned whole, and a text."""
    for split in ("train", "heldout"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "part.txt").write_text(f"{split} of some text, again and again. " * 500)
    place = Place(TRACK, tmp_path, tmp_path)
    task = _task(place, METHODS["zero_pad + stack, together"], 0, _blank(place, 0))
    cpu = torch.device("cpu")
    operator = learned_operator(task.growth, task.operator, small_values(task, cpu), task.frozen)
    return _model(task, place), operator, Text.of(TRACK, tmp_path, cpu)


def _together(parts: tuple[Any, Any, Text], rate: float) -> Together:
    model, operator, text = parts
    return Together(model, operator, 3, rate, text, seed=0, rate=1e-3, warmup=2, weight_decay=0.1)


def test_an_operator_at_rest_leaves_training_as_it_is(parts: tuple[Any, Any, Text]) -> None:
    model, operator, text = parts
    plain = Runner(model, grown(model, operator), text, seed=0, rate=1e-3, warmup=2, weight_decay=0.1)
    still = _together(parts, 0.0)
    moved = _together(parts, 1e-3)
    for runner in (plain, still, moved):
        runner.advance(5)
    assert all(torch.equal(plain.weights[name], still.weights[name]) for name in plain.weights)
    assert not all(torch.equal(plain.weights[name], moved.weights[name]) for name in plain.weights)
    after = grown(model, operator)
    assert all(torch.equal(after[name], moved.at[name]) for name in after), "the weights went with the operator"


def test_gradients_are_pulled_back_as_a_fit_does(parts: tuple[Any, Any, Text]) -> None:
    model, operator, text = parts
    batch = text.batch("some", 0)
    gradients(model, operator, [batch])
    torch.nn.utils.clip_grad_norm_(operator.parameters, CLIP_NORM)
    wanted = [parameter.grad for parameter in operator.parameters]
    for parameter in operator.parameters:
        parameter.grad = None
    leaves = {name: value.requires_grad_() for name, value in grown(model, operator).items()}
    model.loss(leaves, batch).backward()
    pulled_back(model, operator, leaves)
    found = [parameter.grad for parameter in operator.parameters]
    assert sum(one is not None for one in wanted) > len(wanted) // 2
    for one, other in zip(wanted, found, strict=True):
        if one is None or other is None:  # of a space that no tensor of this model touches
            assert one is other
        else:
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_looking_ahead_learns_at_its_cost(parts: tuple[Any, Any, Text]) -> None:
    model, operator, text = parts
    before = [parameter.detach().clone() for parameter in operator.parameters]
    ahead = LookAhead(2, 3, 1e-3, 1e-3)
    ahead.fit(model, operator, text, 0)
    assert ahead.passes == 8
    assert any(not torch.equal(a, b) for a, b in zip(before, operator.parameters, strict=True))
    assert all(bool(parameter.isfinite().all()) for parameter in operator.parameters)
