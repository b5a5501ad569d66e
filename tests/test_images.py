"""Fits on labelled images: the library's own loss, how arrays are read, what is held out, and what is refused."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec import InputError, LigoError, PlanError
from ligo_spec.architecture import Architecture
from ligo_spec.cli import run
from ligo_spec.draws import Draws
from ligo_spec.family import load_family
from ligo_spec.fit_data import ImageData
from ligo_spec.grow import fit_task
from ligo_spec.job import load_job, open_model
from tests.family_table import ROWS
from tests.image_data import CHANNELS, CLASSES, LABELS, MEAN, SIDE, STD, config, pictures, plan, prepare
from tests.tiny_checkpoints import CONFIGS, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from ligo_torch import fit as fitting
from ligo_torch.arrays import ArrayFile
from ligo_torch.examples import PARTS
from ligo_torch.fit import gradients
from ligo_torch.huggingface import config_of, functional_model
from ligo_torch.images import Images, Shape, open_images
from ligo_torch.race import TorchRacer

torch.set_num_threads(1)  # test runs share the cores

SHAPE = Shape(CHANNELS, SIDE, LABELS)


def opened(directory: Path, *files: str, heldout: tuple[str, ...] = (), **options: Any) -> Images:
    """The examples of files."""
    data = ImageData(**{"kind": "images", "path": "data.npz", "batch_size": 4, **options})
    train, held = ([directory / name for name in names] for names in (files, heldout))
    return open_images(data, train, held, directory, SHAPE)


def stored(directory: Path, images: Any, labels: Any) -> Path:
    """Images and labels in files of their own."""
    np.save(directory / "images.npy", images)
    np.save(directory / "labels.npy", labels)
    return directory


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_loss_is_the_librarys_own(class_name: str, tmp_path: Path) -> None:
    """Of the checkpoint that is written, loaded by Transformers, on pixels that are normalised here by hand.

    DeiT with a teacher takes no labels, so its loss is the cross entropy of what it predicts: the mean of both heads.
    """
    path = prepare(tmp_path, class_name)
    found = ligo_spec.grow(path)
    assert found.fit is not None
    assert found.fit.unit == "an image"
    assert found.fit.heldout_after != found.fit.heldout_before
    model, info = getattr(transformers, class_name).from_pretrained(found.path, output_loading_info=True)
    assert not info["missing_keys"]
    images, labels = pictures()
    order = Draws(0).of("fit.split").permutation(40)[:4]
    losses = []
    for number in range(2):
        rows = np.sort(order)[Draws(0).of(f"fit.heldout.{number}").choice(4, 8, replace=True)]
        pixels = torch.tensor(
            (images[rows].transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (2, 1, 1))), dtype=torch.float32
        )
        with torch.no_grad():
            logits = model.eval()(pixel_values=pixels / torch.tensor(STD)[:, None, None]).logits
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels[rows]))))
    assert found.fit.heldout_after == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_fit_on_images_learns(tmp_path: Path) -> None:
    """By far more than noise; the certificate's twin: a depth map that is learned on its own loss."""
    path = prepare(tmp_path, steps=40, learning_rate=0.02, data={"batch_size": 16})
    found = ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert found.heldout_after < 0.9 * found.heldout_before
    again = ligo_spec.fit(path, tmp_path / "again.safetensors")
    assert again.losses == found.losses


