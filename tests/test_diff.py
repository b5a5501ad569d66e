"""`ligo diff`: verdicts as the checkpoints were made, numbers that are exact, and what a reader is shown."""

from __future__ import annotations

import json
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import ligo_spec
from ligo_spec import InputError, PlanError
from ligo_spec.checkpoint import DTYPES
from ligo_spec.cli import run
from ligo_spec.diff import Diff, TensorDiff, diff
from ligo_spec.diff_matching import leftovers_matched
from ligo_spec.diff_table import folded
from ligo_spec.difference import agreement, difference
from tests.tiny_checkpoints import CONFIGS, Arrays, arrays, write

BF16 = np.dtype(ml_dtypes.bfloat16)
NAN, INF = float("nan"), float("inf")


def compared(directory: Path, a: Arrays, b: Arrays, config: Any = None, **changes: Any) -> Diff:
    """The comparison of two sets of tensors, as checkpoints with this config."""
    write(directory / "a", config, a)
    write(directory / "b", {**config, **changes} if config else None, b)
    return diff(directory / "a", directory / "b")


def verdicts(found: Diff) -> dict[str, str]:
    """By name; each name comes once."""
    assert len({item.name for item in found.tensors}) == len(found.tensors)
    return {item.name: item.verdict for item in found.tensors}


def row(found: Diff, name: str) -> TensorDiff:
    return next(item for item in found.tensors if item.name == name)


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_numbers_of_a_difference() -> None:
    """By hand: one of four entries is off by 0.5 where the largest is 2."""
    a, b = np.array([1, 2, 0, 0], np.float32), np.array([1, 1.5, 0, 0], np.float32)
    found = difference(a, b)
    assert (found.max_abs, found.max_rel, found.share, found.nonfinite) == (0.5, 0.25, 0.25, 0)
    assert found.cosine == pytest.approx(4 / (5**0.5 * 3.25**0.5), abs=1e-15)
    assert difference(a, -a).cosine == pytest.approx(-1, abs=1e-15)
    assert (difference(a * 0, b).max_rel, difference(a * 0, b).cosine) == (None, None)


@pytest.mark.parametrize(
    ("a", "b", "largest", "nonfinite"),
    [
        ([NAN, 1, 2], [NAN, 1, 4], 2, 0),
        ([INF, 1, 2], [INF, 1, 4], 2, 0),
        ([INF, 1, 2], [-INF, 1, 4], 2, 1),
        ([NAN, 1, 2], [3, INF, 4], 2, 2),
        ([NAN, INF, 2], [INF, NAN, 4], 2, 2),
    ],
)
def test_what_is_not_finite_is_counted_and_hides_nothing(
    a: list[float], b: list[float], largest: float, nonfinite: int
) -> None:
    """Finite entries have their numbers whatever stands beside them; the numbers themselves are finite."""
    found = difference(np.array(a), np.array(b))
    assert (found.max_abs, found.nonfinite) == (largest, nonfinite)
    assert found.cosine is not None
    json.dumps([found.max_rel, found.cosine, found.share], allow_nan=False)


def test_the_ends_of_float64() -> None:
    """Differences beyond the largest float64 are shown as that; cosines do not overflow."""
    top = sys.float_info.max
    found = difference(np.array([top, top]), np.array([-top, top]))
    assert (found.max_abs, found.max_rel, found.cosine, found.share) == (top, 1, 0, 0.5)
    tiny = np.array([5e-324, 0])
    assert difference(tiny, tiny[::-1]).cosine == 0
    assert difference(tiny, np.array([top, 0.0])).max_rel == top


def test_bits_count_where_dtypes_are_one() -> None:
    """The sign of a zero and the payload of a NaN are no difference in value, but one in the file."""
    a, b = np.array([0.0, 1.0]), np.array([-0.0, 1.0])
    assert agreement(a, b) is None
    assert (difference(a, b).max_abs, difference(a, b).share) == (0, 0.5)
    assert agreement(np.array([NAN]), np.array([NAN])) == "bits"


