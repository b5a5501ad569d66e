"""Training on from a grown model, as the examples show it: a plain loop, and Transformers' Trainer."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.append(str(Path(__file__).parent.parent / "examples"))  # they import one another as scripts do

import torch
from continue_plain_loop import read_tokens, spread, windows
from grown_optimizer import grown_adamw, grown_groups, schedule

import ligo_spec
from tests.tiny_checkpoints import library, plan_file
from tests.training import format_at_hand, trainers_optimizer

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="Transformers' Trainer needs accelerate, which is not there"
)

STEPS, WARMUP, LENGTH, BATCH, RATE, DECAY = 3, 2, 16, 2, 1e-3, 0.1

WIDER: dict[str, Any] = {
    "target": {"hidden_size": 128, "num_attention_heads": 4},
    "operator": {"width": "hypercloning"},
}
"""Lossless, by copies: every parameter has an old state, and some have rates of their own."""

DEEPER: dict[str, Any] = {"target": {"num_hidden_layers": 4}, "operator": {"depth": "zero_layers"}}
"""Lossless, with a new block."""

Make = Callable[[Any], Any]

OPTIMIZERS: dict[str, tuple[Make, dict[str, str]]] = {
    "named": (lambda model: torch.optim.AdamW(model.named_parameters(), lr=RATE), {}),
    "one group": (lambda model: torch.optim.AdamW(model.parameters(), lr=RATE), {"order": "model"}),
    "the Trainer's": (lambda model: trainers_optimizer(model, lr=RATE), {}),
}
"""How people make AdamW, and what the plan says of it."""


@pytest.fixture(autouse=True)
def _format() -> Iterator[None]:
    with format_at_hand():
        yield


@dataclass(frozen=True)
class Workshop:
    """A directory with text, small models that were trained for some steps, and what was grown of them."""

    path: Path

    @property
    def text(self) -> Path:
        """A folder as the examples want it."""
        return self.path / "corpus"

    def tokens(self, part: str = "train") -> torch.Tensor:
        """All tokens of a part of the text."""
        return read_tokens(self.text / part, tokenizer_of(EXAMPLES / "tiny-gpt2"), LENGTH)

    def held(self) -> torch.Tensor:
        """The windows that the examples hold out."""
        return spread(self.tokens("heldout"), LENGTH)

    def batch(self, number: int) -> torch.Tensor:
        """Some windows to train on."""
        return windows(self.tokens(), torch.arange(4) * LENGTH + 400 * number, LENGTH)

    def small(self, kind: str) -> Path:
        """The small model with the state of an optimizer after three steps."""
        directory = self.path / kind.replace(" ", "-")
        if not directory.exists():
            shutil.copytree(EXAMPLES / "tiny-gpt2", directory)
            model = model_of(directory)
            optimizer = OPTIMIZERS[kind][0](model)
            train(model, optimizer, [self.batch(number) for number in range(3)])
            model.save_pretrained(directory)
            torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        return directory

    def grown(self, source: Path, *, state: bool = True, order: dict[str, str] | None = None, **plan: Any) -> Path:
        """A small model, grown once."""
        output = f"{source.name}-{'-'.join(plan['operator'])}-{state}"
        if not (self.path / output).exists():
            more: dict[str, Any] = {"optimizer": {"path": "optimizer.pt", **(order or {})}} if state else {}
            ligo_spec.apply(plan_file(self.path, source=source.name, output=output, **plan, **more))
        return self.path / output


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Text of two modules of Python, one to train on and one held out."""
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    for part, module in (("train", inspect), ("heldout", textwrap)):
        (made.text / part).mkdir(parents=True)
        (made.text / part / "part-000.txt").write_text(inspect.getsource(module), "utf-8")
    return made