def test_micro_batches_do_not_matter(tmp_path: Path) -> None:
    """Up to rounding: each counts as much as it has images."""
    path = prepare(tmp_path)
    found = []
    for count in (1, 4):
        other = plan(tmp_path, 2 * config("ViTForImageClassification")["num_hidden_layers"], micro_batches=count)
        model, learnable, batches = fitting.prepare(fit_task(load_job(other)))
        loss = gradients(model, learnable, batches.train(0))
        found.append((loss, [p.grad.clone() for p in learnable.parameters if p.grad is not None]))
    assert path.exists()
    (loss, whole), (other_loss, parts) = found
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("class_name", CLASSES)
def test_starts_are_compared_on_images(class_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out images fall into two draws; the small model has the loss that it has."""
    monkeypatch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)
    candidates = [{"depth": "stack"}, {"depth": "noisy_stack", "fit": {"steps": 1}}]
    compare = {"budget": {"steps": 6}, "candidates": candidates, "learning_rates": [1e-3], "heldout_batches": 2}
    path = prepare(tmp_path, class_name, compare=compare)
    found = ligo_spec.compare(path, tmp_path / "out")
    assert (found.tokens, found.batch_size) == (None, 8)
    assert [row.status for row in found.rows] == ["ranked", "ranked"]
    random, alone = found.references
    assert random.steps == 6
    assert alone.reported is not None
    assert not found.missing
    (fitted,) = (row for row in found.rows if row.fit is not None)
    assert fitted.steps == 6 - 1 - int(fitted.fit_flops * 6 / found.budget_flops)
    assert run(["compare", str(path)]) == 0


def test_a_budget_of_images_is_in_steps(tmp_path: Path) -> None:
    """Images have no windows of tokens."""
    path = prepare(tmp_path, compare={"budget": {"tokens": 10_000}})
    with pytest.raises(PlanError) as caught:
        ligo_spec.compare(path)
    assert str(caught.value).endswith(
        "compare.budget.tokens: images have no windows of tokens; say the budget in steps"
    )


# --- how arrays are read ----------------------------------------------------------------------------------------------


def batch(examples: Images) -> dict[str, Any]:
    return examples.drawn("train", Draws(0), "fit.batch.0")


def test_every_order_of_axes_and_every_dtype_is_the_same_image(tmp_path: Path) -> None:
    """uint8 is divided by 255, floats are taken as they are; channels first or last."""
    images, labels = pictures()
    first = images.transpose(0, 3, 1, 2)
    found = []
    for number, stored_as in enumerate((images, first, images / 255, (first / 255).astype(">f4"))):
        directory = tmp_path / str(number)
        directory.mkdir()
        stored(directory, stored_as, labels)
        found.append(batch(opened(directory, "images.npy", "labels.npy", path="images.npy", labels="labels.npy")))
    wanted = found[0]
    assert wanted["pixel_values"].shape == (4, CHANNELS, SIDE, SIDE)
    assert wanted["pixel_values"].dtype == np.float32
    for other in found[1:]:
        assert np.allclose(other["pixel_values"], wanted["pixel_values"], atol=1e-6)
        assert np.array_equal(other["labels"], wanted["labels"])


def test_grey_images_need_no_axis_of_channels(tmp_path: Path) -> None:
    images, labels = pictures()
    stored(tmp_path, images[..., 0], labels)
    data = ImageData(kind="images", path="images.npy", labels="labels.npy", batch_size=4)
    files = [tmp_path / "images.npy", tmp_path / "labels.npy"]
    found = open_images(data, files, [], tmp_path, Shape(1, SIDE, LABELS)).drawn("heldout", Draws(0), "any")
    assert found["pixel_values"].shape == (4, 1, SIDE, SIDE)


def test_npy_images_stay_on_the_disk(tmp_path: Path) -> None:
    """Rows are read when they are asked for; a file that is exchanged meanwhile is refused."""
    images, labels = pictures()
    stored(tmp_path, images, labels)
    examples = opened(tmp_path, "images.npy", "labels.npy", path="images.npy", labels="labels.npy")
    assert isinstance(examples.parts["train"][0].pixels, ArrayFile)
    wanted = batch(examples)
    assert np.array_equal(batch(examples)["pixel_values"], wanted["pixel_values"])
    np.save(tmp_path / "images.npy", images[:-1])
    with pytest.raises(InputError, match=r"images\.npy: changed since it was opened; run again$"):
        batch(examples)


THEIRS = {"image_mean": [0.1, 0.2], "image_std": [3.0, 4.0]}


@pytest.mark.parametrize(
    ("preprocessor", "options", "wanted"),
    [
        (None, {}, lambda x: (x / 255 - 0.5) / 0.5),
        (None, {"mean": (0.25,), "std": (2.0, 4.0)}, lambda x: (x / 255 - 0.25) / np.reshape([2.0, 4.0], (2, 1, 1))),
        (THEIRS, {}, lambda x: (x / 255 - np.reshape([0.1, 0.2], (2, 1, 1))) / np.reshape([3.0, 4.0], (2, 1, 1))),
        (THEIRS, {"mean": (0.0,)}, lambda x: x / 255 / np.reshape([3.0, 4.0], (2, 1, 1))),
        ({"rescale_factor": 0.5, "do_normalize": False}, {}, lambda x: x * 0.5),
        ({"do_rescale": False, "image_mean": 1, "image_std": 2}, {}, lambda x: (x - 1) / 2),
    ],
)  # fmt: skip
def test_pixels_are_normalised_as_the_plan_or_the_preprocessor_says(
    tmp_path: Path, preprocessor: Any, options: dict[str, Any], wanted: Callable[[Any], Any]
) -> None:
    """The plan first, then the checkpoint's preprocessor, then one half."""
    images, labels = pictures()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    if preprocessor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor), "utf-8")
    examples = opened(tmp_path, "data.npz", **options)
    rows = examples.parts["heldout"][1]
    found = examples.at(np.arange(len(rows)), Draws(0), "any")
    assert np.allclose(found["pixel_values"], wanted(images[rows].transpose(0, 3, 1, 2).astype(float)), atol=1e-5)


