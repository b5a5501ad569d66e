"""Depth methods against what their papers and codes say, layer by layer, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.documents import loads
from ligo_spec.errors import LigoError, PlanError
from ligo_spec.family import Family, load_family
from ligo_spec.family_sizes import small_configs
from ligo_spec.methods import build_operator
from ligo_spec.methods.ranges import parse
from ligo_spec.numpy_backend import NumpyBackend
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import OperatorChoice, Plan
from ligo_spec.recipe import compile_recipes, run
from ligo_spec.testing import random_small
from tests.family_table import ROWS
from tests.test_certify import CONFIGS
from tests.tiny_checkpoints import CONFIGS as CHECKPOINTS
from tests.tiny_checkpoints import handmade, library, plan_file, saved, tensors_of


def deeper(family: str, small: int, large: int) -> Growth:
    """A tiny model of a family that grows in layers alone."""
    declared = load_family(family)
    known = CONFIGS.get(family) or small_configs(declared)[-1]
    count = declared.sizes["num_hidden_layers"].config
    config = {"model_type": family, **ROWS[family].config, **known, str(count): small}
    architecture = Architecture.from_hf_config(declared, config)
    return Growth(architecture, architecture.grown({"num_hidden_layers": large}))


def operator_of(growth: Growth, depth: str | dict[str, Any]) -> Operator:
    """The operator of a depth method, as a plan would name it."""
    choice = OperatorChoice.model_validate({"depth": {"method": depth} if isinstance(depth, str) else depth})
    return build_operator(growth, None, choice.depth)


def identity(place: str) -> dict[str, str]:
    return {"method": "identity", "place": place}


def last(block: int) -> dict[str, Any]:
    return {"method": "copy_last", "block": block}


def middle(block: int, centre: str = "blocks") -> dict[str, Any]:
    return {"method": "copy_middle", "block": block, "centre": centre}


def ranges(layers: str | dict[str, str]) -> dict[str, Any]:
    return {"method": "ranges", "layers": layers}


# --- which layer comes from which -------------------------------------------------------------------------------------

COPIES: list[tuple[str | dict[str, Any], int, list[int]]] = [
    # SOLAR, section 2: without the last m layers of one copy and the first m of the other, m = L - L'/2
    ("overlap", 4, [0, 1, 2, 1, 2, 3]),
    ("overlap", 4, [0, 1, 2, 3, 0, 1, 2, 3]),
    ("overlap", 4, [0, 1, 2, 2, 3]),
    ("overlap", 4, [0, 1, 2, 3, 1, 2, 3]),
    ("overlap", 4, [0, 1, 2, 3]),
    # MSLT: three layers, then the top three again and again
    ("copy_last", 3, [0, 1, 2, 0, 1, 2]),
    ("copy_last", 4, [0, 1, 2, 3, 2, 3]),
    (last(2), 4, [0, 1, 2, 3, 2, 3, 2, 3]),
    (last(1), 2, [0, 1, 1, 1]),
    ("copy_last", 2, [0, 1, 1, 1, 1]),  # two do not divide three
    # MIDAS: the block in the middle once more; of four blocks it is the second, of five the third
    ("copy_middle", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    (middle(1), 4, [0, 1, 1, 2, 3]),
    (middle(1), 4, [0, 1, 1, 1, 2, 3]),
    (middle(2), 4, [0, 1, 0, 1, 2, 3]),
    (middle(2), 4, [0, 1, 0, 1, 0, 1, 2, 3]),
    ("copy_middle", 3, [0, 1, 2, 0, 1, 2]),
    (middle(2, "layers"), 4, [0, 1, 2, 1, 2, 3]),
    (middle(2, "layers"), 5, [0, 1, 2, 1, 2, 3, 4]),
    (middle(2, "layers"), 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    # Gopher, by the code of ModernBERT: round(i L / L'), halves to the even number; never the layer above the last
    ("rounding", 3, [0, 0, 1, 2, 2, 2]),
    ("rounding", 4, [0, 1, 1, 2, 3, 3]),
    ("rounding", 2, [0, 0, 1, 1, 1, 1]),
    ("rounding", 3, [0, 1, 2]),
    # mergekit's slices, with both ends
    (ranges("0-2, 1-3"), 4, [0, 1, 2, 1, 2, 3]),
    (ranges("0, 1-2 x2,3"), 4, [0, 1, 2, 1, 2, 3]),
    (ranges("3 x3, 0 - 0"), 4, [3, 3, 3, 0]),
]

SILENT: list[tuple[str | dict[str, Any], int, list[int], list[int]]] = [
    # LLaMA-Pro: after every L/(L' - L) layers a copy of the one before, which adds nothing
    ("identity", 4, [0, 1, 1, 2, 3, 3], [2, 5]),
    ("identity", 3, [0, 0, 1, 1, 2, 2], [1, 3, 5]),
    ("identity", 3, [0, 1, 1, 2, 2], [2, 4]),
    ("identity", 2, [0, 0, 1, 1, 1], [1, 3, 4]),
    (identity("end"), 3, [0, 1, 2, 2, 2], [3, 4]),
    (identity("start"), 2, [0, 0, 0, 1], [0, 1]),
    ("zero_layers", 3, [0, 1, 2, 1, 2], [3, 4]),
    ("zero_layers", 2, [0, 1, 0, 1, 0], [2, 3, 4]),
]

ADD = {
    "llama": ["attn.o.weight", "mlp.down.weight"],
    "bert": ["attn.o.weight", "attn.o.bias", "mlp.down.weight", "mlp.down.bias"],
    "gpt2": ["attn.o.weight", "attn.o.bias", "mlp.down.weight", "mlp.down.bias"],
    "gemma2": ["attn_out_norm.weight", "mlp_out_norm.weight"],
    "olmo2": ["attn_norm.weight", "mlp_norm.weight"],
    "dinov2": ["attn_scale", "mlp_scale"],
}
"""What adds to the stream: output projections, or the norms and scales behind them."""

STORED = {"gemma2": -1.0}
"""What a file has for a gain of zero, where that is not 0: Gemma stores gains as their difference from 1."""


def check_copies(family: str, growth: Growth, operator: Operator, wanted: list[int], new: list[int]) -> None:
    """Every tensor of every layer is that of the wanted one, bit for bit; those that would add are zero in new ones."""
    declared, weights = growth.small.family, random_small(growth.small, 5)
    recipes = compile_recipes(declared, operator, declared.tensors)
    made = {recipe.name: run(recipe, weights.__getitem__, NumpyBackend()) for recipe in recipes}
    assert len(wanted) == growth.large.depth("layers")
    layers = set()
    for name, value in made.items():
        head, _, rest = name.partition(".")
        number, _, tensor = rest.partition(".")
        if head != "layers":
            np.testing.assert_array_equal(value, weights[name])
        elif int(number) in new and tensor in ADD[family]:
            layers.add(int(number))
            np.testing.assert_array_equal(value, STORED.get(family, 0.0))
        else:
            np.testing.assert_array_equal(value, weights[f"layers.{wanted[int(number)]}.{tensor}"])
    assert sorted(layers) == new


@pytest.mark.parametrize(("depth", "small", "wanted"), COPIES, ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_layers_are_copied_as_published(
    family: str, depth: str | dict[str, Any], small: int, wanted: list[int]
) -> None:
    """Norms and biases too; and lossless where nothing is new."""
    growth = deeper(family, small, len(wanted))
    operator = operator_of(growth, depth)
    check_copies(family, growth, operator, wanted, [])
    assert (certify(growth, operator) == []) == (wanted == list(range(small)))


@pytest.mark.parametrize(("depth", "small", "wanted", "new"), SILENT, ids=str)
@pytest.mark.parametrize("family", ADD)
def test_new_layers_add_nothing(
    family: str, depth: str | dict[str, Any], small: int, wanted: list[int], new: list[int]
) -> None:
    """What would add to the stream is zero, the rest a copy; lossless, but where norms stand in the stream."""
    if family in ("gpt2", "llama", "bert") or small == 3:
        growth = deeper(family, small, len(wanted))
        operator = operator_of(growth, depth)
        check_copies(family, growth, operator, wanted, new)
        assert (certify(growth, operator) == []) == (family != "bert")


@pytest.mark.parametrize(("small", "large"), [(4, 5), (4, 6), (4, 8), (32, 40), (32, 33)])
def test_identity_blocks_stand_where_the_script_puts_them(small: int, large: int) -> None:
    """``scripts/block_expansion.py`` of LLaMA-Pro: a block behind every ``L // (L' - L)`` layers."""
    split, wanted, new = small // (large - small), [], []
    for layer in range(small):
        wanted.append(layer)
        if (layer + 1) % split == 0:
            new.append(len(wanted))
            wanted.append(layer)
    growth = deeper("llama", small, large)
    check_copies("llama", growth, operator_of(growth, "identity"), wanted, new)


