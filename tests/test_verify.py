"""Forward passes compared: equal functions agree, anything else is seen, and what does not load is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

import ligo_spec
from ligo_spec import InputError, VerificationError
from ligo_spec.cli import run
from ligo_spec.verify import TOLERANCE
from tests.family_table import ROWS
from tests.tiny_checkpoints import CONFIGS, TWICE, config_of, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

HEADS = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
"""A class with a language-modelling head, for each family."""

BODIES = {"bert": "BertModel", "gpt2": "GPT2Model", "llama": "LlamaModel"}
"""The same without it."""

KINDS = sorted(CONFIGS)


def grown(directory: Path, kind: str, class_name: str = "", *, method: str = "hypercloning") -> tuple[Path, Path]:
    """A small model and one of twice its width, not verified yet."""
    small = saved(directory / "small", class_name or HEADS[kind], CONFIGS[kind])
    ligo_spec.apply(plan_file(directory, target=TWICE[kind], operator={"width": method}))
    return small, directory / "grown"


def changed(directory: Path, change: Callable[[dict[str, npt.NDArray[Any]]], None]) -> None:
    """Change the tensors of a checkpoint in place."""
    tensors = {name: value.copy() for name, value in load_file(directory / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def one_weight(tensors: dict[str, npt.NDArray[Any]]) -> str:
    """The name of a weight inside the first layer that every output depends on."""
    ends = ("attn.c_proj.weight", "self_attn.o_proj.weight", "attention.output.dense.weight")
    return next(name for name in sorted(tensors) if name.endswith(ends))


def without_head(tensors: dict[str, npt.NDArray[Any]]) -> None:
    """Leave out Llama's head."""
    del tensors["lm_head.weight"]


