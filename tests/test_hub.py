"""Sources on the Hub, against a stand-in of it: what is fetched, which commit, offline, and every way to fail."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ligo_spec
from ligo_spec import hub, json_schema
from ligo_spec.cli import run
from ligo_spec.errors import InputError, OutputError, PlanError
from ligo_spec.hub_files import chosen
from tests.hub_stand_in import Files, StandIn, files_of, serving
from tests.test_cli import ENVIRONMENT
from tests.tiny_checkpoints import CONFIGS, TWICE, arrays, handmade, plan_file, same_bits, tensors_of, tree

library = pytest.importorskip("huggingface_hub")

MODEL = "someone/small-model"
OTHERS = [
    *("README.md", ".gitattributes", "tf_model.h5", "rust_model.ot", "modeling_custom.py", "tokenizer_custom.py"),
    *("pytorch_model.bin", "flax_model.msgpack", "onnx/model.onnx", "original/consolidated.00.pth"),
    *("coreml/model/weights.bin", "model.gguf", "training_args.bin", "tokenizer/vocab.txt", "1_Pooling/config.json"),
]
"""Files that models have and that no growth of safetensors reads."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, which the library takes for the Hub; an empty cache; the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    with serving() as stand_in:
        constants = "huggingface_hub.constants."
        template = stand_in.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(f"{constants}HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(f"{constants}HF_HUB_DISABLE_TELEMETRY", True)
        offline(monkeypatch, False)
        yield stand_in


def offline(monkeypatch: pytest.MonkeyPatch, now: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", now)


def small_files(directory: Path, **changes: object) -> Files:
    """The files of a small model, as one would be pushed."""
    made = files_of(handmade(directory, "gpt2", **changes))
    return {**made, "tokenizer.json": b"{}", "merges.txt": b"a b", "LICENSE": b"free", **dict.fromkeys(OTHERS, b"x")}


def names(*more: str) -> list[str]:
    return sorted(["config.json", "tokenizer.json", "merges.txt", "LICENSE", *more])


# --- what is fetched --------------------------------------------------------------------------------------------------


def test_only_what_a_growth_reads_is_fetched(site: StandIn, tmp_path: Path) -> None:
    """Weights of one format, config, tokenizer, licence; each once, and the second time none."""
    commit = site.push(MODEL, small_files(tmp_path / "small"))
    found = hub.fetch(f"hf://{MODEL}")
    assert site.fetched() == names("model.safetensors")
    assert found.source == f"hf://{MODEL}@{commit}"
    assert list(found.files) == names("model.safetensors")
    assert found.path.name == commit
    assert same_bits(tensors_of(found.path), tensors_of(tmp_path / "small"))
    assert hub.located(f"hf://{MODEL}") == found.path
    assert site.fetched() == []


def test_shards_are_fetched_and_no_others(site: StandIn, tmp_path: Path) -> None:
    """The index is read first; shards that it does not name stay where they are."""
    whole = small_files(tmp_path / "small")
    data = whole.pop("model.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shards = {f"model-{number}.safetensors": data + bytes(number) for number in (1, 2, 3)}
    site.push(MODEL, {**whole, **shards, "model.safetensors.index.json": json.dumps(index).encode()})
    hub.located(f"hf://{MODEL}")
    assert site.fetched() == names("model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors")


@pytest.mark.parametrize(
    ("without", "taken"),
    [
        ([], ["model.safetensors"]),
        (["model.safetensors"], ["pytorch_model.bin"]),
        (["model.safetensors", "pytorch_model.bin"], ["flax_model.msgpack"]),
        (
            ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack"],
            ["onnx/model-00001-of-00002.onnx.data", "onnx/model.onnx", "onnx/model.onnx_data"],
        ),
    ],
)
def test_formats_in_the_order_of_danger(tmp_path: Path, without: list[str], taken: list[str]) -> None:
    """As a directory is searched: the first format that is there, and only that one."""
    onnx = {
        "model.onnx_data",
        "model-00001-of-00002.onnx.data",
        "model_fp16.onnx",
        "model.onnx_data.py",
        "sub/model.onnx",
    }
    files = {"model.safetensors", *(f"onnx/{name}" for name in onnx), "config.json", *OTHERS}
    found = chosen(files - {*without}, "there", lambda name: tmp_path / name)
    assert found == [*taken, "config.json"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "tf_model.h5"], "no weights in it"),
        (["a.safetensors", "b.safetensors"], "2 safetensors files .a.safetensors, b.safetensors. and no model.safe"),
        (["sub/model.safetensors"], "no weights in it"),
    ],
)
def test_models_without_weights_of_ours(files: list[str], message: str) -> None:
    """Refused before anything is fetched."""
    with pytest.raises(InputError, match=f"^there: {message}"):
        chosen(files, "there", Path)


