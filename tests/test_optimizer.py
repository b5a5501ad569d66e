"""The state of an optimizer, grown: what is loaded, what the next steps do, what is refused."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec.cli import run
from ligo_spec.errors import InputError, LigoError, PlanError
from ligo_spec.job import open_model
from ligo_spec.recipe import compile_recipes
from tests.family_table import ROWS
from tests.forward import all_in
from tests.tiny_checkpoints import CONFIGS, TWICE, library, plan_file, tree
from tests.training import batch_of, format_at_hand, named_optimizer, train, trained, trainers_optimizer

torch = pytest.importorskip("torch")

CLASSES = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}

DINO = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        **ROWS["dinov2"].config, "num_labels": 2}  # fmt: skip

PHI = {"model_type": "phi3", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
       "num_key_value_heads": 1, "intermediate_size": 6, "vocab_size": 31, **ROWS["phi3"].config}  # fmt: skip


@pytest.fixture(autouse=True)
def _format() -> Iterator[None]:
    with format_at_hand():
        yield


def loaded(directory: Path) -> Any:
    """A state, as a training loop reads it."""
    return torch.load(directory / "optimizer.pt", weights_only=True)


def grow(directory: Path, **changes: Any) -> Path:
    """The plan of a directory, applied."""
    plan = {"optimizer": "optimizer.pt", "operator": {"width": "hypercloning"}, **changes}
    return ligo_spec.apply(plan_file(directory, **plan)).path


def model_of(directory: Path, class_name: str, dtype: str = "float32") -> Any:
    with all_in(dtype):
        return getattr(library(), class_name).from_pretrained(directory, dtype=getattr(torch, dtype)).eval()


# --- the next steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_cloned_model_goes_on_as_the_small_one_would(kind: str, tied: bool, tmp_path: Path) -> None:
    """With the rates of SPEC 7.5 the grown model stays the small one's function, step after step (float64).

    Rates follow the weights' factors and epsilons the gradients' (arXiv 2602.10545), products of rate and decay stay.
    """
    config = {**CONFIGS[kind], "tie_word_embeddings": tied}
    small, before = trained(tmp_path / "small", CLASSES[kind], config, dtype="float64")
    grown = grow(tmp_path, target=TWICE[kind])
    large = model_of(grown, CLASSES[kind], "float64")
    after = trainers_optimizer(large)
    after.load_state_dict(loaded(grown))
    by_parameter(after, large, factors(tmp_path / "small", grown))
    with all_in("float64"):
        expected, found = train(small, before, range(3, 7)), train(large, after, range(3, 7))
        logits = [model(**batch_of(model, 9)).logits.detach() for model in (small, large)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert float((logits[1] - logits[0]).abs().max()) <= 1e-8 * float(logits[0].abs().max())


def factors(small: Path, grown: Path) -> dict[str, tuple[float, float]]:
    """By parameter: the factor of the weights, and that of the gradients, of a growth by equal copies."""
    from ligo_spec.dual import dual_of
    from ligo_spec.maps import as_select
    from ligo_spec.operator import Growth
    from ligo_torch.parameters import parameters_of

    growth = Growth(open_model(small).architecture, open_model(grown).architecture)
    operator = ligo_spec.load_operator(grown / "operator.safetensors")
    parameters = parameters_of(growth.large, "config.json")
    templates = parameters.binding.templates()
    weights = {recipe.name: recipe for recipe in compile_recipes(growth.small.family, operator, templates)}
    duals = dual_of(growth, operator, templates).tensors

    def one(maps: Any) -> float:
        product = 1.0
        for map_ in maps:
            chosen = None if map_ is None else as_select(map_)
            found = set() if chosen is None else set(chosen.weights.round(12))
            assert len(found) <= 1
            product *= found.pop() if found else 1.0
        return product

    made = {}
    for name in parameters.shapes:
        part = parameters.holds(name)[0]
        made[name] = one(weights[part].terms[0].maps), one(duals[part].term.maps)
    return made


def by_parameter(optimizer: Any, model: Any, found: dict[str, tuple[float, float]]) -> None:
    """Give every parameter a group of its own with its own rate, epsilon and decay."""
    names = {id(value): name for name, value in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rate, gradient = found[names[id(parameter)]]
            decay = group["weight_decay"] / rate
            own = {"lr": group["lr"] * rate, "eps": group["eps"] * gradient, "weight_decay": decay}
            groups.append({**group, **own, "params": [parameter]})
    optimizer.param_groups = groups


@pytest.mark.parametrize("kind", CLASSES)
def test_the_next_update_is_the_small_one_repeated(kind: str, tmp_path: Path) -> None:
    """As loaded, without new rates, updates are the small model's, repeated (Adam divides the factors out)."""
    small, before = trained(tmp_path / "small", CLASSES[kind], CONFIGS[kind], dtype="float64")
    grown = grow(tmp_path, target=TWICE[kind])
    large = model_of(grown, CLASSES[kind], "float64")
    after = trainers_optimizer(large, eps=0.0)
    after.load_state_dict(loaded(grown))
    for group in (*before.param_groups, *after.param_groups):
        group |= {"weight_decay": 0.0, "eps": 0.0}
    ours = {name: value.detach().clone() for name, value in large.named_parameters()}
    theirs = {name: value.detach().clone() for name, value in small.named_parameters()}
    with all_in("float64"):
        losses = train(large, after, range(3, 4)) + train(small, before, range(3, 4))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    checked = 0
    for name, value in large.named_parameters():
        update, wanted = value.detach() - ours[name], dict(small.named_parameters())[name].detach() - theirs[name]
        table = name.endswith(("wte.weight", "wpe.weight", "embeddings.weight", "embed_tokens.weight"))
        if table:  # whole rows, then those again
            np.testing.assert_allclose(update, np.tile(wanted, (1, 2)), rtol=1e-5, atol=1e-9)
            checked += 1
    assert checked


