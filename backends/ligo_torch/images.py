"""Labelled images as examples, from arrays that NumPy has saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, PlanError, Problem
from ligo_spec.fit_data import ImageData
from ligo_spec.flops import image_forward_flops, image_training_flops
from ligo_spec.inputs import read_json
from ligo_torch.arrays import Array, ArrayFile, open_npy, read_npz
from ligo_torch.examples import PARTS, Arrays, Part

PREPROCESSOR = "preprocessor_config.json"

TENTH = 10
"""One image of so many is held out, where there are none of their own."""


@dataclass(frozen=True)
class Shape:
    """What a model takes.

    Args:
        channels: Of an image.
        side: Height and width, in pixels.
        labels: Labels are below it.
    """

    channels: int
    side: int
    labels: int

    def __str__(self) -> str:
        return f"{self.channels} channels of {self.side}x{self.side} pixels"


@dataclass(frozen=True)
class Scaling:
    """How pixels become what the model reads: ``(pixel * factor - mean) / std``.

    Args:
        factor: Of integer pixels; others are taken as they are.
        mean: ``(channels, 1, 1)`` or ``(1, 1, 1)``.
        std: Likewise.
    """

    factor: float
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]

    def __call__(self, pixels: Array) -> npt.NDArray[np.float32]:
        """``(n, channels, height, width)``, float32."""
        values = pixels.astype(np.float32)
        if pixels.dtype == np.uint8:
            values *= np.float32(self.factor)
        scaled: npt.NDArray[np.float32] = (values - self.mean) / self.std
        return scaled


@dataclass(frozen=True)
class Pictures:
    """Labelled images of one file.

    Args:
        path: The file, for messages.
        pixels: As they are stored, in memory or on the disk: ``(n, ...)``.
        axes: Places of ``n``, channels, height and width among its axes; None where it has none of channels.
        labels: ``(n,)``.
    """

    path: Path
    pixels: Array | ArrayFile
    axes: tuple[int, int, int, int] | None
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: npt.NDArray[np.int64], scaling: Scaling) -> Arrays:
        """Images and labels of those rows, as the model reads them.

        Raises:
            InputError: A pixel is not finite.
        """
        taken = self.pixels.rows(rows) if isinstance(self.pixels, ArrayFile) else self.pixels[rows]
        ordered = taken[:, None] if self.axes is None else taken.transpose(self.axes)
        values = scaling(ordered)
        finite = np.isfinite(values).all(axis=(1, 2, 3))
        if not finite.all():
            row = int(rows[int(np.argmin(finite))])
            raise InputError(Problem(str(self.path), f"image {row} has a pixel that is not finite"))
        return {"pixel_values": values, "labels": self.labels[rows]}


Chosen = tuple[Pictures, npt.NDArray[np.int64]]
"""Images of a file, and the rows that belong to a part."""


@dataclass(frozen=True)
class Images:
    """Labelled images, as ``ligo_torch.examples.Examples``.

    Args:
        parts: Images, and which of them belong to it, of either part.
        scaling: Of their pixels.
        batch_size: Images in a batch.
        labels: How many the model tells apart.
    """

    parts: Mapping[Part, Chosen]
    scaling: Scaling
    batch_size: int
    labels: int

    @property
    def unit(self) -> str:
        """A loss is per image."""
        return "an image"

    def require_room(self, architecture: Architecture) -> None:
        """All models of a fit take the same images, and ``open_images`` has looked."""

    def drawn(self, part: Part, draws: Draws, name: str) -> Arrays:
        """``batch_size`` images that belong to ``name``: different ones, where there are so many."""
        pictures, rows = self.parts[part]
        chosen = draws.of(name).choice(len(rows), self.batch_size, replace=self.batch_size > len(rows))
        return pictures.at(rows[chosen], self.scaling)

    def disjoint(self) -> int:
        """Held-out images."""
        return len(self.parts["heldout"][1])

    def at(self, places: Array, draws: Draws, name: str) -> Arrays:
        """Those held-out images."""
        pictures, rows = self.parts["heldout"]
        return pictures.at(rows[places], self.scaling)

    def forward_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward pass over one image."""
        return image_forward_flops(architecture, templates, self.labels)

    def training_flops(self, architecture: Architecture, templates: Collection[str]) -> float:
        """Operations of a forward and backward pass over one image."""
        return image_training_flops(architecture, templates, self.labels)


def shape_of(architecture: Architecture, config: Any) -> Shape:
    """The images that a model takes.

    Args:
        architecture: The model.
        config: The library's config of it.

    Raises:
        PlanError: It is no model that sorts images into classes.
    """
    sizes = {name: architecture.sizes.get(name) for name in ("num_channels", "image_size")}
    absent = [name for name, size in sizes.items() if size is None]
    if absent:
        family = architecture.family.name
        raise PlanError(f"fit.data: family {family} has no {' and no '.join(absent)}; it is no model of images")
    if config.problem_type not in (None, "single_label_classification") or config.num_labels < 2:
        raise PlanError(
            f"fit.objective: image_classification is for one label of several, and the config has num_labels "
            f"{config.num_labels} and problem_type {config.problem_type}"
        )
    return Shape(sizes["num_channels"] or 0, sizes["image_size"] or 0, config.num_labels)