# --- what is held out -------------------------------------------------------------------------------------------------


def test_a_random_tenth_is_held_out_and_not_fitted_on(tmp_path: Path) -> None:
    """The same under every seed; the file is sorted by class, so its end would be one class alone."""
    images, labels = pictures(400)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    examples = opened(tmp_path, "data.npz")
    train, heldout = (examples.parts[part][1] for part in PARTS)
    assert sorted([*train, *heldout]) == list(range(400))
    assert len(heldout) == examples.disjoint() == 40
    assert set(labels[heldout]) == {0, 1, 2}
    assert set(labels[360:]) == {2}


def test_images_of_their_own_are_held_out_whole(tmp_path: Path) -> None:
    """Then nothing is cut from those to fit on."""
    images, labels = pictures()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    stored(tmp_path, images[:6], labels[:6])
    data = ImageData(kind="images", path="data.npz", heldout="images.npy", heldout_labels="labels.npy", batch_size=4)
    files = [tmp_path / "images.npy", tmp_path / "labels.npy"]
    examples = open_images(data, [tmp_path / "data.npz"], files, tmp_path, SHAPE)
    assert examples.disjoint() == 6
    assert len(examples.parts["train"][1]) == 40


def test_batches_belong_to_names_and_repeat_no_image_without_need(tmp_path: Path) -> None:
    images, labels = pictures()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    examples = opened(tmp_path, "data.npz", batch_size=30)
    one, again, other = (examples.drawn("train", Draws(0), name)["pixel_values"] for name in "aab")
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len({image.tobytes() for image in one}) == 30


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(directory: Path, *files: str, kind: type[LigoError] = InputError, **options: Any) -> str:
    """What a refusal says, with the directory left out."""
    with pytest.raises(kind) as caught:
        batch(opened(directory, *files, **options))
    return str(caught.value).replace(f"{directory}/", "")


IMAGES, SOME_LABELS = pictures(8)

OTHERS = "are none for the model, which takes 2 channels of 7x7 pixels"
ORDERS = "images are (n, height, width), (n, height, width, channels) or (n, channels, height, width)"
INTEGERS = "labels are integers of shape (n,)"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.int32), SOME_LABELS, "images.npy: images are uint8 or floats, these are int32"),
        (IMAGES[:, :6], SOME_LABELS, f"images.npy: images of 6x7x2 {OTHERS}"),
        (IMAGES[..., 0], SOME_LABELS, f"images.npy: images of 7x7 {OTHERS}"),
        (IMAGES.reshape(8, -1), SOME_LABELS, f"images.npy: {ORDERS}, these are of shape (8, 98)"),
        (IMAGES, SOME_LABELS[:7], "labels.npy: has 7 labels for 8 images"),
        (IMAGES, SOME_LABELS + 1, "labels.npy: label 3 of image 6 is none of the model's, 0 to 2"),
        (IMAGES, SOME_LABELS - 1, "labels.npy: label -1 of image 0 is none of the model's, 0 to 2"),
        (IMAGES, SOME_LABELS / 2, f"labels.npy: {INTEGERS}, these are float64 of shape (8,)"),
        (IMAGES, SOME_LABELS[:, None], f"labels.npy: {INTEGERS}, these are int64 of shape (8, 1)"),
        (IMAGES[:1], SOME_LABELS[:1], "images.npy: one image alone cannot be fitted on and held out"),
    ],
)  # fmt: skip
def test_images_and_labels_that_do_not_fit_are_refused(tmp_path: Path, images: Any, labels: Any, message: str) -> None:
    """By file, value and rule."""
    stored(tmp_path, images, labels)
    found = refusal(tmp_path, "images.npy", "labels.npy", path="images.npy", labels="labels.npy")
    assert found == message


def test_a_pixel_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """When its image is read: floats may be as many as a disk holds."""
    images = IMAGES.astype(np.float32)
    images[5, 0, 3, 1] = np.inf
    stored(tmp_path, images, SOME_LABELS)
    assert refusal(tmp_path, "images.npy", "labels.npy", path="images.npy", labels="labels.npy", batch_size=7) == (
        "images.npy: image 5 has a pixel that is not finite"
    )