def test_the_trainer_loads_it(tmp_path: Path) -> None:
    """``Trainer`` reads state and scheduler by its own method, and the training goes on."""
    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    (tmp_path / "small" / "trainer_state.json").write_text('{"global_step": 3}')
    for name in ("rng_state.pth", "training_args.bin", "scaler.pt"):
        (tmp_path / "small" / name).write_bytes(b"?")
    grown = grow(tmp_path, target=TWICE["gpt2"])
    for name in ("scheduler.pt", "trainer_state.json"):
        assert (grown / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    manifest = json.loads((grown / "growth_manifest.json").read_text())
    assert manifest["files_left_behind"] == ["rng_state.pth", "scaler.pt", "training_args.bin"]
    model = model_of(grown, CLASSES["gpt2"])
    optimizer = trainers_optimizer(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    stub = SimpleNamespace(
        is_deepspeed_enabled=False,
        is_fsdp_xla_v1_enabled=False,
        is_fsdp_enabled=False,
        args=SimpleNamespace(world_size=1, device=torch.device("cpu")),
        optimizer=optimizer,
        lr_scheduler=scheduler,
    )
    library().Trainer._load_optimizer_and_scheduler(stub, str(grown))
    assert scheduler.last_epoch == 3
    assert all(float(state["step"]) == 3 for state in optimizer.state.values())
    assert len(optimizer.state) == len(list(model.parameters()))
    assert np.isfinite(train(model, optimizer, range(3, 6))).all()


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "config", "target"),
    [
        ("Dinov2ForImageClassification", DINO, {"hidden_size": 16, "num_attention_heads": 4}),
        ("Phi3ForCausalLM", PHI, {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}),
    ],
)
def test_names_in_memory_need_not_be_those_of_files(
    class_name: str, config: dict[str, Any], target: dict[str, int], tmp_path: Path
) -> None:
    """Tensors that the library renames, and tensors that hold several: moments find their parameters."""
    trained(tmp_path / "small", class_name, config, dtype="float64")
    grown = grow(tmp_path, target=target)
    large = model_of(grown, class_name, "float64")
    optimizer = trainers_optimizer(large)
    optimizer.load_state_dict(loaded(grown))
    # a second of the same model and data, whose gradients it really has: first moments are (1 - β) times sums of them
    small = model_of(tmp_path / "small", class_name, "float64")
    other = trainers_optimizer(small)
    other.load_state_dict(loaded(tmp_path / "small"))
    with all_in("float64"):
        for model in (small, large):
            model(**batch_of(model, 5)).loss.backward()
    pairs = [
        (parameter.grad, optimizer.state[parameter]["exp_avg"], below.grad, other.state[below]["exp_avg"])
        for parameter, below in zip(large.parameters(), small.parameters(), strict=True)
        if below in other.state  # a mask token that no batch uses has none
    ]
    assert len(pairs) >= len(list(small.parameters())) - 1
    for grad, moment, grad_below, moment_below in pairs:  # both map alike: so do their products with gradients
        scale = float((grad**2).sum() / (grad_below**2).sum())
        assert float((grad * moment).sum()) == pytest.approx(float((grad_below * moment_below).sum()) * scale, rel=1e-6)