@pytest.mark.parametrize(("small", "large"), [(22, 28), (6, 24), (5, 7), (12, 31)])
def test_rounding_is_the_published_line_but_for_its_trap(small: int, large: int) -> None:
    """Above twice the layers the line names layer ``L``, which is not there: 6 to 24 ends at ``round(5.75)``."""
    published = [round(i * small / large) for i in range(large)]
    assert (max(published) == small) == (large > 2 * small)
    wanted = [min(layer, small - 1) for layer in published]
    growth = deeper("llama", small, large)
    check_copies("llama", growth, operator_of(growth, "rounding"), wanted, [])


def test_solar_is_solar() -> None:
    """32 layers, m = 8: 48 layers, as the preset and as ranges."""
    growth = deeper("llama", 32, 48)
    wanted = [*range(24), *range(8, 32)]
    for choice in ({"preset": "solar"}, {"depth": ranges("0-23, 8-31")}):
        depth = OperatorChoice.model_validate(choice).resolved().depth
        check_copies("llama", growth, build_operator(growth, None, depth), wanted, [])


@pytest.mark.parametrize(
    ("preset", "method"),
    [
        ("gstack", "stack"), ("llama_pro", "identity"), ("solar", "overlap"), ("mslt", "copy_last"),
        ("midas", "copy_middle"),
    ],
)  # fmt: skip
def test_presets_of_depth_leave_the_width(preset: str, method: str) -> None:
    """A depth method, no width method."""
    resolved = OperatorChoice.model_validate({"preset": preset}).resolved()
    assert resolved.width is None
    assert resolved.depth is not None
    assert resolved.depth.method == method


