"""Text as batches: how it is tokenized and held out, that batches belong to names, and what is masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo_spec import InputError, LigoError, PlanError
from ligo_spec.draws import Draws
from ligo_spec.fit_data import TextData

pytest.importorskip("torch")

from ligo_torch.text import IGNORED, Tokens, causal_batch, masked_batch, read_tokens, windows

PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "b", "##c", "é"]
"""The pieces of the tokenizer below; ids are places in the list."""


def options(**changes: Any) -> TextData:
    """Options for text, small windows of bytes where nothing else is said."""
    return TextData(**{"path": ("text.txt",), "tokenizer": "bytes", "seq_len": 4, "batch_size": 3, **changes})


def written(directory: Path, text: str | bytes, name: str = "text.txt") -> Path:
    """A file with this text."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def tokenizer(directory: Path, pieces: list[str] = PIECES) -> Path:
    """A directory with a WordPiece ``tokenizer.json`` that puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {piece: place for place, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if "[CLS]" in vocab:
        frame = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    made.save(str(directory / "tokenizer.json"))
    return directory


def tokens_of(ids: int = 4000, vocab_size: int = 50, mask: int | None = 3, frame: tuple[int, int] | None = None) -> Any:
    """Tokens of 10 and above, so that special tokens are seen to be put there."""
    text = np.random.default_rng(0).integers(10, vocab_size, ids)
    return Tokens(text, text, vocab_size, mask, frame)


def ids_of(part: Any) -> list[int]:
    """Ids that are in memory."""
    assert isinstance(part, np.ndarray)
    found: list[int] = part.tolist()
    return found


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_bytes_are_the_ids_of_the_utf8_text(tmp_path: Path) -> None:
    """A text's UTF-8 bytes, unchanged, line ends too; files follow one another in the order that they are given."""
    first, second = written(tmp_path, "Zoë\r\n"), written(tmp_path, "\t🙂", "other.txt")
    found = read_tokens(options(seq_len=2), [first, second], [first], tmp_path, 256)
    assert ids_of(found.train) == list("Zoë\r\n\t🙂".encode())
    assert ids_of(found.heldout) == list("Zoë\r\n".encode())
    assert (found.mask, found.frame) == (None, None)


@pytest.mark.parametrize(("vocab_size", "mask"), [(256, None), (257, 256), (300, 256)])
def test_bytes_have_a_mask_token_where_the_vocabulary_has_room(
    tmp_path: Path, vocab_size: int, mask: int | None
) -> None:
    """The id after the last byte."""
    text = written(tmp_path, "some text")
    assert read_tokens(options(), [text], [text], tmp_path, vocab_size).mask == mask


def test_the_checkpoints_tokenizer_gives_its_ids_without_special_tokens(tmp_path: Path) -> None:
    """Pieces of ``tokenizer.json``, also over line ends; [CLS] and [SEP] frame windows, not lines."""
    text = written(tmp_path, "a bc\nqq\n\né b\n")
    found = read_tokens(options(tokenizer="checkpoint"), [text], [text], tokenizer(tmp_path), len(PIECES))
    assert [PIECES[token] for token in ids_of(found.train)] == ["a", "b", "##c", "[UNK]", "é", "b"]
    assert found.mask == PIECES.index("[MASK]")
    assert found.frame == (PIECES.index("[CLS]"), PIECES.index("[SEP]"))


def test_a_tokenizer_without_special_tokens_has_no_mask_and_no_frame(tmp_path: Path) -> None:
    """Nothing is invented for it."""
    text = written(tmp_path, "a b a b a b")
    found = read_tokens(options(tokenizer="checkpoint"), [text], [text], tokenizer(tmp_path, ["[UNK]", "a", "b"]), 3)
    assert ids_of(found.train) == [1, 2, 1, 2, 1, 2]
    assert (found.mask, found.frame) == (None, None)


# --- what is held out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "held"), [(400, 40), (405, 40), (30, 4)])
def test_the_last_tenth_is_held_out(tmp_path: Path, length: int, held: int) -> None:
    """The end of the text, a tenth of it and at least one window; the fit does not see it."""
    text = bytes(np.random.default_rng(1).integers(0, 128, length).tolist())
    found = read_tokens(options(), [written(tmp_path, text)], [], tmp_path, 256)
    assert ids_of(found.train) == list(text[: length - held])
    assert ids_of(found.heldout) == list(text[length - held :])


def test_files_of_their_own_are_held_out_whole(tmp_path: Path) -> None:
    """Then nothing is cut from the text to fit on."""
    train, heldout = written(tmp_path, "x" * 100), written(tmp_path, "y" * 10, "heldout.txt")
    found = read_tokens(options(), [train], [heldout], tmp_path, 256)
    assert (len(found.train), set(ids_of(found.train))) == (100, {ord("x")})
    assert (len(found.heldout), set(ids_of(found.heldout))) == (10, {ord("y")})


# --- windows and batches ----------------------------------------------------------------------------------------------