def test_names_in_the_file_are_believed_and_kept(tmp_path: Path) -> None:
    """A state of ``named_parameters()`` says which number is which; the grown one says so too."""
    trained(tmp_path / "small", CLASSES["llama"], CONFIGS["llama"], make=named_optimizer)
    grown = grow(tmp_path, target=TWICE["llama"])
    model = model_of(grown, CLASSES["llama"])
    state = loaded(grown)
    (group,) = state["param_groups"]
    assert group["param_names"] == [name for name, _ in model.named_parameters()]
    assert group["lr"] == loaded(tmp_path / "small")["param_groups"][0]["lr"]
    named_optimizer(model).load_state_dict(state)


def test_one_group_in_the_models_order(tmp_path: Path) -> None:
    """``order: model`` reads a plain loop's state; the Trainer's order refuses it, and says what to do."""
    import torch as library_of_tensors

    trained(
        tmp_path / "small",
        CLASSES["gpt2"],
        CONFIGS["gpt2"],
        make=lambda model: library_of_tensors.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    )
    with pytest.raises(InputError, match=r"groups of 28 parameters, the Trainer's two groups have 10, 18; save opt"):
        grow(tmp_path, target=TWICE["gpt2"])
    assert not (tmp_path / "grown").exists()
    grown = grow(tmp_path, target=TWICE["gpt2"], optimizer={"order": "model"})
    state = loaded(grown)
    assert len(state["param_groups"]) == 1
    assert set(state["state"][0]) == {"momentum_buffer"}


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    """Twice, and what is written is an archive that any tool finds whole."""
    trained(tmp_path / "small", CLASSES["bert"], CONFIGS["bert"])
    first, second = (grow(tmp_path, target=TWICE["bert"], output=name) for name in ("one", "two"))
    assert (first / "optimizer.pt").read_bytes() == (second / "optimizer.pt").read_bytes()
    with zipfile.ZipFile(first / "optimizer.pt") as archive:
        assert archive.testzip() is None
    manifest = json.loads((first / "growth_manifest.json").read_text())
    assert manifest["optimizer"]["exact"]
    assert set(manifest["optimizer"]["source"]) == {"optimizer.pt"}
    assert manifest["files"]["optimizer.pt"]["size"] == (first / "optimizer.pt").stat().st_size
    again = grow(tmp_path, source="one", target={**TWICE["bert"], "intermediate_size": 80}, output="three")
    assert len(loaded(again)["state"]) == len(loaded(first)["state"])


def test_a_state_by_itself(tmp_path: Path) -> None:
    """``grow_optimizer`` makes the same file for weights that were grown before."""
    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    grown = grow(tmp_path, target=TWICE["gpt2"])
    plan = tmp_path / "plan.yaml"
    found = ligo_spec.grow_optimizer(plan, tmp_path / "alone.pt", operator=grown / "operator.safetensors")
    assert (tmp_path / "alone.pt").read_bytes() == (grown / "optimizer.pt").read_bytes()
    assert found.exact
    plan = plan_file(tmp_path, "none.yaml", target=TWICE["gpt2"], operator={"width": "hypercloning"})
    with pytest.raises(PlanError, match="has no optimizer section"):
        ligo_spec.grow_optimizer(plan, tmp_path / "none.pt")
    assert not (tmp_path / "none.pt").exists()


