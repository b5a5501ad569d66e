"""The command: every happy path, JSON, help, signals, broken pipes, and what a terminal must not see."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec.cli import app, run
from ligo_spec.display import as_data
from tests.tiny_checkpoints import (
    CONFIGS,
    TWICE,
    arrays,
    config_of,
    handmade,
    library,
    plan_file,
    same_bits,
    tensors_of,
    tree,
    write,
)

ROOT = Path(__file__).parents[1]

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(path) for path in (ROOT, ROOT / "converters", ROOT / "backends")),
    "OPENBLAS_NUM_THREADS": "1",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a small model and a plan that doubles it."""
    monkeypatch.chdir(tmp_path)
    handmade(tmp_path / "small", "gpt2")
    plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    return tmp_path


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints when it ends well; nothing is said on the error stream."""
    code = run([*arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def plain(data: Any) -> Any:
    """What JSON makes of a result."""
    return json.loads(json.dumps(as_data(data)))


# --- every command ----------------------------------------------------------------------------------------------------


def test_check(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a plan; the first bad one ends it."""
    before = tree(place)
    assert done(capsys, "check", "plan.yaml", "./plan.yaml") == "plan.yaml: ok\nplan.yaml: ok\n"
    assert run(["check", "plan.yaml", "none.yaml"]) == 2
    assert tree(place) == before


