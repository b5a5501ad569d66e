"""Comparing starts: equal FLOPs, the order by the loss after them, what is not to be had, and what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

import ligo_spec
from ligo_spec import InputError, NumericalError, PlanError, compare_plot
from ligo_spec.candidates import Start, candidates_of, plan_of, task_of, usual, winner_text
from ligo_spec.cli import run
from ligo_spec.display import _events
from ligo_spec.documents import loads
from ligo_spec.draws import Draws
from ligo_spec.fit_data import TextData
from ligo_spec.job import growth_of, load_job, open_small
from ligo_spec.plan import CandidateFit, Compare, Fit, Plan
from ligo_spec.racing import Losses, Trial
from ligo_spec.ranking import Row
from tests.tiny_checkpoints import CONFIGS, TWICE, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from ligo_torch import race
from ligo_torch.fit import Batches, prepare
from ligo_torch.race import Heldout, TorchRacer
from ligo_torch.text import IGNORED, Tokens
from ligo_torch.windows import Windows

torch.set_num_threads(1)  # test runs share the cores

SEQ_LEN, BATCH = 16, 4

TEXT = "".join(f"{n} + {n + 1} = {2 * n + 1}, and that is {'even' if n % 2 else 'odd'}.\n" for n in range(200))

TARGET = {**TWICE["gpt2"], "num_hidden_layers": 3}

COPIES = {"width": "hypercloning", "depth": "stack"}
PADDED = {"width": "zero_pad", "depth": "stack"}
LIGO = {"preset": "ligo"}
FITTED = {**LIGO, "name": "LiGO", "fit": {"steps": 3, "warmup_steps": 0, "learning_rate": 5e-3}}
SHALLOW = {"name": "too shallow", "width": "lemon"}
DEAR = {**LIGO, "name": "too dear", "fit": {"steps": 50}}
BROKEN = {**LIGO, "name": "breaks", "fit": {"steps": 3, "learning_rate": 1e30}}


@pytest.fixture(autouse=True)
def racer_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The racer, also in an environment that was installed before it was there."""
    monkeypatch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose tokens are bytes, and a text."""
    directory = tmp_path_factory.mktemp("compare")
    saved(directory / "small", "GPT2LMHeadModel", {**CONFIGS["gpt2"], "vocab_size": 256, "n_positions": SEQ_LEN})
    (directory / "text.txt").write_text(TEXT, "utf-8")
    return directory


@pytest.fixture
def beside(small: Path, tmp_path: Path) -> Path:
    """A fresh directory with the small model and the text."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    return tmp_path


def plan(directory: Path, *candidates: Mapping[str, Any], name: str = "plan.yaml", **changes: Any) -> Path:
    """A plan that compares these candidates for a few steps."""
    top = {key: changes.pop(key) for key in ("target", "operator", "checks", "fit", "seed") if key in changes}
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": SEQ_LEN, "batch_size": BATCH}
    options = {"budget": {"steps": 8}, "learning_rates": [1e-3, 1e-2], "heldout_batches": 3, "device": "cpu"}
    compare = {"candidates": list(candidates), "data": data, **options, **changes}
    kept = {key: value for key, value in compare.items() if value is not None}
    return plan_file(directory, name, compare=kept, **{"target": TARGET, "operator": COPIES, **top})


def compare(path: Path, output: Path | None = None, **more: Any) -> ligo_spec.Comparison:
    return ligo_spec.compare(path, output, **more)


def settings(path: Path, choice: int = 0, seed: int = 0) -> tuple[Any, Start, Any]:
    """Job, candidate and task of a plan."""
    job = load_job(path)
    job = replace(job, train=(path.parent / "text.txt",))
    opened = open_small(job)
    growth = growth_of(job, opened.architecture)
    start = candidates_of(job.plan, growth)[choice]
    return job, start, task_of(job, opened, growth, start, seed)


