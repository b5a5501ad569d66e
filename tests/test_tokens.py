"""Fits on token ids in files: the same as on their text, read window by window, every id looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ligo_spec
from ligo_spec import InputError, LigoError, PlanError
from ligo_spec.draws import Draws
from ligo_spec.fit_data import TextData, TokenData
from tests.test_text import tokenizer
from tests.tiny_checkpoints import CONFIGS, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from ligo_torch import token_files
from ligo_torch.arrays import ArrayFile
from ligo_torch.examples import PARTS
from ligo_torch.race import TorchRacer
from ligo_torch.text import Tokens, read_tokens
from ligo_torch.token_files import TokenFiles, read_token_files
from ligo_torch.windows import Windows

torch.set_num_threads(1)  # test runs share the cores

TEXT = "".join(f"{n} + {n + 1} = {2 * n + 1}, and that is {'even' if n % 2 else 'odd'}.\n" for n in range(200))

IDS = np.frombuffer(TEXT.encode(), np.uint8)

DTYPES = ("uint16", "uint32", "int32", "int64")


def options(**changes: Any) -> TokenData:
    return TokenData(**{"kind": "tokens", "path": ("ids.bin",), "seq_len": 8, "batch_size": 5, **changes})


def opened(
    directory: Path, *names: str, heldout: tuple[str, ...] = (), vocab_size: int = 257, **changes: Any
) -> Tokens:
    """The ids of files."""
    train, held = ([directory / name for name in part] for part in (names, heldout))
    return read_token_files(options(**changes), train, held, directory, vocab_size)


def raw(path: Path, ids: Any, dtype: str = "uint16", head: bytes = b"") -> Path:
    path.write_bytes(head + np.asarray(ids).astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    return path


def llmc_head(count: int, magic: int = 20240520) -> bytes:
    """What llm.c writes before its ids."""
    head = np.zeros(256, "<i4")
    head[:3] = magic, 1, count
    return head.tobytes()


# --- the same as the text ---------------------------------------------------------------------------------------------


def same_batches(found: Windows, wanted: Windows) -> None:
    for part in PARTS:
        a, b = (examples.drawn(part, Draws(3), "any") for examples in (found, wanted))
        assert a.keys() == b.keys() == {"input_ids", "labels"}
        assert all(a[key].dtype == np.int64 and np.array_equal(a[key], b[key]) for key in a)
    assert found.disjoint() == wanted.disjoint()
    places = np.arange(found.disjoint())[::-1]
    a, b = (examples.at(places, Draws(3), "any") for examples in (found, wanted))
    assert all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("masking", [None, 0.15])
@pytest.mark.parametrize("name", [*DTYPES, "llm.c", "npy", "rows", "two files"])
def test_ids_in_files_make_the_batches_of_their_text(name: str, masking: float | None, tmp_path: Path) -> None:
    """Whatever the file: the same windows, masks and held-out tenth."""
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    text = TextData(path=("text.txt",), tokenizer="bytes", seq_len=8, batch_size=5)
    wanted = Windows(read_tokens(text, [tmp_path / "text.txt"], [], tmp_path, 257), text, masking)
    names: tuple[str, ...] = ("ids.bin",)
    dtype = name if name in DTYPES else "uint16"
    if name in DTYPES:
        raw(tmp_path / "ids.bin", IDS, dtype)
    elif name == "llm.c":
        raw(tmp_path / "ids.bin", IDS, head=llmc_head(len(IDS)))
    elif name == "two files":
        raw(tmp_path / "a.bin", IDS[:1001])
        np.save(tmp_path / "b.npy", IDS[1001:])
        names = ("a.bin", "b.npy")
    else:
        names = ("ids.npy",)
        np.save(tmp_path / "ids.npy", IDS.astype(np.int32).reshape(-1, 1) if name == "rows" else IDS)
    found = opened(tmp_path, *names, dtype=dtype, mask_token_id=256)
    assert isinstance(found.train, TokenFiles)
    same_batches(Windows(found, options(), masking), wanted)


def test_the_fit_is_that_on_the_text(tmp_path: Path) -> None:
    """The same losses to the last bit; and ``compare`` takes the ids too."""
    saved(tmp_path / "small", "GPT2LMHeadModel", {**CONFIGS["gpt2"], "vocab_size": 257, "n_positions": 16})
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    raw(tmp_path / "ids.bin", IDS)
    cut = {"seq_len": 16, "batch_size": 4}
    found: list[ligo_spec.FitResult] = []
    for data in ({"path": "text.txt", "tokenizer": "bytes"}, {"kind": "tokens", "path": "*.bin"}):
        path = plan_file(
            tmp_path,
            target={"num_hidden_layers": 3},
            operator={"preset": "ligo"},
            fit={"steps": 2, "heldout_batches": 2, "device": "cpu", "data": {**data, **cut}},
        )
        found.append(ligo_spec.fit(path, tmp_path / f"{len(found)}.safetensors"))
    assert found[0].losses == found[1].losses
    assert found[0].heldout_after == found[1].heldout_after


def test_starts_are_compared_on_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of the text; a budget may be in tokens."""
    monkeypatch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)
    saved(tmp_path / "small", "GPT2LMHeadModel", {**CONFIGS["gpt2"], "vocab_size": 257, "n_positions": 16})
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    raw(tmp_path / "ids.bin", IDS)
    found = []
    for data in ({"path": "text.txt", "tokenizer": "bytes"}, {"kind": "tokens", "path": "ids.bin"}):
        compare = {"data": {**data, "seq_len": 16, "batch_size": 4}, "budget": {"tokens": 200}, "device": "cpu"}
        more = {"candidates": [{"depth": "stack"}], "learning_rates": [1e-3], "heldout_batches": 2}
        path = plan_file(tmp_path, target={"num_hidden_layers": 4}, operator={"depth": "stack"}, compare=compare | more)
        found.append(ligo_spec.compare(path))
    assert found[0].rows == found[1].rows
    assert found[1].budget_steps == 3
    with pytest.raises(PlanError, match=r"compare\.data: only text can be named elsewhere, and this is kind: tokens"):
        ligo_spec.compare(tmp_path / "plan.yaml", data=["text.txt"])


