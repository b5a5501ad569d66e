"""Conversion streams: what it takes of memory does not grow with the checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.family import load_family
from ligo_spec.layout import BASE, Slot, packed_shape, slots_of

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("msgpack")

MIB = 1 << 20

BOUND = 512 * MIB
"""Bytes above the interpreter with all that it imports, and beside three of the largest tensor."""

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

CHILD = """
import json, resource, sys
import ligo_spec, ligo_spec.cli
from ligo_spec.checkpoint import load_converter
import torch, transformers

source, output, to = sys.argv[1:]
load_converter(to).write
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ligo_spec.convert(source, output, to)
print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
"""


def hollow(directory: Path) -> tuple[Path, int, int]:
    """A checkpoint of zeros that takes no room on the disk; its bytes, and those of its largest tensor."""
    architecture = Architecture.from_hf_config(load_family("llama"), CONFIG)
    header: dict[str, object] = {}
    sizes: list[int] = []
    for template, (entry, *_) in architecture.family.layouts["hf"].tensors.items():
        if any(architecture.family.tensors[name].optional for name in entry.is_):
            continue
        slot = Slot("", template.replace(BASE, "model."), None, None, entry.steps, (), entry.is_)
        for one in slots_of(slot, architecture):
            shapes = [tuple(side or 0 for side in architecture.shape(name)) for name in entry.is_]
            shape = packed_shape(shapes, one.steps)
            nbytes = 4
            for side in shape:
                nbytes *= side
            start = sum(sizes)
            header[one.name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, start + nbytes]}
            sizes.append(nbytes)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + sum(sizes))
    return directory, sum(sizes), max(sizes)


def peak(source: Path, output: Path, to: str) -> int:
    """Bytes that a conversion takes at its peak, above what is imported before it."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", CHILD, str(source), str(output), to]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["safetensors", "pytorch", "flax", "onnx"])
def test_memory_is_bounded(to: str, tmp_path: Path) -> None:
    """Out of safetensors, and back into it from what was written."""
    source, total, largest = hollow(tmp_path / "small")
    bound = BOUND + 3 * largest
    assert total > 3 * bound
    taken = {f"safetensors to {to}": peak(source, tmp_path / "out", to)}
    taken[f"{to} to safetensors"] = peak(tmp_path / "out", tmp_path / "back", "safetensors")
    for way, size in taken.items():
        print(f"{way}: {size / MIB:.0f} MiB of {bound / MIB:.0f}, for a model of {total / MIB:.0f}")
    assert max(taken.values()) <= bound, taken