def test_the_dry_run_tells_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``explain`` reads the head of the state only, and says what will become of it; so does ``apply``."""
    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    changes: dict[str, Any] = {"optimizer": {"path": "optimizer.pt"}, "operator": {"width": "zero_pad"}}
    plan = plan_file(tmp_path, target={"intermediate_size": 96}, **changes)
    found = ligo_spec.explain(plan).optimizer
    assert found is not None
    assert (found.groups, found.parameters, found.step, found.exact) == (2, (28, 28), 3, True)
    assert 0.2 < found.new < 0.8
    assert run(["explain", str(plan)]) == 0
    assert "of the entries start anew" in capsys.readouterr().out
    assert ligo_spec.apply(plan).optimizer == found


# --- entries without an old state -------------------------------------------------------------------------------------


def moments(directory: Path, class_name: str) -> dict[str, dict[str, Any]]:
    """A grown state by the names of parameters."""
    model = model_of(directory, class_name)
    optimizer = trainers_optimizer(model)
    optimizer.load_state_dict(loaded(directory))
    return {name: optimizer.state.get(value, {}) for name, value in model.named_parameters()}


def test_new_units_are_filled_or_zero(tmp_path: Path) -> None:
    """Zero-padded units: first moments zero, second ones the mean of the tensor's (or zero), counters kept."""
    trained(tmp_path / "small", CLASSES["llama"], CONFIGS["llama"])
    plan: dict[str, Any] = {"target": {"intermediate_size": 25}, "operator": {"width": "zero_pad"}}
    filled = moments(grow(tmp_path, **plan), CLASSES["llama"])
    zero = moments(grow(tmp_path, **plan, optimizer={"new": "zero"}, output="zero"), CLASSES["llama"])
    old = moments(tmp_path / "small", CLASSES["llama"])
    name = "model.layers.0.mlp.up_proj.weight"
    assert filled[name]["exp_avg"].shape == (25, 16)
    for state, wanted in ((filled, float(old[name]["exp_avg_sq"].mean())), (zero, 0.0)):
        assert torch.equal(state[name]["exp_avg"][:20], old[name]["exp_avg"])
        assert torch.equal(state[name]["exp_avg_sq"][:20], old[name]["exp_avg_sq"])
        assert float(state[name]["exp_avg"][20:].abs().max()) == 0
        np.testing.assert_allclose(state[name]["exp_avg_sq"][20:], wanted, rtol=1e-5)
        assert float(state[name]["step"]) == 3


def test_the_first_copies_keep_their_state(tmp_path: Path) -> None:
    """``reset: new``: the block of the first copies has the moments that the dual gives it, the others start anew."""
    trained(tmp_path / "small", CLASSES["bert"], CONFIGS["bert"])
    all_of_it = moments(grow(tmp_path, target=TWICE["bert"]), CLASSES["bert"])
    asymmetric = {"reset": "new", "new": "zero"}
    kept = moments(grow(tmp_path, target=TWICE["bert"], optimizer=asymmetric, output="kept"), CLASSES["bert"])
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    for key in ("exp_avg", "exp_avg_sq"):
        whole, part = all_of_it[name][key], kept[name][key]
        assert torch.equal(part[:20, :12], whole[:20, :12])
        assert float(part[:20, :12].abs().max()) > 0
        assert float(part[20:].abs().max()) == float(part[:, 12:].abs().max()) == 0


def test_nothing_is_kept_where_the_plan_says_so(tmp_path: Path) -> None:
    """``reset: all``: the groups and their options, and no state; a load gives a fresh optimizer."""
    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    grown = grow(tmp_path, target=TWICE["gpt2"], optimizer={"reset": "all"})
    state = loaded(grown)
    assert state["state"] == {}
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.1, 0.0]
    model = model_of(grown, CLASSES["gpt2"])
    optimizer = trainers_optimizer(model)
    optimizer.load_state_dict(state)
    assert np.isfinite(train(model, optimizer, range(3))).all()


def test_a_layer_that_is_copied_again_starts_anew_where_the_plan_says_so(tmp_path: Path) -> None:
    """A stack: copies of moments, and counters of 0 for the second copies under ``reset: new``."""
    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    plan: dict[str, Any] = {"target": {"num_hidden_layers": 4}, "operator": {"depth": "stack"}}
    copied = moments(grow(tmp_path, **plan), CLASSES["gpt2"])
    first = "transformer.h.{}.attn.c_attn.weight".format
    assert torch.equal(copied[first(2)]["exp_avg"], copied[first(0)]["exp_avg"])
    grown = grow(tmp_path, **plan, optimizer={"reset": "new"}, output="new")
    fresh = moments(grown, CLASSES["gpt2"])
    assert [float(fresh[first(i)]["step"]) for i in range(4)] == [3, 3, 0, 0]
    assert float(fresh[first(2)]["exp_avg_sq"].abs().max()) == 0
    summary = json.loads((grown / "growth_manifest.json").read_text())["optimizer"]
    assert not summary["exact"]
    assert "approximation" in summary["rule"]
    assert summary["anew"] == 24