def open_images(
    data: ImageData, train: Sequence[Path], heldout: Sequence[Path], checkpoint: Path, shape: Shape
) -> Images:
    """Images and labels of files, checked against what the model takes.

    Args:
        data: The plan's.
        train: The file of images, and that of labels where they are apart.
        heldout: Likewise; empty for a tenth of the others, the same under every seed.
        checkpoint: Directory of the small model, for its preprocessor's mean and spread.
        shape: What the model takes.

    Raises:
        InputError: A file is refused, or its images or labels are none for the model.
        PlanError: The plan's mean or std is none for its channels.
    """
    scaling = _scaling(data, checkpoint, shape)
    pictures = _pictures(train, shape)
    parts = (_whole(pictures), _whole(_pictures(heldout, shape))) if heldout else _split(pictures)
    return Images(dict(zip(PARTS, parts, strict=True)), scaling, data.batch_size, shape.labels)


def _whole(pictures: Pictures) -> Chosen:
    return pictures, np.arange(len(pictures))


def _split(pictures: Pictures) -> tuple[Chosen, Chosen]:
    """Nine tenths and one, at least one image each; files are often sorted by class, so their end is no sample."""
    if len(pictures) < 2:
        raise InputError(Problem(str(pictures.path), "one image alone cannot be fitted on and held out"))
    order = Draws(0).of("fit.split").permutation(len(pictures))
    cut = max(len(pictures) // TENTH, 1)
    return (pictures, np.sort(order[cut:])), (pictures, np.sort(order[:cut]))


def _pictures(files: Sequence[Path], shape: Shape) -> Pictures:
    """The images of one part."""
    pixels: Array | ArrayFile
    if files[0].suffix == ".npz":
        found = read_npz(files[0], ("images", "labels"))
        pixels, labels = found["images"], found["labels"]
    else:
        pixels, labels = open_npy(files[0]), open_npy(files[1]).whole()
    _require_pixels(files[0], pixels.dtype, pixels.shape)
    _require_labels(files[-1], labels, len(pixels), shape)
    return Pictures(files[0], pixels, _axes(files[0], pixels.shape, shape), labels.astype(np.int64))


def _require_pixels(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise InputError(Problem(str(path), f"images are uint8 or floats, these are {dtype}"))
    if len(shape) not in (3, 4) or not shape[0]:
        raise InputError(
            Problem(
                str(path),
                f"images are (n, height, width), (n, height, width, channels) or (n, channels, height, width), these "
                f"are of shape {shape}",
            )
        )


def _require_labels(path: Path, labels: Array, count: int, shape: Shape) -> None:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        message = f"labels are integers of shape (n,), these are {labels.dtype} of shape {labels.shape}"
        raise InputError(Problem(str(path), message))
    if len(labels) != count:
        raise InputError(Problem(str(path), f"has {len(labels)} labels for {count} images"))
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= shape.labels:
        row = int(np.argmin(labels) if least < 0 else np.argmax(labels))
        message = f"label {labels[row]} of image {row} is none of the model's, 0 to {shape.labels - 1}"
        raise InputError(Problem(str(path), message))


def _axes(path: Path, stored: tuple[int, ...], shape: Shape) -> tuple[int, int, int, int] | None:
    """Where channels, height and width are; channels come last where the sizes alone do not tell."""
    image = (shape.side, shape.side)
    if stored[1:] == image and shape.channels == 1:
        return None
    if stored[1:] == (*image, shape.channels):
        return 0, 3, 1, 2
    if stored[1:] == (shape.channels, *image):
        return 0, 1, 2, 3
    found = "x".join(map(str, stored[1:]))
    raise InputError(Problem(str(path), f"images of {found} are none for the model, which takes {shape}"))


def _scaling(data: ImageData, checkpoint: Path, shape: Shape) -> Scaling:
    path = checkpoint / PREPROCESSOR
    theirs = read_json(path, 2**20) if path.exists() else {}
    if not isinstance(theirs, dict):
        raise InputError(Problem(str(path), "is no JSON object"))
    factor = theirs.get("rescale_factor", 1 / 255) if theirs.get("do_rescale", True) else 1.0
    if not _number(factor):
        raise InputError(Problem(str(path), f"rescale_factor {factor!r} is no number"))
    return Scaling(
        float(factor),
        _levels("mean", data.mean, theirs, path, shape),
        _levels("std", data.std, theirs, path, shape),
    )


def _levels(
    name: str, ours: Sequence[float] | None, theirs: dict[str, Any], path: Path, shape: Shape
) -> npt.NDArray[np.float32]:
    """Mean or spread: the plan's, or else the preprocessor's, or else one half."""
    if ours is not None:
        if len(ours) not in (1, shape.channels):
            raise PlanError(f"fit.data.{name} has {len(ours)} entries, for the model's {shape.channels} channels")
        return _by_channel(ours)
    if not theirs.get("do_normalize", True):
        return _by_channel([0.0 if name == "mean" else 1.0])
    found = theirs.get(f"image_{name}", 0.5)
    levels = found if isinstance(found, list) else [found]
    fits = len(levels) in (1, shape.channels) and all(map(_number, levels))
    if not fits or (name == "std" and min(levels) <= 0):
        message = f"image_{name} {found!r} is none for {shape.channels} channels; say fit.data.{name}"
        raise InputError(Problem(str(path), message))
    return _by_channel(levels)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _by_channel(levels: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(levels, dtype=np.float32)[:, None, None]
