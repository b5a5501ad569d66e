"""Reports: what they say agrees with what was written, whoever named the tensors, with drawings and without."""

from __future__ import annotations

import builtins
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays
from safetensors.numpy import load_file

import ligo_spec
from ligo_spec import figures, markup, spectra
from ligo_spec.certify import Broken
from ligo_spec.errors import printable
from ligo_spec.figures import available
from ligo_spec.map_views import binned, change, means
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select, dense
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator_file import load_operator
from ligo_spec.spectra import FLOOR, singular_values
from tests.tiny_checkpoints import CONFIGS, TWICE, arrays, handmade, plan_file, tree, write

IN_CI = bool(os.environ.get("CI"))

DEEPER = {"num_hidden_layers": 4}

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page: its elements with their attributes, the text of each section by its heading, and what was left open."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.sections: dict[str, str] = {}
        self._heading = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self._heading += data
            self.sections[self._heading] = ""
        elif "section" in self.open:
            self.sections[self._heading] += data + " "
        if self.open and self.open[-1] == "section":
            self._heading = ""

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


class Sectioned(Page):
    """The same, with a heading forgotten where its section ends."""

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        if tag == "section":
            self._heading = ""


def page_of(path: Path) -> Page:
    """The report at ``path``: whole, well formed, and without anything outside itself."""
    content = path.read_text("utf-8")
    page = Sectioned(content)
    assert page.open == []
    assert page.wrong == []
    assert content.startswith("<!DOCTYPE html>")
    assert outside(page) == []
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags())
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    return page


