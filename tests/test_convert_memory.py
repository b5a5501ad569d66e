"""Conversion streams: what it takes of memory does not grow with the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
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

BOUND = 256 * MIB
"""Bytes above the interpreter with all that it imports, and beside three of the largest tensor."""

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

CHILD = """
import sys
import ligo_spec, ligo_spec.cli
from ligo_spec.checkpoint import load_converter
import torch, transformers

def peak():  # not ru_maxrss, which a process inherits from the one that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

source, output, to = sys.argv[1:]
load_converter(to).write
before = peak()
ligo_spec.convert(source, output, to)
print(1024 * (peak() - before))
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
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Through every format in turn, so that each is written and read once."""
    source, total, largest = hollow(tmp_path / "small")
    bound = BOUND + 3 * largest
    assert total > 3 * bound
    taken = {}
    for to in ("pytorch", "flax", "onnx", "safetensors"):
        taken[to] = peak(source, tmp_path / to, to)
        print(f"{source.name} to {to}: {taken[to] / MIB:.0f} MiB of {bound / MIB:.0f}, of a model of {total / MIB:.0f}")
        shutil.rmtree(source)
        source = tmp_path / to
    assert max(taken.values()) <= bound, taken
