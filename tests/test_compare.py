"""Races of starts: equal operations, ranked by the loss after them, and the winner is a plan."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import ligo_spec
from ligo_spec.compare import Lap, Outcome, default_candidates
from ligo_spec.errors import InputError, OutputError, PlanError
from ligo_spec.flops import training_flops
from ligo_spec.job import open_model
from tests.family_table import ROWS
from tests.models import made
from tests.tiny_checkpoints import CONFIGS, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

SMALL = {**CONFIGS["gpt2"], "vocab_size": 256, "n_positions": 32}

TARGET = {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 6}

STACKED = {"width": "hypercloning", "depth": "stack"}

LIGO = {"preset": "ligo", "fit_steps": 4}


def place(directory: Path, **changes: Any) -> Path:
    """A tiny model, a text, and a plan that races."""
    saved(directory / "small", "GPT2LMHeadModel", SMALL)
    words = "to grow a model is to choose for each space how it is widened and for the layers how they are mixed "
    (directory / "text.txt").write_text(words * 60)
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": 16, "batch_size": 4}
    race = {"candidates": [STACKED, LIGO], "steps": 12, "learning_rates": [1e-3, 1e-2], "warmup_steps": 2, **changes}
    fit = {"data": data, "heldout_batches": 2, "learning_rate": 0.01}
    return plan_file(directory, target=TARGET, operator=STACKED, fit=fit, compare=race)


def test_a_race(tmp_path: Path) -> None:
    """Ranked by the chosen loss, all at equal operations, the winner a plan that is checked and grown."""
    plan = place(tmp_path)
    found = ligo_spec.compare(plan)
    assert {outcome.name for outcome in found.ranking} == {"hypercloning+stack", "ligo, fitted 4 steps"}
    chosen = [outcome.chosen for outcome in found.ranking]
    assert chosen == sorted(chosen)
    by_name = {outcome.name: outcome for outcome in found.ranking}
    plain, fitted = by_name["hypercloning+stack"], by_name["ligo, fitted 4 steps"]
    assert plain.laps[0].steps == 12
    assert fitted.laps[0].steps < 12 - 4  # its steps cost more than training steps
    step = plain.flops / 12
    assert plain.flops - step < fitted.flops <= plain.flops
    assert found.scratch.flops == plain.flops
    assert {lap.learning_rate for lap in plain.laps} == {1e-3, 1e-2}
    assert all(len(lap.losses) == lap.steps and not lap.diverged for lap in plain.laps)
    assert math.isfinite(found.small)
    assert found.winner == tmp_path / "plan.winner.yaml"
    ligo_spec.check(found.winner)
    assert ligo_spec.grow(found.winner).path.is_dir()
    numbers = json.loads(found.results.read_text())
    assert [row["name"] for row in numbers["ranking"]] == [outcome.name for outcome in found.ranking]
    assert numbers["ranking"][0]["laps"][0]["losses"] == list(found.ranking[0].laps[0].losses)


def test_the_same_race_gives_the_same_numbers(tmp_path: Path) -> None:
    plan = place(tmp_path, candidates=[STACKED], learning_rates=[1e-3])
    first = ligo_spec.compare(plan)
    second = ligo_spec.compare(plan, tmp_path / "again.yaml")
    assert first.results.read_bytes() == second.results.read_bytes()
    assert first.winner.read_bytes() == second.winner.read_bytes()


def outcome(name: str, start: float, *laps: tuple[float, float, float]) -> Outcome:
    """Of rate, chosen and reported loss of every lap."""
    made = tuple(Lap(rate, 0, 1, chosen, reported, 0.01, (1.0,), False) for rate, chosen, reported in laps)
    return Outcome(name, 0, start, made, 1.0)


def test_the_rate_is_chosen_on_the_one_half_and_reported_on_the_other() -> None:
    found = outcome("a", 9.0, (1e-3, 2.0, 1.0), (1e-2, 1.5, 3.0))
    assert (found.chosen, found.reported, found.best[0].learning_rate) == (1.5, 3.0, 1e-2)


def test_the_noise_is_that_of_seeds_or_of_the_text() -> None:
    laps = tuple(Lap(1e-3, seed, 1, 1.0, loss, 0.01, (1.0,), False) for seed, loss in enumerate((1.0, 1.3)))
    assert Outcome("a", 0, 1.0, laps, 1.0).noise == pytest.approx(0.15)
    assert Outcome("a", 0, 1.0, laps[:1], 1.0).noise == 0.01


def test_what_has_no_rule_is_listed_with_the_reason(tmp_path: Path) -> None:
    """A width that only whole factors know, for a width that is none: the others race on."""
    lemon = {"width": "lemon", "depth": "stack"}
    plan = place(tmp_path, candidates=[STACKED, lemon], learning_rates=[1e-3], steps=2)
    text = json.loads(plan.read_text())
    text["target"] = {"num_hidden_layers": 4, "intermediate_size": 60}
    plan.write_text(json.dumps(text))
    found = ligo_spec.compare(plan)
    assert [row.name for row in found.ranking] == ["lemon+stack"]
    assert "intermediate_size" in found.absent["hypercloning+stack"]


def test_one_that_diverges_is_last(tmp_path: Path) -> None:
    plan = place(tmp_path, candidates=[{**LIGO, "fit_learning_rate": 1e30, "name": "wild"}, STACKED], steps=9)
    found = ligo_spec.compare(plan)
    assert [row.name for row in found.ranking] == ["hypercloning+stack", "wild"]
    assert found.ranking[1].chosen == math.inf
    assert all(lap.diverged for lap in found.ranking[1].laps)
    assert json.loads(found.results.read_text())["ranking"][1]["chosen"] is None


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    plan = place(tmp_path)
    with pytest.raises(PlanError, match=r"the winner's plan must lie beside"):
        ligo_spec.compare(plan, tmp_path / "small" / "winner.yaml")
    (tmp_path / "plan.winner.yaml").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        ligo_spec.compare(plan)
    text = json.loads(plan.read_text())
    text["compare"]["candidates"] = [{**LIGO, "fit_steps": 12}]
    plan.write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"a fit of 12 steps leaves none of 12"):
        ligo_spec.compare(plan, tmp_path / "other.yaml")
    del text["compare"]
    plan.write_text(json.dumps(text))
    with pytest.raises(PlanError, match=r"compare needs a compare section"):
        ligo_spec.compare(plan, tmp_path / "other.yaml")
    assert not (tmp_path / "other.yaml").exists()


def test_the_default_candidates_have_names_of_their_own() -> None:
    for deep in (False, True):
        titles = [candidate.title for candidate in default_candidates(deep=deep)]
        assert len(set(titles)) == len(titles)
        assert any("fitted" in title for title in titles)


@pytest.mark.parametrize(("family", "share"), [("bert", 0.0), ("gpt2", 0.0), ("llama", 0.0), ("mixtral", 0.02)])
def test_operations_are_those_that_torch_counts(family: str, share: float, tmp_path: Path) -> None:
    """Exactly, but for experts, of which torch counts the padding of each one's tokens too."""
    from torch.utils.flop_counter import FlopCounterMode

    row = ROWS[family]
    config = dict(CONFIGS.get(family) or {**CONFIGS["llama"], **row.config, "model_type": family})
    if family == "mixtral":
        config |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    saved(tmp_path / "small", row.head, config)
    small = open_model(tmp_path / "small")
    ids = torch.randint(0, config["vocab_size"], (2, 10), generator=torch.Generator().manual_seed(0))
    model = made(row.head, config)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    ours = ids.numel() * training_flops(small.architecture, small.binding.templates(), ids.shape[1])
    assert ours == pytest.approx(counter.get_total_flops(), rel=share or 1e-12)
