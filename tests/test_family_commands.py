"""``ligo family``: what is shipped, and a family of one's own held against a checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import ligo_spec
from ligo_spec.cli import run
from ligo_spec.family import family_names, load_family
from ligo_spec.family_list import markdown
from tests.tiny_checkpoints import CONFIGS, arrays, handmade, write

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "ligo_spec" / "families"


def test_the_readme_has_todays_table() -> None:
    """The README's table is what ``ligo family list --markdown`` prints."""
    text = (ROOT / "README.md").read_text("utf-8")
    table = markdown(ligo_spec.list_families())
    assert f"<!-- ligo family list --markdown -->\n{table}\n<!-- end -->" in text, "run ligo family list --markdown"


def test_the_list_has_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    """As a table and as data; every family can grow, and keeps its function in some size by whole copies."""
    assert run(["family", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == family_names()
    for row in rows:
        assert {stack.count for stack in load_family(row["name"]).stacks.values()} <= set(row["grows"])
        assert "hidden_size" in row["lossless"]["hypercloning"]
        assert set(row["lossless"]["zero_pad"]) <= set(row["grows"])
    assert run(["family", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in family_names())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_family_that_describes_its_checkpoint(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every tensor is declared and comes back; the family may be a file of one's own."""
    small = handmade(tmp_path / "small", kind)
    mine = tmp_path / "mine.yaml"
    mine.write_text((SHIPPED / f"{kind}.yaml").read_text("utf-8").replace(f"name: {kind}", "name: mine"), "utf-8")
    assert run(["family", "check", str(mine), str(small)]) == 0
    assert re.search(r"all \d+ tensors are declared and come back bit for bit", capsys.readouterr().out)
    found = ligo_spec.check_family(mine, small)
    assert found.family == "mine"
    assert {item.verdict for item in found.tensors} == {"declared"}


def test_what_does_not_fit_is_named_tensor_by_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unclaimed, of another shape, missing, claimed twice, dropped: all at once, exit code 3."""
    config = CONFIGS["bert"]
    tensors = arrays(config)
    tensors["adapter.weight"] = np.zeros(2, np.float32)
    tensors["pooler.dense.bias"] = np.zeros(7, np.float32)
    tensors["pooler.dense.weight"] = np.zeros((12, 12), np.float32)
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    tensors["embeddings.position_ids"] = np.zeros((1, 10), np.int64)
    del tensors["encoder.layer.1.output.dense.bias"]
    small = write(tmp_path / "small", config, tensors)
    verdicts = {item.name: item.verdict for item in ligo_spec.check_family("bert", small).tensors}
    assert verdicts["adapter.weight"] == "unclaimed"
    assert verdicts["pooler.dense.bias"] == "another shape"
    assert verdicts["embeddings.LayerNorm.gamma"] == verdicts["embeddings.LayerNorm.weight"] == "claimed twice"
    assert verdicts["embeddings.position_ids"] == "dropped"
    assert set(verdicts.values()) == {"declared", "unclaimed", "another shape", "claimed twice", "dropped"}
    assert run(["family", "check", "bert", str(small)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [
        "error: adapter.weight: unclaimed",
        "error: embeddings.LayerNorm.gamma: claimed twice",
        "error: embeddings.LayerNorm.weight: claimed twice",
        "error: pooler.dense.bias (pooler.bias) has shape (7,), but the config's sizes give (12,)",
        "error: tensor layers.1.mlp.down.bias is missing",
    ]
