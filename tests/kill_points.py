"""Kill a writer at many moments and look at what is left; run as a script, so that the forks have no threads.

``python tests/kill_points.py DIRECTORY TIMES SEED`` kills before every call of the seam, then at TIMES random moments,
and prints the counts as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ligo_safetensors import write
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.filesystem import Fs
from ligo_spec.staging import staged_directory

INFOS = [TensorInfo(f"layers.{i}.weight", "F32", (64, 160)) for i in range(6)]
CALLS = [name for name in vars(Fs) if not name.startswith("_")]


class SeamFs(Fs):
    """Hands every call of the seam to `around`; a test decides there what happens."""

    def around(self, name: str, *args: Any) -> Any:
        return getattr(Fs, name)(self, *args)


def _through_around(name: str) -> Any:
    return lambda self, *args: self.around(name, *args)


for _name in CALLS:
    setattr(SeamFs, _name, _through_around(_name))


def grow(target: Path, fs: Fs) -> None:
    """A run of the product in small: three shards, an index, a file carried over, a manifest last."""
    with staged_directory(target, sources=[Path(__file__)], fs=fs) as stage:
        write(stage, INFOS, lambda name: np.full((64, 160), len(name), np.float32), max_shard_size=2 * 64 * 160 * 4)
        stage.copy_file(__file__, "carried.py")
        digests = {name: file.sha256 for name, file in stage.files.items()}
        stage.write_bytes("manifest.json", [json.dumps(digests).encode()])


def is_complete(target: Path) -> bool:
    """Whether every file that the manifest names is there, with its checksum, and no other."""
    try:
        digests = json.loads((target / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    names = {path.name for path in target.iterdir()}
    return names == {*digests, "manifest.json"} and all(
        hashlib.sha256((target / name).read_bytes()).hexdigest() == digest for name, digest in digests.items()
    )


class CountingFs(SeamFs):
    """Counts the calls, and kills its process before call ``fatal``."""

    def __init__(self, fatal: int | None = None) -> None:
        self.count = 0
        self.fatal = fatal

    def around(self, name: str, *args: Any) -> Any:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().around(name, *args)


def _killed(target: Path, fatal: int | None, delay: float) -> None:
    child = os.fork()
    if child == 0:
        grow(target, CountingFs(fatal))
        os._exit(0)
    if fatal is None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _state_after(target: Path) -> str:
    """What is under the final name; then the next run must succeed, or refuse a complete output, and tidy up."""
    state = "absent"
    if os.path.lexists(target):
        state = "complete" if is_complete(target) else "torn"
        try:
            grow(target, Fs())
        except OSError:
            pass
        else:
            return "overwritten"
    else:
        grow(target, Fs())
    if not is_complete(target):
        return "not repaired"
    return state if os.listdir(target.parent) == [target.name] else "litter"


def main(directory: Path, times: int, seed: int) -> dict[str, int]:
    target = directory / "grown"
    counter = CountingFs()
    start = time.perf_counter()
    grow(target, counter)
    span = time.perf_counter() - start
    shutil.rmtree(target)
    rng = random.Random(seed)
    points: list[tuple[int | None, float]] = [(call, 0.0) for call in range(1, counter.count + 1)]
    points += [(None, rng.uniform(0, 1.3 * span)) for _ in range(times)]
    states: dict[str, int] = {"points": len(points)}
    for fatal, delay in points:
        _killed(target, fatal, delay)
        state = _state_after(target)
        states[state] = states.get(state, 0) + 1
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return states


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