@pytest.mark.parametrize("bad", ["../../evil.safetensors", "/evil.safetensors", "a\\b.safetensors", "a\nb.safetensors"])
def test_names_of_strangers_become_no_paths(tmp_path: Path, bad: str) -> None:
    """A name with a separator or a control character is taken neither from the list nor from the index."""
    assert chosen({"model.safetensors", bad, "tokenizer/../../x"}, "there", Path) == ["model.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": bad, "b": "gone.safetensors"}}))
    with pytest.raises(InputError) as caught:
        chosen({index.name, bad}, "there", lambda name: tmp_path / name)
    assert len(caught.value.problems) == 2
    assert "names the shard 'gone.safetensors', which is not there" in str(caught.value)


# --- which commit -----------------------------------------------------------------------------------------------------


def test_revisions(site: StandIn, tmp_path: Path) -> None:
    """A branch, a tag with a slash, a commit: each gives its own files, and says which commit it is."""
    first = site.push(MODEL, small_files(tmp_path / "first"))
    site.branches[MODEL]["refs/pr/1"] = first
    second = site.push(MODEL, {**small_files(tmp_path / "second", n_inner=7), "vocab.json": b"{}"})
    assert hub.fetch(f"hf://{MODEL}").source == f"hf://{MODEL}@{second}"
    assert hub.fetch(f"hf://{MODEL}@{first}").source == hub.fetch(f"hf://{MODEL}@refs/pr/1").source
    assert hub.fetch(f"hf://{MODEL}@{first}").path.name == first != second


def test_names_are_no_patterns(site: StandIn, tmp_path: Path) -> None:
    """A file whose name a pattern would not match is fetched, and no other for it."""
    site.push(MODEL, {**small_files(tmp_path / "small"), "vocab[1].txt": b"a", "vocab1.txt.py": b"b"})
    hub.located(f"hf://{MODEL}")
    assert site.fetched() == names("model.safetensors", "vocab[1].txt")