@pytest.mark.parametrize(
    ("a", "b", "gap"),
    [
        (np.array([2**63 - 1]), np.array([-(2**63)]), 2**64 - 1),
        (np.array([2**53 + 1]), np.array([2**53]), 1),
        (np.array([2**64 - 1], np.uint64), np.array([0], np.uint64), 2**64 - 1),
        (np.array([2**64 - 1], np.uint64), np.array([-(2**63)]), 2**64 - 1 + 2**63),
        (np.array([-1], np.int8), np.array([255], np.uint8), 256),
        (np.array([True, False]), np.array([False, False]), 1),
    ],
)
def test_integers_are_exact(a: Any, b: Any, gap: int) -> None:
    """At any size, of any two dtypes."""
    assert difference(a, b).max_abs == difference(b, a).max_abs == gap
    assert agreement(a, b) is None


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (np.array([1.1], np.float32), np.array([1.1], BF16), True),
        (np.array([1.1], np.float32), np.array([1.2], BF16), False),
        (np.array([1.1], np.float16), np.array(np.array([1.1], np.float16), BF16), True),
        (np.array([NAN, INF], np.float32), np.array([NAN, INF], np.float16), True),
        (np.array([1e6], np.float32), np.array([INF], np.float16), False),
        (np.array([1e6], np.float32), np.array([NAN], np.dtype(ml_dtypes.float8_e4m3fn)), False),
        (np.array([-1], np.int64), np.array([2**64 - 1], np.uint64), False),
        (np.array([7], np.int64), np.array([7], np.uint8), True),
        (np.array([7], np.int64), np.array([7], np.float32), True),
        (np.array([2**24 + 1], np.int64), np.array([2**24], np.float32), True),
        (np.array([7], np.int64), np.array([7.5], np.float32), False),
    ],
)
def test_values_in_another_dtype(a: Any, b: Any, alike: bool) -> None:
    """Equal once rounded to the narrower one, from either side; what overflows is lost, not rounded."""
    assert agreement(a, b) == agreement(b, a) == ("values" if alike else None)


@given(st.data())
def test_numbers_are_those_of_a_plain_computation(data: st.DataObject) -> None:
    """Against float64 at once, for floats of any dtype and size."""
    dtypes = [DTYPES[name] for name in ("F64", "F32", "F16", "BF16")]
    finite = npst.arrays(np.float32, data.draw(npst.array_shapes(max_side=4)), elements=st.floats(-99, 99, width=32))
    value = data.draw(finite)
    a = value.astype(data.draw(st.sampled_from(dtypes)))
    b = (value + data.draw(st.floats(0, 2))).astype(data.draw(st.sampled_from(dtypes)))
    x, y = a.astype(np.float64), b.astype(np.float64)
    found = difference(a, b)
    assert found.max_abs == np.abs(x - y).max()
    scale = np.abs(x).max()
    assert found.max_rel == (None if scale == 0 else pytest.approx(found.max_abs / scale))
    if a.dtype != b.dtype:
        assert found.share == np.mean(x != y)
        rounding = 2**-8 * scale + 2**-25  # of bfloat16's 8 digits, and below the smallest float16
        assert agreement(a, b) is None or found.max_abs <= rounding * (1 + 2**-7)


# --- verdicts by name and content -------------------------------------------------------------------------------------


def test_verdicts_without_a_family(tmp_path: Path) -> None:
    """Every kind, on names and content alone."""
    a = {f"t.{name}": drawn(4, 5, seed=seed) for seed, name in enumerate("abcdefgh")}
    b = {
        "t.a": a["t.a"],
        "u.b": a["t.b"],
        "t.c": a["t.c"].T,
        "u.d": a["t.d"].T,
        "t.e": a["t.e"] + np.float32(1),
        "t.f": a["t.f"].astype(BF16),
        "t.g": a["t.g"][:3],
        "u.x": drawn(4, 5, seed=99),
        "u.h": a["t.h"].astype(BF16).T,
    }
    found = compared(tmp_path, a, b)
    assert verdicts(found) == {
        **{"t.a": "same", "t.b": "renamed", "t.c": "transposed", "t.d": "transposed", "t.e": "different"},
        **{"t.f": "other dtype", "t.g": "other shape", "u.x": "only in B", "t.h": "transposed"},
    }
    moved = row(found, "t.h")
    assert moved.a is not None
    assert moved.b is not None
    assert (moved.a.dtype, moved.b.name, moved.b.dtype, moved.b.shape) == ("F32", "u.h", "BF16", (5, 4))
    assert row(found, "t.e").difference == difference(a["t.e"], b["t.e"])
    assert found.families is None
    assert "A is of no family that is known" in found.notes[0]
    assert not found.same
    assert diff(tmp_path / "a", tmp_path / "a").same