def test_windows_belong_to_their_names_not_to_the_order_of_calls() -> None:
    """Asked for in another order, or again, they are the same; another name or seed gives others."""
    ids = np.arange(1000)
    names = [f"fit.batch.{step}" for step in range(5)]
    forward = {name: windows(ids, 6, 8, Draws(7), name) for name in names}
    draws = Draws(7)
    backward = {name: windows(ids, 6, 8, draws, name) for name in reversed(names)}
    assert all(np.array_equal(forward[name], backward[name]) for name in names)
    assert len({window.tobytes() for window in forward.values()}) == len(names)
    assert not np.array_equal(windows(ids, 6, 8, Draws(8), names[0]), forward[names[0]])


def test_windows_are_consecutive_and_reach_both_ends() -> None:
    """Every place of the text can be drawn, the first and the last too, and none beyond."""
    cut = windows(np.arange(10), 4, 500, Draws(0), "any")
    assert cut.shape == (500, 4)
    assert np.array_equal(cut, cut[:, :1] + np.arange(4))
    assert set(cut[:, 0].tolist()) == set(range(7))


def test_a_text_of_one_window_gives_that_window() -> None:
    """The shortest text that is not refused."""
    assert windows(np.arange(4), 4, 2, Draws(0), "any").tolist() == [[0, 1, 2, 3]] * 2


def test_a_causal_batch_predicts_its_own_tokens() -> None:
    """Labels are the ids: the library's models shift them."""
    tokens = tokens_of()
    batch = causal_batch(tokens, tokens.heldout, options(), Draws(0), "any")
    assert batch["input_ids"].shape == (3, 4)
    assert np.array_equal(batch["input_ids"], windows(tokens.heldout, 4, 3, Draws(0), "any"))
    assert np.array_equal(batch["labels"], batch["input_ids"])


def test_masked_batches_hide_what_they_predict_in_the_published_shares() -> None:
    """15 % are predicted: 80 % of them behind the mask, 10 % behind a random token, 10 % as they are (±4 sigma)."""
    tokens, data = tokens_of(vocab_size=1000), options(seq_len=100, batch_size=400)
    batch = masked_batch(tokens, tokens.train, data, Draws(0), "any", 0.15)
    original, (ids, labels) = windows(tokens.train, 100, 400, Draws(0), "any"), (batch["input_ids"], batch["labels"])
    predicted = labels != IGNORED
    assert np.array_equal(labels[predicted], original[predicted])
    assert np.array_equal(ids[~predicted], original[~predicted])

    masked, kept = ids[predicted] == tokens.mask, ids[predicted] == original[predicted]
    random = ids[predicted][~masked & ~kept]
    count = int(predicted.sum())

    def sigma(share: float, of: int) -> float:
        return float(np.sqrt(share * (1 - share) / of))

    # one random token in vocab_size is the original one, or the mask: 1e-4 of all, far below a sigma
    assert abs(count / predicted.size - 0.15) < 4 * sigma(0.15, predicted.size)
    assert abs(masked.mean() - 0.8) < 4 * sigma(0.8, count)
    assert abs(kept.mean() - 0.1) < 4 * sigma(0.1, count)
    assert abs(len(random) / count - 0.1) < 4 * sigma(0.1, count)
    assert random.max() > 900  # over the whole vocabulary
    assert random.min() < 100


def test_masks_belong_to_names_too() -> None:
    """The same name gives the same masks, another one others."""
    tokens, data, draws = tokens_of(), options(seq_len=50), Draws(0)
    first, other, again = (
        masked_batch(tokens, tokens.train, data, draws, name, 0.15)["labels"] != IGNORED for name in "aba"
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_window_predicts_something() -> None:
    """Also where the draw chooses nothing: a loss over no token is not a number."""
    tokens, data = tokens_of(), options(batch_size=200)
    batch = masked_batch(tokens, tokens.train, data, Draws(0), "any", 1e-3)
    predicted = batch["labels"] != IGNORED
    assert predicted.any(axis=1).all()
    assert predicted.sum() < 210  # so the draw alone had chosen nothing in nearly all of them


def test_frame_tokens_stand_at_the_ends_and_are_never_predicted() -> None:
    """[CLS] and [SEP] belong to the window's length; what is between them comes from the text."""
    tokens, data = tokens_of(frame=(1, 2)), options(seq_len=6, batch_size=100)
    batch = masked_batch(tokens, tokens.train, data, Draws(0), "any", 0.9)
    ids, labels = batch["input_ids"], batch["labels"]
    assert ids.shape == labels.shape == (100, 6)
    assert set(ids[:, 0].tolist()) == {1}
    assert set(ids[:, -1].tolist()) == {2}
    assert set(labels[:, [0, -1]].ravel().tolist()) == {IGNORED}
    assert (labels[:, 1:-1] != IGNORED).mean() > 0.8
    inner, predicted = windows(tokens.train, 4, 100, Draws(0), "any"), labels[:, 1:-1]
    assert np.array_equal(np.where(predicted == IGNORED, ids[:, 1:-1], predicted), inner)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "heldout", "message"),
    [
        ("abc", None, "the train text has 0 tokens, fewer than one window of 4"),
        ("abcdefg", None, "the train text has 3 tokens, fewer than one window of 4"),
        ("abc", "abcdef", "the train text has 3 tokens, fewer than one window of 4"),
        ("abcdef", "abc", "the held-out text has 3 tokens, fewer than one window of 4"),
        ("abcdef", "", "the held-out text has 0 tokens, fewer than one window of 4"),
    ],
)
def test_too_little_text_is_refused(tmp_path: Path, train: str, heldout: str | None, message: str) -> None:
    """One window must fit on each side of the split."""
    held = [] if heldout is None else [written(tmp_path, heldout, "heldout.txt")]
    with pytest.raises(InputError) as caught:
        read_tokens(options(), [written(tmp_path, train)], held, tmp_path, 256)
    assert str(caught.value) == message


