"""Models of several stacks of layers, beyond the proofs of every family: files, ties, forward passes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import ligo_spec
from ligo_spec import InputError, PlanError
from ligo_spec.architecture import Architecture
from ligo_spec.family import load_family
from ligo_spec.job import open_model
from ligo_spec.operator import Growth, Operator
from tests.family_table import ROWS
from tests.forward import present
from tests.models import problems_of_loading
from tests.test_certify import SLOW, agree, operator_of, perturbed
from tests.tiny_checkpoints import config_of, plan_file, saved, tensors_of, write

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from tests.cait import Cait
from tests.effort import examples

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

SMALL: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 6, "d_kv": 3, "d_ff": 5, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 2}
    | {"vocab_size": 11},
    "whisper": {"d_model": 8, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
    | {"decoder_attention_heads": 4, "encoder_ffn_dim": 5, "decoder_ffn_dim": 6, "vocab_size": 11, "num_mel_bins": 3}
    | {"max_source_positions": 5, "max_target_positions": 7, "classifier_proj_size": 4},
    "cait": {"embed_dim": 8, "num_heads": 2, "depth": 1, "depth_token_only": 1},
}

TWICE = {
    "t5": {"hidden_size": 12, "head_dim": 6, "num_attention_heads": 4, "intermediate_size": 10},
    "whisper": {"hidden_size": 16, "encoder_attention_heads": 4, "decoder_attention_heads": 8, "encoder_ffn_dim": 10}
    | {"decoder_ffn_dim": 12, "classifier_proj_size": 8},
    "cait": {"hidden_size": 16, "num_attention_heads": 4},
}


def config(family: str, **changes: Any) -> dict[str, Any]:
    """A tiny config of a family."""
    return {"model_type": family, **SMALL[family], **ROWS[family].config, **changes}


def cloned(directory: Path, family: str, **checks: str) -> ligo_spec.Grown:
    """What ``small`` grows into by whole copies."""
    plan = plan_file(directory, target=TWICE[family], operator={"width": "hypercloning"}, checks=checks)
    return ligo_spec.grow(plan)


# --- forward passes ---------------------------------------------------------------------------------------------------


CLASSES = [(family, name) for family in ("t5", "whisper") for name in ROWS[family].classes]


@pytest.mark.parametrize(("family", "class_name"), CLASSES)
def test_every_class_is_compared(family: str, class_name: str, tmp_path: Path) -> None:
    """Texts, sounds and both; logits, and the last states of a decoder, or of an encoder that comes alone."""
    saved(tmp_path / "small", class_name, config(family))
    found = cloned(tmp_path, family, forward="require", lossless="require")
    assert found.verification is not None
    assert found.verification.same
    assert found.verification.scale > 0.01
    assert found.verification.compared == ("hidden states" if class_name.endswith("Model") else "logits")


def test_a_changed_encoder_is_seen(tmp_path: Path) -> None:
    """The twin: what the decoder puts out depends on what the encoder reads."""
    saved(tmp_path / "small", "T5Model", config("t5"))
    cloned(tmp_path, "t5", forward="skip")
    large = tmp_path / "grown"
    tensors = load_file(large / "model.safetensors")
    tensors["encoder.block.0.layer.0.SelfAttention.q.weight"][0, 0] += 1.0
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    assert not ligo_spec.verify(tmp_path / "small", large).same


def test_what_transformers_does_not_have_is_not_compared(tmp_path: Path) -> None:
    """``auto`` leaves the comparison out; ``require`` says why there is none."""
    saved(tmp_path / "small", "Cait", config("cait"))
    assert cloned(tmp_path, "cait", forward="auto").verification is None
    text = "Transformers has no models of type 'cait', so no forward passes can be compared"
    for architectures in (["Cait"], None):
        changed = {key: value for key, value in config_of(tmp_path / "small").items() if key != "architectures"}
        small = write(
            tmp_path / "other", changed | ({"architectures": architectures} if architectures else {}),
            tensors_of(tmp_path / "small"),
        )  # fmt: skip
        with pytest.raises(PlanError) as caught:
            ligo_spec.verify(small, small)
        assert str(caught.value) == text


# --- any one map perturbed breaks both -------------------------------------------------------------------------------


def growth_of(family: str, **changes: Any) -> Growth:
    """A small model of a family, to twice the width."""
    small = Architecture.from_hf_config(load_family(family), config(family, **changes))
    return Growth(small, small.grown(TWICE[family]))


def used_maps(growth: Growth, operator: Operator) -> list[str]:
    """Maps that some tensor of the head's model uses, but for those of labels, which only a file counts."""
    family = growth.only(present(growth.small)).small.family
    touched = {dim for tensor in family.tensors.values() for dim in tensor.touches if dim.space != "labels"}
    return sorted({operator.main.spaces[dim.space].of(dim.role) for dim in touched})