def outside(page: Page) -> list[str]:
    """Everything that the page asks a browser to load or to run."""
    found = []
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            text = value or ""
            refers = name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background")
            if refers and not text.startswith(("#", "data:image/png;base64,")):
                found.append(f"{tag} {name}={text}")
            if name.startswith("on") or (name == "style" and re.search(r"url\((?!#)|expression|@import", text)):
                found.append(f"{tag} {name}={text}")
    return found


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have their figures."""
    if find_spec("matplotlib") is None:
        message = "matplotlib is not installed: pip install 'ligo-spec[report]'"
        pytest.fail(message) if IN_CI else pytest.skip(message)
    monkeypatch.setattr(figures, "available", available)


# --- numbers that are drawn -------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn, small: int | None = None, depth: int = 2) -> Map:
    """Any map of up to some dozens of units a side, of every structure."""
    size = small or draw(st.integers(1, 24))
    seed = draw(st.integers(0, 1000))
    generator = np.random.default_rng(seed)
    large = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["identity", "select", "dense", *(["blocks", "kron"] if depth else [])]))
    if kind == "identity":
        return Identity(size)
    if kind == "select":
        weight = draw(st.sampled_from([None, generator.standard_normal(large)]))
        return Select(generator.integers(0, size, large), size, weight)
    if kind == "dense":
        return Dense(generator.standard_normal((large, size)))
    if kind == "blocks":
        return Blocks(tuple(draw(maps(size, depth - 1)) for _ in range(draw(st.integers(1, 3)))))
    inner = 2 if size % 2 == 0 else 1
    return Kron(draw(maps(size // inner, depth - 1)), draw(maps(inner, 0)))


@given(maps(), st.integers(1, 12))
def test_binning_is_the_mean_of_blocks(map_: Map, side: int) -> None:
    """Against a mean over the dense matrix, block by block."""
    matrix = dense(map_)
    found = binned(map_, side)
    edges = [[-(-k * size // min(size, side)) for k in range(min(size, side) + 1)] for size in matrix.shape]
    for i, (top, bottom) in enumerate(zip(edges[0], edges[0][1:], strict=False)):
        for j, (left, right) in enumerate(zip(edges[1], edges[1][1:], strict=False)):
            assert found[i, j] == pytest.approx(matrix[top:bottom, left:right].mean(), abs=1e-12)
    assert found.shape == (min(matrix.shape[0], side), min(matrix.shape[1], side))


def test_a_selection_over_a_vocabulary_is_binned_without_its_matrix() -> None:
    """A dense one would have 4e10 entries; bins of equal size hold as much as there are rows in them."""
    found = binned(Blocks((Identity(200_000), Select(np.arange(56_000), 200_000))))
    assert found.shape == (128, 128)
    assert found.sum() * (256_000 / 128) * (200_000 / 128) == pytest.approx(256_000, rel=1e-2)


@given(maps(), st.integers(0, 100))
def test_change_is_the_frobenius_norm_of_the_difference(start: Map, seed: int) -> None:
    """Against the dense matrices, with floats moved and with nothing moved."""
    generator = np.random.default_rng(seed)
    moved = import_module("ligo_spec.maps").with_arrays(start, lambda a: a + 1e-3 * generator.standard_normal(a.shape))
    whole = np.linalg.norm(dense(start))
    wanted = np.linalg.norm(dense(moved) - dense(start))
    assert change(start, moved) * whole == pytest.approx(wanted, rel=1e-9, abs=1e-14)
    assert change(start, start) == 0


def test_change_of_nothing_into_something_is_infinite() -> None:
    """And of nothing into nothing is none."""
    zero, one = Dense(np.zeros((2, 2))), Dense(np.ones((2, 2)))
    assert change(zero, one) == float("inf")
    assert change(zero, Dense(np.zeros((2, 2)))) == 0


@given(st.integers(1, 50), st.integers(1, 20))
def test_a_long_curve_is_its_means(count: int, bins: int) -> None:
    """Weighted by their counts, the means have the mean of all; a short curve stays as it is."""
    values = np.random.default_rng(count).standard_normal(count)
    x, y = means(values, bins)
    assert x.size == y.size == min(count, bins)
    if count <= bins:
        assert np.array_equal(x, np.arange(count) + 1)
        assert np.allclose(y, values)
    if count % bins == 0:
        assert y.mean() == pytest.approx(values.mean(), abs=1e-12)


@given(
    drawn_arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
def test_singular_values_are_those_of_a_decomposition(weight: Any) -> None:
    """To the floor of the largest; what lies below is left out."""
    found = singular_values(weight)
    assert found is not None
    wanted = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    floor = FLOOR * wanted[0]
    assert np.count_nonzero(wanted > 2 * floor) <= found.size <= np.count_nonzero(wanted > floor / 2)
    assert np.allclose(found, wanted[: found.size], atol=floor, rtol=1e-7)


def test_weights_that_have_no_singular_values() -> None:
    """Zeros have none; entries that are not finite give no answer."""
    found = singular_values(np.zeros((3, 4)))
    assert found is not None
    assert found.size == 0
    assert singular_values(np.array([[1.0, np.nan]])) is None
    assert singular_values(np.array([[1.0, np.inf]])) is None


def test_spectra_are_of_the_written_weights(tmp_path: Path) -> None:
    """Each rank and largest value in the table, against the files; a fused and transposed tensor among them."""
    handmade(tmp_path / "small", "gpt2")
    plan = plan_file(tmp_path, target={**TWICE["gpt2"], **DEEPER}, operator={"width": "hypercloning", "depth": "stack"})
    grown = ligo_spec.apply(plan).path
    text = page_of(grown / "report.html").sections["Singular values"]
    weights = load_file(grown / "model.safetensors")
    fused = next(value for name, value in weights.items() if name.endswith("h.3.attn.c_attn.weight"))
    key = np.split(fused, 3, axis=1)[1].T
    wanted = np.linalg.svd(key.astype(np.float64), compute_uv=False)
    rank = int(np.sum(wanted > 1e-6 * wanted[0]))
    assert rank == 12
    row = rf"layers\.3\.attn\.k\.weight +large +24 × 24 +{wanted[0]:.4g} +{wanted[rank - 1]:.4g} +{rank} of 24 "
    assert re.search(row, text), text


@pytest.mark.parametrize(("limit", "said"), [("LARGEST", "is larger than"), ("BUDGET", "have used up the time")])
def test_weights_that_would_take_long_are_left_out(
    limit: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the report says so of each."""
    monkeypatch.setattr(spectra, limit, 23)
    handmade(tmp_path / "small", "gpt2")
    grown = ligo_spec.apply(plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})).path
    text = page_of(grown / "report.html").sections["Singular values"]
    assert text.count(said) >= 6
    assert " large " not in text


def test_looking_at_weights_keeps_none_of_them(tmp_path: Path) -> None:
    """Each tensor is made once, and what stays of it are as many numbers as its shorter side."""
    handmade(tmp_path / "small", "gpt2")
    plan = plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    job = import_module("ligo_spec.job")
    loaded = job.load_job(plan)
    small = job.open_small(loaded)
    growth = job.growth_of(loaded, small.architecture)
    outputs = import_module("ligo_spec.outputs").plan_outputs(small, growth, job.start_of(loaded, growth))
    looked = spectra.Spectra(outputs)
    for name in outputs.infos:
        value = outputs.value(name, NumpyBackend())
        looked.look(name, value)
        first = dict(looked.found)
        looked.look(name, np.full_like(value, np.nan))  # a converter may ask twice; only the first is looked at
        assert looked.found == first
    assert looked.found
    assert not looked.skipped
    assert all(each.values.size <= min(each.shape) and each.values.base is None for each in looked.found.values())


