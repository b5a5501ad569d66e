"""A released model, all-MiniLM-L6-v2, grown twice as wide: what it says about real sentences is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ligo_spec
from tests.onnx_models import run
from tests.tiny_checkpoints import config_of, plan_file

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

pytestmark = pytest.mark.slow

SENTENCES = [
    "",
    " ",
    ".",
    "a",
    "Hi!",
    "The cat sits on the mat.",
    "Is this a question, or is it not?",
    "Two roads diverged in a yellow wood, and sorry I could not travel both.",
    "THE PRICE ROSE BY 3.75 % TO $1,299.00 ON 2024-02-29.",
    "Die Straßenbahn fährt heute wegen Bauarbeiten nicht über den Königsplatz.",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
    "Où est la bibliothèque, s'il vous plaît ?",
    "Съешь же ещё этих мягких французских булок.",
    "機械学習は面白いです。",
    "مرحبا بالعالم",
    "def grow(w, b, a): return b @ w @ a.T  # W' = B W Aᵀ",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "🙂🚀 to the moon 🌕!!!",
    "https://example.org/path?query=1&other=two#fragment",
    "A transformer reads a sequence of tokens and gives each of them a vector. " * 20,
]
"""Twenty, from empty to longer than half of what the model can read."""

WIDE = {"hidden_size": 768, "num_attention_heads": 24, "intermediate_size": 3072}


@dataclass(frozen=True)
class Pair:
    """The small model, what it grew into, and the growth's report."""

    small: Path
    large: Path
    grown: ligo_spec.Grown


def growth(directory: Path, small: Path, target: dict[str, int], depth: str | None) -> Pair:
    """Grow the model in width by copying, and in depth by stacking."""
    operator = {"width": "hypercloning", **({"depth": depth} if depth else {})}
    plan = plan_file(directory, target=target, operator=operator)
    return Pair(small, directory / "grown", ligo_spec.apply(plan, source=small))