def test_a_branch_that_moves_meanwhile(site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two commits are never mixed."""
    site.push(MODEL, small_files(tmp_path / "small"))

    def moving(*arguments: object) -> list[str]:
        site.push(MODEL, {**site.commits[MODEL][site.branches[MODEL]["main"]], "more": b""})
        return chosen(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hub, "chosen", moving)
    with pytest.raises(InputError, match=r"moved from [0-9a-f]{40} to [0-9a-f]{40} while it was fetched; run again"):
        hub.located(f"hf://{MODEL}")


def test_a_plan_grows_a_model_of_the_hub(site: StandIn, tmp_path: Path) -> None:
    """The same weights as from a directory; the manifest has the commit; files of other programs stay behind unseen."""
    files = small_files(tmp_path / "small")
    commit = site.push(MODEL, files)
    library.hf_hub_download(MODEL, "README.md")
    for source in ("small", f"hf://{MODEL}", {"path": f"hf://{MODEL}@main"}):
        plan_file(tmp_path, source=source, target=TWICE["gpt2"], operator={"width": "hypercloning"})
        ligo_spec.grow("plan.yaml", output=f"grown-{type(source).__name__}-{len(str(source))}")
    local, short, long = sorted(tmp_path.glob("grown-*"), key=lambda path: len(str(path.name)) + int(path.name[-2:]))
    manifest = json.loads((short / "growth_manifest.json").read_text())
    assert manifest["source_revision"] == f"hf://{MODEL}@{commit}"
    assert json.loads((local / "growth_manifest.json").read_text())["source_revision"] is None
    assert manifest["files_left_behind"] == []
    assert same_bits(tensors_of(short), tensors_of(local))
    assert same_bits(tensors_of(short), tensors_of(long))
    assert {"tokenizer.json", "merges.txt", "LICENSE"} <= tree(short).keys()
    again = ligo_spec.apply("plan.yaml", source=manifest["source_revision"], output=tmp_path / "again")
    assert same_bits(tensors_of(again.path), tensors_of(short))


def test_the_optimizers_state_is_fetched_where_the_plan_has_one(site: StandIn, tmp_path: Path) -> None:
    """And what says where in the training it is; without one, neither."""
    state = {"optimizer.pt": b"1", "scheduler.pt": b"2", "trainer_state.json": b"3", "rng_state.pth": b"4"}
    site.push(MODEL, {**small_files(tmp_path / "small"), **state})
    options: dict[str, Any] = {
        "source": f"hf://{MODEL}",
        "target": TWICE["gpt2"],
        "operator": {"width": "hypercloning"},
    }
    plan_file(tmp_path, **options)
    ligo_spec.explain("plan.yaml")
    assert site.fetched() == names("model.safetensors")
    plan_file(tmp_path, **options, optimizer="optimizer.pt")
    with pytest.raises(InputError, match=r"/optimizer\.pt: is no archive of torch\.save"):
        ligo_spec.explain("plan.yaml")
    assert site.fetched() == ["optimizer.pt", "scheduler.pt", "trainer_state.json"]


def test_check_fetches_the_config_alone(site: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are held against it as against a directory's."""
    site.push(MODEL, small_files(tmp_path / "small"))
    plan_file(tmp_path, source=f"hf://{MODEL}", target=TWICE["gpt2"], operator={"width": "hypercloning"})
    assert run(["check", "plan.yaml"]) == 0
    assert site.fetched() == ["config.json"]
    plan_file(tmp_path, source=f"hf://{MODEL}", target={"hidden_size": 13}, operator={"width": "hypercloning"})
    assert run(["check", "plan.yaml"]) == 2
    assert site.fetched() == []
    plan_file(tmp_path, source=f"hf://{MODEL}", output="small", operator={})
    assert run(["grow", "plan.yaml"]) == 4
    assert site.asked == []
    assert "already exists" in capsys.readouterr().err


# --- every command ----------------------------------------------------------------------------------------------------


def test_commands_take_models_of_the_hub(site: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same output as for the directory, but for the name."""
    commit = site.push(MODEL, small_files(tmp_path / "small"))
    plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    source = f"hf://{MODEL}@main"
    for command in (["inspect", "{}"], ["family", "check", "gpt2", "{}"], ["explain", "plan.yaml", "--source", "{}"]):
        outputs = []
        for name in ("small", source):
            assert run([part.format(name) for part in command]) == 0
            outputs.append(capsys.readouterr().out.replace(source, "small"))
        assert outputs[0] == outputs[1]
        assert outputs[0]
    assert run(["diff", "small", source, "--exact"]) == 0
    site.asked.clear()
    assert run(["convert", source, "small", "--to", "safetensors"]) == 4
    assert site.asked == []
    assert run(["convert", source, "converted", "--to", "safetensors"]) == 0
    assert same_bits(tensors_of(tmp_path / "converted"), tensors_of(tmp_path / "small"))
    assert {"tokenizer.json", "merges.txt", "LICENSE", "config.json"} <= tree(tmp_path / "converted").keys()
    manifest = json.loads((tmp_path / "converted" / "conversion_manifest.json").read_text())
    assert manifest["source_revision"] == f"hf://{MODEL}@{commit}"


def test_forward_passes_of_a_model_of_the_hub(site: StandIn, tmp_path: Path) -> None:
    """Transformers is given the files that were fetched, and asks the Hub for nothing."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    site.push(MODEL, small_files(tmp_path / "small"))
    assert ligo_spec.verify(f"hf://{MODEL}", "small").same
    assert site.fetched() == names("model.safetensors")


def test_a_process_of_its_own(site: StandIn, tmp_path: Path) -> None:
    """By the library's own variables; the error stream stays empty where it is no terminal."""
    site.push(MODEL, small_files(tmp_path / "small"))
    mine = {"HF_ENDPOINT": site.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "ligo_spec.cli", "inspect", f"hf://{MODEL}", "--json"],
            env={**ENVIRONMENT, **mine, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["family"] == "gpt2"
        assert bool(site.asked) == (offline == "0")
        site.asked.clear()


# --- offline ----------------------------------------------------------------------------------------------------------


def test_offline_from_the_cache(site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By branch and by commit, nothing is asked."""
    commit = site.push(MODEL, small_files(tmp_path / "small"))
    online = hub.fetch(f"hf://{MODEL}")
    site.asked.clear()
    offline(monkeypatch, True)
    assert hub.fetch(f"hf://{MODEL}") == online
    assert hub.fetch(f"hf://{MODEL}@{commit}") == online
    assert site.asked == []


def test_offline_from_a_cache_that_another_program_filled(
    site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which keeps no list of a model's files: what is there is all there is."""
    site.push(MODEL, small_files(tmp_path / "small"))
    library.hf_hub_download(MODEL, "config.json")
    offline(monkeypatch, True)
    with pytest.raises(
        InputError, match=r"HF_HUB_OFFLINE is set, and this is all that the cache has\): no weights in it"
    ):
        hub.fetch(f"hf://{MODEL}")
    offline(monkeypatch, False)
    library.hf_hub_download(MODEL, "model.safetensors")
    offline(monkeypatch, True)
    assert hub.fetch(f"hf://{MODEL}").files == ("config.json", "model.safetensors")


def test_a_library_that_takes_what_there_is(site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions fall back to a part of a snapshot where the connection fails in between; we do not."""
    site.push(MODEL, small_files(tmp_path / "small"))
    whole = library.snapshot_download

    def partly(*arguments: Any, **options: Any) -> str:
        path: str = whole(*arguments, **options)
        (Path(path) / "model.safetensors").unlink()
        return path

    monkeypatch.setattr(library, "snapshot_download", partly)
    with pytest.raises(InputError, match=r"came without 1 of its 5 files \(model\.safetensors\); run again"):
        hub.located(f"hf://{MODEL}")


@pytest.mark.parametrize("known", [False, True])
def test_offline_without_the_weights(
    site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Never heard of, or only its config fetched: refused, not half taken."""
    site.push(MODEL, small_files(tmp_path / "small"))
    if known:
        hub.fetch(f"hf://{MODEL}", weights=False)
    offline(monkeypatch, True)
    with pytest.raises(
        InputError, match="is not, or not whole, in the cache, and HF_HUB_OFFLINE is set; fetch it onli"
    ):
        hub.located(f"hf://{MODEL}")


def test_an_interrupted_download(
    site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The half is never taken for the whole: not by this run, not offline, and the next run has it right."""
    caplog.set_level(logging.CRITICAL, "huggingface_hub")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    site.push(MODEL, small_files(tmp_path / "small"))
    site.cut = {"model.safetensors"}
    with pytest.raises(InputError, match=r"the connection to the Hub failed \(.*\); try again"):
        hub.located(f"hf://{MODEL}")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    offline(monkeypatch, True)
    with pytest.raises(InputError, match="is not, or not whole, in the cache"):
        hub.located(f"hf://{MODEL}")
    offline(monkeypatch, False)
    site.cut = set()
    assert same_bits(tensors_of(hub.located(f"hf://{MODEL}")), arrays(CONFIGS["gpt2"]))


# --- every way to fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            (404, "RepoNotFound"),
            "no such model on the Hub, or it is private; check the name, or log in (hf auth login,",
        ),
        (
            (401, ""),
            "no such model on the Hub, or it is private; check the name, or log in (hf auth login, or HF_TOKEN",
        ),
        ((403, "GatedRepo"), f"is gated: accept its terms on huggingface.co/{MODEL}, then log in (hf auth login"),
        ((403, ""), "the Hub answered 403; log in (hf auth login, or HF_TOKEN)"),
        ((503, ""), "the Hub answered 503; try again later"),
    ],
)
def test_refusals_of_the_hub(
    site: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: tuple[int, str], message: str
) -> None:
    """One line with a remedy, exit code 3."""
    site.push(MODEL, small_files(tmp_path / "small"))
    site.refused[MODEL] = refused
    assert run(["inspect", f"hf://{MODEL}"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: hf://{MODEL}@main: {message}")


def test_a_revision_that_is_not_there(site: StandIn, tmp_path: Path) -> None:
    """Is named."""
    site.push(MODEL, small_files(tmp_path / "small"))
    with pytest.raises(InputError, match="the model has no revision 'v9'; name a branch, tag or commit of it"):
        hub.located(f"hf://{MODEL}@v9")


@pytest.mark.parametrize(
    "answer", [b"<html>hello</html>", b"{}", b"[]", b'{"id": "a/b"}', b'{"id": "a/b", "sha": "../x"}']
)
def test_an_endpoint_that_is_not_the_hub(site: StandIn, answer: bytes) -> None:
    """A page to log in on, another service: refused in one line."""
    site.answer = answer
    with pytest.raises(InputError, match=rf"^hf://{MODEL}@main: (?:what answers|cannot be fetched)") as caught:
        hub.located(f"hf://{MODEL}")
    assert "\n" not in str(caught.value)


def test_nobody_answers(site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with the model in the cache: what a branch is today, the cache does not know. A remedy is named."""
    site.push(MODEL, small_files(tmp_path / "small"))
    hub.located(f"hf://{MODEL}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        InputError, match=r"the connection to the Hub failed \(.*\); try again, or set HF_HUB_OFFLINE=1 to use the cac"
    ):
        hub.located(f"hf://{MODEL}")


def test_a_cache_that_cannot_be_written(site: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the environment's fault, not the model's."""
    site.push(MODEL, small_files(tmp_path / "small"))
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="cannot be stored in the cache: Not a directory; see HF_HOME"):
        hub.located(f"hf://{MODEL}")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said; importing us needs nothing of it (`tests/test_imports.py`)."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PlanError, match=r"hf:// sources need huggingface_hub, .* pip install 'ligo-spec\[hub\]'"):
        hub.located(f"hf://{MODEL}")


@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_left_as_they_were(site: StandIn, tmp_path: Path, shown: bool) -> None:
    """Off while there is no terminal, and as the caller had them afterwards; after a refusal too."""
    utils = library.utils
    before = utils.are_progress_bars_disabled()
    try:
        (utils.enable_progress_bars if shown else utils.disable_progress_bars)()
        with pytest.raises(InputError):
            hub.located(f"hf://{MODEL}")
        assert utils.are_progress_bars_disabled() != shown
    finally:
        (utils.disable_progress_bars if before else utils.enable_progress_bars)()


# --- names ------------------------------------------------------------------------------------------------------------

GOOD = [
    *("hf://a/b", "hf://HuggingFaceTB/SmolLM2-135M", "hf://a.b/c_d.e-f", "hf://a/b@main", "hf://a/b@v1.0+x"),
    *("hf://a/b@refs/pr/4", "hf://a/b@" + "0" * 40, "hf://0/1@a--b", "hf://_a/b_"),
]
BAD = [
    *("hf://", "hf://a", "hf://a/", "hf:///b", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@../x", "hf://../b"),
    *("hf://a/b@x//y", "hf://a/b@/x", "hf://a/b@x/", "hf://a--b/c", "hf://a/b--c", "hf://a/b.git", "hf://a/b.git@x"),
    *("hf://a/b c", "hf://a/b\n", "hf://a/b@m\n", "hf://.a/b", "hf://a/-b", "hf://é/b", "hf://a/b@é", "hf://a/b?x=1"),
    *("hf://a/b#c", "hf://a@b/c", "hf://user:pass@host/a", "hf://a/" + "b" * 97, "hf://a/b@" + "x" * 256, "hf://a/b:c"),
]


@pytest.mark.parametrize("name", GOOD)
def test_names_that_the_hub_has(name: str, tmp_path: Path) -> None:
    """Parsed here, valid to the library, accepted in a plan by loader and schema alike."""
    found = hub.parse_reference(name)
    library.utils.validate_repo_id(found.repository)
    assert str(found) in (name, f"{name}@main")
    plan = json.loads(plan_file(tmp_path, source=name).read_text())
    jsonschema.Draft202012Validator(json_schema("plan")).validate(plan)
    assert ligo_spec.Plan.model_validate_json(json.dumps(plan)).source.path == name


@pytest.mark.parametrize("name", BAD)
def test_names_that_the_hub_does_not_have(name: str, tmp_path: Path) -> None:
    """Refused on the command line (3) and in a plan (2), before any library is asked."""
    wanted = re.escape("a model on the Hub is named hf://owner/name or hf://owner/name@revision")
    with pytest.raises(InputError, match=wanted):
        hub.located(name)
    with pytest.raises(PlanError, match=wanted):
        ligo_spec.check(plan_file(tmp_path, source=name))
    with pytest.raises(PlanError, match=wanted):
        ligo_spec.check(plan_file(tmp_path, source={"path": name}))
    plan = json.loads(plan_file(tmp_path, source=name).read_text())
    if "\n" not in name:  # `$` of some schema libraries lets one through
        assert list(jsonschema.Draft202012Validator(json_schema("plan")).iter_errors(plan))


@pytest.mark.parametrize("key", ["output", "optimizer"])
def test_only_a_source_is_on_the_hub(tmp_path: Path, key: str) -> None:
    """Other paths of a plan are files beside it."""
    with pytest.raises(PlanError, match=rf"plan.yaml:\d+:\d+ {key}: only source\.path may name a model on the Hub"):
        ligo_spec.check(plan_file(tmp_path, **{key: "hf://a/b"}))


def test_a_path_object_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Path`` drops a slash, so it cannot name a model of the Hub; directories of any name can be named."""
    monkeypatch.chdir(tmp_path)
    handmade(tmp_path / "hf:" / "a", "gpt2")
    assert hub.located(Path("hf://a")) == Path("hf:/a")
    assert ligo_spec.inspect("./hf:/a").family == "gpt2"
    assert os.path.isdir(hub.located("hf:/a"))