# --- what a report says -----------------------------------------------------------------------------------------------


def test_a_lossless_growth(tmp_path: Path) -> None:
    """Sizes, counts, verdict, origins, config, checksums and the plan, as the other files have them."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target=TWICE["llama"], operator={"width": "zero_pad"}, checks={"lossless": "require"})
    grown = ligo_spec.apply(plan).path
    manifest = json.loads((grown / "growth_manifest.json").read_text("utf-8"))
    sections = page_of(grown / "report.html").sections
    weights = {side: load_file(tmp_path / side / "model.safetensors") for side in ("small", "grown")}
    counts = {side: sum(value.size for value in found.values()) for side, found in weights.items()}
    assert f"parameters {counts['small']:,} {counts['grown']:,} " in sections["What grew"]
    assert "hidden_size 16 32 ×2" in sections["What grew"]
    assert "Lossless: the large model computes" in sections["Is it the same function?"]
    assert "What the fit did" not in sections
    assert "Depth" not in sections
    assert "hidden_size 16 32" in sections["What changed in config.json"]
    files = sections["Files, and how to make them again"]
    others = {name: entry for name, entry in manifest["files"].items() if name != "report.html"}
    for name, entry in others.items():
        assert f"{name} {entry['size']:,} {entry['sha256']}" in files
    assert manifest["plan_sha256"] in files
    assert (grown / "growth_plan.yaml").read_text("utf-8").rstrip() in files
    for entry in manifest["parameters"]:
        assert entry["name"] in sections["What each tensor became"]


def test_a_growth_that_changes_the_function(tmp_path: Path) -> None:
    """Every broken condition of the manifest, with its place and its size."""
    handmade(tmp_path / "small", "bert")
    plan = plan_file(tmp_path, target={**TWICE["bert"], **DEEPER}, operator={"preset": "ligo"})
    grown = ligo_spec.apply(plan)
    text = page_of(grown.path / "report.html").sections["Is it the same function?"]
    assert grown.broken
    assert f"{len(grown.broken)} conditions are broken" in text
    for item in grown.broken:
        assert re.search(re.escape(f"{item.condition} {item.where} {item.message} {item.error:.4g}"), text), item
    assert "Lossless" not in text


def test_depth_alone(tmp_path: Path) -> None:
    """There are no width maps to show, and layers have their sources."""
    handmade(tmp_path / "small", "gpt2")
    grown = ligo_spec.apply(plan_file(tmp_path, target=DEEPER, operator={"depth": "stack"})).path
    sections = page_of(grown / "report.html").sections
    assert "Width maps" not in sections
    assert "Layers come from: 0-1, 0-1" in " ".join(sections["Depth"].split())


def test_a_fit(tmp_path: Path) -> None:
    """Losses, numbers learned and every map's and depth row's change, of ``grow`` and of ``fit``, against the files."""
    grown, fitted, start = fits(tmp_path)
    result = json.loads((grown / "growth_manifest.json").read_text("utf-8"))["fit"]
    pages = [page_of(grown / "report.html").sections, page_of(fitted).sections]
    for name in ("What the fit did", "Width maps", "Depth", "Is it the same function?", "What each tensor became"):
        assert name in pages[0]
        assert name in pages[1]
    for sections in pages:
        assert f"3 steps; {result['parameters']:,} numbers" in sections["What the fit did"]
        assert f"{result['heldout_before']:.4g} {result['heldout_after']:.4g}" in sections["What the fit did"]
    assert pages[0]["What the fit did"] == pages[1]["What the fit did"]
    assert pages[0]["Width maps"] == pages[1]["Width maps"]
    begun, learned = (load_operator(path / "operator.safetensors").main for path in (start, grown))
    grows = {name: end for name, end in learned.maps.items() if end[0].shape[0] > end[0].shape[1]}
    pairs = {name: zip(begun.maps[name], end, strict=True) for name, end in grows.items()}
    moved = {name: [change(a, b) for a, b in each] for name, each in pairs.items()}
    assert max(map(max, moved.values())) > 1e-4
    for name, changes in moved.items():
        low, high = f"{min(changes):.3g}", f"{max(changes):.3g}"
        span = low if low == high else f"{low} to {high}"
        assert re.search(rf"(?:^|\s){name} .*?\s{re.escape(span)}\s", pages[0]["Width maps"], re.DOTALL), (name, span)
    shown = {key: mix for key, mix in learned.depth.items() if key in pages[0]["Depth"]}
    assert len(shown) >= 8  # of a block's tensors, which share a row, four are named
    for key, mix in shown.items():
        ratio = np.linalg.norm(mix - begun.depth[key]) / np.linalg.norm(begun.depth[key])
        assert re.search(rf"{re.escape(key)}(?:, \S+|,? and \d+ more)* +{ratio:.3g} ", pages[0]["Depth"]), key


def fits(place: Path) -> tuple[Path, Path, Path]:
    """A tiny fit: what ``grow`` wrote, the report of ``fit``, and what the start alone gives."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.test_fit import prepare

    plan = prepare(place, "gpt2", steps=3, learn={"depth": "block"}, operator=STACKED)
    ligo_spec.fit(plan, place / "op.safetensors")
    grown = ligo_spec.grow(plan).path
    start = ligo_spec.apply(plan, output=place / "start").path
    return grown, place / "op.safetensors.html", start


