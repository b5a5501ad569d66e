"""What the manifest and the groups say of the parameters of a grown model, held against its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec.advice import ADVICE
from tests.tiny_checkpoints import TWICE, handmade, plan_file, tensors_of


def grown(directory: Path, kind: str, **plan: Any) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A growth, its parameters by name or pattern, and its groups."""
    handmade(directory / "small", kind)
    path = ligo_spec.apply(plan_file(directory, **plan)).path
    manifest = json.loads((path / "growth_manifest.json").read_text())
    groups = json.loads((path / "param_groups.json").read_text())
    assert groups["advice"] == manifest["advice"]
    listed = [name for group in groups["groups"] for name in group["parameters"]]
    assert sorted(listed) == sorted(tensors_of(path))
    return path, {item["name"]: item for item in manifest["parameters"]}, groups


@pytest.mark.parametrize("kind", TWICE)
def test_copies_are_copies_times_their_factor(kind: str, tmp_path: Path) -> None:
    """HyperCloning: nothing is new, and the first block of every tensor is the small one times the factor."""
    path, found, groups = grown(tmp_path, kind, target=TWICE[kind], operator={"width": "hypercloning"})
    small, large = tensors_of(tmp_path / "small"), tensors_of(path)
    assert {item["kind"] for item in found.values()} == {"copied"}
    assert not any(item["new"] or item["silent"] for item in found.values())
    for group in groups["groups"]:
        assert group["lr_multiplier"] * group["weight_decay_multiplier"] == pytest.approx(1)
        for name in group["parameters"]:
            first = large[name].ravel()[0]
            np.testing.assert_allclose(first, small[name].ravel()[0] * group["lr_multiplier"], rtol=1e-6)
    assert {group["lr_multiplier"] for group in groups["groups"]} == {1.0, 0.5}
    assert any("2602.10545" in item["source"] for item in groups["advice"])


def test_new_rows_are_named_in_the_files_own_dimensions(tmp_path: Path) -> None:
    """Zero-padded units: new rows of what writes them, new columns of what reads them; transposed where files are."""
    for kind, up, down in (
        ("llama", "layers.*.mlp.up_proj.weight", "layers.*.mlp.down_proj.weight"),
        ("gpt2", "h.*.mlp.c_proj.weight", "h.*.mlp.c_fc.weight"),
    ):
        plan: dict[str, Any] = {"target": {"intermediate_size": 60}, "operator": {"width": "zero_pad"}}
        path, found, groups = grown(tmp_path / kind, kind, **plan)
        old = {"llama": 20, "gpt2": 48}[kind]
        assert found[up]["new"] == {"0": [[old, 60]]}
        assert found[down]["new"] == {"1": [[old, 60]]}
        read = {"llama": down, "gpt2": up}[kind].replace("*", "0")
        part = tensors_of(path)[read]
        assert not (part[:, old:] if kind == "llama" else part[old:]).any()
        assert len(groups["groups"]) == 1
        changed = {name for name, item in found.items() if item["new"]}
        assert len(changed) == {"llama": 3, "gpt2": 3}[kind]


def test_blocks_that_add_nothing_are_a_group(tmp_path: Path) -> None:
    """LLaMA-Pro: tensors of new layers are in one group, what adds to the stream is new, the rest copies."""
    plan: dict[str, Any] = {"target": {"num_hidden_layers": 4}, "operator": {"depth": "identity"}}
    path, found, groups = grown(tmp_path, "llama", **plan)
    by_name = {group["name"]: group["parameters"] for group in groups["groups"]}
    assert set(by_name) == {"new_blocks", "old"}
    layers = {name.split(".")[1] for name in by_name["new_blocks"]}
    assert len(layers) == 2
    zero = {name for name, value in tensors_of(path).items() if not value.any()}
    assert zero == {name for name, item in found.items() if item["kind"] == "new"}
    assert zero < set(by_name["new_blocks"])
    assert any("LLaMA-Pro" in item["source"] for item in groups["advice"])


def test_mixtures_are_mixtures(tmp_path: Path) -> None:
    """LiGO's start: sums of rows and layers, no factor, and no advice for functions that are kept."""
    operator = {"width": "noisy_average", "depth": "noisy_stack"}
    _, found, groups = grown(tmp_path, "bert", target=TWICE["bert"], operator=operator)
    assert found["encoder.layer.*.output.dense.weight"]["kind"] == "mixed"
    assert found["encoder.layer.*.output.dense.weight"]["factor"] is None
    assert [item["source"] for item in groups["advice"]] == ["Gstack, arXiv 2405.15319"]


def test_every_piece_of_advice_names_its_source() -> None:
    """A paper by number, or a section."""
    assert all("arXiv 2" in item.source or item.source.startswith("SPEC ") for item in ADVICE)
