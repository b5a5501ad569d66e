"""Tiny checkpoints on disk: saved by Transformers, or made by hand with NumPy; and plans that grow them.

Those of Transformers are what users have; those made by hand need no framework, and hold what no library would write.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (safetensors' NumPy side knows bfloat16 only after it)
import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ligo_spec.architecture import Architecture
from ligo_spec.family import load_family
from ligo_spec.file_layout import EXPERT
from ligo_spec.layout import BASE, Slot, pack, slots_of
from tests.models import made

Arrays = dict[str, npt.NDArray[Any]]

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        "model_type": "bert",
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "vocab_size": 31,
        "max_position_embeddings": 10,
        "type_vocab_size": 2,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        "vocab_size": 31,
        "n_positions": 10,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "intermediate_size": 20,
        "vocab_size": 31,
        "max_position_embeddings": 10,
        "rms_norm_eps": 1e-2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
}
"""One small config a family, by its ``model_type``."""

TWICE: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 40},
    "gpt2": {"hidden_size": 24, "num_attention_heads": 6},
    "llama": {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 40},
}
"""Targets of twice the width, for ``CONFIGS``."""

# --- saved by Transformers --------------------------------------------------------------------------------------------


def library() -> Any:
    """Transformers, or a skip where it is not installed."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def random_model(class_name: str, config: Mapping[str, Any], seed: int = 0, *, pooler: bool = True) -> Any:
    """A model with random values everywhere, in biases and norms too."""
    model = made(class_name, config, **({} if pooler else {"add_pooling_layer": False}))
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def saved(
    directory: Path,
    class_name: str,
    config: Mapping[str, Any],
    seed: int = 0,
    *,
    pooler: bool = True,
    dtype: str = "float32",
) -> Path:
    """A checkpoint of a random model, as ``save_pretrained`` leaves it."""
    import torch

    model = random_model(class_name, config, seed, pooler=pooler)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    return directory


# --- made by hand -----------------------------------------------------------------------------------------------------


def arrays(
    config: Mapping[str, Any], *, heads: Iterable[str] = (), seed: int = 0, dtype: Any = np.float32, base: str = ""
) -> Arrays:
    """Random values for every tensor that a config asks for, under the names of a file.

    Args:
        config: As in ``config.json``.
        heads: Optional canonical tensors to have as well, e.g. ``head.weight``.
        seed: Of the values.
        dtype: Of all tensors.
        base: The prefix, e.g. ``bert.``.
    """
    architecture = Architecture.from_hf_config(load_family(config["model_type"]), config)
    family = architecture.family
    generator = np.random.default_rng(seed)
    made: Arrays = {}
    for name, choices in family.layouts["hf"].tensors.items():
        for entry in choices:
            declared = [family.tensors[template] for template in entry.is_]
            if not all(not d.optional or t in heads for d, t in zip(declared, entry.is_, strict=True)):
                continue
            slot = Slot("", name.replace(BASE, base), None, 0 if EXPERT in name else None, entry.steps, (), entry.is_)
            for one in slots_of(slot, architecture):
                shapes = [architecture.shape(template)[0 if one.expert is None else 1 :] for template in entry.is_]
                parts = [generator.standard_normal([side or 3 for side in shape]).astype(dtype) for shape in shapes]
                made[one.name] = np.ascontiguousarray(pack(parts, one.steps))
    return made


def write(directory: Path, config: Mapping[str, Any] | None, tensors: Mapping[str, npt.NDArray[Any]]) -> Path:
    """A checkpoint directory with these tensors and this config."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config), "utf-8")
    return directory


def handmade(directory: Path, kind: str = "bert", **changes: Any) -> Path:
    """A checkpoint made without any framework: a family's ``CONFIGS`` with some keys changed."""
    config = {**CONFIGS[kind], **changes}
    return write(directory, config, arrays(config))


# --- plans ------------------------------------------------------------------------------------------------------------


def plan_file(directory: Path, name: str = "plan.yaml", **changes: Any) -> Path:
    """A plan beside ``small`` that writes ``grown``: JSON, which is YAML. A key of value None is left out."""
    plan = {
        "spec": "ligo/plan/1",
        "source": "small",
        "target": {},
        "operator": {},
        "output": "grown",
        "checks": {"forward": "skip"},
        **changes,
    }
    path = directory / name
    path.write_text(json.dumps({key: value for key, value in plan.items() if value is not None}, indent=1), "utf-8")
    return path


# --- what lies on the disk --------------------------------------------------------------------------------------------


def config_of(directory: Path) -> dict[str, Any]:
    """The parsed ``config.json``."""
    found: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return found


def tensors_of(directory: Path) -> Arrays:
    """Every tensor of a checkpoint, by the safetensors library's own reader, shards too."""
    found: Arrays = {}
    for path in sorted(directory.glob("model*.safetensors")):
        loaded = load_file(path)
        assert not found.keys() & loaded.keys()
        found |= loaded
    return found


def dtypes_of(directory: Path) -> set[str]:
    """The dtypes of a checkpoint's tensors, as safetensors spells them."""
    found = set()
    for path in directory.glob("model*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


def bits(array: npt.NDArray[Any]) -> bytes:
    """The bytes of an array in row-major order."""
    return np.ascontiguousarray(array).tobytes()


def same_bits(found: Mapping[str, npt.NDArray[Any]], wanted: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether two sets of tensors have the same names, shapes, dtypes and bits."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    return all(
        a.shape == b.shape and a.dtype == b.dtype and bits(a) == bits(b)
        for a, b in ((found[name], wanted[name]) for name in wanted)
    )


def tree(directory: Path) -> dict[str, str]:
    """Every name below a directory and what it is: a checksum for files, the target for links."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "directory" if path.is_dir() else "special"
    return found
