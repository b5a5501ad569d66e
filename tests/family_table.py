"""One row a family: what the tests need to know of it that its YAML file does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRANSFORMERS = "transformers"


@dataclass(frozen=True)
class Row:
    """What there is to hold a family against.

    Args:
        classes: Every class whose files the family describes.
        head: The class whose outputs are compared, and its output if that is not ``logits``.
        config: Keys of a tiny model's config beside its sizes and flags.
        output: What is compared.
        library: Where the classes are: Transformers, or a module of the tests for a family that it does not have.
    """

    classes: tuple[str, ...]
    head: str
    config: Mapping[str, Any] = field(default_factory=dict)
    output: str = "logits"
    library: str = TRANSFORMERS


def classes(stem: str, *endings: str) -> tuple[str, ...]:
    """``classes("Bert", "Model", "ForMaskedLM")``."""
    return tuple(stem + ending for ending in endings)


TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

DECODER = {"rms_norm_eps": 1e-2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
"""What every small decoder needs: a visible epsilon, and special tokens inside its vocabulary."""

TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
"""Special tokens that any vocabulary has."""

ROPE = {"rope_type": "default", "rope_theta": 10000.0}

SLIDING = {"use_sliding_window": True, "sliding_window": 3}
"""A window shorter than the texts of the tests."""

PIXELS = {"num_channels": 2, "image_size": 7, "patch_size": 3, "encoder_stride": 2, "num_labels": 3}
"""Images of four patches, and of a rest that no patch covers."""

ROWS = {
    "bert": Row(
        classes(
            "Bert", "Model", "ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction", "ForMultipleChoice", *TASKS
        ),
        "BertForMaskedLM",
        {"layer_norm_eps": 1e-2},
    ),
    "gpt2": Row(
        classes("GPT2", "Model", "LMHeadModel", "DoubleHeadsModel", *TASKS),
        "GPT2LMHeadModel",
        {"layer_norm_epsilon": 1e-2, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama": Row(
        classes("Llama", "Model", "ForCausalLM", *TASKS),
        "LlamaForCausalLM",
        {"rms_norm_eps": 1e-2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
    ),
    "mistral": Row(
        classes("Mistral", "Model", "ForCausalLM", *TASKS),
        "MistralForCausalLM",
        {**DECODER, "sliding_window": 3},
    ),
    "mixtral": Row(
        classes("Mixtral", "Model", "ForCausalLM", *TASKS),
        "MixtralForCausalLM",
        {**DECODER, "sliding_window": 3},
    ),
    "qwen2": Row(
        classes("Qwen2", "Model", "ForCausalLM", *TASKS),
        "Qwen2ForCausalLM",
        {**DECODER, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": Row(
        classes("Qwen3", "Model", "ForCausalLM", *TASKS),
        "Qwen3ForCausalLM",
        {**DECODER, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3_moe": Row(
        classes("Qwen3Moe", "Model", "ForCausalLM", *TASKS),
        "Qwen3MoeForCausalLM",
        {**DECODER, **SLIDING},
    ),
    "gemma": Row(
        classes("Gemma", "Model", "ForCausalLM", *TASKS[:2]),
        "GemmaForCausalLM",
        {**DECODER},
    ),
    "gemma2": Row(
        classes("Gemma2", "Model", "ForCausalLM", *TASKS[:2]),
        "Gemma2ForCausalLM",
        {**DECODER, "sliding_window": 3, "query_pre_attn_scalar": 5},
    ),
    "gemma3_text": Row(
        ("Gemma3TextModel", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
        "Gemma3ForCausalLM",
        {**DECODER, "sliding_window": 3, "query_pre_attn_scalar": 5},
    ),
    "roberta": Row(
        classes("Roberta", "Model", "ForMaskedLM", "ForCausalLM", "ForMultipleChoice", *TASKS),
        "RobertaForMaskedLM",
        {"layer_norm_eps": 1e-2, "pad_token_id": -1, "bos_token_id": 0, "eos_token_id": 0},  # positions count from 0
    ),
    "distilbert": Row(
        classes("DistilBert", "Model", "ForMaskedLM", "ForMultipleChoice", *TASKS), "DistilBertForMaskedLM"
    ),
    "electra": Row(
        classes("Electra", "Model", "ForMaskedLM", "ForCausalLM", "ForPreTraining", "ForMultipleChoice", *TASKS),
        "ElectraForMaskedLM",
        {"layer_norm_eps": 1e-2},
    ),
    "modernbert": Row(
        classes("ModernBert", "Model", "ForMaskedLM", "ForMultipleChoice", *TASKS),
        "ModernBertForMaskedLM",
        {"norm_eps": 1e-2, "local_attention": 4}  # half of it is the window, shorter than the texts
        | {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
    ),
    "gpt_neox": Row(
        classes("GPTNeoX", "Model", "ForCausalLM", *TASKS),
        "GPTNeoXForCausalLM",
        {"layer_norm_eps": 1e-2, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, "eos_token_id": 0},
    ),
    "opt": Row(
        classes("OPT", "Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering"),
        "OPTForCausalLM",
    ),
    "phi3": Row(
        classes("Phi3", "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"),
        "Phi3ForCausalLM",
        {"rms_norm_eps": 1e-2, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, **TOKEN_IDS},
    ),
    "olmo2": Row(
        classes("Olmo2", "Model", "ForCausalLM", "ForSequenceClassification"),
        "Olmo2ForCausalLM",
        {"rms_norm_eps": 1e-2, **TOKEN_IDS},
    ),
    "smollm3": Row(
        classes("SmolLM3", "Model", "ForCausalLM", *TASKS),
        "SmolLM3ForCausalLM",
        {"rms_norm_eps": 1e-2, "no_rope_layer_interval": 2, **SLIDING, **TOKEN_IDS},
    ),
    "stablelm": Row(
        classes("StableLm", "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"),
        "StableLmForCausalLM",
        {"layer_norm_eps": 1e-2, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
    ),
    "vit": Row(
        classes("ViT", "Model", "ForImageClassification", "ForMaskedImageModeling"),
        "ViTForImageClassification",
        {"layer_norm_eps": 1e-2, **PIXELS},
    ),
    "deit": Row(
        classes(
            "DeiT",
            "Model",
            "ForImageClassification",
            "ForImageClassificationWithTeacher",
            "ForMaskedImageModeling",
        ),
        "DeiTForImageClassificationWithTeacher",
        {"layer_norm_eps": 1e-2, **PIXELS},
    ),
    "dinov2": Row(
        classes("Dinov2", "Model", "ForImageClassification", "Backbone"),
        "Dinov2ForImageClassification",
        {"layer_norm_eps": 1e-2, "mlp_ratio": 2, **PIXELS},
    ),
    "cait": Row(
        ("Cait",),
        "Cait",
        {"in_chans": 2, "img_size": 7, "patch_size": 3, "num_classes": 3, "mlp_ratio": 2, "mlp_ratio_token_only": 3}
        | {"eps": 1e-2},  # no key that timm has: a fixed epsilon that is too small to be seen proves nothing
        library="tests.cait",
    ),
    "t5": Row(
        classes("T5", "Model", "ForConditionalGeneration", "EncoderModel", *TASKS),
        "T5ForConditionalGeneration",
        {"layer_norm_epsilon": 1e-2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}
        | {"eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
    "whisper": Row(
        classes("Whisper", "Model", "ForConditionalGeneration", "ForCausalLM", "ForAudioClassification"),
        "WhisperForConditionalGeneration",
        {"begin_suppress_tokens": None, "decoder_start_token_id": 0, **TOKEN_IDS},
    ),
}