def model_of(directory: Path) -> Any:
    return library().AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def tokenizer_of(directory: Path) -> Any:
    return library().AutoTokenizer.from_pretrained(directory)


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The loss, without the library's own."""
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def train(model: Any, optimizer: Any, batches: list[torch.Tensor]) -> list[float]:
    """The losses before each step."""
    losses = []
    for ids in batches:
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def run_example(name: str, workshop: Workshop, grown: Path, out: Path, *more: str) -> str:
    """What an example prints, run as people run it but for the sizes."""
    sizes = {"steps": STEPS, "warmup": WARMUP, "seq-len": LENGTH, "batch-size": BATCH, "learning-rate": RATE}
    places = {"grown": grown, "data": workshop.text, "out": out}
    options = [text for key, value in {**sizes, **places}.items() for text in (f"--{key}", str(value))]
    alone = {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options, *more],
        cwd=workshop.path,
        env=os.environ | alone,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"100%.*\| ({STEPS}/{STEPS}|{2 * STEPS}/{2 * STEPS}) ", done.stderr), done.stderr  # the bar
    assert "Warning" not in done.stderr
    assert f"saved: {out}\n" in done.stdout
    return done.stdout


def heldout_losses(output: str) -> list[float]:
    """Before and after, as they are printed."""
    found = re.findall(r"^held-out loss (before|after 3 steps): (\d+\.\d{4}) nats a token$", output, re.MULTILINE)
    assert [when for when, _ in found] == ["before", "after 3 steps"]
    return [float(loss) for _, loss in found]


def what_is_printed_is_true(output: str, workshop: Workshop, small: Path, out: Path) -> None:
    """The loss before is the small model's, as the growth keeps the function; the one after is the saved model's."""
    before, after = heldout_losses(output)
    with torch.no_grad():
        assert before == pytest.approx(float(loss_of(model_of(small), workshop.held())), abs=2e-4)
        assert after == pytest.approx(float(loss_of(model_of(out), workshop.held())), abs=2e-4)
    assert after != before
    assert tokenizer_of(out)("x")["input_ids"] == [ord("x")]


# --- the scripts ------------------------------------------------------------------------------------------------------


def test_the_plain_loop(workshop: Workshop, tmp_path: Path) -> None:
    """From a grown model with a grown state to a saved one, which can be grown again, its state too."""
    small = workshop.small("named")
    out = tmp_path / "continued"
    output = run_example("continue_plain_loop.py", workshop, workshop.grown(small, **WIDER), out)
    what_is_printed_is_true(output, workshop, small, out)
    again = plan_file(tmp_path, source="continued", output="again", optimizer="optimizer.pt", **DEEPER)
    state = ligo_spec.apply(again).optimizer
    assert state is not None
    assert (state.step, state.parameters) == (3 + STEPS, (40, 52))


@needs_accelerate
def test_the_trainer(workshop: Workshop, tmp_path: Path) -> None:
    """A growth without a state: everything warms up."""
    small, out = workshop.small("named"), tmp_path / "continued"
    grown = workshop.grown(small, state=False, **DEEPER)
    output = run_example("continue_with_trainer.py", workshop, grown, out)
    what_is_printed_is_true(output, workshop, small, out)
    assert rates(output) == pytest.approx([RATE * 0.5, RATE * 0.775, RATE * 0.325], rel=1e-3)


def rates(output: str) -> list[float]:
    """The rate of every step that the Trainer logs."""
    records = [ast.literal_eval(line) for line in output.splitlines() if line.startswith("{'loss'")]
    return [float(record["learning_rate"]) for record in records]


