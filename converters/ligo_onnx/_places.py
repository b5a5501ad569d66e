"""Which file is meant, and where its config is."""

from __future__ import annotations

import os
from pathlib import Path

from ligo_spec.errors import printable
from ligo_spec.formats import FORMATS, HUB_ONNX, model_directory
from ligo_spec.inputs import refusal

CONFIG = "config.json"
FIRST = (FORMATS["onnx"].single, f"{HUB_ONNX}/{FORMATS['onnx'].single}")
"""Where exporters put a model, and where the Hub keeps it, with the config at the root."""

_OTHER_NUMBERS = ("q4", "q8", "quantized", "int8", "uint8", "int4", "bnb4", "fp8", "quant")


def model_file(path: Path) -> Path:
    """The ONNX file that a path means: itself, or the one of a directory.

    Raises:
        InputError: There is none, there are several, or the only ones are quantised.
    """
    # os.path, not Path: its tests raise for what lies behind a directory that may not be searched.
    if not os.path.isdir(path):
        return path
    for name in FIRST:
        if os.path.lexists(path / name):
            return path / name
    found = sorted([*path.glob("*.onnx"), *path.glob(f"{HUB_ONNX}/*.onnx")])
    plain = [file for file in found if not is_quantised_name(file.name)]
    if len(plain) == 1:
        return plain[0]
    if plain:
        names = ", ".join(printable(file.name, 60) for file in plain[:5])
        raise refusal(path, f"{len(plain)} ONNX files ({names}); name the file that you mean")
    if found:
        names = ", ".join(printable(file.name, 60) for file in found[:5])
        raise refusal(path, f"has quantised ONNX files only ({names}); export the model without quantisation")
    raise refusal(path, f"no ONNX file in it ({', '.join(FIRST)} or one of another name)")


def is_quantised_name(name: str) -> bool:
    """Whether a file's name says that its weights are quantised: ``model_q4f16.onnx``."""
    parts = name.lower().removesuffix(".onnx").replace("-", "_").split("_")
    return any(part.startswith(_OTHER_NUMBERS) for part in parts[1:] or parts)


def config_file(file: Path) -> Path | None:
    """The config of a model: beside it, or above a folder called ``onnx``."""
    found = model_directory(file) / CONFIG
    return found if os.path.lexists(found) else None