# --- equal functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_lossless_growth_gives_the_same_outputs(kind: str, tmp_path: Path) -> None:
    """Logits and loss agree, everywhere the same token is the likeliest, and every tensor loads."""
    found = ligo_spec.verify(*grown(tmp_path, kind))
    assert found.same
    assert found.compared == "logits"
    assert found.agreement == 1.0
    assert (found.missing, found.unexpected) == ((), ())
    assert found.scale > 0.5  # so there was something to compare
    assert found.difference <= 1e-4 * found.scale
    assert found.loss_small is not None
    assert found.loss_large == pytest.approx(found.loss_small, rel=1e-4)
    assert list(found.problems(lossless=True)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_other_growth_gives_other_outputs(kind: str, tmp_path: Path) -> None:
    """LiGO's start in width keeps no function: the twin of the agreement."""
    found = ligo_spec.verify(*grown(tmp_path, kind, method="noisy_average"))
    assert not found.same
    assert found.difference > 10 * TOLERANCE * found.scale
    assert found.loss_small is not None
    assert found.loss_large != pytest.approx(found.loss_small, rel=1e-2)
    assert kind == "bert" or found.agreement < 1.0  # its random head has one favourite, whatever it reads
    assert (found.missing, found.unexpected) == ((), ())
    assert list(found.problems(lossless=False)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_carried_over_by_the_operator(kind: str, tmp_path: Path) -> None:
    """A model without a head: its last hidden states, widened by the map of the output's space."""
    small, large = grown(tmp_path, kind, BODIES[kind])
    found = ligo_spec.verify(small, large)
    assert found.same
    assert found.compared == "hidden states"
    assert (found.loss_small, found.loss_large) == (None, None)
    assert (found.missing, found.unexpected) == ((), ())
    (large / "operator.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        ligo_spec.verify(small, large)
    width = CONFIGS[kind].get("hidden_size") or CONFIGS[kind]["n_embd"]
    assert str(caught.value) == (
        f"{large}: hidden states of {width} and {2 * width} entries, and no operator.safetensors"
    )


def test_the_seed_chooses_the_tokens(tmp_path: Path) -> None:
    """The same seed gives the same numbers, another one others."""
    small, large = grown(tmp_path, "gpt2", method="noisy_average")
    first, again, other = (ligo_spec.verify(small, large, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.loss_small != other.loss_small


def test_text_is_compared_where_it_is_given(tmp_path: Path) -> None:
    """Through the checkpoint's tokenizer; one token again and again has another loss than random ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    small, large = grown(tmp_path, "llama")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(small / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a " * 200, "utf-8")
    on_text, on_random = ligo_spec.verify(small, large, data=[tmp_path / "text.txt"]), ligo_spec.verify(small, large)
    assert on_text.same
    model = transformers.AutoModelForCausalLM.from_pretrained(small)
    ids = torch.ones(4, 128, dtype=torch.int64)
    with torch.no_grad():
        wanted = float(model(input_ids=ids, labels=ids).loss)
    assert on_text.loss_small == pytest.approx(wanted, rel=1e-5)
    assert on_random.loss_small != pytest.approx(wanted, rel=1e-2)


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbed_weight_is_seen(kind: str, tmp_path: Path) -> None:
    """One entry of one matrix."""
    small, large = grown(tmp_path, kind)

    def perturb(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors[one_weight(tensors)][0, 0] += 1.0

    changed(large, perturb)
    found = ligo_spec.verify(small, large)
    assert not found.same
    (problem,) = found.problems(lossless=True)
    assert str(problem) == (
        f"logits: differ by up to {found.difference:.3g} (of {found.scale:.3g}), though the certificate says lossless"
    )
    assert list(found.problems(lossless=False)) == []


def test_outputs_that_are_not_numbers_are_not_the_same(tmp_path: Path) -> None:
    """A comparison with NaN must not pass."""
    small, large = grown(tmp_path, "gpt2")

    def poison(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors[one_weight(tensors)][0, 0] = np.nan

    changed(large, poison)
    found = ligo_spec.verify(small, large)
    assert not found.same
    assert len(list(found.problems(lossless=True))) == 1


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """A head that is not in the file, which Transformers would silently draw at random."""
    small, large = grown(tmp_path, "llama")
    changed(large, without_head)
    found = ligo_spec.verify(small, large)
    assert found.missing == ("lm_head.weight",)
    assert not found.same
    first, *_ = found.problems(lossless=False)
    assert str(first) == (
        "lm_head.weight: missing from the large checkpoint; Transformers would initialise it at random"
    )


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    """A head in the file of a class that has none."""
    small, large = grown(tmp_path, "llama", "LlamaForCausalLM")
    for directory in (small, large):
        config = {**config_of(directory), "architectures": ["LlamaModel"]}
        (directory / "config.json").write_text(json.dumps(config), "utf-8")
    found = ligo_spec.verify(small, large)
    assert found.unexpected == ("lm_head.weight",)
    assert found.same
    (problem,) = found.problems(lossless=True)
    assert str(problem) == "lm_head.weight: in the large checkpoint, but Transformers has no place for it"


def test_models_without_a_common_output_are_refused(tmp_path: Path) -> None:
    """Logits of the one say nothing about hidden states of the other."""
    small = saved(tmp_path / "small", "GPT2LMHeadModel", CONFIGS["gpt2"])
    large = saved(tmp_path / "large", "GPT2Model", CONFIGS["gpt2"])
    with pytest.raises(InputError) as caught:
        ligo_spec.verify(small, large)
    assert str(caught.value) == f"{large}: the two models have no output in common"


@pytest.mark.parametrize(
    "name", ["GPT9LMHeadModel", "os.system", "logging", "not a name", "AutoTokenizer", "GPT2Config"]
)
def test_a_class_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    """Only a model class of Transformers is ever called, whatever a config says."""
    small = saved(tmp_path / "small", "GPT2LMHeadModel", CONFIGS["gpt2"])
    (small / "config.json").write_text(json.dumps({**config_of(small), "architectures": [name]}), "utf-8")
    with pytest.raises(InputError) as caught:
        ligo_spec.verify(small, small)
    assert str(caught.value) == f"{small}/config.json: architectures names {name}, which Transformers has not"


# --- the command and grow ---------------------------------------------------------------------------------------------


def test_the_command_fails_with_six_where_a_lossless_growth_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only with ``--lossless``: without it, a difference is a report."""
    small, large = grown(tmp_path, "gpt2", method="noisy_average")
    capsys.readouterr()  # Transformers shows a bar where the small model is saved
    assert run(["verify", str(small), str(large)]) == 0
    assert capsys.readouterr().err == ""
    assert run(["verify", str(small), str(large), "--lossless"]) == 6
    found = ligo_spec.verify(small, large)
    assert capsys.readouterr().err == (
        f"error: logits: differ by up to {found.difference:.3g} (of {found.scale:.3g}), though the certificate says "
        "lossless\n"
    )


def test_the_command_passes_where_the_growth_is_lossless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the numbers of the comparison as data."""
    small, large = grown(tmp_path, "gpt2")
    assert run(["verify", str(small), str(large), "--lossless", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = ligo_spec.verify(small, large)
    assert found["same"] is True
    assert (found["agreement"], found["missing"], found["unexpected"]) == (1.0, [], [])
    assert found["difference"] == wanted.difference


def test_the_command_fails_with_six_where_a_tensor_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With or without ``--lossless``: such a checkpoint does not load as it should."""
    small, large = grown(tmp_path, "llama")
    changed(large, without_head)
    capsys.readouterr()
    assert run(["verify", str(small), str(large)]) == 6
    assert capsys.readouterr().err.startswith("error: lm_head.weight: missing from the large checkpoint; ")


@pytest.mark.parametrize("kind", KINDS)
def test_grow_verifies_what_it_has_written(kind: str, tmp_path: Path) -> None:
    """With what ``verify`` finds afterwards; ``forward: skip`` leaves it out."""
    small = saved(tmp_path / "small", HEADS[kind], CONFIGS[kind])
    options: dict[str, Any] = {"target": TWICE[kind], "operator": {"width": "hypercloning"}}
    found = ligo_spec.grow(plan_file(tmp_path, checks={"forward": "require"}, **options))
    assert found.verification == ligo_spec.verify(small, found.path)
    skipped = ligo_spec.grow(plan_file(tmp_path, output="other", **options))
    assert skipped.verification is None


def test_grow_fails_where_its_certificate_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that computes something else is seen by the forward passes; what it wrote stays to be looked at."""
    from ligo_spec.numpy_backend import NumpyBackend

    right = NumpyBackend.to_numpy

    def wrong(self: NumpyBackend, tensor: npt.NDArray[Any], /) -> npt.NDArray[Any]:
        made: npt.NDArray[Any] = right(self, tensor) * tensor.dtype.type(1.1)
        return made

    saved(tmp_path / "small", "GPT2LMHeadModel", CONFIGS["gpt2"])
    monkeypatch.setattr(NumpyBackend, "to_numpy", wrong)
    operator, checks = {"width": "hypercloning"}, {"forward": "require"}
    with pytest.raises(VerificationError, match=r"^logits: differ by up to .*, though the certificate says lossless$"):
        ligo_spec.grow(plan_file(tmp_path, target=TWICE["gpt2"], operator=operator, checks=checks))
    assert (tmp_path / "grown" / "model.safetensors").exists()


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "ViTModel"])
def test_models_of_images_are_compared_on_pixels(class_name: str, tmp_path: Path) -> None:
    """No vocabulary: random pixels of the config's size; a cloned model gives the same outputs."""
    config = {"model_type": "vit", **ROWS["vit"].config, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 6, "pooler_output_size": 8}
    saved(tmp_path / "small", class_name, config)
    target = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 12, "pooler_output_size": 16}
    plan = plan_file(tmp_path, target=target, operator={"width": "hypercloning"}, checks={"forward": "require"})
    found = ligo_spec.grow(plan)
    assert found.lossless
    assert found.verification is not None
    assert found.verification.same
    assert not found.verification.missing
    assert found.verification.compared == ("logits" if "Classification" in class_name else "hidden states")