# --- how files are read -----------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    data=st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_are_those_of_the_joined_files(tmp_path: Path, lengths: list[int], data: st.DataObject) -> None:
    """Wherever files end, and whichever part of them it is."""
    values = np.random.default_rng(sum(lengths)).integers(0, 100, sum(lengths))
    cuts = np.cumsum(lengths)[:-1]
    paths = [raw(tmp_path / f"{n}.bin", part) for n, part in enumerate(np.split(values, cuts))]
    files = tuple(token_files._open(path, options()) for path in paths)
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(values))] * 2)))
    part = TokenFiles(0, len(values), files).part(begin, end)
    assert len(part) == end - begin
    if begin == end:
        return
    length = data.draw(st.integers(1, end - begin))
    starts = np.asarray(data.draw(st.lists(st.integers(0, end - begin - length), min_size=1, max_size=3)))
    wanted = np.stack([values[begin:end][start : start + length] for start in starts])
    assert np.array_equal(part.runs(starts, length), wanted)


def test_every_id_is_looked_at_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of the last piece too; no piece is longer than asked."""
    monkeypatch.setattr(token_files, "CHUNK", 7)
    raw(tmp_path / "ids.bin", [*[0] * 99, 57])
    read: list[int] = []
    runs = ArrayFile.runs

    def counted(file: ArrayFile, starts: Any, length: int) -> Any:
        read.append(length)
        return runs(file, starts, length)

    monkeypatch.setattr(ArrayFile, "runs", counted)
    with pytest.raises(InputError) as caught:
        opened(tmp_path, "ids.bin", vocab_size=57)
    assert str(caught.value).endswith(
        "ids.bin: id 57 at place 99 is none of the model's, 0 to 56; it may be of another tokenizer, or not uint16"
    )
    assert max(read) == 7
    assert opened(tmp_path, "ids.bin", vocab_size=58).vocab_size == 58


def test_special_tokens_are_the_tokenizers_where_there_is_one(tmp_path: Path) -> None:
    """The plan's mask wins; windows are framed as those of a text."""
    raw(tmp_path / "ids.bin", [5, 6] * 50)
    assert (opened(tmp_path, "ids.bin").mask, opened(tmp_path, "ids.bin").frame) == (None, None)
    tokenizer(tmp_path)
    assert (opened(tmp_path, "ids.bin").mask, opened(tmp_path, "ids.bin").frame) == (3, (1, 2))
    assert (opened(tmp_path, "ids.bin", mask_token_id=8).mask) == 8


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(directory: Path, *names: str, kind: type[LigoError] = InputError, **changes: Any) -> str:
    """What a refusal says, with the directory left out."""
    with pytest.raises(kind) as caught:
        opened(directory, *names, **changes)
    return str(caught.value).replace(f"{directory}/", "")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """By name, with what was found."""
    np.save(tmp_path / "floats.npy", np.zeros(100))
    assert refusal(tmp_path, "floats.npy") == (
        "floats.npy: tokens are integers of one or two axes, these are float64 of shape (100,)"
    )
    np.save(tmp_path / "cube.npy", np.zeros((4, 5, 5), int))
    assert refusal(tmp_path, "cube.npy").endswith("these are int64 of shape (4, 5, 5)")
    np.save(tmp_path / "pickled.npy", np.asarray([{}] * 9), allow_pickle=True)
    assert refusal(tmp_path, "pickled.npy").startswith("pickled.npy: is no .npy file of numbers: ")
    (tmp_path / "odd.bin").write_bytes(b"x" * 101)
    assert refusal(tmp_path, "odd.bin", dtype="int32") == (
        "odd.bin: has 101 bytes, no whole number of 4, as int32 has; say fit.data.dtype"
    )
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    assert refusal(tmp_path, "text.txt") == "text.txt: files of tokens are .npy or .bin"
    np.save(tmp_path / "negative.npy", np.asarray([0, -1] * 40))
    assert refusal(tmp_path, "negative.npy").startswith(
        "negative.npy: id -1 at place 1 is none of the model's, 0 to 256"
    )
    raw(tmp_path / "short.bin", [1] * 7)
    assert refusal(tmp_path, "short.bin") == "the train text has 0 tokens, fewer than one window of 8"
    (tmp_path / "empty.bin").write_bytes(b"")
    assert refusal(tmp_path, "empty.bin") == "the train text has 0 tokens, fewer than one window of 8"


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    """Ids were looked at once, at the start."""
    raw(tmp_path / "ids.bin", IDS)
    found = Windows(opened(tmp_path, "ids.bin"), options())
    raw(tmp_path / "ids.bin", IDS[:-1])
    with pytest.raises(InputError, match=r"ids\.bin: changed since it was opened; run again$"):
        found.drawn("train", Draws(0), "any")