STACKED = {"width": "noisy_average", "depth": {"method": "noisy_stack", "noise": 0}}
"""A start whose depth rows can be shared by the tensors of a block."""


# --- drawings ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawings")
def test_the_drawings_of_a_fit(tmp_path: Path) -> None:
    """Loss and rate; every map at its start, learned, and what moved; depth rows; and they take the page's colours."""
    grown, fitted, _ = fits(tmp_path)
    for path in (grown / "report.html", fitted):
        page = page_of(path)
        content = path.read_text("utf-8")
        assert page.tags().count("svg") == page.tags().count("figure") > 10
        assert "currentColor" in content
        assert "#010203" not in content
        assert "data:image/png;base64," in content
        assert "are left out: matplotlib" not in content
        for said in (": start", "learned, same colours", "learned less start", "Loss at each step", "Learning rate"):
            assert said in content


@pytest.mark.usefixtures("drawings")
def test_the_same_inputs_give_the_same_drawings(tmp_path: Path) -> None:
    """Grown twice, and in a process of other hashes and of a user who likes other settings of matplotlib."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target=TWICE["llama"], operator={"width": "noisy_average"})
    first, second = (ligo_spec.apply(plan, output=tmp_path / name).path for name in ("first", "second"))
    assert tree(first) == tree(second)
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nsvg.fonttype: path\naxes.grid: True\n")
    code = "import sys, ligo_spec; ligo_spec.apply(sys.argv[1], output=sys.argv[2])"
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", code, str(plan), str(tmp_path / "third")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert tree(tmp_path / "third") == tree(first)


@pytest.mark.usefixtures("drawings")
def test_drawings_leave_the_settings_of_matplotlib_alone() -> None:
    """A script that draws for itself goes on as before."""
    import matplotlib as mpl

    with mpl.rc_context({"lines.linewidth": 7.5}):
        before = dict(mpl.rcParams)
        figures.plot([figures.Line("", np.arange(3), np.arange(3))], "x", "y")
        assert dict(mpl.rcParams) == before


@pytest.mark.usefixtures("drawings")
def test_drawing_asks_for_no_window() -> None:
    """Nothing of matplotlib that keeps figures, or looks for a screen, is loaded."""
    code = (
        "import sys, numpy, ligo_spec.figures as f; f.heat_map({'': numpy.eye(3)}, 1.0, (3, 3), 'x', 'y'); "
        "print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.usefixtures("drawings")
def test_a_drawing_has_a_pixel_for_every_entry() -> None:
    """The image in a heat map, decoded: orange above 0, blue below, nothing at 0, by the size of the entry."""
    import base64
    import io

    from PIL import Image

    values = np.array([[1.0, 0.0, -1.0], [0.5, -0.25, 0.0]])
    drawing = figures.heat_map({"": values}, 1.0, (2, 3), "x", "y")
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,\s*([^\"]+)\"", drawing)]
    pixels = next(np.asarray(image) for image in images if image.size == (3, 2))
    alpha = pixels[:, :, 3] / 255
    drawn = np.where(pixels[:, :, 0] > pixels[:, :, 2], alpha, -alpha)
    assert min(np.abs(drawn - values).max(), np.abs(drawn[::-1] - values).max()) < 0.02


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are all there, and one line says how to get the figures; a broken matplotlib is not taken for none."""
    real = builtins.__import__
    missing = "matplotlib"

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", refuse)
    monkeypatch.setattr(figures, "available", available)
    assert not figures.available()
    handmade(tmp_path / "small", "bert")
    plan = plan_file(tmp_path, target={**TWICE["bert"], **DEEPER}, operator={"preset": "ligo"})
    path = ligo_spec.apply(plan).path / "report.html"
    page = page_of(path)
    assert "svg" not in page.tags()
    assert path.read_text("utf-8").count("pip install &#x27;ligo-spec[report]&#x27;") == 1
    assert {"Width maps", "Depth", "Singular values", "What each tensor became"} <= page.sections.keys()
    missing = "kiwisolver"
    with pytest.raises(ModuleNotFoundError, match="kiwisolver"):
        figures.available()


