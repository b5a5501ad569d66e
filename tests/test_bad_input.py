"""Bad plans, checkpoints, outputs and operators through the command: the code, one line a problem, nothing written."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import ligo_spec
from ligo_spec.cli import run
from ligo_spec.errors import MAX_SHOWN
from ligo_spec.family import family_names
from tests.tiny_checkpoints import CONFIGS, TWICE, arrays, handmade, plan_file, tree, write

SHIPPED = ", ".join(family_names())

DOUBLE: dict[str, Any] = {"target": TWICE["gpt2"], "operator": {"width": "hypercloning"}}

TEXT = """\
spec: ligo/plan/1
source: small
target:
  hidden_size: 24
  num_attention_heads: 6
operator: {width: hypercloning}
output: grown
checks: {forward: skip}
"""
"""A plan that is good for the small model of most tests here."""


@dataclass
class Result:
    """What a run of the command gave."""

    code: int
    lines: list[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a good small model and a good plan."""
    monkeypatch.chdir(tmp_path)
    handmade(tmp_path / "small", "gpt2")
    (tmp_path / "plan.yaml").write_text(TEXT, "utf-8")
    return tmp_path


def refused(place: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """Run the command; whatever it says, it says in lines of errors, and leaves the disk as it was."""
    before = tree(place)
    code = run([*arguments])
    out, err = capsys.readouterr()
    assert tree(place) == before
    assert out == ""
    lines = err.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("error: "), err
        assert line.isprintable(), err
    return Result(code, [line.removeprefix("error: ") for line in lines])


def expect(result: Result, code: int, *patterns: str) -> None:
    """The code, and as many lines as patterns, each in full."""
    assert result.code == code, result.lines
    assert len(result.lines) == len(patterns), result.lines
    for line, pattern in zip(result.lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_the_good_plan_is_good(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The twin of all tests below: without a fault, the same plan and model are grown."""
    assert [run([command, "plan.yaml"]) for command in ("check", "explain", "grow")] == [0, 0, 0]
    assert capsys.readouterr().err == ""
    assert (place / "grown" / "config.json").exists()


# --- plans ------------------------------------------------------------------------------------------------------------

PLANS: dict[str, tuple[str, str, list[str]]] = {
    "typo in a key": (
        "output:",
        "ouput:",
        ["{}:1:1 output: missing key", "{}:7:1 ouput: unknown key (did you mean output?)"],
    ),
    "typo in a size": (
        "hidden_size:",
        "hiden_size:",
        ["{}:4:3 target.hiden_size: no size of this family (did you mean hidden_size?); it has *"],
    ),
    "typo in a method": (
        "hypercloning",
        "hyperclone",
        ["{}:6:19 operator.width: unknown method 'hyperclone' (did you mean hypercloning?); one of *"],
    ),
    "shrinking": (
        "24",
        "6",
        [
            "{}:4:16 target.hidden_size: hidden_size: large 6 is smaller than small 12; growth cannot shrink an axis",
            "{}:4:3 target: head_dim: large 1 is smaller *",
            "{}:4:3 target: intermediate_size: large 24 is smaller *",
        ],
    ),
    "heads that do not divide": (
        "heads: 6",
        "heads: 5",
        ["{}:5:24 target.num_attention_heads: * 5 does not divide hidden_size 24"],
    ),
    "two sizes": (
        "24\n  num_attention_heads: 6",
        "24\n  num_attention_heads: 2\n  vocab_size: 7",
        ["{}:5:24 target.num_attention_heads: * smaller *", "{}:6:15 target.vocab_size: * smaller *"],
    ),
    "a text for a size": ("24", "'24'", ["{}:4:16 target.hidden_size: expected an integer, found the text '24'"]),
    "a fraction of a size": ("24", "24.5", ["{}:4:16 target.hidden_size: expected an integer, found 24.5"]),
    "a huge size": ("24", "9" * 30, ["{}:4:16 target.hidden_size: a number of 30 digits; at most 19 are read"]),
    "a size of digits without end": (
        "24",
        "9" * 5000,
        ["{}:4:16 target.hidden_size: a number of 5000 digits; at most 19 are read"],
    ),
    "no width": ("{width: hypercloning}", "{}", ["{}:6:11 operator: no width method, but *"]),
    "a preset and a width": (
        "{width: h",
        "{preset: ligo, width: h",
        ["{}:6:11 operator: a preset names width and depth *"],
    ),
    "another spec": ("plan/1", "plan/2", ["{}:1:7 spec: expected 'ligo/plan/1', found the text 'ligo/plan/2'"]),
    "an unknown family": (
        "source: small",
        "source: {path: small, family: gpt3}",
        ["{}:2:31 source.family: no family is named 'gpt3'; shipped families: " + SHIPPED],
    ),
    "a family file that is not there": (
        "source: small",
        "source: {path: small, family: none.yaml}",
        ["none.yaml: cannot be opened: No such file or directory"],
    ),
    "an absolute path": ("grown", "/grown", ["{}:7:9 output*: a path in a plan is relative to the plan *"]),
    "a path that climbs": ("source: small", "source: ../small", ["{}:2:9 source*: a path in a plan is relative *"]),
    "a tag": ("small", "!!python/object/apply:os.system [ls]", ["{}:2:9: tags such as *"]),
    "a key twice": (
        "output: grown",
        "output: grown\nseed: 1\nseed: 2",
        ["{}:9:1 seed: the key is there twice, first at 8:1"],
    ),
    "a key that is no text": ("{width", "{{width", ["{}:6:12: a key must be a text"]),
    "an open bracket": ("{forward: skip}", "{forward: skip", ["{}:9:1: is not valid YAML: *"]),
    "a wrong entry of a list": (
        "output: grown",
        "output: grown\nfit: {data: {path: [3]}}",
        ["{}:8:21 fit.data.path.0: expected a text, found 3"],
    ),
    "an empty list": (
        "output: grown",
        "output: grown\nfit: {data: {path: []}}",
        ["{}:8:20 fit.data.path: needs at least 1 entries, found 0"],
    ),
    "fit and lossless": (
        "skip}",
        "skip, lossless: require}\nfit: {data: {path: text.txt}}",
        ["{}:8:35 checks.lossless: a fit changes the function; drop fit or lossless: require"],
    ),
}
"""By name: what to replace in the good plan, with what, and the lines of the refusal (``*`` for any text)."""


def pattern(line: str, file: str = "plan.yaml") -> str:
    return re.escape(line).replace(r"\{\}", re.escape(file)).replace(r"\*", ".*")


@pytest.mark.parametrize("name", PLANS)
def test_a_bad_plan(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with exit 2 by every command that reads plans, with file, line and column."""
    old, new, lines = PLANS[name]
    assert old in TEXT
    (place / "plan.yaml").write_text(TEXT.replace(old, new, 1), "utf-8")
    commands = [["check", "plan.yaml"], ["explain", "plan.yaml"], ["apply", "plan.yaml"], ["grow", "plan.yaml"]]
    if name == "fit and lossless":
        commands = [["grow", "plan.yaml"], ["fit", "plan.yaml", "-o", "op"]]
    for command in commands:
        result = refused(place, capsys, *command)
        expect(result, 2, *(pattern(line) for line in lines))


def test_a_plan_that_is_no_text_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, a directory, a pipe, binary, empty, too large: exit 2, one line, and no waiting."""
    (place / "directory.yaml").mkdir()
    os.mkfifo(place / "pipe.yaml")
    (place / "binary.yaml").write_bytes(bytes(range(256)))
    (place / "zeros.yaml").write_bytes(b"spec: \0\0")
    (place / "empty.yaml").write_bytes(b"")
    (place / "large.yaml").write_text(TEXT + "# " + "x" * 2_000_000, "utf-8")
    (place / "weights.yaml").write_bytes((place / "small" / "model.safetensors").read_bytes())
    for name, message in [
        ("none.yaml", "cannot be opened: No such file or directory"),
        ("directory.yaml", "is a directory, not a regular file"),
        ("pipe.yaml", "is a pipe, not a regular file"),
        ("binary.yaml", "is not UTF-8 text: invalid start byte at byte 128"),
        ("empty.yaml", "expected a mapping, found nothing"),
        ("zeros.yaml", "is not valid YAML: .*"),
        ("large.yaml", "has [0-9]+ bytes, at most [0-9]+ are read"),
        ("weights.yaml", "is not .*"),
    ]:
        for command in ("check", "explain", "apply", "grow"):
            expect(refused(place, capsys, command, name), 2, f"{re.escape(name)}(:[0-9]+:[0-9]+)?: {message}")


def test_a_bad_family_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A family file of the user's with typos: exit 2, with its own lines and columns."""
    (place / "plan.yaml").write_text(TEXT.replace("source: small", "source: {path: small, family: mine.yaml}"), "utf-8")
    (place / "mine.yaml").write_text("spec: ligo/family/1\nname: mine\nszies: {}\n", "utf-8")
    result = refused(place, capsys, "explain", "plan.yaml")
    assert result.code == 2
    assert "mine.yaml:3:1 szies: unknown key (did you mean sizes?)" in result.lines
    assert any(line.endswith(": missing key") for line in result.lines)


def test_fit_without_a_fit_section(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``ligo fit`` on a plan that says nothing of a fit: exit 2, and no operator appears."""
    wanted = "plan.yaml:1:1: has no fit section; there is nothing to learn"
    expect(refused(place, capsys, "fit", "plan.yaml", "-o", "operator.safetensors"), 2, wanted)


def test_fit_without_its_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text to fit on is not there: exit 3, before anything is learned."""
    (place / "plan.yaml").write_text(TEXT + "fit: {data: {path: 'none/*.txt', tokenizer: bytes}}\n", "utf-8")
    for command in (
        ["fit", "plan.yaml", "-o", "op"],
        ["grow", "plan.yaml"],
        ["grow", "plan.yaml", "--data", "none/*.txt"],
    ):
        expect(refused(place, capsys, *command), 3, re.escape("none/*.txt: no such file"))


# --- checkpoints ------------------------------------------------------------------------------------------------------

WEIGHTS = Path("small/model.safetensors")
CONFIG = Path("small/config.json")
INDEX = Path("small/model.safetensors.index.json")


def header_of(data: bytes) -> dict[str, Any]:
    """The header of a safetensors file."""
    found: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return found


def with_header(change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of the weights; the values stay."""
    data = WEIGHTS.read_bytes()
    header = header_of(data)
    values = data[8 + struct.unpack("<Q", data[:8])[0] :]
    change(header)
    text = json.dumps(header).encode()
    WEIGHTS.write_bytes(struct.pack("<Q", len(text)) + text + values)


def with_config(text: str) -> None:
    """Put a text into ``config.json``; ``%`` stands for the keys of the good one."""
    CONFIG.write_text(text.replace("%", json.dumps(CONFIGS["gpt2"])[1:-1]), "utf-8")


def sharded(change: Callable[[dict[str, Any]], object]) -> None:
    """Cut the weights into two shards with an index, changed."""
    tensors = arrays(CONFIGS["gpt2"])
    WEIGHTS.unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for shard, part in shards.items():
        write(Path("small"), CONFIGS["gpt2"], {name: tensors[name] for name in part})
        WEIGHTS.rename(WEIGHTS.with_name(shard))
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
    change(index)
    INDEX.write_text(json.dumps(index), "utf-8")


def lying_length(length: int) -> None:
    """A header that claims another length than it has."""
    data = WEIGHTS.read_bytes()
    WEIGHTS.write_bytes(struct.pack("<Q", length) + data[8:])


def then(*steps: Callable[[], object]) -> Callable[[], None]:
    """One step after the other."""

    def all_steps() -> None:
        for step in steps:
            step()

    return all_steps


W = r"small/model\.safetensors"
C = r"small/config\.json"

CHECKPOINTS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "no source": (lambda: Path("small").rename("elsewhere"), ["small: no such file or directory"]),
    "no weights": (WEIGHTS.unlink, [r"small: no weights in it: neither model\.safetensors, .*"]),
    "weights are a directory": (
        then(WEIGHTS.unlink, WEIGHTS.mkdir),
        [W + ": is a directory, not a regular file"],
    ),
    "weights are a pipe": (then(WEIGHTS.unlink, lambda: os.mkfifo(WEIGHTS)), [W + ": is a pipe, not a regular file"]),
    "empty": (lambda: WEIGHTS.write_bytes(b""), [W + ": has 0 bytes, a safetensors file has at least 8"]),
    "cut off in the values": (
        lambda: os.truncate(WEIGHTS, WEIGHTS.stat().st_size - 1),
        [W + ": has [0-9]+ bytes of values, its header says [0-9]+; the file is cut off"],
    ),
    "cut off in the header": (
        lambda: os.truncate(WEIGHTS, 100),
        [W + ": has 100 bytes, its header alone needs [0-9]+; the file is cut off"],
    ),
    "a byte too many": (
        lambda: WEIGHTS.write_bytes(WEIGHTS.read_bytes() + b"x"),
        [W + ": has [0-9]+ bytes of values, its header says [0-9]+; the file is longer than that"],
    ),
    "a header of 2^63 bytes": (
        lambda: lying_length(1 << 63),
        [W + ": claims a header of 9223372036854775808 bytes, at most 100000000 are read"],
    ),
    "a header longer than the file": (
        lambda: lying_length(99_000_000),
        [W + ": has [0-9]+ bytes, its header alone needs 99000008; the file is cut off"],
    ),
    "a header that ends early": (lambda: lying_length(50), [W + ": is not valid JSON: .*"]),
    "overlapping tensors": (
        lambda: with_header(lambda h: h["wpe.weight"].update(data_offsets=[0, 480])),
        [W + r": .*: its values begin at byte [0-9]+, the ones before end at [0-9]+: an overlap with another tensor"],
    ),
    "a dtype that is none": (
        lambda: with_header(lambda h: h["wpe.weight"].update(dtype="F33")),
        [W + r": wpe\.weight: dtype F33 is not one of F64, .*"],
    ),
    "a negative side": (
        lambda: with_header(lambda h: h["wpe.weight"].update(shape=[-10, -12])),
        [W + r": wpe\.weight: shape \[-10, -12\] is not a list of .*"],
    ),
    "sides whose product overflows": (
        lambda: with_header(lambda h: h["wpe.weight"].update(shape=[1 << 40, 1 << 40])),
        [W + r": wpe\.weight: shape .* is too large"],
    ),
    "a name with control characters": (
        lambda: with_header(lambda h: h.update({"a\x1b[31m\n": h.pop("wpe.weight")})),
        [W + r": a\\x1b\[31m\\n: the name of a tensor holds control characters"],
    ),
    "other tensors": (
        lambda: with_header(lambda h: h.update({"wpf.weight": h.pop("wpe.weight")})),
        [
            r"small: tensor wpf\.weight is not declared by family gpt2; name it in the plan's source\.drop or .*",
            r"small: tensor embed\.positions\.weight is missing",
        ],
    ),
    "another shape": (
        lambda: with_header(lambda h: h["wpe.weight"].update(shape=[12, 10])),
        [r"small: wpe\.weight \(embed\.positions\.weight\) has shape \(12, 10\), but the config's .* \(10, 12\)"],
    ),
    "a missing shard": (
        then(lambda: sharded(lambda index: None), Path("small/model-00002-of-00002.safetensors").unlink),
        [r"small/model-00002-of-00002\.safetensors: the shard is missing: .* names it, the directory does not have it"],
    ),
    "an index that names another directory": (
        then(
            lambda: sharded(lambda index: index["weight_map"].update({"wpe.weight": "../outside.safetensors"})),
            lambda: Path("outside.safetensors").write_bytes(b"x"),
        ),
        [r"small: '\.\./outside\.safetensors' is not a plain file name"],
    ),
    "an index that names an absolute path": (
        lambda: sharded(lambda index: index["weight_map"].update({"wpe.weight": "/dev/zero"})),
        ["small: '/dev/zero' is not a plain file name"],
    ),
    "an index that swaps two tensors": (
        lambda: sharded(lambda index: index["weight_map"].update({"wpe.weight": "model-00001-of-00002.safetensors"})),
        [r"wpe\.weight: is in model-00002-of-00002\.safetensors, but .* says model-00001-of-00002\.safetensors, .*"],
    ),
    "an index of nothing": (
        lambda: sharded(lambda index: index.clear()),
        [re.escape(str(INDEX)) + ": weight_map is not .*"],
    ),
    "two files and no index": (
        then(lambda: sharded(lambda index: None), INDEX.unlink),
        [r"small: 2 safetensors files \(.*\) and no .*; name the file that you mean"],
    ),
    "no config": (CONFIG.unlink, ["small/config.json: not there, or empty; .*"]),
    "a broken config": (lambda: with_config("{%"), [C + ": is not valid JSON: .*"]),
    "a config that is a list": (lambda: with_config("[{%}]"), [C + ": is not a JSON object"]),
    "an empty config": (lambda: with_config(""), [C + ": is not valid JSON: .*"]),
    "a key twice": (lambda: with_config('{%, "n_embd": 12}'), [C + ": key 'n_embd' stands twice in one object"]),
    "NaN": (lambda: with_config('{%, "x": NaN}'), [C + ": the number NaN is not finite"]),
    "infinity": (lambda: with_config('{%, "x": 1e999}'), [C + ": the number 1e999 is not finite"]),
    "digits without end": (lambda: with_config('{%, "x": ' + "9" * 5000 + "}"), [C + ": is not valid JSON: .*"]),
    "brackets without end": (
        lambda: with_config('{%, "x": ' + "[" * 100_000),
        [C + ": is nested deeper than 64 levels"],
    ),
    "a huge size": (
        lambda: with_config('{%, "n_inner": 1' + "0" * 30 + "}"),
        [C + r": n_inner \(intermediate_size\) must be an integer from 1 to [0-9]+, found 10{30}"],
    ),
    "two wrong sizes": (
        lambda: with_config('{%, "n_inner": -1, "scale_attn_weights": 7}'),
        [C + ": scale_attn_weights is 7; .*", C + ": n_inner .*, found -1"],
    ),
    "a config in another encoding": (lambda: CONFIG.write_bytes(b"\xff\xfe{}"), [C + ": is not UTF-8 text: .*"]),
    "a config that is a directory": (
        then(CONFIG.unlink, CONFIG.mkdir),
        [C + ": is a directory, not a regular file"],
    ),
    "an unknown model_type": (
        lambda: CONFIG.write_text('{"model_type": "x5\\u001b"}', "utf-8"),
        [C + r": .*x5\\x1b.*" + SHIPPED + r".*"],
    ),
    "a link that leads nowhere": (
        then(WEIGHTS.unlink, lambda: WEIGHTS.symlink_to("none")),
        [W + ": cannot be opened: .*"],
    ),
    "a link to a device": (then(WEIGHTS.unlink, lambda: WEIGHTS.symlink_to("/dev/zero")), [W + ": is a device, .*"]),
}
"""By name: what is done to the good model, and the lines of the refusal."""


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with exit 3 by every command that opens a checkpoint, with the file and what is wrong in it."""
    damage, lines = CHECKPOINTS[name]
    damage()
    for command in (["explain", "plan.yaml"], ["apply", "plan.yaml"], ["grow", "plan.yaml"], ["inspect", "small"]):
        expect(refused(place, capsys, *command), 3, *lines)


def test_links_are_followed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory of links, as the Hugging Face cache is: read, and what is carried is a file, not a link."""
    (place / "blobs").mkdir()
    (place / "small" / "tokenizer.json").write_text("{}")
    for path in sorted((place / "small").iterdir()):
        path.rename(place / "blobs" / path.name)
        path.symlink_to(Path("..") / "blobs" / path.name)
    assert run(["grow", "plan.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert all(stat.S_ISREG(path.lstat().st_mode) for path in (place / "grown").iterdir())
    assert (place / "grown" / "tokenizer.json").read_text() == "{}"


def test_values_that_cannot_be_mixed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN in the weights: exit 5, with the tensor and the place in it; without the fault, exit 0."""
    tensors = arrays(CONFIGS["gpt2"])
    tensors["wpe.weight"][3, 4] = np.nan
    write(place / "small", CONFIGS["gpt2"], tensors)
    wanted = r"embed\.positions\.weight: 1 values are not finite, the first at \(3, 4\); maps cannot mix them"
    (place / "plan.yaml").write_text(TEXT.replace("hypercloning", "noisy_average"), "utf-8")
    for command in ("apply", "grow"):
        expect(refused(place, capsys, command, "plan.yaml"), 5, wanted)


def test_many_problems_are_counted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of 30 tensors that nobody declared: the first are listed, the rest are a number."""
    write(place / "small", CONFIGS["gpt2"], {f"x{number:02}": np.zeros(1) for number in range(30)})
    result = refused(place, capsys, "inspect", "small")
    assert result.code == 3
    assert len(result.lines) == MAX_SHOWN + 1
    assert re.fullmatch("[.]{3} and [0-9]+ more", result.lines[-1])


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Existing, inside the source, the source itself, without a parent: exit 4, the path and the remedy."""
    (place / "there").mkdir()
    (place / "file").write_text("precious")
    (place / "dangling").symlink_to("nowhere")
    (place / "alias").symlink_to("small")
    root = re.escape(str(place.resolve()))
    for output, message in [
        ("there", f"{root}/there: already exists. Remove it, or choose another output"),
        ("file", f"{root}/file: already exists. Remove it, or choose another output"),
        ("dangling", f"{root}/dangling: already exists. Remove it, or choose another output"),
        ("small", f"{root}/small: is the source itself. Choose another output"),
        ("alias", f"{root}/alias: is the source itself. Choose another output"),
        ("small/grown", f"{root}/small/grown: lies inside the source .*/small. Choose another output"),
        ("alias/grown", f"{root}/small/grown: lies inside the source .*/small. Choose another output"),
        (str(place), f"{root}: holds the source .*/small. Choose another output"),
        ("none/grown", "none: no such directory. Make it, or choose another output"),
        ("file/grown", "file: is not a directory. Choose another output"),
        ("there/..", r".*: does not name a new file or directory"),
        ("a\x1b[31m", r"a\\x1b\[31m: does not name a new file or directory"),
        ("n" * 300, ".*: cannot be written: the name is too long"),
    ]:
        for command in ("apply", "grow"):
            expect(refused(place, capsys, command, "plan.yaml", "--output", output), 4, message)


@pytest.mark.parametrize("eps", [None, True, "1e-5", -1.0, 10**400, 1e300])
def test_an_eps_that_cannot_be_scaled(eps: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zero-padding scales the norms' epsilon: a config without one, or with no number for it, is refused."""
    handmade(place / "small", "llama", rms_norm_eps=eps)
    plan_file(place, target={"hidden_size": 32}, operator={"width": "zero_pad"})
    wanted = r"config\.json: rms_norm_eps must be a number to be scaled by 0\.5, (it is not there|found .*)"
    for command in ("explain", "apply", "grow"):
        expect(refused(place, capsys, command, "plan.yaml"), 3, wanted)


def test_an_operator_is_not_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``ligo fit``: neither the operator nor its log or report may be there; refused before anything is learned."""
    (place / "plan.yaml").write_text(TEXT + "fit: {data: {path: text.txt, tokenizer: bytes}}\n", "utf-8")
    (place / "text.txt").write_text("x" * 5000)
    (place / "one").write_text("precious")
    (place / "two.jsonl").write_text("precious")
    (place / "three.html").write_text("precious")
    for name, there in (("one", "one"), ("two", "two.jsonl"), ("three", "three.html")):
        wanted = f".*/{there}: already exists. Remove it, or choose another output"
        expect(refused(place, capsys, "fit", "plan.yaml", "-o", name), 4, wanted)
    expect(
        refused(place, capsys, "fit", "plan.yaml", "-o", "small/op"),
        4,
        ".*/small/op: lies inside the source .*/small. .*",
    )


def test_a_read_only_parent(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that may not be written: exit 4. Root may write everywhere, so the system's answer is given here."""
    (place / "closed").mkdir(mode=0o555)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and real(path, mode))
    wanted = ".*closed: may not be written. Choose another output"
    expect(refused(place, capsys, "grow", "plan.yaml", "--output", "closed/grown"), 4, wanted)


# --- operators --------------------------------------------------------------------------------------------------------


def operator_file(place: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Write the operator of the good plan, with its manifest and its arrays changed, as ``op``."""
    ligo_spec.apply(place / "plan.yaml", output=place / "made")
    stored = (place / "made" / "operator.safetensors").read_bytes()
    manifest = json.loads(header_of(stored)["__metadata__"]["ligo"])
    tensors: dict[str, Any] = dict(load(stored))
    change(manifest, tensors)
    (place / "op").write_bytes(save(tensors, metadata={"ligo": json.dumps(manifest)}))


def first_float(tensors: Mapping[str, Any]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].dtype.kind == "f")


def spoil(tensors: dict[str, Any], value: float) -> None:
    name = first_float(tensors)
    tensors[name] = np.full_like(tensors[name], value)


OPERATORS: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "another family": (lambda m, t: m.update(family="bert"), "op: made for family 'bert', not 'gpt2'"),
    "another small size": (
        lambda m, t: m["small"].update(hidden_size=13),
        "op: small hidden_size is 13, the plan's is 12",
    ),
    "another large size": (
        lambda m, t: m["large"].update(hidden_size=25),
        "op: large hidden_size is 25, the plan's is 24",
    ),
    "a size less": (lambda m, t: m["large"].pop("hidden_size"), "op: large hidden_size is None, the plan's is 24"),
    "NaN": (lambda m, t: spoil(t, np.nan), "op: .*: holds values that are not finite"),
    "infinity": (lambda m, t: spoil(t, np.inf), "op: .*: holds values that are not finite"),
    "a tensor less": (
        lambda m, t: t.pop(first_float(t)),
        "op: the manifest names a tensor '.*' that is not in the file",
    ),
    "integers for floats": (
        lambda m, t: t.update({first_float(t): np.ones((2, 2), np.int64)}),
        "op: .*: must hold floats with 2 dimensions, found int64 of shape .*",
    ),
    "a typo": (lambda m, t: m.update(famly="gpt2"), "op.*famly: unknown key .did you mean family.*"),
    "no terms": (lambda m, t: m.update(terms=[]), "op.*terms: needs at least 1 entries, found 0"),
    "another spec": (lambda m, t: m.update(spec="ligo/operator/2"), "op.*spec: expected 'ligo/operator/1', found .*"),
    "a space less": (lambda m, t: m["terms"][0]["spaces"].pop("ffn"), "op: space ffn has no maps"),
    "a space that nobody knows": (
        lambda m, t: m["terms"][0]["spaces"].update(fnf=m["terms"][0]["spaces"]["ffn"]),
        "op: space fnf is not one of the family's",
    ),
    "a map that nobody made": (
        lambda m, t: m["terms"][0]["spaces"]["ffn"].update(out="none"),
        "op: space ffn names a map 'none' that is not there",
    ),
    "a map of no size": (
        lambda m, t: m["terms"][0]["maps"].update(vocab=[{"kind": "identity", "size": 0}]),
        "op .*size: must be at least 1, found 0",
    ),
    "a map of another size": (
        lambda m, t: [maps.append({"kind": "identity", "size": 5}) for maps in m["terms"][0]["maps"].values()],
        "op: map .* of space .* comes 2 times; allowed: .*",
    ),
    "an eps that nobody has": (
        lambda m, t: m.update(eps_scale={"eps": 2.0}),
        "op: eps_scale.eps = 2.0: must be a positive factor of .*",
    ),
    "a negative eps": (
        lambda m, t: m.update(eps_scale={"layer_norm_epsilon": -1.0}),
        "op: eps_scale.layer_norm_epsilon = -1.0: must be .*",
    ),
    "maps in maps without end": (
        lambda m, t: m["terms"][0]["maps"].update(vocab=[deep(40)]),
        "op: is nested deeper than .*",
    ),
}


def deep(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"kind": "identity", "size": 31}
    for _ in range(depth):
        node = {"kind": "blocks", "parts": [node]}
    return node


@pytest.mark.parametrize("name", OPERATORS)
def test_a_bad_operator(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator file that is damaged or of other sizes: exit 3, what is wrong with it, nothing written."""
    change, wanted = OPERATORS[name]
    operator_file(place, change)
    for command in ("explain", "apply"):
        result = refused(place, capsys, command, "plan.yaml", "--operator", "op")
        assert result.code == 3, result
        assert re.fullmatch(wanted, result.lines[0]), result
        assert len(result.lines) == 1 or name == "a map of another size"


def test_the_unchanged_operator_is_good(place: Path) -> None:
    """The twin of the tests above."""
    operator_file(place, lambda manifest, tensors: None)
    assert run(["apply", "plan.yaml", "--operator", "op"]) == 0


def test_a_file_that_is_no_operator(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, a directory, a checkpoint's weights, cut off, text: exit 3."""
    operator_file(place, lambda manifest, tensors: None)
    (place / "cut").write_bytes((place / "op").read_bytes()[:-1])
    (place / "pickle").write_bytes(b"\x80\x04\x95" + b"x" * 100)
    for name, message in [
        ("none", "none: cannot be opened: No such file or directory"),
        ("small", "small: is a directory, not a regular file"),
        (str(WEIGHTS), f"{W}: is no operator file: its metadata has no key 'ligo'"),
        ("cut", "cut: has [0-9]+ bytes of values, its header says [0-9]+; the file is cut off"),
        ("pickle", "pickle: .*"),
        ("plan.yaml", r"plan\.yaml: .*"),
    ]:
        for command in ("explain", "apply"):
            expect(refused(place, capsys, command, "plan.yaml", "--operator", name), 3, message)


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grwo"], "No such command 'grwo'.*"),
        (["grow"], "Missing argument 'PLAN'.*"),
        (["grow", "a", "b"], "Got unexpected extra argument.*"),
        (["grow", "plan.yaml", "--seed", "1"], "No such option: --seed.*"),
        (["grow", "plan.yaml", "--output"], "Option '--output' requires an argument.*"),
        (["fit", "plan.yaml"], "Missing option.*"),
        (["schema", "plans"], "Invalid value for .*plan.*family.*operator.*"),
        (["verify", "small"], "Missing argument 'LARGE'.*"),
        (["verify", "small", "large", "--seed", "x"], "Invalid value for '--seed'.*"),
        (["--verison"], "No such option: --verison.*"),
        (["apply", "plan.yaml", "--backend", "nunpy"], "no backend is named 'nunpy'; installed: numpy, torch.*"),
        (["inspect", "small", "--family", "gtp2"], "no family is named 'gtp2'.*"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line that says what is wrong with the arguments."""
    expect(refused(place, capsys, *arguments), 2, message)


# --- anything ---------------------------------------------------------------------------------------------------------

ALLOWED = {0, 2, 3, 4, 5}


def survives(directory: Path, *arguments: str) -> None:
    """The command ends with one of its codes, however wrong the input; on an error nothing is left."""
    before = tree(directory)
    code = run([*arguments])
    assert code in ALLOWED
    if code:
        assert tree(directory) == before


@st.composite
def edited(draw: st.DrawFn, good: bytes) -> bytes:
    """A good text with pieces cut out, doubled, moved, or put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(
            st.sampled_from(PIECES)
            | st.binary(max_size=6)
            | st.integers(0, len(data)).map(lambda n: bytes(data[n : n + 20]))
        )
        data[start:end] = piece
    return bytes(data)


PIECES = [
    b"", b"{", b"}", b"[", b"]", b":", b",", b'"', b"\n", b"\n  ", b" ", b"-", b"0", b"-1", b"1e999", b"NaN",
    b"true", b"{}", b"[]", b'"x"', b"\x00", b"\xff", b"\x1b[31m", b"&a ", b"*a", b"!!", b"<<: ", b"---\n", b"# ", b"'",
    b"9" * 25, b"null", b"|\n", b"1.5", b"\\ud800", "\u202e".encode(), b"..", b"/", b"1" + b"0" * 15,
    b"2147483647", b"1" * 400,
]  # fmt: skip


@given(data=st.binary(max_size=200) | edited(TEXT.encode()))
@example(data=b"")
@example(data=TEXT.encode())
def test_any_plan_is_taken_or_refused(data: bytes) -> None:
    """Random bytes, and a good plan with random edits: one of the documented codes, never a bug's."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        handmade(directory / "small", "gpt2")
        (directory / "plan.yaml").write_bytes(data)
        survives(directory, "check", f"{directory}/plan.yaml")
        survives(directory, "explain", f"{directory}/plan.yaml")


GOOD_CONFIG = json.dumps(
    {**CONFIGS["llama"], "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
).encode()


@given(data=st.binary(max_size=100) | edited(GOOD_CONFIG))
@example(data=GOOD_CONFIG.replace(b"0.01", b"1" * 400))
@example(data=GOOD_CONFIG.replace(b"0.01", b"true"))
def test_any_config_is_taken_or_refused(data: bytes) -> None:
    """Random bytes, and a good ``config.json`` with random edits, all the way to a grown checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        handmade(directory / "small", "llama")
        (directory / "small" / "config.json").write_bytes(data)
        plan_file(directory, target={"hidden_size": 32}, operator={"width": "zero_pad"})
        survives(directory, "inspect", f"{directory}/small")
        survives(directory, "grow", f"{directory}/plan.yaml")


with tempfile.TemporaryDirectory() as _name:
    _data = (handmade(Path(_name), "gpt2") / "model.safetensors").read_bytes()
    _length = struct.unpack("<Q", _data[:8])[0]
    GOOD_HEADER, VALUES = _data[8 : 8 + _length], _data[8 + _length :]


@given(header=st.binary(max_size=100) | edited(GOOD_HEADER), length=st.none() | st.integers(0, 2**64 - 1))
@example(header=GOOD_HEADER, length=None)
def test_any_header_is_taken_or_refused(header: bytes, length: int | None) -> None:
    """Random bytes, and a good header with random edits and lengths that lie."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        small = handmade(directory / "small", "gpt2")
        claimed = len(header) if length is None else length
        (small / "model.safetensors").write_bytes(struct.pack("<Q", claimed) + header + VALUES)
        plan_file(directory, **DOUBLE)
        survives(directory, "inspect", str(small))
        survives(directory, "grow", f"{directory}/plan.yaml")