def test_parameters_that_had_no_gradient_have_no_state(tmp_path: Path) -> None:
    """What the small optimizer never met, the large one does not either."""
    import torch as tensors

    def partly(model: Any) -> Any:
        for name, value in model.named_parameters():
            if "mlp" in name:
                value.register_hook(lambda grad: None)
        return trainers_optimizer(model)

    trained(tmp_path / "small", CLASSES["gpt2"], CONFIGS["gpt2"], make=partly)
    state = loaded(tmp_path / "small")
    del state["state"][3]
    tensors.save(state, tmp_path / "small" / "optimizer.pt")
    grown = grow(tmp_path, target=TWICE["gpt2"])
    assert set(loaded(grown)["state"]) == set(range(28)) - {3}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small model and its state."""
    directory = tmp_path_factory.mktemp("good")
    trained(directory / "small", CLASSES["gpt2"], CONFIGS["gpt2"])
    return directory


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def edit_state(**changes: Any) -> Callable[[Path], None]:
    def edit(state: Any) -> None:
        state["state"][0].update(changes)

    return lambda path: change(path, edit)


class Payload:
    """Runs when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("payload-ran",)


def reordered(state: Any) -> None:
    first, second = state["state"][2], state["state"][3]
    state["state"][2], state["state"][3] = second, first


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(next(n for n in archive.namelist() if n.endswith("/data/1")))
    data[entry.header_offset + 200] ^= 1
    path.write_bytes(data)


def rezipped(kind: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)

    return damage


