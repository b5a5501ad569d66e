"""Fits on Hugging Face datasets on the disk: columns of ids or text, splits, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ligo_spec
from ligo_spec import InputError, LigoError, PlanError
from ligo_spec.draws import Draws
from ligo_spec.fit_data import DatasetData, TokenData
from tests.test_text import PIECES, tokenizer
from tests.tiny_checkpoints import CONFIGS, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("datasets")

import torch
from datasets import Dataset, DatasetDict, Features, List, Value

from ligo_torch import rows
from ligo_torch.examples import PARTS
from ligo_torch.race import TorchRacer
from ligo_torch.rows import IdRows, TextRows, read_dataset
from ligo_torch.text import Tokens
from ligo_torch.token_files import read_token_files
from ligo_torch.tokenizer import Ids, Tokenizer
from ligo_torch.windows import Windows
from tests.effort import examples

torch.set_num_threads(1)  # test runs share the cores

VOCAB = len(PIECES)

IDS = [[int(n) for n in np.random.default_rng(n).integers(0, VOCAB, n % 7)] for n in range(100)]

TEXTS = [" ".join("ab"[int(n)] for n in np.random.default_rng(k).integers(0, 2, k % 9)) for k in range(100)]


def written(directory: Path, **columns: Any) -> Path:
    """A dataset on the disk."""
    shutil.rmtree(directory / "data", ignore_errors=True)
    Dataset.from_dict(columns).save_to_disk(directory / "data")
    return directory


def opened(directory: Path, vocab_size: int = VOCAB, **changes: Any) -> Tokens:
    """Its tokens."""
    data = DatasetData(**{"kind": "dataset", "path": "data", "seq_len": 6, "batch_size": 5, **changes})
    return read_dataset(data, directory / "data", directory, vocab_size)


def same_batches(found: Windows, wanted: Windows) -> None:
    assert found.disjoint() == wanted.disjoint() > 2
    for part in PARTS:
        a, b = (examples.drawn(part, Draws(3), "any") for examples in (found, wanted))
        assert all(a[key].dtype == np.int64 and np.array_equal(a[key], b[key]) for key in ("input_ids", "labels"))


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", [None, 0.15])
def test_rows_of_ids_make_the_batches_of_one_file(tmp_path: Path, masking: float | None) -> None:
    """The same windows, masks and held-out tenth as of an ``.npy`` of all rows."""
    written(tmp_path, ids=IDS, other=TEXTS)
    np.save(tmp_path / "ids.npy", np.concatenate(IDS).astype(int))
    data = TokenData(kind="tokens", path=("ids.npy",), seq_len=6, batch_size=5, mask_token_id=3)
    wanted = read_token_files(data, [tmp_path / "ids.npy"], [], tmp_path, VOCAB)
    found = opened(tmp_path, ids_column="ids", mask_token_id=3)
    assert isinstance(found.train, IdRows)
    same_batches(Windows(found, data, masking), Windows(wanted, data, masking))


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(25))
def test_runs_are_those_of_the_joined_rows(tmp_path: Path, sizes: list[int], data: st.DataObject) -> None:
    """Wherever rows end, empty and missing ones too, and whichever part of them it is."""
    values = np.arange(sum(sizes))
    parts: list[Any] = [part.tolist() for part in np.split(values, np.cumsum(sizes)[:-1])]
    parts = [None if not part and data.draw(st.booleans()) else part for part in parts]
    features = Features({"ids": List(Value("int32"))})
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    Dataset.from_dict({"ids": parts}, features=features).save_to_disk(tmp_path / "data")
    column = rows._column(DatasetData(kind="dataset", path="data", ids_column="ids"), tmp_path / "data", None)
    joined = rows._known(column, 100)
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(values))] * 2)))
    part = joined.part(begin, end)
    assert (len(joined), len(part)) == (len(values), end - begin)
    if begin == end:
        return
    length = data.draw(st.integers(1, end - begin))
    starts = np.asarray(data.draw(st.lists(st.integers(0, end - begin - length), min_size=1, max_size=3)))
    assert np.array_equal(part.runs(starts, length), np.stack([values[begin:end][s : s + length] for s in starts]))


# --- text -------------------------------------------------------------------------------------------------------------


def test_text_is_tokenized_as_it_is_needed(tmp_path: Path) -> None:
    """Windows are runs of the text's own tokens, from the last row on into the first; the held-out rows are apart."""
    tokenizer(written(tmp_path, text=[*TEXTS[:90], *["é é é"] * 10]))
    found = opened(tmp_path, text_column="text")
    assert isinstance(found.train, TextRows)
    assert (found.mask, found.frame) == (PIECES.index("[MASK]"), (PIECES.index("[CLS]"), PIECES.index("[SEP]")))
    whole = found.train.ids(10**6).tolist()
    assert whole == [PIECES.index(word) for text in TEXTS[:90] for word in text.split()]
    around = "".join(map(chr, [*whole, *whole]))
    drawn = found.train.runs(np.arange(len(found.train)), 25)
    assert all("".join(map(chr, window)) in around for window in drawn.tolist())
    places = {around.index("".join(map(chr, window))) for window in drawn.tolist()}
    assert len(places) > 0.8 * len(whole)  # windows start at nearly every token
    assert isinstance(found.heldout, np.ndarray)
    assert found.heldout.tolist() == [PIECES.index("é")] * 30


