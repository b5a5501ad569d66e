"""The formula for FLOPs against what torch counts when the library's own models run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.errors import PlanError
from ligo_spec.family import load_family
from ligo_spec.flops import forward_flops, image_forward_flops, image_training_flops, matrix_weights, training_flops
from ligo_spec.job import open_model
from tests.image_data import CHANNELS, LABELS, SIDE, config
from tests.image_data import CLASSES as CLASSES_OF_IMAGES
from tests.models import made
from tests.tiny_checkpoints import CONFIGS, library, saved

CLASSES = {
    "bert": "BertForMaskedLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
}

ALL_CONFIGS: dict[str, dict[str, Any]] = {
    **CONFIGS,
    "mixtral": {
        **CONFIGS["llama"],
        "model_type": "mixtral",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}

UNUSED = {"bert": {"pooler.dense.weight", "next_sentence.weight"}}
"""Tensors of the families that the classes above do not have."""

SEQ_LEN, BATCH = 8, 3


def matrices(kind: str, architecture: Architecture) -> list[str]:
    """What a model for language has: all that is not optional, the head, and what stands before it."""
    optional = ("head.weight", "head.transform.weight", "transform.dense.weight")
    return [
        name for name, tensor in architecture.family.tensors.items()
        if (not tensor.optional or name in optional or ".experts." in name) and name not in UNUSED.get(kind, ())
    ]  # fmt: skip


def counted(kind: str, *, backward: bool) -> float:
    """What torch counts of a library's model, with plain attention."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    options = {key: value for key, value in ALL_CONFIGS[kind].items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(kind, **options)
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, CLASSES[kind])(config).eval()
    ids = torch.randint(0, 31, (BATCH, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if backward:
            loss.backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("kind", CLASSES)
def test_the_formula_is_what_torch_counts(kind: str) -> None:
    """To the last operation, forward and backward."""
    library()
    architecture = Architecture.from_hf_config(load_family(kind), ALL_CONFIGS[kind])
    templates = matrices(kind, architecture)
    forward = BATCH * forward_flops(architecture, templates, SEQ_LEN)
    assert counted(kind, backward=False) == pytest.approx(forward, rel=1e-9)
    assert counted(kind, backward=True) == pytest.approx(3 * forward, rel=1e-9)
    assert training_flops(architecture, templates, SEQ_LEN) == 3 * forward / BATCH


@pytest.mark.parametrize("class_name", CLASSES_OF_IMAGES)
def test_the_formula_for_images_is_what_torch_counts(class_name: str, tmp_path: Path) -> None:
    """Patches, all layers at all positions, the head of labels; and pixels need no gradient."""
    library()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    small = open_model(saved(tmp_path / "small", class_name, config(class_name)))
    templates = small.binding.templates()
    model = made(class_name, config(class_name))
    pixels, labels = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.long)
    for backward, formula in ((False, image_forward_flops), (True, image_training_flops)):
        with FlopCounterMode(display=False) as counter:
            loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
        wanted = BATCH * formula(small.architecture, templates, LABELS)
        assert counter.get_total_flops() == pytest.approx(wanted, rel=1e-9)


def test_what_an_image_costs_needs_its_patches() -> None:
    """A family of text has none."""
    architecture = Architecture.from_hf_config(load_family("bert"), CONFIGS["bert"])
    with pytest.raises(PlanError) as caught:
        image_forward_flops(architecture, ["embed.tokens.weight"], LABELS)
    assert str(caught.value) == "family bert has no size positions, by which the cost of an image is counted"


def test_tied_heads_count_and_tables_do_not() -> None:
    """Whichever of the tied names a file has; without a head, only the layers are left."""
    architecture = Architecture.from_hf_config(load_family("gpt2"), CONFIGS["gpt2"])
    hidden, layers, words = 12, 2, 31
    inner = layers * 12 * hidden**2

    def weights(*names: str) -> float:
        layer: Collection[str] = [name for name in architecture.family.tensors if name.startswith("layers.")]
        return matrix_weights(architecture, [*layer, *names])

    assert weights() == inner
    assert weights("embed.positions.weight") == inner
    assert weights("embed.tokens.weight") == weights("head.weight") == inner + words * hidden
    apart = architecture.untie()
    assert matrix_weights(apart, ["embed.tokens.weight"]) == 0
    assert matrix_weights(apart, ["embed.tokens.weight", "head.weight"]) == words * hidden