# --- post-norm models -------------------------------------------------------------------------------------------------


def test_the_certificate_says_why_a_block_is_no_identity() -> None:
    """BERT's norms stand in the stream: they are kept, and named."""
    growth = deeper("bert", 2, 3)
    found = [str(item) for item in certify(growth, operator_of(growth, "identity"))]
    text = "adds nothing, but layers.{i}.attn_norm.weight stands in the stream and changes it"
    assert found == [f"depth: layer 2: {text} (off by 1)"]


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["identity", "zero_layers"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_what_is_zero_has_a_gradient(kind: str, method: str, tmp_path: Path) -> None:
    """Every tensor that a new layer has at zero learns at the first step; in a layer of zeros alone, none would."""
    torch, transformers = pytest.importorskip("torch"), library()
    config = CHECKPOINTS.get(kind) or {"model_type": kind, **small_configs(load_family(kind))[-1], **ROWS[kind].config}
    saved(tmp_path / "small", ROWS[kind].head, config)
    layers = config.get("n_layer") or config["num_hidden_layers"]
    plan = plan_file(tmp_path, target={"num_hidden_layers": layers + 1}, operator={"depth": method})
    model = getattr(transformers, ROWS[kind].head).from_pretrained(ligo_spec.apply(plan).path)
    new = {name: value for name, value in model.named_parameters() if re.search(rf"\.{layers}\.", name)}
    zero = {name: value for name, value in new.items() if not (value - STORED.get(kind, 0.0)).any()}
    assert len(zero) == len(ADD[kind])

    def gradients() -> dict[str, float]:
        model.zero_grad()
        model(torch.arange(5)[None]).logits.square().sum().backward()
        return {name: float(value.grad.abs().max()) for name, value in new.items()}

    found = gradients()
    assert all(found[name] for name in zero)
    with torch.no_grad():
        for value in new.values():
            value.zero_()
    dead = {name for name, size in gradients().items() if not size}
    assert {name for name in new if name.endswith(("proj.weight", "c_fc.weight", "c_attn.weight"))} <= dead


# --- several stacks ---------------------------------------------------------------------------------------------------

PAIR = """
spec: ligo/family/1
name: pair
sizes: {encoder_layers: encoder_layers, decoder_layers: decoder_layers, hidden_size: hidden_size}
stacks:
  encoder.layers: {count: encoder_layers}
  decoder.layers: {count: decoder_layers}
output: residual
spaces:
  residual: {axes: [hidden_size]}
  normed: {axes: [hidden_size]}
  ffn: {axes: [hidden_size]}
relations:
  norms:
    - {kind: rms_norm, gain: "encoder.layers.{i}.norm", reads: residual, writes: normed, eps: null}
    - {kind: rms_norm, gain: "decoder.layers.{i}.norm", reads: residual, writes: normed, eps: null}
  activations: [{space: ffn, function: relu}]
tensors:
  encoder.layers.{i}.norm: [normed.gain]
  encoder.layers.{i}.up: [ffn.out, normed.in]
  encoder.layers.{i}.down: [residual.out, ffn.in]
  decoder.layers.{i}.norm: [normed.gain]
  decoder.layers.{i}.up: [ffn.out, normed.in]
  decoder.layers.{i}.down: [residual.out, ffn.in]
layouts:
  hf:
    tensors:
      "encoder.{i}.norm": encoder.layers.{i}.norm
      "encoder.{i}.up": encoder.layers.{i}.up
      "encoder.{i}.down": encoder.layers.{i}.down
      "decoder.{i}.norm": decoder.layers.{i}.norm
      "decoder.{i}.up": decoder.layers.{i}.up
      "decoder.{i}.down": decoder.layers.{i}.down
"""


def pair(encoder: int, decoder: int) -> Growth:
    """A model of an encoder and a decoder of two layers each that grows to these."""
    family = loads(PAIR, Family)
    small = Architecture.from_hf_config(family, {"encoder_layers": 2, "decoder_layers": 2, "hidden_size": 3})
    return Growth(small, small.grown({"encoder_layers": encoder, "decoder_layers": decoder}))


METHODS = ["stack", "interpolate", "identity", "zero_layers", "copy_last", "copy_middle", "rounding", "overlap"]


@pytest.mark.parametrize("method", [*METHODS, ranges({"decoder.layers": "0-1, 0-1"})], ids=str)
def test_a_stack_that_does_not_grow_stays(method: str | dict[str, Any]) -> None:
    """Every tensor of the encoder is what it was; the decoder has four layers."""
    growth = pair(2, 4)
    small = random_small(growth.small, 3, np.float64)
    large = reference.grow(growth.small.family, operator_of(growth, method), small)
    assert {name for name in large if name.startswith("encoder")} == {n for n in small if n.startswith("encoder")}
    assert all(np.array_equal(large[name], value) for name, value in small.items() if name.startswith("encoder"))
    assert "decoder.layers.3.down" in large


def test_stacks_grow_each_by_its_own_count() -> None:
    """Both stacks, by different numbers, in one plan; the certificate looks at both."""
    growth = pair(3, 4)
    operator = operator_of(growth, "identity")
    assert certify(growth, operator) == []
    term = operator.terms[0]
    assert term.depth.keys() == {"encoder.layers.*", "decoder.layers.*", "encoder.layers.{i}.down",
                                 "decoder.layers.{i}.down"}  # fmt: skip
    assert term.mix("encoder.layers.{i}.up").argmax(axis=1).tolist() == [0, 1, 1]
    assert term.mix("decoder.layers.{i}.up").argmax(axis=1).tolist() == [0, 0, 1, 1]
    assert term.mix("decoder.layers.{i}.down").any(axis=1).tolist() == [True, False, True, False]


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(growth: Growth, depth: str | dict[str, Any]) -> list[str]:
    with pytest.raises(PlanError) as caught:
        operator_of(growth, depth)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("small", "large", "depth", "message"),
    [
        (4, 9, "overlap", "overlap: layers grows from 4 to 9 layers, but two copies have 8; stack takes more copies"),
        (4, 6, last(3), "layers grows from 4 to 6 layers, so a block is at most 4 and divides 2; 3 does not fit, 1, 2"),
        (2, 6, last(4), "layers grows from 2 to 6 layers, so a block is at most 2 and divides 4; 4 does not fit, 1, 2"),
        (5, 7, middle(2), "layers grows from 5 to 7 layers, so a block divides both 5 and 2; 2 does not fit, 1 would"),
        (4, 7, ranges("0-3, 2-4"), "layer 4 is named, but the small model has 4 layers, 0 to 3"),
        (4, 9, ranges("0-3 x2"), "8 layers are named, but the large model has 9 (num_hidden_layers in the target)"),
        (4, 9, ranges("0-999999 x999999"), "999999000000 layers are named, but the large model has 9 (num_hidden"),
        (4, 8, ranges({"layer": "0-3 x2"}), "no stack is named 'layer' (did you mean layers?); the family has layers"),
        (4, 8, ranges({}), "4 layers are named, but the large model has 8 (num_hidden_layers in the target)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(small: int, large: int, depth: str | dict[str, Any], message: str) -> None:
    """With the numbers, the rule and what would do; all problems at once."""
    lines = refused(deeper("llama", small, large), depth)
    assert message in lines[-1]
    assert lines[-1].startswith(("overlap: ", "depth.block: copy_", "depth.layers: "))
    assert len(lines) == 1 + ("999999" in str(depth))


def test_ranges_of_several_stacks_are_named() -> None:
    """A text alone does not tell; a stack that grows needs one."""
    several = "depth.layers: the family has 2 stacks; say which layers are whose, "
    assert refused(pair(2, 4), ranges("0-1 x2")) == [f"{several}{{encoder.layers: ..., decoder.layers: ...}}"]
    short = "decoder.layers: 2 layers are named, but the large model has 4 (decoder_layers in the target)"
    assert refused(pair(2, 4), ranges({"encoder.layers": "1, 0"})) == [f"depth.layers: {short}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-3, 4-x", "part 2, '4-x': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("", "part 1, '': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("0-3,", "part 2, '': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("0-3 2", "part 1, '0-3 2': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("-1", "part 1, '-1': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("01", "part 1, '01': expected a layer (8), a range (0-3) or a repeated one (4-7 x2)"),
        ("0-3, 7-4", "part 2, '7-4': runs backwards; both ends count, the first is the smaller"),
        ("0-3 x0", "part 1, '0-3 x0': names no layer; leave it out"),
    ],
)
@pytest.mark.parametrize("form", ["layers: {}", "layers: {{encoder.layers: {}}}"])
def test_a_text_that_is_no_list_of_layers(form: str, text: str, message: str) -> None:
    """Refused where the plan is read, at its place."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        parse(text)
    key = "layers.encoder.layers" if "encoder" in form else "layers"
    layers = form.format(json.dumps(text))
    plan = f"spec: ligo/plan/1\nsource: s\ntarget: {{}}\noperator: {{depth: {{method: ranges, {layers}}}}}\noutput: o\n"
    column = plan.splitlines()[3].index(json.dumps(text)) + 1
    with pytest.raises(PlanError) as caught:
        loads(plan, Plan, name="plan.yaml")
    assert str(caught.value) == f"plan.yaml:4:{column} operator.depth.{key}: {message}"


def test_options_that_do_not_fit_the_model_are_placed(tmp_path: Path) -> None:
    """What only the small model tells has a line and a column too."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target={"num_hidden_layers": 4}, operator={"depth": ranges("0-2")})
    line = next(n for n, text in enumerate(plan.read_text("utf-8").splitlines(), 1) if '"0-2"' in text)
    with pytest.raises(LigoError) as caught:
        ligo_spec.check(plan)
    first, second = str(caught.value).splitlines()
    assert re.fullmatch(rf".*plan\.yaml:{line}:\d+ operator\.depth\.layers: layer 2 is named, but .*", first)
    assert re.fullmatch(rf".*plan\.yaml:{line}:\d+ operator\.depth\.layers: 3 layers are named, .*", second)


# --- the dry run and files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [
        ("identity", "0, 0 (silent), 1, 1 (silent)"),
        ("zero_layers", "0-1, 0 (silent), 1 (silent)"),
        ("stack", "0-1, 0-1"),
        ("interpolate", "0, 0-1, 1"),
        (ranges("0, 0-1 x1, 0"), "0, 0-1, 0"),
    ],
    ids=str,
)
def test_explain_tells_where_layers_come_from(depth: str | dict[str, Any], wanted: str, tmp_path: Path) -> None:
    """As ranges, silent ones marked."""
    handmade(tmp_path / "small", "llama")
    plan = plan_file(tmp_path, target={"num_hidden_layers": 4}, operator={"depth": depth})
    found = ligo_spec.explain(plan)
    assert found.depth == (wanted,)
    assert found.lossless == ("silent" in wanted)
    how = {row.name: row.how for row in found.tensors}
    assert how["layers.{i}.attn.q.weight"].endswith(", layer copied")
    assert how["layers.{i}.attn.o.weight"].endswith(", layer copied" + (" or zero" if "silent" in wanted else ""))


def test_a_grown_file_has_zeros_and_copies(tmp_path: Path) -> None:
    """On the disk: bits of the small model, and zeros of its dtype."""
    small = tensors_of(handmade(tmp_path / "small", "gpt2"))
    plan = plan_file(tmp_path, target={"num_hidden_layers": 4}, operator={"preset": "llama_pro"},
                     checks={"lossless": "require", "forward": "skip"})  # fmt: skip
    large = tensors_of(ligo_spec.apply(plan).path)
    for name, value in large.items():
        layer, _, rest = name.removeprefix("h.").partition(".")
        if name.startswith("h.") and int(layer) % 2 and "c_proj" in rest:
            assert value.dtype == np.float32
            assert not value.any()
        else:
            source = small[f"h.{int(layer) // 2}.{rest}" if name.startswith("h.") else name]
            np.testing.assert_array_equal(value, source)