def test_two_windows_are_enough_text(tmp_path: Path) -> None:
    """One to fit on, one held out: the twin of the refusals."""
    found = read_tokens(options(), [written(tmp_path, "abcdefgh")], [], tmp_path, 256)
    assert (ids_of(found.train), ids_of(found.heldout)) == (list(b"abcd"), list(b"efgh"))


def refusal(kind: type[LigoError], data: TextData, text: Path, checkpoint: Path, vocab_size: int) -> str:
    """What a refusal says, with the directory left out."""
    with pytest.raises(kind) as caught:
        read_tokens(data, [text], [text], checkpoint, vocab_size)
    return str(caught.value).replace(f"{checkpoint}/", "")


def test_a_vocabulary_too_small_for_bytes_is_refused(tmp_path: Path) -> None:
    """Bytes need 256 ids, whatever the text holds."""
    message = refusal(PlanError, options(), written(tmp_path, "plain text"), tmp_path, 255)
    assert message == "fit.data.tokenizer: bytes needs a vocabulary of 256, the model has 255"


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(tmp_path: Path) -> None:
    """An id that the model has no embedding for is found before the model does."""
    text, data = written(tmp_path, "a b é a b"), options(tokenizer="checkpoint")
    message = refusal(PlanError, data, text, tokenizer(tmp_path), len(PIECES) - 1)
    assert message == f"the tokenizer gives id {PIECES.index('é')}, but the model's vocab_size is {len(PIECES) - 1}"


@pytest.mark.parametrize("special", [{"mask": 50}, {"mask": 3, "frame": (1, 50)}, {"mask": 3, "frame": (50, 2)}])
def test_a_vocabulary_too_small_for_the_special_tokens_is_refused(special: dict[str, Any]) -> None:
    """The text alone would fit; the mask or the frame would not. A causal batch needs neither."""
    tokens = tokens_of(vocab_size=50, **special)
    with pytest.raises(PlanError) as caught:
        masked_batch(tokens, tokens.train, options(), Draws(0), "any", 0.15)
    assert str(caught.value) == "the tokenizer gives id 50, but the model's vocab_size is 50"
    assert causal_batch(tokens, tokens.train, options(), Draws(0), "any")["input_ids"].max() < 50


def test_a_masked_batch_without_a_mask_token_is_refused() -> None:
    """The objective cannot be trained on such a tokenizer."""
    tokens = tokens_of(mask=None)
    with pytest.raises(PlanError) as caught:
        masked_batch(tokens, tokens.train, options(), Draws(0), "any", 0.15)
    assert str(caught.value) == "fit.objective: masked_lm needs a mask token, and the tokenizer has none"


def test_a_window_that_its_frame_fills_is_refused() -> None:
    """[CLS] and [SEP] alone predict nothing."""
    tokens = tokens_of(frame=(1, 2))
    with pytest.raises(PlanError) as caught:
        masked_batch(tokens, tokens.train, options(seq_len=2), Draws(0), "any", 0.15)
    assert str(caught.value) == "fit.data.seq_len 2 leaves no token between the two that frame a window"


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    """With the two ways out."""
    message = refusal(InputError, options(tokenizer="checkpoint"), written(tmp_path, "a b a b"), tmp_path, 256)
    assert message == (
        "tokenizer.json: not there; put the checkpoint's tokenizer.json beside its weights, or say tokenizer: bytes"
    )


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """A file that the library cannot read, under its name."""
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unheard"}}), "utf-8")
    message = refusal(InputError, options(tokenizer="checkpoint"), written(tmp_path, "a b a b"), tmp_path, 256)
    assert message.startswith("tokenizer.json: no valid tokenizer: ")


@pytest.mark.parametrize("kind", ["bytes", "checkpoint"])
def test_a_binary_file_is_refused(tmp_path: Path, kind: str) -> None:
    """Text is UTF-8, with either tokenizer."""
    text = written(tmp_path, b"text\xff\xfe\x00\x01", "text.bin")
    message = refusal(InputError, options(tokenizer=kind), text, tokenizer(tmp_path), 256)
    assert message == "text.bin: is not UTF-8 text: invalid start byte at byte 4"


def test_a_missing_text_file_is_refused(tmp_path: Path) -> None:
    """By its name."""
    message = refusal(InputError, options(), tmp_path / "nowhere.txt", tmp_path, 256)
    assert message.startswith("nowhere.txt: ")