LOSSLESS = [("t5", "hypercloning"), ("t5", "zero_pad"), ("whisper", "hypercloning"), ("cait", "hypercloning")]
"""Families and methods that are lossless there."""


@pytest.mark.parametrize(("family", "method"), LOSSLESS)
@given(data=st.data())
@settings(suppress_health_check=SLOW, max_examples=examples(30))
def test_any_one_map_perturbed_is_seen_by_both(family: str, method: str, data: st.DataObject) -> None:
    """One entry of any one map changed: the certificate says what the forward pass says."""
    flags = [flag.config for flag in load_family(family).flags.values() if flag.config and flag.equals is None]
    growth = growth_of(family, **{key: data.draw(st.booleans()) for key in flags})
    operator = operator_of(growth, width=method)
    name = data.draw(st.sampled_from(used_maps(growth, operator)))
    agree(growth, perturbed(operator, name, data.draw(st.integers(0, 63)), data.draw(st.integers(0, 63))))


@pytest.mark.parametrize(("family", "method"), LOSSLESS)
def test_every_map_can_break_both(family: str, method: str) -> None:
    """Each map in use, its first entry changed: certificate and forward pass break together."""
    growth = growth_of(family)
    operator = operator_of(growth, width=method)
    assert agree(growth, operator)
    for name in used_maps(growth, operator):
        assert not agree(growth, perturbed(operator, name, 0, 0)), name


@pytest.mark.parametrize("space", ["decoder_value", "decoder_key", "cross_key", "encoder_value"])
def test_coordinates_that_no_score_and_no_reader_takes_are_free(space: str) -> None:
    """The fourth coordinate of the first head is new: the query is zero there, and nothing reads the context there."""
    growth = growth_of("t5")
    operator = operator_of(growth, width="zero_pad")
    assert agree(growth, perturbed(operator, space, 3, 5))  # from another head
    assert not agree(growth, perturbed(operator, space, 2, 5))  # its twin: an old coordinate


# --- files ------------------------------------------------------------------------------------------------------------


def test_tensors_of_a_group_come_all_or_none(tmp_path: Path) -> None:
    """A file without any decoder is an encoder; one that lacks a part of it is broken."""
    tensors = tensors_of(saved(tmp_path / "small", "T5ForConditionalGeneration", config("t5")))
    settled = config_of(tmp_path / "small")
    alone = {name: value for name, value in tensors.items() if not name.startswith("decoder.")}
    assert "decoder.final_norm.weight" not in open_model(write(tmp_path / "alone", settled, alone)).binding.templates()
    del tensors["decoder.final_layer_norm.weight"]
    with pytest.raises(InputError) as caught:
        open_model(write(tmp_path / "broken", settled, tensors))
    assert str(caught.value) == f"{tmp_path}/broken: tensor decoder.final_norm.weight is missing"


def test_another_name_of_the_number_of_layers_does_not_win_over_it(tmp_path: Path) -> None:
    """``num_hidden_layers`` beside ``encoder_layers``: Transformers takes the last, so a stale one must go."""
    small = saved(tmp_path / "small", "WhisperModel", config("whisper"))
    write(small, {**config_of(small), "num_hidden_layers": 1}, tensors_of(small))
    plan = plan_file(tmp_path, target={"encoder_layers": 2, "decoder_layers": 3}, operator={"depth": "stack"})
    grown = ligo_spec.apply(plan).path
    assert not problems_of_loading("whisper", "WhisperModel", grown)
    assert "num_hidden_layers" not in config_of(grown)