def test_no_more_text_is_tokenized_than_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one batch, not the dataset; and held-out text up to a bound."""
    tokenizer(written(tmp_path, text=["a b a b"] * 5000))
    monkeypatch.setattr(rows, "CHUNK", 10)
    monkeypatch.setattr(rows, "MAX_HELDOUT", 50)
    seen: list[int] = []
    each = Tokenizer.each

    def counted(self: Tokenizer, texts: Sequence[str]) -> list[Ids]:
        seen.append(len(texts))
        return each(self, texts)

    monkeypatch.setattr(Tokenizer, "each", counted)
    found = opened(tmp_path, text_column="text")
    assert len(found.heldout) == 50
    Windows(found, DatasetData(kind="dataset", path="data", text_column="text", seq_len=6, batch_size=5)).drawn(
        "train", Draws(0), "any"
    )
    assert sum(seen) < 60


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    parts = {"train": ["a a a a a a a"] * 5, "test": ["b b b b b b b"] * 5}
    DatasetDict({name: Dataset.from_dict({"text": texts}) for name, texts in parts.items()}).save_to_disk(
        tmp_path / "data"
    )
    found = opened(tmp_path, text_column="text", split="train", heldout_split="test")
    batch = Windows(found, DatasetData(kind="dataset", path="data", text_column="text", seq_len=6)).drawn(
        "train", Draws(0), "any"
    )
    assert set(batch["input_ids"].flat) == {PIECES.index("a")}
    assert set(np.asarray(found.heldout).tolist()) == {PIECES.index("b")}


# --- fits and comparisons ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "column"), [("gpt2", "ids_column"), ("bert", "text_column")])
def test_fits_and_comparisons_take_datasets(
    kind: str, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeatable to the last bit."""
    monkeypatch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)
    classes = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}
    saved(tmp_path / "small", classes[kind], CONFIGS[kind])
    tokenizer(tmp_path / "small")
    written(tmp_path, ids_column=IDS * 2, text_column=TEXTS * 2)
    data = {"kind": "dataset", "path": "data", column: column, "seq_len": 8, "batch_size": 2}
    compare = {"budget": {"tokens": 64}, "candidates": [{"depth": "stack"}], "learning_rates": [1e-3]}
    path = plan_file(
        tmp_path,
        target={"num_hidden_layers": 4},
        operator={"depth": "noisy_stack"},
        fit={"steps": 2, "heldout_batches": 2, "device": "cpu", "data": data},
        compare={**compare, "heldout_batches": 2},
    )
    found, again = (ligo_spec.fit(path, tmp_path / f"{n}.safetensors") for n in range(2))
    assert found.losses == again.losses
    assert found.heldout_after != found.heldout_before
    compared = ligo_spec.compare(path)
    assert (compared.budget_steps, compared.tokens) == (4, 16)
    assert compared.rows[0].status == "ranked"


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(directory: Path, kind: type[LigoError] = InputError, **changes: Any) -> str:
    """What a refusal says, with the directory left out."""
    with pytest.raises(kind) as caught:
        opened(directory, **changes)
    return str(caught.value).replace(f"{directory}/", "")


def test_columns_that_are_not_there_or_of_another_type_are_refused(tmp_path: Path) -> None:
    tokenizer(written(tmp_path, ids=IDS, text=TEXTS, number=[1.0] * 100))
    assert refusal(tmp_path, text_column="texts") == (
        "data: has no column 'texts' (did you mean text?); it has ids, text, number"
    )
    assert refusal(tmp_path, ids_column="text") == "data: column text is of type string, not of lists of integers"
    assert refusal(tmp_path, text_column="number") == "data: column number is of type double, not of texts"