def test_pickles_are_not_read(tmp_path: Path) -> None:
    """Neither in an ``.npy`` nor within an ``.npz``: what would run is never looked at."""

    class Bomb:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('unpickled')",)

    objects = np.empty(8, dtype=object)
    objects[:] = [Bomb() for _ in range(8)]
    stored(tmp_path, objects, SOME_LABELS)
    message = refusal(tmp_path, "images.npy", "labels.npy", path="images.npy", labels="labels.npy")
    assert message.startswith("images.npy: is no .npy file of numbers: ")
    np.savez(tmp_path / "data.npz", images=objects, labels=SOME_LABELS)
    assert refusal(tmp_path, "data.npz") == "data.npz: is no .npz file of numbers: dtype object is no plain number"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """Text, half a file, a directory, an archive without the arrays, and a header that asks for terabytes."""
    (tmp_path / "data.npz").write_text("no archive", "utf-8")
    assert refusal(tmp_path, "data.npz") == "data.npz: is no .npz file of numbers: File is not a zip file"
    np.savez(tmp_path / "data.npz", pictures=IMAGES, labels=SOME_LABELS)
    assert refusal(tmp_path, "data.npz") == "data.npz: has no array images"
    stored(tmp_path, IMAGES, SOME_LABELS)
    whole = (tmp_path / "images.npy").read_bytes()

    def refused() -> str:
        return refusal(tmp_path, "images.npy", "labels.npy", path="images.npy", labels="labels.npy")

    for content in (b"no array", b"", whole[:40]):
        (tmp_path / "images.npy").write_bytes(content)
        assert refused().startswith("images.npy: is no .npy file of numbers: ")
    (tmp_path / "images.npy").write_bytes(whole[:-1])
    assert refused() == "images.npy: has 911 bytes, its array of shape (8, 7, 7, 2) needs 912; it is cut off"
    np.save(tmp_path / "images.npy", np.asfortranarray(IMAGES))
    assert refused() == "images.npy: is in Fortran's order; save numpy.ascontiguousarray of it"
    np.save(tmp_path / "images.npy", np.float32(1))
    assert refused() == "images.npy: is one number, not an array"
    with (tmp_path / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20, 7, 2)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(whole)
    assert refused().endswith("bytes, its array of shape (1048576, 1048576, 7, 2) needs 15393162788992; it is cut off")
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("images.npy", whole.replace(b"(8, 7, 7, 2)", b"(9, 9, 9, 9)"))
        archive.write(tmp_path / "labels.npy", "labels.npy")
    assert refusal(tmp_path, "data.npz") == (
        "data.npz: is no .npz file of numbers: array images of shape (9, 9, 9, 9) does not fill its 912 bytes"
    )
    (tmp_path / "images.npy").unlink()
    (tmp_path / "images.npy").mkdir()
    assert refused() == "images.npy: is a directory, not a regular file"


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean [0.5, 0.5, 0.5] is none for 2 channels; say fit.data.mean"),
        ({"image_std": 0}, "image_std 0 is none for 2 channels; say fit.data.std"),
        ({"image_std": "x"}, "image_std 'x' is none for 2 channels; say fit.data.std"),
        ({"rescale_factor": "x"}, "rescale_factor 'x' is no number"),
        ([], "is no JSON object"),
    ],
)
def test_a_preprocessor_that_does_not_fit_is_refused(tmp_path: Path, preprocessor: Any, message: str) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=SOME_LABELS)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor), "utf-8")
    assert refusal(tmp_path, "data.npz") == f"preprocessor_config.json: {message}"


def test_a_mean_of_other_channels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=SOME_LABELS)
    message = refusal(tmp_path, "data.npz", kind=PlanError, mean=(0.1, 0.2, 0.3))
    assert message == "fit.data.mean has 3 entries, for the model's 2 channels"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "labels.npy"}, "'data.npz' holds its labels itself; leave labels out, or give the images as .npy"),
        ({"path": "images.npy"}, "'images.npy' has no labels; name those in labels, an .npy too"),
        ({"path": "images.png"}, "images are .npy or .npz, not 'images.png'"),
        ({"heldout": "held.npy"}, "'held.npy' has no labels; name those in heldout_labels, an .npy too"),
        ({"heldout_labels": "held.npy"}, "heldout_labels are labels of heldout, which is left out"),
    ],
)
def test_labels_where_they_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """At their place in the plan."""
    path = plan(tmp_path, 4, data=changes)
    with pytest.raises(PlanError) as caught:
        load_job(path)
    assert str(caught.value).partition(" fit.data: ")[2] == message


