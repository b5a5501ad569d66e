"""Exported models are read back bit for bit: the new exporter (``dynamo=True``), optimised or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

import ligo_onnx
from ligo_spec.errors import InputError
from ligo_spec.family import load_family
from tests.models import made
from tests.onnx_exports import Setting, exported_directory, in_files, model_of, wrong
from tests.test_onnx_read import SIX

pytest.importorskip("onnxscript")
pytest.importorskip("torch")

OPTIMISED, PLAIN = Setting(dynamo=True, optimise=True), Setting(dynamo=True, optimise=False)
ALONE = ("bert", "llama-tied", "vit")
"""Read without a config too; an export takes seconds, so these stand for those that are not optimised."""

FREE = Setting(dynamo=True, optimise=True, free=True)

Export = tuple[Path, dict[str, npt.NDArray[Any]]]

CASES = [(case, OPTIMISED) for case in SIX if not case.endswith("-bare")]
CASES += [(case, PLAIN) for case in ALONE]
CASES += [("bert", FREE), ("bert-bare", PLAIN), ("gpt2-bare", OPTIMISED)]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Setting], Export]:
    """An export and what it should hold; each is made once, since one takes seconds."""
    made: dict[tuple[str, Setting], Export] = {}

    def one(case: str, setting: Setting) -> Export:
        if (case, setting) not in made:
            model = model_of(*SIX[case])
            directory = tmp_path_factory.mktemp("export")
            path = exported_directory(model, directory / "onnx", setting)
            made[case, setting] = path, in_files(model, directory / "files")
        return made[case, setting]

    return one


@pytest.mark.parametrize(("case", "setting"), CASES, ids=[f"{case}-{setting}" for case, setting in CASES])
def test_what_was_exported_is_read(case: str, setting: Setting, export: Callable[[str, Setting], Export]) -> None:
    """Every tensor, or of a model whose token types are all alike a refusal of their table, which is not there."""
    directory, wanted = export(case, setting)
    checkpoint = ligo_onnx.read(directory)
    assert not wrong(checkpoint, wanted)
    assert not checkpoint.recovery.missing
    print(f"{case} {setting}: {checkpoint.recovery}")


@pytest.mark.parametrize("case", ALONE)
def test_without_a_config(case: str, export: Callable[[str, Setting], Export]) -> None:
    """Sizes and heads come from a graph whose Reshapes are made of constants, Casts and Concats."""
    directory, wanted = export(case, PLAIN)
    family = load_family(str(SIX[case][1]["model_type"]))
    alone = directory.parent / "alone.onnx"
    alone.write_bytes((directory / "model.onnx").read_bytes())
    assert not wrong(ligo_onnx.read(alone, family=family), wanted)


@pytest.mark.parametrize("case", ["gpt2", "vit", "bert-bare"])
def test_biases_of_zeros_that_were_left_out(case: str, tmp_path: Path) -> None:
    """The optimiser takes them out of Gemm and Conv; a pooler's, which the family may lack, is not forgotten."""
    model = made(*SIX[case])
    model.config.use_cache = False
    checkpoint = ligo_onnx.read(exported_directory(model, tmp_path / "onnx", OPTIMISED))
    assert not wrong(checkpoint, in_files(model, tmp_path / "files"))
    assert all(name.endswith(".bias") for name in checkpoint.recovery.by("absence"))
    assert checkpoint.recovery.by("absence")


def test_a_table_that_was_cut_is_refused(tmp_path: Path) -> None:
    """At a fixed length below the largest, the optimiser looks positions up: two rows of ten are gone."""
    import torch

    model = model_of(*SIX["gpt2"])
    exported_directory(model, tmp_path, OPTIMISED, {"input_ids": torch.ones(2, 8, dtype=torch.long)})
    with pytest.raises(
        InputError, match=r"wpe\.weight \(10, 12\) is not in the graph as a whole.*\(1, 8, 12\).*dynamic"
    ):
        ligo_onnx.read(tmp_path)


def test_a_table_that_was_looked_up_whole_is_read(export: Callable[[str, Setting], Export]) -> None:
    """At the largest length, what was looked up is the table: the only tensor of its shape."""
    checkpoint = ligo_onnx.read(export("gpt2", OPTIMISED)[0])
    assert checkpoint.recovery.by("shape") == ["transformer.wpe.weight"]