def test_splits_that_are_not_there_are_refused(tmp_path: Path) -> None:
    written(tmp_path, ids=IDS)
    assert refusal(tmp_path, ids_column="ids", split="train") == (
        "data: is one dataset without splits, so there is no split 'train'; leave it out"
    )
    shutil.rmtree(tmp_path / "data")
    halves = DatasetDict({name: Dataset.from_dict({"ids": IDS}) for name in ("train", "test")})
    halves.save_to_disk(tmp_path / "data")
    assert refusal(tmp_path, ids_column="ids") == "data: has the splits train, test; say which in fit.data.split"
    assert refusal(tmp_path, ids_column="ids", split="tran") == (
        "data: has no split 'tran' (did you mean train?); it has train, test"
    )


def test_ids_that_the_model_has_not_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their row, in whichever piece it is."""
    monkeypatch.setattr(rows, "CHUNK", 7)
    written(tmp_path, ids=[*IDS[:50], [], [0, VOCAB], *IDS[50:]])
    assert refusal(tmp_path, ids_column="ids") == (
        "data: column ids: id 9 in row 51 is none of the model's, 0 to 8; it may be of another tokenizer"
    )
    assert len(opened(tmp_path, VOCAB + 1, ids_column="ids").train) > 0
    written(tmp_path, ids=[[1, None, 2]] * 30)
    assert refusal(tmp_path, ids_column="ids") == "data: column ids: an id in the rows 0 to 6 has no value"


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer(written(tmp_path, text=["é"] * 100))
    message = refusal(tmp_path, PlanError, text_column="text", vocab_size=VOCAB - 1)
    assert message == f"the tokenizer gives id {VOCAB - 1}, but the model's vocab_size is {VOCAB - 1}"


def test_too_little_is_refused(tmp_path: Path) -> None:
    tokenizer(written(tmp_path, text=["a"] * 5, ids=[[1]] * 5))
    assert refusal(tmp_path, text_column="text") == "the train text has 4 tokens, fewer than one window of 6"
    assert refusal(tmp_path, ids_column="ids") == "the train text has 0 tokens, fewer than one window of 6"


def test_fewer_bytes_than_tokens_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers put tokens before a text; places are bytes, so a window needs as many."""
    tokenizer(written(tmp_path, text=["a"] * 5))
    monkeypatch.setattr(Tokenizer, "each", lambda self, texts: [np.asarray([5] * 6) for text in texts])
    assert refusal(tmp_path, text_column="text") == (
        "data: column text has 4 bytes to fit on, fewer than a window has tokens, 6"
    )


def test_directories_that_are_no_datasets_are_refused(tmp_path: Path) -> None:
    """Another directory, and one whose Arrow file is cut off."""
    (tmp_path / "data").mkdir()
    message = refusal(tmp_path, ids_column="ids")
    assert message.startswith("data: is no dataset as save_to_disk writes it: ")
    shutil.rmtree(tmp_path / "data")
    written(tmp_path, ids=IDS)
    (file,) = (tmp_path / "data").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert refusal(tmp_path, ids_column="ids").startswith("data: is no dataset as save_to_disk writes it: ")


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    written(tmp_path, text=TEXTS)
    assert refusal(tmp_path, text_column="text") == (
        "tokenizer.json: not there; put the checkpoint's tokenizer.json beside its weights, or name an ids_column"
    )


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this kind of data needs it."""
    saved(tmp_path / "small", "GPT2LMHeadModel", CONFIGS["gpt2"])
    written(tmp_path, ids=IDS)
    data = {"kind": "dataset", "path": "data", "ids_column": "ids", "seq_len": 8}
    path = plan_file(
        tmp_path, target={"num_hidden_layers": 4}, operator={"depth": "noisy_stack"}, fit={"steps": 1, "data": data}
    )
    monkeypatch.delitem(sys.modules, "ligo_torch.rows")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PlanError) as caught:
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert str(caught.value) == "fit.data: kind dataset needs datasets; pip install 'ligo-spec[hf]'"


@pytest.mark.parametrize("columns", [{}, {"text_column": "a", "ids_column": "b"}])
def test_one_column_must_be_named(columns: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="name one column: text_column or ids_column"):
        DatasetData(kind="dataset", path="data", **columns)  # type: ignore[arg-type]