MADE = {
    "same": "same",
    "renamed": "renamed",
    "transposed": "transposed",
    "noise": "different",
    "narrower": "other dtype",
    "wider": "other dtype",
    "cut": "other shape",
    "gone": "only in A",
    "new": "only in B",
}
"""What may be done to a tensor, and the verdict that it must get."""

NAMED = ("noise", "cut")
"""Of these, the name is all that is left to know a tensor by."""


@given(
    st.lists(
        st.tuples(st.sampled_from([*MADE]), st.sampled_from([(5,), (3, 4), (4, 4), (2, 3, 2)]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 99),
)
def test_verdicts_are_as_made(made: list[tuple[str, tuple[int, ...], bool]], seed: int) -> None:
    """Any tensors, any of them renamed, transposed, changed, rounded, cut or gone; under old or new names."""
    a: Arrays = {}
    b: Arrays = {}
    wanted = {}
    for number, (drawn_action, shape, new_name) in enumerate(made):
        action = "renamed" if drawn_action == "transposed" and len(shape) != 2 else drawn_action
        old, new = f"layers.{number}.weight", f"x.{len(made) - number}.w"
        value = drawn(*shape, seed=1000 * seed + number, dtype=BF16 if action == "wider" else np.float32)
        changed = {
            "transposed": value.T,
            "noise": value + value.dtype.type(1e-3),
            "narrower": value.astype(BF16),
            "wider": value.astype(np.float64),
            "cut": value[1:],
        }
        renamed = action == "renamed" or (new_name and action not in (*NAMED, "same"))
        if action != "new":
            a[old] = value
        if action != "gone":
            b[new if renamed else old] = changed.get(action, value)
        wanted[new if action == "new" and renamed else old] = MADE[action]
    with tempfile.TemporaryDirectory() as directory:
        found = compared(Path(directory), a, b)
    assert verdicts(found) == wanted
    assert all((item.difference is not None) == (item.verdict == "different") for item in found.tensors)


def test_equal_content_under_many_names(tmp_path: Path) -> None:
    """Biases of zeros are all the same: each is paired once, with that of the likest name."""
    a = {f"model.{part}.bias": np.zeros(4, np.float32) for part in ("q", "k", "v")}
    b = {f"{part}.bias": np.zeros(4, np.float32) for part in ("v", "q", "x", "k")}
    found = compared(tmp_path, a, b)
    pairs = {item.name: item.b.name for item in found.tensors if item.a and item.b}
    assert pairs == {"model.q.bias": "q.bias", "model.k.bias": "k.bias", "model.v.bias": "v.bias"}
    assert verdicts(found)["x.bias"] == "only in B"


@pytest.mark.parametrize("turned", [False, True])
def test_a_second_copy_is_tied(tmp_path: Path, turned: bool) -> None:
    """Stored once here and twice there, as it is or transposed: no difference, whichever side has more."""
    table = drawn(6, 4)
    once: Arrays = {"wte.weight": table, "norm.weight": np.ones(4, np.float32)}
    twice = {**once, "lm_head.weight": table.T if turned else table}
    for a, b in ((once, twice), (twice, once)):
        found = compared(tmp_path, a, b)
        assert verdicts(found) == {"wte.weight": "same", "norm.weight": "same", "lm_head.weight": "tied"}
        assert found.same
    trained = verdicts(compared(tmp_path, {**once, "wte.weight": table + 1}, twice))
    assert trained == {"wte.weight": "different", "norm.weight": "same", "lm_head.weight": "tied"}


def test_new_tensors_of_one_value_are_no_second_copies(tmp_path: Path) -> None:
    """A new norm of ones is new, although other norms are ones too; so is a new mask."""
    a: Arrays = {"a.weight": np.ones(4, np.float32), "a.mask": np.arange(6)}
    found = compared(tmp_path, a, {**a, "b.weight": a["a.weight"], "b.mask": a["a.mask"]})
    assert verdicts(found)["b.weight"] == verdicts(found)["b.mask"] == "only in B"


# --- verdicts by family -----------------------------------------------------------------------------------------------


def test_prefixes_and_old_names_meet(tmp_path: Path) -> None:
    """By canonical name; a difference in one of three fused tensors is that one's alone."""
    config = CONFIGS["gpt2"]
    a, b = arrays(config), arrays(config, base="transformer.")
    b["transformer.h.1.attn.c_attn.weight"][:, 12:24] += 1
    found = compared(tmp_path, a, b, config)
    changed = [item.name for item in found.tensors if item.verdict != "renamed"]
    assert changed == ["layers.1.attn.k.weight"]
    assert row(found, changed[0]).difference is not None
    assert found.families == ("gpt2", "gpt2")
    assert found.notes == ()
    config = CONFIGS["bert"]
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in arrays(config).items()}
    assert compared(tmp_path / "bert", arrays(config), old, config).counts == {
        "same": len(old) - 5,
        "renamed": 5,
    }


def test_experts_go_one_by_one(tmp_path: Path) -> None:
    """A slice of a file is compared with its own slice."""
    config = {
        **{key: value for key, value in CONFIGS["llama"].items() if key != "head_dim"},
        **{"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2},
    }
    a, b = arrays(config), arrays(config)
    name = next(name for name in b if ".experts.2.w1" in name)
    b[name] = b[name] * 2
    found = compared(tmp_path, a, b, config)
    assert found.counts["different"] == 1
    changed = next(item for item in found.tensors if item.verdict == "different")
    assert changed.name.endswith("[2]")
    assert changed.difference is not None
    assert changed.difference.cosine == pytest.approx(1)
    rows = [row.name for row in folded(found) if "experts" in row.name]
    assert "layers.{0..1}.experts.up.weight[{0..2}]" in rows


@pytest.mark.parametrize("noise", [0, 1])
def test_ties_of_the_config(tmp_path: Path, noise: int) -> None:
    """What A does not store is what it is tied to: so B's own head is told by how much it differs from that."""
    config = {**CONFIGS["gpt2"], "tie_word_embeddings": True}
    a = arrays(config)
    b = {**a, "lm_head.weight": a["wte.weight"] + np.float32(noise)}
    for pair in ((a, b), (b, a)):
        found = compared(tmp_path, *pair, config)
        head = row(found, "head.weight")
        assert head.verdict == ("different" if noise else "tied")
        assert (head.difference is not None) == bool(noise)
        assert found.same != bool(noise)


def test_grown_models_are_of_other_shapes(tmp_path: Path) -> None:
    """No numbers are made up for those; layers that are new are only in B."""
    config = CONFIGS["llama"]
    wide = {**config, "intermediate_size": 24, "num_hidden_layers": 3}
    found = compared(tmp_path, arrays(config), arrays(wide), config, **wide)
    assert row(found, "layers.0.mlp.up.weight").verdict == "other shape"
    assert row(found, "layers.2.mlp.up.weight").verdict == "only in B"
    assert {item.key: (item.a, item.b) for item in found.config} == {
        "intermediate_size": ("20", "24"),
        "num_hidden_layers": ("2", "3"),
    }


def test_what_does_not_fit_the_family_goes_by_its_own_name(tmp_path: Path) -> None:
    """Tensors that are undeclared, missing or of a wrong shape do not hide the others."""
    config = CONFIGS["gpt2"]
    a = {**arrays(config), "adapter": drawn(3)}
    b = {name: value for name, value in a.items() if name != "h.0.ln_1.bias"} | {"ln_f.bias": drawn(7)}
    found = compared(tmp_path, a, b, config)
    assert [(item.name, item.verdict) for item in found.tensors if item.verdict != "same"] == [
        ("layers.0.attn_norm.bias", "only in A"),
        ("final_norm.bias", "only in A"),
        ("ln_f.bias", "only in B"),
    ]
    assert row(found, "adapter").verdict == "same"


def test_two_families_meet_in_canonical_names(tmp_path: Path) -> None:
    """One vocabulary serves all families."""
    config = {**CONFIGS["llama"], "tie_word_embeddings": False}
    found = compared(tmp_path, arrays(config), arrays(config), config, model_type="mistral")
    assert found.families == ("llama", "mistral")
    assert set(found.counts) == {"same"}


def test_a_family_that_is_named(tmp_path: Path) -> None:
    """Serves where no config says it; must then fit, and must be one."""
    config = CONFIGS["gpt2"]
    write(tmp_path / "a", {**config, "model_type": "mine"}, arrays(config))
    write(tmp_path / "b", config, arrays(config, base="transformer."))
    found = diff(tmp_path / "a", tmp_path / "b")
    assert (found.families, set(found.counts)) == (None, {"renamed"})
    assert "as A is of no family that is known: " in found.notes[0]
    assert diff(tmp_path / "a", tmp_path / "b", family="gpt2").families == ("gpt2", "gpt2")
    with pytest.raises(InputError, match="hidden_size"):
        diff(tmp_path / "a", tmp_path / "b", family="bert")
    with pytest.raises(PlanError, match="no family is named"):
        diff(tmp_path / "a", tmp_path / "b", family="none")


# --- how it is done ---------------------------------------------------------------------------------------------------


def test_one_pair_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Matched by name or by content, of 32 MB on each side only a small part is ever held."""
    a = {f"t.{number}": drawn(512, 512, seed=number) for number in range(32)}
    b = {f"{'t' if number % 2 else 'u'}.{number}": a[f"t.{number}"] for number in range(32)}
    write(tmp_path / "a", None, a)
    write(tmp_path / "b", None, {**b, "t.1": b["t.1"] + 1})
    del a, b
    tracemalloc.start()
    try:
        found = diff(tmp_path / "a", tmp_path / "b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.counts == {"same": 15, "renamed": 16, "different": 1}
    assert peak < 20e6


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused: what was compared is not there any more."""
    a = {"t": drawn(3)}
    write(tmp_path / "a", None, a)
    write(tmp_path / "b", None, a)

    def changing(*arguments: Any) -> Any:
        write(tmp_path / "b", None, {"t": drawn(9)})
        return leftovers_matched(*arguments)

    monkeypatch.setattr(sys.modules["ligo_spec.diff"], "leftovers_matched", changing)
    with pytest.raises(InputError, match="changed during the run"):
        diff(tmp_path / "a", tmp_path / "b")


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_layers_are_one_row_where_they_fare_alike(tmp_path: Path) -> None:
    """With the worst number of each kind; layers that fare otherwise have rows of their own."""
    a = {f"h.{layer}.w": drawn(4, 3, seed=layer) for layer in range(12)}
    b = {**{name: value.copy() for name, value in a.items()}, "h.12.w": drawn(4, 3, seed=12)}
    for layer, noise in ((3, 0.5), (7, 0.25), (8, 2)):
        b[f"h.{layer}.w"][0, 0] += np.float32(noise)
    found = compared(tmp_path, a, b)
    rows = folded(found)
    assert [(row.name, row.verdict, row.count) for row in rows] == [
        ("h.{0..2,4..6,9..11}.w", "same", 9),
        ("h.{3,7..8}.w", "different", 3),
        ("h.12.w", "only in B", 1),
    ]
    worst = rows[1].worst
    parts = [item.difference for item in found.tensors if item.difference]
    assert worst is not None
    assert worst.max_abs == max(part.max_abs for part in parts) == pytest.approx(2)
    assert worst.cosine == min(part.cosine for part in parts if part.cosine is not None)
    assert worst.max_rel == max(part.max_rel for part in parts if part.max_rel is not None)


def test_numbers_that_are_not_all_combinations_are_no_one_row(tmp_path: Path) -> None:
    """A row says what it holds: two experts here and another there are two rows."""
    names = ["l.0.e.0.w", "l.0.e.1.w", "l.1.e.2.w"]
    a = {name: drawn(3, seed=number) for number, name in enumerate(names)}
    rows = folded(compared(tmp_path, a, a))
    assert [(row.name, row.count) for row in rows] == [("l.0.e.{0..1}.w", 2), ("l.1.e.2.w", 1)]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table and a last line; JSON is what the function returns; 6 only where it is asked to be exact."""
    monkeypatch.chdir(tmp_path)
    config = CONFIGS["gpt2"]
    write(tmp_path / "a", config, arrays(config))
    write(tmp_path / "b", {**config, "n\x1b": None}, {**arrays(config, seed=1), "odd": drawn(2)})
    assert run(["diff", "a", "a", "--exact"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "36 same; keys of config.json that differ: 0"
    assert run(["diff", "a", "b"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "layers.{0..1}.attn.q.weight" in out
    assert "config.json n\\x1b: absent → null" in out
    assert out.splitlines()[-1].endswith("1 only in B; keys of config.json that differ: 1")
    assert run(["diff", "a", "b", "--exact"]) == 6
    err = capsys.readouterr().err
    assert err.startswith("error: layers.0.attn.q.bias: different\n")
    assert "error: ... and " in err
    assert run(["diff", "a", "b", "--json", "--family", "gpt2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["same"] is False
    assert data["counts"] == ligo_spec.diff("a", "b").counts
    assert data["config"] == [{"key": "n\x1b", "a": None, "b": "null"}]
    assert run(["diff", "a", "nowhere"]) == 3