def test_masks_that_the_model_has_not_are_refused(tmp_path: Path) -> None:
    raw(tmp_path / "ids.bin", IDS)
    message = refusal(tmp_path, "ids.bin", kind=PlanError, mask_token_id=257)
    assert message == "fit.data.mask_token_id 257 is none of the model's, 0 to 256"


def test_a_masked_fit_needs_a_mask(tmp_path: Path) -> None:
    """Ids alone do not say which it is."""
    saved(tmp_path / "small", "BertForMaskedLM", {**CONFIGS["bert"], "vocab_size": 257, "max_position_embeddings": 16})
    raw(tmp_path / "ids.bin", IDS)

    def plan(**data: Any) -> Path:
        fit = {"steps": 1, "heldout_batches": 1, "data": {"kind": "tokens", "path": "ids.bin", "seq_len": 16, **data}}
        return plan_file(tmp_path, target={"num_hidden_layers": 3}, operator={"preset": "ligo"}, fit=fit)

    with pytest.raises(PlanError) as caught:
        ligo_spec.fit(plan(), tmp_path / "op.safetensors")
    assert str(caught.value) == "fit.objective: masked_lm needs a mask token; say fit.data.mask_token_id"
    assert np.isfinite(ligo_spec.fit(plan(mask_token_id=256), tmp_path / "op.safetensors").heldout_after)