# --- one comparison, looked at from all sides -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ligo_spec.Comparison, list[Any]]:
    """The plan, what it showed, and the records on the way."""
    directory = tmp_path_factory.mktemp("finished")
    shutil.copytree(small, directory, dirs_exist_ok=True)
    path = plan(directory, COPIES, PADDED, FITTED, SHALLOW, DEAR)
    records: list[Mapping[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)
        found = compare(path, directory / "out", events=ligo_spec.Events(race=records.append))
    return path, found, records


Finished = tuple[Path, ligo_spec.Comparison, list[Any]]


def test_candidates_are_ranked_by_the_loss_after_the_budget(finished: Finished) -> None:
    """By that on the first draw; the order of the losses after growth is another one."""
    _, found, _ = finished
    assert [row.rank for row in found.rows] == [1, 2, 3]
    assert found.winner == found.rows[0].name
    chosen, starts = [row.chosen for row in found.rows], [row.start for row in found.rows]
    assert chosen == sorted(chosen)  # type: ignore[type-var]
    assert starts != sorted(starts)  # type: ignore[type-var]
    for row in found.rows:
        by_rate = {trial.learning_rate: trial.chosen.mean for trial in row.trials if trial.chosen}
        assert by_rate.keys() == {1e-3, 1e-2}
        assert row.chosen == min(by_rate.values()) == by_rate[row.learning_rate or 0.0]
        assert row.reported not in (row.chosen, None)
        assert row.difference == pytest.approx((row.reported or 0) - (found.rows[0].reported or 0))


def test_training_goes_down(finished: Finished) -> None:
    for row in finished[1].rows:
        assert row.reported is not None
        assert row.start is not None
        assert row.reported < row.start - 0.1


def test_all_spend_the_same_and_fits_are_counted(finished: Finished) -> None:
    """To within one step; a step of a fit costs more than a step of training."""
    _, found, _ = finished
    step = found.budget_flops / found.budget_steps
    for row in found.rows:
        assert found.budget_flops - step < row.flops <= found.budget_flops
        assert row.flops == pytest.approx(row.fit_flops + row.steps * step)
    (fitted,) = (row for row in found.rows if row.fit is not None)
    assert 3 * step < fitted.fit_flops < 5 * step
    assert fitted.steps == 8 - 1 - int(fitted.fit_flops / step)
    assert {row.steps for row in found.rows if row.fit is None} == {8}
    assert all(len(trial.curve) == row.steps for row in found.rows for trial in row.trials)


def test_what_is_not_to_be_had_is_named_with_its_reason(finished: Finished) -> None:
    missing = finished[1].missing
    assert missing.keys() == {"too shallow", "too dear"}
    assert "no depth method" in missing["too shallow"]
    assert "its fit costs as much as" in missing["too dear"]
    assert "the budget is 8" in missing["too dear"]


def test_the_references_are_no_candidates(finished: Finished) -> None:
    """The random model is trained as all are; the small one is measured as it is, as Transformers runs it."""
    path, found, _ = finished
    random, alone = found.references
    assert (random.rank, random.steps, random.status) == (None, 8, "reference")
    assert random.start == pytest.approx(np.log(256), abs=0.5)
    assert (alone.steps, alone.flops, alone.start) == (0, 0.0, alone.reported)
    _, _, task = settings(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent / "small").eval()
    assert alone.reported == pytest.approx(library_loss(model, task, load_job(path).plan.compare), abs=1e-5)


def library_loss(model: Any, task: Any, options: Compare | None) -> float:
    """The loss that a library's model has on the draw that is reported."""
    assert options is not None
    _, _, batches = prepare(task)
    found = list(Heldout(batches, options, 0).batches_of("report"))
    with torch.no_grad():
        losses = [float(model(**batch).loss) for batch in found]
    return float(np.average(losses, weights=[len(batch["labels"]) for batch in found]))


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_candidates_plan_grows_what_was_raced(finished: Finished, choice: int, tmp_path: Path) -> None:
    """``ligo check`` accepts it, and what ``ligo grow`` makes of it has the loss that the table says, fits too."""
    path, found, _ = finished
    shutil.copytree(path.parent, tmp_path, dirs_exist_ok=True)
    job, start, task = settings(path, choice)
    (tmp_path / "chosen.yaml").write_text(winner_text(job.plan, start), "utf-8")
    assert run(["check", str(tmp_path / "chosen.yaml")]) == 0
    grown = ligo_spec.grow(tmp_path / "chosen.yaml")
    model = transformers.AutoModelForCausalLM.from_pretrained(grown.path).eval()
    (row,) = (row for row in found.rows if row.name == start.name)
    assert row.start == pytest.approx(library_loss(model, task, job.plan.compare), abs=1e-4)
    assert (grown.fit is not None) == (row.fit is not None)


def test_the_winners_file_is_the_winners_plan(finished: Finished) -> None:
    path, found, _ = finished
    text = (path.parent / "out" / "winner.yaml").read_text("utf-8")
    assert text == found.plan
    job, _, _ = settings(path)
    (start,) = (s for s in (settings(path, n)[1] for n in range(3)) if s.name == found.winner)
    read = loads(text, Plan)
    assert read == plan_of(job.plan, start)
    assert read.compare is None
    assert "put this file beside it" in text


def test_everything_is_in_the_json(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    """Curves too, and nothing that JSON does not know; ``--json`` prints the same."""
    path, found, _ = finished
    stored = strictly((path.parent / "out" / "compare.json").read_text("utf-8"))
    assert stored["spec"] == "ligo/comparison/1"
    assert stored["winner"] == found.winner
    assert [len(trial["curve"]) for trial in stored["rows"][0]["trials"]] == [8, 8]
    capsys.readouterr()
    assert run(["compare", str(path), "--json"]) == 0
    printed = strictly(capsys.readouterr().out)
    assert {key: value for key, value in printed.items() if key not in ("path", "files")} == {
        key: value for key, value in stored.items() if key not in ("spec", "versions")
    }


def strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_the_same_plan_gives_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    path, found, _ = finished
    again = compare(path, tmp_path / "again")
    assert again.files == found.files
    for name in found.files:
        assert (tmp_path / "again" / name).read_bytes() == (path.parent / "out" / name).read_bytes(), name


def test_every_step_is_told(finished: Finished) -> None:
    """Those of fits too; at the end as many are done as were to be expected."""
    _, found, records = finished
    trained = [*found.rows, found.references[0]]
    fits = [record for record in records if record["event"] == "fit"]
    assert [(record["candidate"], record["step"], record["steps"]) for record in fits] == [
        ("LiGO", step, 3) for step in (1, 2, 3)
    ]
    assert len(records) == 3 + sum(len(trial.curve) for row in trained for trial in row.trials)
    assert [record["done"] for record in records] == list(range(1, len(records) + 1))
    assert records[-1]["total"] == len(records)
    assert all(record["done"] <= record["total"] for record in records)
    assert {record["candidate"] for record in records} == {row.name for row in trained}
    steps = [record for record in records if record["event"] == "step"]
    curve = [record["loss"] for record in steps if record["candidate"] == found.winner][:8]
    best = next(row for row in found.rows if row.name == found.winner).trials[0]
    assert tuple(curve) == best.curve


def test_the_bar_shows_fits_and_trainings(finished: Finished) -> None:
    """One bar, that is full at the end."""
    bars, records = Progress(), finished[2]
    events = _events(bars)
    notes = []
    for record in records:
        events.race(record)
        (task,) = bars.tasks
        assert (task.completed, task.total) == (record["done"], record["total"])
        notes.append(task.fields["note"])
    assert task.finished
    assert sum(note.startswith("LiGO, fit, loss ") for note in notes) == 3
    assert sum(", rate 0.01, loss " in note for note in notes) > 3 * 8


def test_the_table_names_all(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    path, found, _ = finished
    capsys.readouterr()
    assert run(["compare", str(path)]) == 0
    out = capsys.readouterr().out
    for name in (*(row.name for row in (*found.rows, *found.references)), *found.missing):
        assert name in out
    assert f"best: {found.winner}" in out
    assert "note: one seed" in out


# --- seeds, halving, divergence ---------------------------------------------------------------------------------------


def test_seeds_repeat_everything_and_give_a_spread(beside: Path) -> None:
    found = compare(plan(beside, LIGO, PADDED, seeds=2, learning_rates=[1e-2], seed=5, budget={"steps": 3}))
    first, second = found.rows
    assert found.seeds == (5, 6)
    assert [trial.seed for trial in first.trials] == [5, 6]
    assert first.trials[0].curve != first.trials[1].curve
    differences = [b.reported.mean - a.reported.mean for a, b in zip(first.trials, second.trials, strict=True)
                   if a.reported and b.reported]  # fmt: skip
    assert second.difference == pytest.approx(np.mean(differences))
    assert second.spread == pytest.approx(np.std(differences, ddof=1))
    assert not any("one seed" in note for note in found.notes)


def test_halving_drops_the_worse_half_after_a_third(beside: Path) -> None:
    """Those that stay end as they would without it."""
    names = ({**COPIES, "name": "a"}, {**PADDED, "name": "b"}, {**LIGO, "name": "c"})
    budget = {"steps": 9}
    whole = compare(plan(beside, *names, budget=budget, learning_rates=[1e-2]))
    halved = compare(plan(beside, *names, budget=budget, learning_rates=[1e-2], halving=True))
    dropped = [row for row in halved.rows if row.status == "dropped"]
    kept = [row for row in halved.rows if row.status == "ranked"]
    assert len(dropped) == 1
    assert len(dropped[0].trials[0].curve) == 3
    at_a_third = {row.name: row.trials[0].curve for row in whole.rows}
    assert dropped[0].trials[0].curve == at_a_third[dropped[0].name][:3]
    assert [row for row in whole.rows if row.name in {r.name for r in kept}] == [
        replace(row, rank=whole_row.rank, difference=whole_row.difference)
        for row in kept for whole_row in whole.rows if whole_row.name == row.name
    ]  # fmt: skip
    assert dropped[0].rank is None


def test_halving_keeps_what_its_fit_has_not_let_train_yet(beside: Path) -> None:
    records: list[Mapping[str, Any]] = []
    path = plan(beside, COPIES, PADDED, FITTED, learning_rates=[1e-2], halving=True, budget={"steps": 8})
    found = compare(path, events=ligo_spec.Events(race=records.append))
    assert len([record for record in records if record["event"] == "fit"]) == 2 * 3  # survivors run again
    assert records[-1]["done"] == records[-1]["total"] == len(records)
    (fitted,) = (row for row in found.rows if row.name == "LiGO")
    assert fitted.status == "ranked"
    assert fitted.steps == 4
    assert [row.status for row in found.rows].count("dropped") == 1


def test_fits_that_leave_nothing_of_the_budget_are_no_candidates(beside: Path) -> None:
    """Where all are such, with halving too, that is said."""
    path = plan(beside, DEAR, {**DEAR, "name": "as dear"}, learning_rates=[1e-2], halving=True)
    with pytest.raises(PlanError, match="candidate too dear is not to be had: its fit costs as much as"):
        compare(path)


def test_one_that_diverges_is_reported_and_the_others_go_on(beside: Path) -> None:
    """At one rate, at all of them, or in its fit."""
    found = compare(plan(beside, BROKEN, COPIES, learning_rates=[1e-2, 1e30], warmup_steps=0))
    good, bad = found.rows
    assert (good.rank, bad.rank, bad.status) == (1, None, "diverged")
    assert "the fit diverged" in (bad.reason or "") or "held-out loss after the fit" in (bad.reason or "")
    assert good.learning_rate == 1e-2
    lost = [trial for trial in good.trials if trial.learning_rate == 1e30]
    assert [(trial.chosen, trial.reported) for trial in lost] == [(None, None)]
    assert lost[0].diverged is not None
    assert 1 < lost[0].diverged <= 9


def test_where_all_diverge_nothing_is_written(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(beside, COPIES, learning_rates=[1e30], warmup_steps=0)
    with pytest.raises(NumericalError, match="diverged at every learning rate: 1e\\+30 at step"):
        compare(path, beside / "out")
    assert run(["compare", str(path), "-o", str(beside / "out")]) == 5
    assert not [name for name in beside.iterdir() if "out" in name.name]


def test_a_gradient_that_is_no_number_ends_a_training(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the loss is one: a step by it would only show at the next."""

    def accumulated(model: Any, leaves: Mapping[str, torch.Tensor], batches: Any) -> float:
        for leaf in leaves.values():
            leaf.grad = torch.full_like(leaf, torch.inf)
        return 1.0

    monkeypatch.setattr(race, "accumulated", accumulated)
    with pytest.raises(NumericalError, match=r"0\.001 at step 1, 0\.01 at step 1"):
        compare(plan(beside, COPIES))


def test_every_seed_draws_its_own_maps(beside: Path) -> None:
    path = plan(beside, LIGO)
    one, again, other = (settings(path, 0, seed)[2].operator.main.depth for seed in (5, 5, 6))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not all(np.array_equal(one[key], other[key]) for key in one)


def test_an_interrupt_leaves_nothing(beside: Path) -> None:
    def stop(record: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    before = sorted(beside.rglob("*"))
    path = plan(beside, COPIES)
    with pytest.raises(KeyboardInterrupt):
        compare(path, beside / "out", events=ligo_spec.Events(race=stop))
    assert sorted(beside.rglob("*")) == sorted([*before, path])


# --- what is asked of a plan ------------------------------------------------------------------------------------------


def test_a_plan_without_a_comparison_or_text_is_refused(beside: Path) -> None:
    cases: dict[str, Callable[[], Path]] = {
        "has no compare section": lambda: plan_file(beside, target=TARGET, operator=COPIES),
        "neither compare nor fit has data": lambda: plan(beside, COPIES, data=None),
        "fewer tokens than one step has": lambda: plan(beside, COPIES, budget={"tokens": SEQ_LEN * BATCH - 1}),
        "candidate too shallow is not to be had: no depth method": lambda: plan(beside, SHALLOW),
        "0.01 is there twice": lambda: plan(beside, COPIES, learning_rates=[1e-2, 1e-2]),
        "'LiGO' is there twice": lambda: plan(beside, FITTED, FITTED),
    }
    for message, make in cases.items():
        with pytest.raises(PlanError) as caught:
            compare(make())
        assert message in str(caught.value)
        assert run(["compare", str(beside / "plan.yaml")]) == 2


def test_a_budget_may_be_tokens_and_data_those_of_the_fit(beside: Path) -> None:
    """Shared settings come from the plan's fit where the comparison leaves them out; its own fit is a candidate."""
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": SEQ_LEN, "batch_size": BATCH}
    fit = {"data": data, "device": "cpu", "steps": 2, "micro_batches": 2, "gradient_checkpointing": True}
    more: dict[str, Any] = {"data": None, "device": None, "learning_rates": [1e-2]}
    path = plan(beside, budget={"tokens": 6 * SEQ_LEN * BATCH + 1}, fit=fit, operator=LIGO, **more)
    job = load_job(path)
    growth = growth_of(job, open_small(job).architecture)
    own, *others = candidates_of(job.plan, growth)
    assert own.fit is not None
    assert own.fit.steps == 2
    assert plan_of(job.plan, own).fit == job.plan.fit
    (fitted,) = (start for start in others if start.fit is not None)
    assert plan_of(job.plan, fitted).fit == job.plan.fit.model_copy(update={"steps": 20}) if job.plan.fit else False
    path = plan(beside, PADDED, budget={"tokens": 6 * SEQ_LEN * BATCH + 1}, fit=fit, **more)
    found = compare(path)
    assert (found.budget_steps, found.tokens) == (6, SEQ_LEN * BATCH)
    assert found.rows[0].steps == 6


def test_text_and_model_may_be_named_on_the_command_line(beside: Path) -> None:
    """Instead of the plan's, as for a fit."""
    path = plan(beside, PADDED, learning_rates=[1e-2], budget={"steps": 2})
    before = compare(path)
    (beside / "other.txt").write_text(TEXT[::-1], "utf-8")
    (beside / "small").rename(beside / "moved")
    after = compare(path, source=beside / "moved", data=[beside / "other.txt"])
    assert after.rows[0].reported != before.rows[0].reported
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        compare(path, source=beside / "moved", data=[beside / "nowhere.txt"])


def test_a_plan_that_requires_losslessness_compares_only_what_keeps_it(beside: Path) -> None:
    wider = {key: value for key, value in TARGET.items() if key != "num_hidden_layers"}
    kept, lost = {"width": "hypercloning"}, {"width": "noisy_average", "name": "LiGO"}
    fitted = {**kept, "name": "fitted", "fit": {"steps": 1, "learn": {"structure": "dense"}}}
    checks = {"lossless": "require", "forward": "skip"}
    few: dict[str, Any] = {"learning_rates": [1e-2], "budget": {"steps": 2}}
    found = compare(plan(beside, kept, lost, fitted, target=wider, operator=kept, checks=checks, **few))
    assert [row.name for row in found.rows] == ["hypercloning"]
    assert "checks.lossless requires what it does not keep" in found.missing["LiGO"]
    assert "a fit changes the function" in found.missing["fitted"]


def test_windows_longer_than_the_small_models_positions_leave_it_out(beside: Path) -> None:
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": 2 * SEQ_LEN, "batch_size": 2}
    target = {**TARGET, "max_position_embeddings": 2 * SEQ_LEN}
    found = compare(plan(beside, PADDED, target=target, data=data, learning_rates=[1e-2], budget={"steps": 2}))
    assert [row.name for row in found.references] == ["random large model"]
    assert "more than the model's 16 positions" in found.missing["small model alone, as it is"]


# --- the usual candidates ---------------------------------------------------------------------------------------------

AXES = {
    "width": {key: value for key, value in TARGET.items() if key != "num_hidden_layers"},
    "depth": {"num_hidden_layers": 4},
    "both": TARGET,
    "words": {"vocab_size": 300},
}


@pytest.mark.parametrize("grows", AXES)
def test_the_usual_candidates_suit_what_grows(grows: str, beside: Path) -> None:
    """All can be had here; LiGO's start is among them with and without a fit, as each other's control."""
    job = load_job(plan(beside, target=AXES[grows]))
    job = replace(job, train=(beside / "text.txt",))
    opened = open_small(job)
    growth = growth_of(job, opened.architecture)
    starts = candidates_of(job.plan, growth)
    for start in starts:
        task_of(job, opened, growth, start, 0)
    names = [start.name for start in starts]
    assert len(set(names)) == len(names)
    assert names[0] == "hypercloning + stack"
    if grows == "words":
        assert usual(growth) == []
        return
    methods = {getattr(start.choice, axis).method for start in starts for axis in ("width", "depth")
               if getattr(start.choice, axis) is not None}  # fmt: skip
    wide = {"hypercloning", "lemon", "net2net", "zero_pad", "bert2bert", "noisy_average"}
    deep = {"stack", "interpolate", "noisy_stack"}
    assert (wide if grows != "depth" else set()) | (deep if grows != "width" else set()) <= methods
    (fitted,) = (start for start in starts if start.fit is not None)
    assert fitted.fit == CandidateFit()
    assert any((start.choice, start.fit) == (fitted.choice, None) for start in starts)
    assert f"{next(s.name for s in starts if s.choice == fitted.choice)}, fitted 20 steps" == fitted.name


def test_candidates_of_one_name_are_numbered(beside: Path) -> None:
    job = load_job(plan(beside, COPIES, COPIES, PADDED))
    growth = growth_of(job, open_small(job).architecture)
    assert [s.name for s in candidates_of(job.plan, growth)] == [
        "hypercloning + stack", "hypercloning + stack #2", "zero_pad + stack",
    ]  # fmt: skip


def test_the_fit_of_a_candidate_has_the_keys_and_bounds_of_a_plans() -> None:
    for name, field in CandidateFit.model_fields.items():
        other = Fit.model_fields[name]
        assert (field.annotation, field.metadata) == (other.annotation, other.metadata), name
        assert field.default == other.default or name == "steps"


# --- held-out text, schedule ------------------------------------------------------------------------------------------


def batches_of(tokens: int, *, masked: bool = False, **data: Any) -> Batches:
    """Batches over a held-out text whose every token is its place."""
    ids = np.arange(tokens)
    text = TextData(path=("text.txt",), seq_len=8, batch_size=4, **data)
    frame = (tokens, tokens + 1) if masked else None
    held = Tokens(ids, ids, tokens + 3, mask=tokens + 2, frame=frame)
    return Batches(Windows(held, text, 0.15 if masked else None), Fit(data=text), Draws(0), torch.device("cpu"))


def original(batch: Mapping[str, torch.Tensor]) -> Any:
    """The text of a batch of ``batches_of``, behind its masks and within its frames."""
    ids, labels = (batch[key].numpy() for key in ("input_ids", "labels"))
    ids = np.where(labels == IGNORED, ids, labels)
    return ids[:, 1:-1] if (labels[:, 0] == IGNORED).all() else ids


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [16, 100, 1000])
def test_the_two_draws_of_heldout_text_share_no_token(tokens: int, masked: bool) -> None:
    """As many windows in both, none twice, none longer than asked."""
    drawn = Heldout(batches_of(tokens, masked=masked), Compare(heldout_batches=5), 0)
    parts = {name: [original(batch) for batch in drawn.batches_of(name)] for name in ("choose", "report")}
    chosen, reported = (np.concatenate(parts[name]) for name in ("choose", "report"))
    assert not set(chosen.flat) & set(reported.flat)
    assert chosen.shape == reported.shape
    room = 6 if masked else 8
    assert chosen.shape == (min(5 * 4, tokens // room // 2), room)
    assert len(set(chosen.flat)) == chosen.size
    assert all(len(part) <= 4 for part in (*parts["choose"], *parts["report"]))


def test_too_little_heldout_text_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"held-out windows or images: 1; at least 2 are needed, one to choose by and one to report$"
    ):
        Heldout(batches_of(15), Compare(), 0)


def test_the_rate_rises_stays_and_falls() -> None:
    options = Compare(warmup_steps=3, decay=0.4)
    rates = [race.learning_rate(options, 1.0, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert [race.learning_rate(Compare(warmup_steps=0, decay=0), 2.0, step, 3) for step in range(3)] == [2, 2, 2]


def test_weights_decay_in_matrices_alone() -> None:
    leaves = [torch.ones(2, 2), torch.ones(3)]
    matrices, vectors = race.parameter_groups(leaves, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert [matrices["params"], vectors["params"]] == [[leaves[0]], [leaves[1]]]


# --- without matplotlib -----------------------------------------------------------------------------------------------


def test_without_matplotlib_there_is_no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("a", "ranked", 1, start=2.0, reported=1.0, error=0.1)
    monkeypatch.setattr(compare_plot, "available", lambda: False)
    assert compare_plot.plots([row], [], "compare") == {}


def test_the_plot_is_drawn_whatever_a_candidate_is_called() -> None:
    pytest.importorskip("matplotlib")
    curve = Trial(1e-3, 0, tuple(np.linspace(3, 1, 50)), Losses(1.0, (1.0,)), Losses(1.0, (1.0,)))
    row = Row("_a $start$ <b>", "ranked", 1, start=2.0, reported=1.0, error=0.1, steps=50, flops=100.0,
              learning_rate=1e-3, trials=(curve,))  # fmt: skip
    found = compare_plot.plots([row, replace(row, name="c", status="dropped", error=None)], [], "compare")
    assert found["compare.png"].startswith(b"\x89PNG")
    assert b"after a third of it" in found["compare.svg"]
    assert found == compare_plot.plots([row, replace(row, name="c", status="dropped", error=None)], [], "compare")