def shortened(path: Path) -> None:
    """A record of fewer bytes than its tensor needs, in an archive that is otherwise whole."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data[:16] if name.endswith("/data/1") else data)


def claiming(path: Path) -> None:
    """A shape that the record has no bytes for, written over the true one."""
    true, claimed = b"K\x1fK\x0c\x86", b"K\x7fK\x0c\x86"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            assert true in data or not name.endswith("/data.pkl")
            archive.writestr(name, data.replace(true, claimed) if name.endswith("/data.pkl") else data)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def legacy(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not there": (lambda path: path.unlink(), "cannot be opened: No such file or directory"),
    "a pipe": (pipe, "is a pipe, not a regular file"),
    "empty": (lambda path: path.write_bytes(b""), "is no archive of torch.save; save it anew with .*"),
    "text": (lambda path: path.write_text("{}" * 100), "is no archive of torch.save; .*"),
    "of an old version": (legacy, "is no archive of torch.save, but .* before torch 1.6.*; .*save it anew with .*"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-400]), "is no whole archive .*: it is cut off, .*"),
    "deflated": (rezipped(zipfile.ZIP_DEFLATED), "has a compressed record .*torch.save makes none"),
    "a short record": (shortened, "F32 of shape .*: has a record of 16 bytes, the object says [0-9]+; it is cut off"),
    "a larger claim": (claiming, r"state 0 .*: exp_avg has shape \(127, 12\), the parameter has \(31, 12\); .*"),
    "a flipped bit": (flipped, "is damaged: the record data/1 does not have its checksum; copy it again"),
    "code": (
        lambda path: torch.save({"state": {}, "param_groups": [Payload()]}, path),
        "holds more than tensors and plain values: it would import posix.mkdir; convert it .* in a sandbox.*",
    ),
    "a module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), ".* import torch.nn.modules.linear.Linear.*"),
    "a list": (lambda path: torch.save([1], path), "is no state_dict.*: expected state and param_groups, found list"),
    "weights": (lambda path: torch.save({"a.weight": torch.ones(2)}, path), "is no state_dict.*, found a.weight"),
    "no groups": (lambda path: torch.save({"state": {}, "param_groups": []}, path), ".*: param_groups is no list.*"),
    "fewer parameters": (
        lambda path: change(path, lambda state: state["state"].pop(state["param_groups"][1]["params"].pop())),
        "has groups of 10, 17 parameters, the Trainer's two groups have 10, 18; .*",
    ),
    "numbers twice": (
        lambda path: change(path, lambda state: state["param_groups"][1]["params"].__setitem__(0, 0)),
        ".*: its groups do not number parameters 0, 1, 2, ... in order",
    ),
    "a group's option of any kind": (
        lambda path: change(path, lambda state: state["param_groups"][0].update(lr={"a": 1})),
        ".*: lr of group 0 is no plain value",
    ),
    "a state of nobody": (
        lambda path: change(path, lambda state: state["state"].update({99: {}})),
        ".*: state 99 is of no parameter in a group",
    ),
    "another order": (
        lambda path: change(path, reordered),
        r"state 2 \(transformer.h.0.attn.c_attn.weight\): exp_avg has shape \(12, 12\), .* has \(12, 36\); .*",
    ),
    "another optimizer": (
        edit_state(exp_inf=torch.ones(31, 12)),
        r"state 0 \(transformer.wte.weight\) has exp_inf, which is not known; known are step, exp_avg, .*",
    ),
    "integers": (edit_state(exp_avg=torch.ones(31, 12, dtype=torch.int64)), r"state 0 .*: exp_avg holds I64.*"),
    "names of others": (
        lambda path: change(path, lambda state: [group.update(param_names=["x"] * len(group["params"]))
                                                 for group in state["param_groups"]]),
        "names a parameter x, which the model does not have",
    ),
    "names for some": (
        lambda path: change(path, lambda state: state["param_groups"][0].update(param_names=["x"])),
        "has a group without a name for each of its parameters",
    ),
}  # fmt: skip
"""By name: what is done to a good state, and the one line that is said of it."""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_state(name: str, good: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Refused with exit 3 and one line; nothing is written, nothing runs, nothing hangs."""
    monkeypatch.chdir(tmp_path)
    copied = tmp_path / "small"
    copied.mkdir()
    for path in (good / "small").iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    plan_file(tmp_path, target=TWICE["gpt2"], operator={"width": "hypercloning"}, optimizer="optimizer.pt")
    damage, wanted = BAD[name]
    damage(copied / "optimizer.pt")
    before = tree(tmp_path)
    assert run(["apply", "plan.yaml"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: small/optimizer.pt: {wanted}\n", err), err
    assert tree(tmp_path) == before


def test_the_good_state_is_good(good: Path, tmp_path: Path, capsys: Any) -> None:
    """The twin of the refusals."""
    plan = plan_file(good, target=TWICE["gpt2"], operator={"width": "hypercloning"}, optimizer="optimizer.pt")
    assert run(["apply", str(plan), "--output", str(tmp_path / "grown")]) == 0
    assert (tmp_path / "grown" / "optimizer.pt").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_moments_that_are_not_finite_are_refused(value: float, good: Path, tmp_path: Path) -> None:
    """A state that diverged is none to go on with: exit 5."""
    (tmp_path / "small").mkdir()
    for path in (good / "small").iterdir():
        (tmp_path / "small" / path.name).write_bytes(path.read_bytes())
    edit_state(exp_avg_sq=torch.full((31, 12), value))(tmp_path / "small" / "optimizer.pt")
    with pytest.raises(LigoError, match=r"embed.tokens.weight: 372 values are not finite") as caught:
        grow(tmp_path, target=TWICE["gpt2"])
    assert caught.value.exit_code == 5
    assert not (tmp_path / "grown").exists()


def test_a_scheduler_with_code_is_not_passed_on(good: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """What is carried over beside a state is looked at first, and a large one is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    for path in (good / "small").iterdir():
        (tmp_path / "small" / path.name).write_bytes(path.read_bytes())
    torch.save(Payload(), tmp_path / "small" / "scheduler.pt")
    with pytest.raises(
        InputError, match=r"scheduler.pt: holds more than tensors and plain values: it would import posix.mkdir"
    ):
        grow(tmp_path, target=TWICE["gpt2"])
    (tmp_path / "small" / "scheduler.pt").write_bytes(b"0" * (2 << 20))
    with pytest.raises(InputError, match=r"scheduler.pt: has 2097152 bytes, at most 1048576 are carried over"):
        grow(tmp_path, target=TWICE["gpt2"])
    assert {path.name for path in tmp_path.iterdir()} == {"small", "plan.yaml"}


def test_a_huge_claim_takes_no_memory(good: Path, tmp_path: Path) -> None:
    """A state whose head claims a terabyte is refused by the size of its file, before anything is made of the claim."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ligo_pytorch._save import _Pieces

    with FakeTensorMode():
        claimed = torch.empty((1 << 38,))
    pieces = _Pieces()
    state = torch.load(good / "small" / "optimizer.pt", weights_only=True)
    for entry in state["state"].values():
        entry["exp_avg"] = claimed
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, pieces)
    assert sum(piece for piece in pieces.parts if isinstance(piece, int)) > 1 << 40
    (tmp_path / "small").mkdir()
    for path in (good / "small").iterdir():
        (tmp_path / "small" / path.name).write_bytes(path.read_bytes())
    whole = b"".join(piece for piece in pieces.parts if isinstance(piece, bytes))
    (tmp_path / "small" / "optimizer.pt").write_bytes(whole)
    with pytest.raises(InputError, match=r"optimizer.pt: "):
        grow(tmp_path, target=TWICE["gpt2"])