def test_text_cannot_be_named_for_images(tmp_path: Path) -> None:
    """``--data`` names text."""
    path = prepare(tmp_path, compare={"budget": {"steps": 2}})
    for named in (lambda: load_job(path, data=["text.txt"]), lambda: ligo_spec.compare(path, data=["text.txt"])):
        with pytest.raises(PlanError) as caught:
            named()
        assert str(caught.value).endswith(
            "fit.data: only text can be named elsewhere, and this is kind: images; name its files in the plan"
        )


def test_objectives_and_data_must_suit_one_another(tmp_path: Path) -> None:
    """Both ways; and a model of text has no images."""
    prepare(tmp_path)
    layers = 2 * config("ViTForImageClassification")["num_hidden_layers"]

    def message(**fit: Any) -> str:
        with pytest.raises(PlanError) as caught:
            ligo_spec.fit(plan(tmp_path, layers, **fit), tmp_path / "op.safetensors")
        return str(caught.value)

    assert message(objective="causal_lm") == (
        "fit.objective: causal_lm is learned from data of kind text or tokens or dataset, fit.data has kind images"
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"id2label": {"0": "a"}}, "num_labels 1 and problem_type None"),
        ({"problem_type": "regression"}, "num_labels 3 and problem_type regression"),
    ],
)
def test_other_problems_than_one_label_of_several_are_refused(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    """A regression has no classes."""
    path = prepare(tmp_path)
    file = tmp_path / "small" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **change}), "utf-8")
    with pytest.raises(PlanError) as caught:
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert str(caught.value) == (
        f"fit.objective: image_classification is for one label of several, and the config has {found}"
    )


def test_a_head_of_other_labels_than_the_config_is_refused(tmp_path: Path) -> None:
    """Transformers would not load it; no size of the family says how many there are."""
    path = prepare(tmp_path)
    file = tmp_path / "small" / "config.json"
    known = {str(n): str(n) for n in range(5)}
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "id2label": known}), "utf-8")
    with pytest.raises(InputError) as caught:
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert str(caught.value).endswith(
        "small/config.json: says 5 labels (num_labels, id2label), but classifier.weight has rows for 3"
    )


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    """A random head would teach the operator nothing; which objective it is, the class does not say."""
    path = prepare(tmp_path, objective="image_classification")
    saved(tmp_path / "small", "ViTModel", config("ViTForImageClassification"), pooler=False)
    with pytest.raises(InputError) as caught:
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert str(caught.value) == (
        "the checkpoint has no classifier.weight, classifier.bias, which image_classification needs"
    )


def test_archives_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    """Zeros that are packed a thousandfold; as many noisy images are read (the twin)."""
    images = np.zeros((2000, SIDE, SIDE, CHANNELS), np.uint8)
    labels = np.zeros(2000, np.int64)
    np.savez_compressed(tmp_path / "data.npz", images=images, labels=labels)
    assert re.fullmatch(
        r"data\.npz: is no \.npz file of numbers: array images would grow from \d+ to 196128 bytes; save it as \.npy",
        refusal(tmp_path, "data.npz"),
    )
    noise = np.random.default_rng(0).integers(0, 255, images.shape, np.uint8)
    np.savez_compressed(tmp_path / "data.npz", images=noise, labels=labels)
    assert batch(opened(tmp_path, "data.npz"))["pixel_values"].shape == (4, CHANNELS, SIDE, SIDE)


def test_a_model_of_text_takes_no_images(tmp_path: Path) -> None:
    """Whatever the plan says of its objective."""
    prepare(tmp_path)
    saved(tmp_path / "small", "BertForMaskedLM", CONFIGS["bert"])
    with pytest.raises(PlanError) as caught:
        ligo_spec.fit(plan(tmp_path, 4, objective="image_classification"), tmp_path / "op.safetensors")
    assert str(caught.value) == (
        "fit.data: family bert has no num_channels and no image_size; it is no model of images"
    )


def test_a_model_that_transformers_do_not_have_has_no_objective(tmp_path: Path) -> None:
    """CaiT sorts images into classes, but its class is another library's; GPT-2 sorts none."""
    settled = {"model_type": "cait", "embed_dim": 8, "num_heads": 2, "depth": 2, "depth_token_only": 1}
    architecture = Architecture.from_hf_config(load_family("cait"), {**settled, **ROWS["cait"].config})
    with pytest.raises(PlanError, match=r"^Transformers has no models of type cait$"):
        config_of(architecture)
    small = open_model(saved(tmp_path / "small", "GPT2Model", CONFIGS["gpt2"]))
    with pytest.raises(PlanError) as caught:
        functional_model(small.architecture, small.binding, "image_classification", torch.device("cpu"))
    assert str(caught.value) == "fit.objective: Transformers has no image_classification model of type gpt2"