# --- strangers --------------------------------------------------------------------------------------------------------

HOSTILE = '</td></pre><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(1)>&amp;'


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    """Tensors to copy, tensors to drop and config values that hold markup: all shown, none in force."""
    config = {**CONFIGS["gpt2"], "_name_or_path": HOSTILE + "\u202e\x1b[31m"}
    extra = {HOSTILE + "1": np.ones(2, np.float32), HOSTILE + "2": np.ones(2, np.float32)}
    write(tmp_path / "small", config, {**arrays(config), **extra})
    source = {"path": "small", "copy": [HOSTILE + "1"], "drop": [HOSTILE + "2"]}
    plan = plan_file(tmp_path, source=source, target=TWICE["gpt2"], operator={"width": "hypercloning"})
    path = ligo_spec.apply(plan).path / "report.html"
    page = page_of(path)
    assert "img" not in page.tags()
    content = path.read_text("utf-8")
    assert "\x1b" not in content
    assert "\u202e" not in content
    text = page.sections["What each tensor became"]
    assert text.count("<script>alert(1)</script><img src=") == 2


def test_the_search_for_references_finds_them() -> None:
    """What `page_of` refuses, planted."""
    planted = [
        '<a href="http://x">',
        '<img src="//x">',
        '<p style="background:url(http://x)">',
        '<p onclick="x()">',
        '<use xlink:href="file.svg#a">',
        '<a href="javascript:x()">',
    ]
    assert all(len(outside(Page(text))) == 1 for text in planted)
    assert outside(Page('<use xlink:href="#a"><image href="data:image/png;base64,AA"><g style="clip: url(#b)">')) == []


@given(st.text(max_size=60), st.sampled_from(["td", "code", "p"]))
def test_any_text_comes_back_as_text(content: str, tag: str) -> None:
    """In an element and in an attribute: no text makes another element, and no control character stays."""
    made = markup.element(tag, content, title=content)
    page = Page(f"<section><h2>x</h2>{made}</section>")
    assert page.tags() == ["section", "h2", tag]
    assert page.open == []
    assert page.wrong == []
    shown = printable(content, markup.LONGEST)
    assert page.elements[2][1] == ({"title": shown} if content else {})
    assert page.sections["x"].replace(" ", "") == shown.replace(" ", "")


def test_the_page_forbids_what_it_does_not_need(tmp_path: Path) -> None:
    """A policy in the page itself: no scripts, no loading, whatever else may be wrong."""
    page = Page(markup.page("x", markup.paragraph("y")))
    policies = [found["content"] for tag, found in page.elements if found.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_a_long_table_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond the most are counted."""
    report = import_module("ligo_spec.report")
    monkeypatch.setattr(report, "MOST_ROWS", 3)
    monkeypatch.setattr(
        import_module("ligo_spec.grow"),
        "certificate",
        lambda *_: [Broken("form", f"space {i}", "wrong", 1.0) for i in range(10)],
    )
    handmade(tmp_path / "small", "gpt2")
    grown = ligo_spec.apply(plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"})).path
    text = page_of(grown / "report.html").sections["Is it the same function?"]
    assert "space 2" in text
    assert "space 3" not in text
    assert "and 7 more" in text


def test_importing_the_library_does_not_import_matplotlib() -> None:
    """Nor does checking a plan wait for it."""
    code = "import sys, ligo_spec, ligo_spec.cli; print('matplotlib' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