def test_each_stack_grows_by_itself(tmp_path: Path) -> None:
    """Layers of the decoder only: those of the encoder stay, bit for bit."""
    small = saved(tmp_path / "small", "T5Model", config("t5"))
    grown = ligo_spec.apply(plan_file(tmp_path, target={"decoder_layers": 4}, operator={"depth": "interpolate"})).path
    before, after = tensors_of(small), tensors_of(grown)
    assert {name for name in after if name.startswith("encoder.")} == {n for n in before if n.startswith("encoder.")}
    place = "decoder.block.{}.layer.1.EncDecAttention.q.weight"
    for large, source in enumerate((0, 0, 1, 1)):
        np.testing.assert_array_equal(after[place.format(large)], before[place.format(source)])
    assert config_of(grown)["num_layers"] == 1


# --- ties that no flag settles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "scaled"),
    [
        ({}, True),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, True),
    ],
)
def test_a_flag_follows_another_one(keys: dict[str, bool], scaled: bool) -> None:
    """The newer key says whether outputs are scaled; where it is not there, the older one does, as in the library."""
    from transformers import AutoConfig

    found = Architecture.from_hf_config(load_family("t5"), config("t5", **keys))
    assert found.flags["scale_decoder_outputs"] is scaled
    assert AutoConfig.for_model("t5", **SMALL["t5"], **keys).scale_decoder_outputs is scaled
    assert ("scaled" in found.family.spaces) is scaled
    assert len(found.ties[0]) == 4  # whatever they say


@pytest.mark.parametrize("keys", [{}, {"tie_word_embeddings": False}, {"scale_decoder_outputs": False}])
def test_a_head_that_is_stored_apart_stays_apart(keys: dict[str, bool], tmp_path: Path) -> None:
    """As T5 v1.1 has it: no key says so but the file, and what the keys say of the scale stays as it is."""
    small = saved(tmp_path / "small", "T5ForConditionalGeneration", config("t5"))
    tensors = tensors_of(small)
    head = np.random.default_rng(0).standard_normal(tensors["shared.weight"].shape).astype(np.float32)
    settled = {key: value for key, value in config_of(small).items() if key not in ("tie_word_embeddings",
               "scale_decoder_outputs")} | keys  # fmt: skip
    write(small, settled, {**tensors, "lm_head.weight": head})
    found = cloned(tmp_path, "t5", forward="require", lossless="require")
    assert open_model(small).untied
    assert found.verification is not None
    assert found.verification.same
    after = tensors_of(found.path)
    assert not np.array_equal(after["lm_head.weight"], after["shared.weight"])
    assert {key: config_of(found.path).get(key) for key in keys} == keys


def test_copies_of_the_embeddings_are_stored_once(tmp_path: Path) -> None:
    """Old files have the table under each of its names."""
    small = saved(tmp_path / "small", "T5ForConditionalGeneration", config("t5"))
    tensors = tensors_of(small)
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    write(small, config_of(small), tensors | dict.fromkeys(names, tensors["shared.weight"]))
    found = cloned(tmp_path, "t5", forward="require", lossless="require")
    assert tensors_of(found.path).keys() == tensors.keys()


# --- no objective -----------------------------------------------------------------------------------------------------


def test_a_fit_of_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    """Before the text is read."""
    saved(tmp_path / "small", "T5ForConditionalGeneration", config("t5"))
    (tmp_path / "text.txt").write_text("one two three " * 50, "utf-8")
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": 4, "batch_size": 2}
    plan = plan_file(tmp_path, target=TWICE["t5"], operator={"width": "noisy_average"}, fit={"steps": 1, "data": data})
    with pytest.raises(PlanError, match=r"^fit\.objective: models of several stacks of layers \(encoder\.layers, "):
        ligo_spec.grow(plan)
    assert not (tmp_path / "grown").exists()


# --- the module that stands in for a library --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "depth", "heads", "side", "millions"),
    [(192, 24, 4, 224, 12.0), (192, 36, 4, 224, 17.3), (288, 24, 6, 384, 26.7), (384, 24, 8, 224, 46.9)],
    ids=["XXS24", "XXS36", "XS24", "S24"],
)
def test_cait_has_as_many_parameters_as_published(
    width: int, depth: int, heads: int, side: int, millions: float
) -> None:
    """arXiv 2103.17239, table 3, and timm's list."""
    with torch.device("meta"):
        model = Cait({"embed_dim": width, "depth": depth, "num_heads": heads, "img_size": side})
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