@needs_accelerate
def test_the_trainer_resumes(workshop: Workshop, tmp_path: Path) -> None:
    """``--resume`` of a checkpoint that the Trainer wrote: the steps and the rates go on where the small run was."""
    small, rate = workshop.path / f"checkpoint-{STEPS}", 3e-4
    rows = [{"input_ids": ids, "labels": ids} for ids in workshop.batch(0)]
    settings = library().TrainingArguments(
        output_dir=str(workshop.path),
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        max_steps=2 * STEPS,
        save_steps=STEPS,
        logging_steps=1,  # the Trainer takes this from the checkpoint, too
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    library().Trainer(model=model_of(EXAMPLES / "tiny-gpt2"), args=settings, train_dataset=rows).train()
    tokenizer_of(EXAMPLES / "tiny-gpt2").save_pretrained(small)
    out = tmp_path / "continued"
    output = run_example("continue_with_trainer.py", workshop, workshop.grown(small, **WIDER), out, "--resume")
    what_is_printed_is_true(output, workshop, small, out)
    done = [(step - WARMUP) / (2 * STEPS - WARMUP) for step in range(STEPS, 2 * STEPS)]
    assert rates(output) == pytest.approx([rate * (1 + math.cos(math.pi * share)) / 2 for share in done], rel=1e-3)


# --- the optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [True, False], ids=["a grown state", "no state"])
@pytest.mark.parametrize("plan", [WIDER, DEEPER], ids=["wider", "deeper"])
def test_every_parameter_is_in_one_group(plan: dict[str, Any], state: bool, workshop: Workshop) -> None:
    """With the rate and the decay that the file says of it; new ones warm up, and all where there is no state."""
    grown = workshop.grown(workshop.small("named"), state=state, **plan)
    model = model_of(grown)
    groups = grown_adamw(model, grown, RATE, DECAY).param_groups
    members = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(members) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    stated = json.loads((grown / "param_groups.json").read_text("utf-8"))["groups"]
    entries = {name: entry for entry in stated for name in entry["parameters"]}
    for name, parameter in model.named_parameters():
        group, entry = members[id(parameter)], entries[name]
        assert group["lr"] == pytest.approx(RATE * entry["lr_multiplier"])
        decay = 0 if name.endswith("bias") or "ln_" in name else DECAY * entry["weight_decay_multiplier"]
        assert group["weight_decay"] == pytest.approx(decay)
        assert group["warms_up"] == (not state or entry["name"] == "new_blocks")
    kinds = {entry["name"] for entry in stated}
    assert kinds == ({"old", "old_times_0.5"} if plan is WIDER else {"old", "new_blocks"})


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_moments_find_their_parameters(kind: str, workshop: Workshop) -> None:
    """However the small run made its AdamW: as PyTorch itself loads the state into one made that way."""
    make, order = OPTIMIZERS[kind]
    grown = workshop.grown(workshop.small(kind), order=order, **WIDER)
    model = model_of(grown)
    wanted = make(model)
    wanted.load_state_dict(torch.load(grown / "optimizer.pt", weights_only=True))
    found = grown_adamw(model, grown, RATE, DECAY)
    for name, parameter in model.named_parameters():
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(found.state[parameter][moment], wanted.state[parameter][moment]), (name, moment)
    assert float(found.state[model.transformer.wte.weight]["step"]) == 3
    options = [(group["betas"], group["eps"]) for group in (*found.param_groups, *wanted.param_groups)]
    assert len(set(options)) == 1


def test_the_grown_model_goes_on_as_the_small_one(workshop: Workshop) -> None:
    """With the grown state and the file's rates the first loss is the same, and the next ones are; not without them."""
    small = workshop.small("named")
    grown = workshop.grown(small, **WIDER)
    batches = [workshop.batch(number) for number in range(3, 6)]
    below = model_of(small)
    rates = [{"params": [p for p in below.parameters() if (p.ndim >= 2) == decays], "weight_decay": decays * DECAY}
             for decays in (True, False)]  # fmt: skip
    optimizer = torch.optim.AdamW(rates, lr=RATE)
    states = torch.load(small / "optimizer.pt", weights_only=True)["state"]
    for number, parameter in enumerate(below.parameters()):
        optimizer.state[parameter] = states[number]
    wanted = train(below, optimizer, batches)

    def losses(rate: Callable[[dict[str, Any]], float]) -> list[float]:
        model = model_of(grown)
        after = grown_adamw(model, grown, RATE, DECAY)
        for group in after.param_groups:
            group["lr"] = rate(group)
        return train(model, after, batches)

    assert losses(lambda group: group["lr"]) == pytest.approx(wanted, rel=1e-4)
    other = losses(lambda group: RATE)
    assert other[0] == pytest.approx(wanted[0], rel=1e-5)
    assert other[-1] != pytest.approx(wanted[-1], rel=1e-3)


@pytest.mark.parametrize("plan", [WIDER, DEEPER], ids=["wider", "deeper"])
def test_training_on_lowers_the_loss(plan: dict[str, Any], workshop: Workshop) -> None:
    """Of a batch that stays the same, by a tenth in a dozen steps."""
    grown = workshop.grown(workshop.small("named"), **plan)
    model = model_of(grown)
    losses = train(model, grown_adamw(model, grown, RATE, DECAY), [workshop.batch(9)] * 12)
    assert losses[-1] < 0.9 * losses[0]


def test_only_what_has_no_state_warms_up(workshop: Workshop) -> None:
    """The new block's rates rise, the old ones' fall from the first step."""
    grown = workshop.grown(workshop.small("named"), **DEEPER)
    optimizer = grown_adamw(model_of(grown), grown, RATE, DECAY)
    scheduler = schedule(optimizer, steps=100, warmup=10)
    seen: dict[str, list[float]] = {}
    for _ in range(12):
        for group in optimizer.param_groups:
            seen.setdefault(group["name"], []).append(group["lr"])
        optimizer.step()
        scheduler.step()
    assert set(seen) == {"old", "new_blocks"}
    assert seen["old"][::2] == sorted(seen["old"][::2], reverse=True)
    assert seen["old"][0] == RATE
    assert seen["new_blocks"][0] == pytest.approx(RATE / 10)
    assert seen["new_blocks"][-1] == pytest.approx(seen["old"][-1])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_parameter_that_no_group_has_is_named(workshop: Workshop, tmp_path: Path) -> None:
    """Rather than left out of the training."""
    grown = workshop.grown(workshop.small("named"), state=False, **WIDER)
    groups = json.loads((grown / "param_groups.json").read_text("utf-8"))
    groups["groups"][0]["parameters"].remove("transformer.wte.weight")
    (tmp_path / "param_groups.json").write_text(json.dumps(groups), "utf-8")
    with pytest.raises(SystemExit, match=r"param_groups.json: transformer.wte.weight is in no group; the library"):
        grown_groups(model_of(grown), tmp_path, {}, RATE, DECAY)


def test_files_without_the_models_prefix_are_understood(workshop: Workshop, tmp_path: Path) -> None:
    """A checkpoint of the released GPT-2 says ``wte.weight``, the model in memory ``transformer.wte.weight``."""
    grown = workshop.grown(workshop.small("named"), state=False, **WIDER)
    text = (grown / "param_groups.json").read_text("utf-8")
    assert "transformer." in text
    (tmp_path / "param_groups.json").write_text(text.replace("transformer.", ""), "utf-8")
    model = model_of(grown)
    whole, bare = (grown_groups(model, place, {}, RATE, DECAY) for place in (grown, tmp_path))
    assert [group["params"] for group in bare] == [group["params"] for group in whole]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("continue_plain_loop.py", ["--grown", "nowhere"], r"nowhere: no param_groups.json there; make demo, or ligo"),
        (
            "continue_plain_loop.py",
            ["--data", "nowhere"],
            r"nowhere/train/\*.txt: 0 tokens, a window takes 128; python",
        ),
        (
            "continue_with_trainer.py",
            ["--resume"],
            r"--resume needs optimizer.pt, scheduler.pt, trainer_state.json; run",
        ),
    ],
)
def test_what_is_missing_is_said(
    name: str, options: list[str], message: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a line, without a traceback."""
    grown = workshop.grown(workshop.small("named"), state=False, **WIDER)
    arguments = [name, "--grown", str(grown), "--data", str(workshop.text), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    example = importlib.import_module(name.removesuffix(".py"))
    with pytest.raises(SystemExit, match=message):
        example.main()
