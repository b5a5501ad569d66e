"""What is trained on: three disjoint parts, one to train on, one to choose by, one to report.

Every batch belongs to its name and seed (``ligo_spec.draws``), so all methods see the same ones in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from course.tracks import Track
from ligo_spec.draws import Draws
from ligo_torch.huggingface import Batch
from ligo_torch.text import Tokens, masked

Ids = npt.NDArray[np.int64]

Part = Literal["choose", "report"]

PARTS: tuple[Part, ...] = ("choose", "report")

HELDOUT_WINDOWS = 256
"""In each part, cut evenly from its own half of the held-out files."""

IMAGES = {"choose": 300, "report": 300}

GLANCE = 1
"""Batches of ``choose`` that a point of a curve is measured on."""

MASK, VOCABULARY = 256, 257
"""The byte after the last is the mask."""

MASKED = 0.15


class Data(Protocol):
    """Batches by name."""

    def batch(self, name: str, seed: int) -> Batch:
        """A batch to train on."""
        ...

    def heldout(self, part: Part) -> Iterator[Batch]:
        """The batches of a part, always the same."""
        ...


@dataclass(frozen=True)
class Text:
    """Bytes of the Python standard library, by file in training and held-out ones (``examples/python_corpus.py``).

    Args:
        track: How it is cut.
        train: Bytes to train on.
        parts: Held-out bytes, one half of the files each.
        device: Where batches go.
    """

    track: Track
    train: npt.NDArray[np.uint8]
    parts: dict[Part, npt.NDArray[np.uint8]]
    device: torch.device

    @staticmethod
    def of(track: Track, corpus: Path, device: torch.device) -> Text:
        """The corpus, cut as a track says."""
        train, heldout = (_joined(corpus / split) for split in ("train", "heldout"))
        half = len(heldout) // 2
        return Text(track, train, {"choose": heldout[:half], "report": heldout[half:]}, device)

    def batch(self, name: str, seed: int) -> Batch:
        """Windows at places that belong to the name."""
        draws = Draws(seed)
        starts = draws.of(name).integers(0, len(self.train) - self.track.seq_len + 1, self.track.batch_size)
        return self._batch(self.train, starts, draws, name)

    def heldout(self, part: Part) -> Iterator[Batch]:
        """Windows evenly over the part."""
        ids = self.parts[part]
        starts = np.linspace(0, len(ids) - self.track.seq_len, HELDOUT_WINDOWS).astype(np.int64)
        for number, some in enumerate(np.split(starts, HELDOUT_WINDOWS // 64)):
            yield self._batch(ids, some, Draws(0), f"{part}.{number}")

    def _batch(self, source: npt.NDArray[np.uint8], starts: Ids, draws: Draws, name: str) -> Batch:
        ids = source[starts[:, None] + np.arange(self.track.seq_len)].astype(np.int64)
        made = {"input_ids": ids, "labels": ids}
        if self.track.objective == "masked_lm":
            made = masked(Tokens(ids, ids, VOCABULARY, MASK), ids, draws, name, MASKED)
        return {key: torch.from_numpy(value).to(self.device) for key, value in made.items()}


@dataclass(frozen=True)
class Digits:
    """The 1797 digits of 8 × 8 pixels that scikit-learn brings; training ones are shifted by up to a pixel.

    Args:
        track: How many make a batch.
        train: Images to train on, and their labels.
        parts: The same held out.
        device: Where batches go.
    """

    track: Track
    train: tuple[npt.NDArray[np.float32], Ids]
    parts: dict[Part, tuple[npt.NDArray[np.float32], Ids]]
    device: torch.device

    @staticmethod
    def of(track: Track, device: torch.device) -> Digits:
        """All images, in an order drawn once for all."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = Draws(0).of("digits").permutation(len(labels))
        pixels = (images.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)[order]
        targets = labels.astype(np.int64)[order]
        ends = np.cumsum([0, *IMAGES.values()])
        parts = {part: (pixels[a:b], targets[a:b]) for part, (a, b) in zip(PARTS, pairwise(ends), strict=True)}
        return Digits(track, (pixels[ends[-1] :], targets[ends[-1] :]), parts, device)

    def batch(self, name: str, seed: int) -> Batch:
        """Images that belong to the name, each shifted."""
        random = Draws(seed).of(name)
        images, labels = self.train
        chosen = random.integers(0, len(labels), self.track.batch_size)
        shifts = random.integers(0, 3, (len(chosen), 2))
        padded = np.pad(images[chosen], ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
        moved = np.stack([one[:, y : y + 8, x : x + 8] for one, (y, x) in zip(padded, shifts, strict=True)])
        return self._batch(moved, labels[chosen])

    def heldout(self, part: Part) -> Iterator[Batch]:
        """All images of the part, 100 at a time."""
        images, labels = self.parts[part]
        for start in range(0, len(labels), 100):
            yield self._batch(images[start : start + 100], labels[start : start + 100])

    def _batch(self, images: npt.NDArray[np.float32], labels: Ids) -> Batch:
        found = {"pixel_values": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        return {key: value.to(self.device) for key, value in found.items()}


def data_of(track: Track, corpus: Path, device: torch.device) -> Data:
    """What a track is trained on."""
    images = track.objective == "image_classification"
    return Digits.of(track, device) if images else Text.of(track, corpus, device)


def write_digits(path: Path) -> None:
    """Write the digits as a plan reads images."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    np.savez(path, images=images.reshape(-1, 8, 8).astype(np.float32), labels=labels.astype(np.int64))


def prepare_corpus(corpus: Path) -> None:
    """Write the text, where it is not there yet."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
    from python_corpus import DEFAULT_LIMIT_BYTES, write_corpus

    if not (corpus / "heldout").exists():
        write_corpus(corpus, limit_bytes=DEFAULT_LIMIT_BYTES)


def _joined(folder: Path) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(path.read_bytes() for path in sorted(folder.glob("*.txt"))), dtype=np.uint8)