@pytest.fixture(scope="module")
def wide(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """6 × 384 to 6 × 768."""
    return growth(tmp_path_factory.mktemp("wide"), minilm, WIDE, None)


@pytest.fixture(scope="module")
def deep(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """6 × 384 to 12 × 768."""
    return growth(tmp_path_factory.mktemp("deep"), minilm, {**WIDE, "num_hidden_layers": 12}, "stack")


def manifest(directory: Path) -> dict[str, Any]:
    """The parsed manifest of a grown model."""
    found: dict[str, Any] = json.loads((directory / "growth_manifest.json").read_text("utf-8"))
    return found


def outputs(directory: Path, sentences: list[str]) -> tuple[Any, Any, Any]:
    """Every layer's hidden states, the attention mask, and mean-pooled embeddings of sentences."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states)
    mask = batch["attention_mask"][..., None]
    return hidden, mask, (hidden[-1] * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize(("which", "layers"), [("wide", 6), ("deep", 12)])
def test_transformers_loads_every_tensor(which: str, layers: int, request: pytest.FixtureRequest) -> None:
    """Nothing is missing, unexpected, or of another shape, and the sizes are those of the plan."""
    pair = request.getfixturevalue(which)
    model, info = transformers.AutoModel.from_pretrained(pair.large, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys()
    assert not any(info.values()), info
    assert len(model.encoder.layer) == layers == model.config.num_hidden_layers
    assert model.embeddings.word_embeddings.weight.shape == (30522, 768)
    assert model.encoder.layer[-1].intermediate.dense.weight.shape == (3072, 768)
    assert model.config.num_attention_heads == 24
    small = transformers.AutoModel.from_pretrained(pair.small)
    kept = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps")
    assert {key: getattr(model.config, key) for key in kept} == {key: getattr(small.config, key) for key in kept}


@pytest.mark.parametrize("sentences", [SENTENCES[:-1], SENTENCES[-1:]], ids=["short", "long"])
def test_sentence_embeddings_are_the_small_models_twice(wide: Pair, sentences: list[str]) -> None:
    """Mean-pooled, they are the small ones, tiled; so all similarities of sentences are kept. Padding is masked."""
    (before, mask, small), (after, _, large) = outputs(wide.small, sentences), outputs(wide.large, sentences)
    assert before.shape[:3] == after.shape[:3] == (7, len(sentences), mask.shape[1])
    assert torch.nn.functional.cosine_similarity(large, torch.cat([small, small], dim=1)).min() >= 0.999999
    assert ((after - torch.cat([before, before], dim=-1)) * mask).abs().max() <= 1e-4


def test_the_deep_model_says_something_else(deep: Pair) -> None:
    """Twelve layers that are not trained together, and sentences that differ: the twins of the agreement."""
    (_, _, small), (_, _, large) = (outputs(path, SENTENCES[:9]) for path in (deep.small, deep.large))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(large, torch.cat([small, small], dim=1)).max() < 0.999
    assert cosine(small[5], small[8], dim=0) < 0.5


@pytest.mark.parametrize("which", ["wide", "deep"])
def test_the_tokenizer_came_along(which: str, request: pytest.FixtureRequest) -> None:
    """From the grown directory alone, the same ids for every sentence."""
    pair = request.getfixturevalue(which)
    before, after = (transformers.AutoTokenizer.from_pretrained(path) for path in (pair.small, pair.large))
    assert after(SENTENCES)["input_ids"] == before(SENTENCES)["input_ids"]
    assert after.model_max_length == before.model_max_length
    assert len({tuple(ids) for ids in after(SENTENCES)["input_ids"]}) >= len(SENTENCES) - 1  # "" and " " are one


def test_the_certificate_says_lossless_in_width(wide: Pair) -> None:
    """And so does the manifest."""
    assert wide.grown.lossless
    assert manifest(wide.large)["certificate"] == {"lossless": True, "broken": []}


def test_the_certificate_names_the_depth(deep: Pair) -> None:
    """Width alone kept the function, so depth is all that is broken."""
    assert not deep.grown.lossless
    assert {broken.condition for broken in deep.grown.broken} == {"depth"}
    assert manifest(deep.large)["certificate"] == {
        "lossless": False,
        "broken": [str(broken) for broken in deep.grown.broken],
    }


def test_the_config_differs_in_the_sizes_alone(wide: Pair) -> None:
    """Everything else that the released config says is kept, but the place that it was loaded from."""
    before, after = config_of(wide.small), config_of(wide.large)
    assert {key: after[key] for key in after if after[key] != before.get(key)} == WIDE
    assert before.keys() - after.keys() <= {"_name_or_path"}


def test_through_onnx_and_out_of_onnx(wide: Pair, tmp_path: Path) -> None:
    """safetensors to ONNX to a grown ONNX of 768, run in onnxruntime: the embeddings of the safetensors path."""
    pytest.importorskip("onnxscript")
    middle = ligo_spec.convert(wide.small, tmp_path / "middle", "onnx").path
    output = {"path": "grown", "format": "onnx"}
    checks = {"lossless": "require", "forward": "require"}
    plan = plan_file(tmp_path, target=WIDE, operator={"width": "hypercloning"}, output=output, checks=checks)
    grown = ligo_spec.grow(plan, source=middle)
    assert grown.lossless
    assert grown.verification is not None
    assert grown.verification.difference <= 1e-4  # of the graph itself, against the small model
    tokenizer = transformers.AutoTokenizer.from_pretrained(grown.path)
    for sentences in (SENTENCES[:-1], SENTENCES[-1:]):
        batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="np")
        hidden = torch.tensor(run(grown.path / "model.onnx", batch)["last_hidden_state"])
        mask = torch.tensor(batch["attention_mask"])[..., None]
        ours = (hidden * mask).sum(1) / mask.sum(1)
        _, _, theirs = outputs(wide.large, sentences)
        assert torch.nn.functional.cosine_similarity(ours, theirs).min() >= 0.999999
        assert (ours - theirs).abs().max() <= 1e-5