def test_check_without_the_source(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan by itself can be checked; with ``--source``, sizes are held against that model."""
    (place / "small").rename(place / "elsewhere")
    assert done(capsys, "check", "plan.yaml") == "plan.yaml: ok\n"
    assert done(capsys, "check", "plan.yaml", "--source", "elsewhere") == "plan.yaml: ok\n"
    handmade(place / "other", "gpt2", n_head=4)
    assert run(["check", "plan.yaml", "--source", "other"]) == 2


def test_explain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan in full, sizes, tensors, parameters and the certificate; as JSON, what the function returns."""
    before = tree(place)
    out = done(capsys, "explain", "plan.yaml")
    found = ligo_spec.explain("plan.yaml")
    assert out.startswith("spec: ligo/plan/1\n")
    assert re.search(r"hidden_size +12 +24", out)
    assert re.search(r"embed\.tokens\.weight +31×12 +31×24 +1 ", out)
    assert f"parameters {found.parameters[0]:,} → {found.parameters[1]:,}" in out
    assert "certificate: lossless, the large model is the small model's function" in out
    assert json.loads(done(capsys, "explain", "plan.yaml", "--json")) == plain(found)
    assert plain(found)["lossless"] is True
    assert tree(place) == before


def test_explain_names_what_is_broken(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lossy operator: the number of broken conditions, and each of them."""
    plan_file(place, target={**TWICE["gpt2"], "num_hidden_layers": 4}, operator={"preset": "ligo"})
    found = ligo_spec.explain("plan.yaml")
    lines = done(capsys, "explain", "plan.yaml").splitlines()
    assert f"certificate: not lossless, {len(found.broken)} conditions are broken" in lines
    assert json.loads(done(capsys, "explain", "plan.yaml", "--json"))["lossless"] is False


def test_explain_names_copies_that_cannot_part(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The spaces, how many units, and what to do; a method of two terms is shown as a sum."""
    plan_file(place, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    out = done(capsys, "explain", "plan.yaml")
    assert "copies that training cannot part, as their gradients are equal:" in out
    assert "  residual: 24 of 24 units are 12 different ones, copied" in out
    assert "give the width method noise or an uneven split, or take one that does not copy" in out
    data = json.loads(done(capsys, "explain", "plan.yaml", "--json"))["alike"]
    assert {"where": "residual", "kind": "unit", "units": 24, "distinct": 12, "of": 24} in data
    for operator in ({"width": "lemon"}, {"width": {"method": "hypercloning", "noise": 10}}):
        plan_file(place, target=TWICE["gpt2"], operator=operator)
        assert "cannot part" not in done(capsys, "explain", "plan.yaml")
        assert ligo_spec.explain("plan.yaml").alike == ()
    plan_file(place, target=TWICE["gpt2"], operator={"width": "bert2bert", "depth": "stack"})
    assert "sum of 2: weighted select × weighted select, layer copied" in done(capsys, "explain", "plan.yaml")


def test_inspect(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Family, sizes and tensors; with ``--spaces``, what touches which; as JSON, what the function returns."""
    out = done(capsys, "inspect", "small")
    assert out.startswith("small: family gpt2, ")
    assert re.search(r"layers\.\{i\}\.attn\.q\.weight +h\.\{i\}\.attn\.c_attn\.weight +12×12 +2 +F32", out)
    assert re.search(r"residual +hidden_size +12 ", done(capsys, "inspect", "small", "--spaces"))
    found = plain(ligo_spec.inspect("small"))
    assert json.loads(done(capsys, "inspect", "small", "--json")) == found
    assert json.loads(done(capsys, "inspect", "small", "--json", "--family", "gpt2")) == found


def test_apply(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written where the plan says, or where ``--output`` does; the same files as from Python."""
    out = done(capsys, "apply", "plan.yaml")
    assert out.splitlines()[-1] == "written: grown"
    data = json.loads(done(capsys, "apply", "plan.yaml", "--output", "second", "--json"))
    third = ligo_spec.apply("plan.yaml", output="third")
    assert data == plain(third) | {"path": "second"}
    assert tree(place / "grown") == tree(place / "second") == tree(place / "third")


def test_apply_with_options(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--source`` and ``--operator`` win over the plan."""
    done(capsys, "apply", "plan.yaml")
    (place / "small").rename(place / "elsewhere")
    arguments = ("--source", "elsewhere", "--operator", "grown/operator.safetensors", "--output", "again")
    done(capsys, "apply", "plan.yaml", *arguments)
    assert same_bits(tensors_of(place / "again"), tensors_of(place / "grown"))


def test_grow(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a fit and with forward passes skipped, grow writes what apply writes."""
    out = done(capsys, "grow", "plan.yaml")
    assert out.splitlines() == [
        "certificate: lossless, the large model is the small model's function",
        "written: grown",
    ]
    data = json.loads(done(capsys, "grow", "plan.yaml", "--output", "second", "--json"))
    assert data == plain(ligo_spec.grow("plan.yaml", output="third")) | {"path": "second"}
    assert tree(place / "grown") == tree(place / "second") == tree(place / "third")


def test_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator, its log and a report, nothing else; the operator applies."""
    library()
    handmade(place / "small", "gpt2", vocab_size=256)
    (place / "text.txt").write_text("to be or not to be, that is the question. " * 60)
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": 8, "batch_size": 2}
    fit = {"steps": 2, "objective": "causal_lm", "heldout_batches": 1, "threads": 1, "data": data}
    plan_file(place, target=TWICE["gpt2"], operator={"preset": "ligo"}, fit=fit)
    before = tree(place)
    out = done(capsys, "fit", "plan.yaml", "-o", "op")
    assert re.match(r"held-out loss [0-9.]+ → [0-9.]+ nats a token in 2 steps, [0-9,]+ numbers learned\n", out)
    assert tree(place).keys() - before.keys() == {"op", "op.html", "op.jsonl"}
    records = [json.loads(line) for line in (place / "op.jsonl").read_text().splitlines()]
    assert sum(record.get("event") == "step" for record in records) == 2
    shown = json.loads(done(capsys, "fit", "plan.yaml", "-o", "again", "--json"))
    assert shown["losses"] == [record["loss"] for record in records if record.get("event") == "step"]
    assert (place / "op").read_bytes() == (place / "again").read_bytes()
    done(capsys, "apply", "plan.yaml", "--operator", "op")


def test_verify(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Forward passes are compared; ``--lossless`` makes a difference exit 6, after the numbers were shown."""
    library()
    done(capsys, "apply", "plan.yaml")
    assert "0 tensors missing, 0 unexpected" in done(capsys, "verify", "small", "grown", "--lossless")
    found = plain(ligo_spec.verify("small", "grown"))
    assert json.loads(done(capsys, "verify", "small", "grown", "--json")) == found
    handmade(place / "other", "gpt2")
    write(place / "other", CONFIGS["gpt2"], arrays(CONFIGS["gpt2"], seed=1))
    done(capsys, "verify", "small", "other")
    assert run(["verify", "small", "other", "--lossless"]) == 6
    out, err = capsys.readouterr()
    assert "differ by at most" in out
    assert re.fullmatch("error: .* differ by up to .*, though the certificate says lossless\n", err)


@pytest.mark.parametrize("name", ["plan", "family", "operator"])
def test_schema(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON Schema of a document, as the function returns it."""
    assert json.loads(done(capsys, "schema", name)) == ligo_spec.json_schema(name)


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage, what it does, and every option with a word of explanation."""
    out = done(capsys, command, "--help")
    assert f"{command} [OPTIONS]" in out
    options = re.findall(r"^  (?:-\w, )?--[\w-]+(?: [A-Z\[].*?)?(?:  (.*))?$", out, re.MULTILINE)
    assert options
    for option in re.findall(r"^  (.*--\w.*)$\n(?:   (.*))?", out, re.MULTILINE):
        assert re.search(r"  \S+", option[0]) or option[1].strip(), option


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``ligo`` alone: exit 2, and the list of all commands."""
    assert run([]) == 2
    out, err = capsys.readouterr()
    listed = re.findall(r"^  (\w+)  ", out + err, re.MULTILINE)
    assert sorted(listed) == sorted([*COMMANDS, "family"])
    assert run(["--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints that of the installed package."""
    assert done(capsys, "--version") == f"ligo-spec {version('ligo-spec')}\n"


def test_a_bug_is_called_one(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw: exit 70, one line that says so; the traceback only where it is asked for."""

    def broken(plan: Path, source: Path | None = None) -> None:
        raise ZeroDivisionError("\x1b[31mboom")

    monkeypatch.setattr(ligo_spec, "check", broken)
    monkeypatch.delenv("LIGO_DEBUG", raising=False)
    assert run(["check", "plan.yaml"]) == 70
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: this is a bug in ligo-spec: ZeroDivisionError: \\x1b[31mboom"
    assert "LIGO_DEBUG=1" in second
    monkeypatch.setenv("LIGO_DEBUG", "1")
    assert run(["check", "plan.yaml"]) == 70
    assert "Traceback" in capsys.readouterr().err


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_control_characters_are_escaped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files and texts of checkpoints reach a terminal as text, never as a command or as markup."""
    evil = "[/bold]\x1b[31m\u202e:smile:"
    escaped = "[/bold]\\x1b[31m\\u202e:smile:"
    handmade(place / evil, "gpt2", _name_or_path=evil)
    tensors = {**arrays(CONFIGS["gpt2"]), "[bold]:smile:\u202e": np.zeros(1, np.float32)}
    write(place / evil, config_of(place / evil), tensors)
    (place / evil).rename(place / f"x{evil.replace('/', '')}")
    source = f"x{evil.replace('/', '')}"
    (place / "plan.yaml").rename(place / f"{source}.yaml")
    shown = f"x{escaped.replace('/', '')}"
    assert done(capsys, "check", f"{source}.yaml") == f"{shown}.yaml: ok\n"
    for name, how in (("drop", "not written"), ("copy", "copied as it is")):
        plan_file(
            place, source={"path": "small", name: ["*bold*"]}, target=TWICE["gpt2"], operator={"width": "net2net"}
        )
        out = done(capsys, "explain", "plan.yaml", "--source", source)
        assert f"config.json _name_or_path: {escaped} → None\n" in out
        assert f"{how}: [bold]:smile:\\u202e" in out
        assert not re.search("[\x1b\u202e]", out)
    out = done(capsys, "apply", "plan.yaml", "--source", source, "--output", "ok[bold]\u202e")
    assert out.splitlines()[-1] == "written: ok[bold]\\u202e"
    assert run(["inspect", source]) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"error: {shown}: tensor [bold]:smile:\\u202e is not declared")
    assert err.strip("\n").isprintable()


def test_long_lines_are_not_cut(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe, nothing is shortened: every tensor's name is there in full."""
    out = done(capsys, "inspect", "small")
    for row in ligo_spec.inspect("small").tensors:
        assert row.name in out
        assert row.file_name in out


# --- processes --------------------------------------------------------------------------------------------------------

SLOW = """
import os, time
from ligo_spec import cli
from ligo_spec.filesystem import Fs
real = Fs.write
def write(self, descriptor, data):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith("model.safetensors"):
        real(self, descriptor, data[:100])
        print("writing", flush=True)
        time.sleep(20)
    return real(self, descriptor, data)
Fs.write = write
cli.main()
"""


def ligo(*arguments: str, script: str = "from ligo_spec.cli import main; main()") -> subprocess.Popen[str]:
    """The command as a process of its own, which does not ignore the keyboard, as what a shell starts with & does."""
    pipe = subprocess.PIPE
    heeded = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{script}"
    command = [sys.executable, "-c", heeded, *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGTERM, 143, "error: terminated\n"), (signal.SIGINT, 130, "error: interrupted\n")],
)
def test_a_signal_during_a_write_leaves_nothing(number: int, code: int, words: str, place: Path) -> None:
    """The signal comes while the first file is half-written: nothing of it stays, and the code tells."""
    before = tree(place)
    with ligo("apply", "plan.yaml", script=SLOW) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        assert (place / ".grown.staging").exists()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, words)
    assert tree(place) == before


@pytest.mark.parametrize("arguments", [["explain", "plan.yaml"], ["schema", "plan"], ["inspect", "small", "--json"]])
def test_a_reader_that_goes_away(arguments: list[str], place: Path) -> None:
    """``ligo ... | head -1``: no traceback, no complaint, exit 0."""
    with ligo(*arguments) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


def test_an_error_of_a_process(place: Path) -> None:
    """The exit code and the lines of the error stream, through the real entry point."""
    with ligo("grow", "none.yaml") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err == "error: none.yaml: cannot be opened: No such file or directory\n"


def test_python_runs_the_module(place: Path) -> None:
    """``python -m ligo_spec.cli`` is the command, too."""
    command = [sys.executable, "-m", "ligo_spec.cli", "check", "plan.yaml"]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "plan.yaml: ok\n")
