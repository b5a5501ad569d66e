"""The official LiGO code's own results (``tests/data/ligo-bert``), reproduced by the reference and every backend."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.backend import load_backend
from ligo_spec.certify import certify
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.family import LAYER, load_family
from ligo_spec.layout import Binding, bind, pack, unpack
from ligo_spec.maps import Blocks, Dense, Identity, Map
from ligo_spec.operator import Growth, Operator, SpaceMaps, Term
from ligo_spec.operator_check import check_operator
from ligo_spec.operator_file import load_operator, save_operator
from ligo_spec.recipe import compile_recipes, run

Arrays = dict[str, npt.NDArray[Any]]

DATA = Path(__file__).parent / "data" / "ligo-bert"

MODULES = {
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.k",
    "attention.self.value": "attn.v",
    "attention.output.dense": "attn.o",
    "attention.output.LayerNorm": "attn_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}
"""Modules of a layer in the official code, and in the family."""


@cache
def stored(name: str) -> Arrays:
    """One file of the golden data."""
    found: Arrays = load_file(DATA / f"{name}.safetensors")
    return found


@cache
def architecture(name: str) -> Architecture:
    """The small or the large architecture."""
    config = json.loads((DATA / name / "config.json").read_text("utf-8"))
    return Architecture.from_hf_config(load_family("bert"), config)


def binding(name: str) -> Binding:
    """What the tensors of a golden file are."""
    infos = {key: TensorInfo(key, "F32", value.shape) for key, value in stored(name).items()}
    return bind(architecture(name), infos, name)


def canonical(name: str) -> Arrays:
    """A golden model by canonical names."""
    found: Arrays = {}
    for key, slot in binding(name).slots.items():
        found.update(zip(slot.holds, unpack(stored(name)[key], slot.steps), strict=True))
    return found


@cache
def operator() -> Operator:
    """The official operator's parameters as one of ours."""
    official, layers = stored("operator"), range(architecture("large").depth("layers"))

    def grown(name: str) -> Map:
        matrix = official[f"{name}.coeffs_weight"]
        return Blocks((Identity(matrix.shape[1]), Dense(matrix)))

    maps: dict[str, tuple[Map, ...]] = {
        "residual": (grown("bert.embeddings.fuse_width_emb"),),
        "transform": (grown("cls.predictions.fuse_width_cls"),),
    }
    for space in ("query", "key", "value", "ffn"):
        maps[space] = tuple(grown(f"bert.encoder.layer.{i}.fuse_width_{space}") for i in layers)
    family = load_family("bert")
    names = {name: name for name in maps} | {"context": "value", "final": "transform", "pooled": "residual"}
    for space in family.spaces.keys() - names.keys():
        names[space] = space
        maps[space] = (Identity(architecture("small").width(space) or 1),)
    depth = {}
    for template in family.tensors:
        if LAYER in template:
            module, kind = re.fullmatch(r"layers\.\{i\}\.(.*)\.(weight|bias)", template).groups()  # type: ignore[union-attr]
            theirs = next(old for old, new in MODULES.items() if new == module)
            key = f"bert.encoder.layer.%d.{theirs}.fuse_depth_coeffs.coeffs_{kind}"
            depth[template] = np.stack([official[key % i] for i in layers])
    term = Term(maps, {space: SpaceMaps(name, name, name) for space, name in names.items()}, depth)
    made = Operator("bert", architecture("small").sizes, architecture("large").sizes, (term,))
    check_operator(made, Growth(architecture("small"), architecture("large")))
    return made


def worst(found: Arrays) -> tuple[float, int]:
    """Largest difference from the official large weights, and over how many tensors."""
    official = canonical("large")
    assert official.keys() == found.keys() - {"head.bias"}  # the official code leaves that one at random
    return max(float(np.abs(found[name] - official[name]).max()) for name in official), len(official)


def test_the_reference_reproduces_the_official_weights() -> None:
    """Every tensor to float32 rounding."""
    error, count = worst(reference.grow(load_family("bert"), operator(), canonical("small")))
    assert count == 91
    assert error <= 1e-6


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_backends_reproduce_the_official_weights(name: str) -> None:
    """Through the recipe compiler, and through an operator file."""
    if name == "torch":
        pytest.importorskip("torch")
    small = canonical("small")
    recipes = compile_recipes(load_family("bert"), operator(), binding("small").templates())
    found = {recipe.name: run(recipe, small.__getitem__, load_backend(name)) for recipe in recipes}
    error, _ = worst(found)
    assert error <= 1e-6


def test_learnable_weights_reproduce_the_official_weights() -> None:
    """What a fit trains through is the official code's forward computation."""
    torch = pytest.importorskip("torch")
    from ligo_torch.learnable import LearnableOperator

    small = {name: torch.tensor(value) for name, value in canonical("small").items()}
    weights = LearnableOperator(load_family("bert"), operator(), small).weights()
    error, _ = worst({name: value.detach().numpy() for name, value in weights.items()})
    assert error <= 1e-6


def test_a_wrong_map_is_seen() -> None:
    """The comparison can fail: any one official map changed by a thousandth shows in the weights."""
    for changed in ("query", "value", "ffn", "residual", "transform"):
        term = operator().terms[0]
        first, *rest = term.maps[changed]
        assert isinstance(first, Blocks)
        last = first.parts[1]
        assert isinstance(last, Dense)
        maps = {**term.maps, changed: (Blocks((first.parts[0], Dense(last.matrix * 1.001))), *rest)}
        other = Operator("bert", operator().small, operator().large, (Term(maps, term.spaces, term.depth),))
        assert worst(reference.grow(load_family("bert"), other, canonical("small")))[0] > 1e-5, changed


def test_the_official_operator_survives_a_file(tmp_path: Path) -> None:
    """Saved and loaded, it grows the same bits."""
    save_operator(operator(), tmp_path / "operator.safetensors")
    again = load_operator(tmp_path / "operator.safetensors")
    first, second = (reference.grow(load_family("bert"), o, canonical("small")) for o in (operator(), again))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_official_operator_is_not_lossless() -> None:
    """The certificate says so, and names every kind of condition that the published start breaks."""
    broken = certify(Growth(architecture("small"), architecture("large")), operator())
    assert {"reading", "activation", "norm", "attention", "depth"} <= {item.condition for item in broken}


def test_the_grown_model_computes_the_official_logits() -> None:
    """The grown weights in Transformers' own model give the logits that the official code's model gave."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    grown = reference.grow(load_family("bert"), operator(), canonical("small"))
    state = {
        key: torch.tensor(pack([grown[name] for name in slot.holds], slot.steps), dtype=torch.float32)
        for key, slot in binding("large").slots.items()
    }
    config = {key: value for key, value in architecture("large").config.items() if key != "model_type"}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**config)).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing in ([], ["cls.predictions.bias"])
    assert not unexpected
    with torch.no_grad():
        logits = model(torch.tensor(stored("forward")["input_ids"])).logits.numpy()
    np.testing.assert_allclose(logits, stored("forward")["logits"], atol=2e-5)
