"""One run: what it is called, and how it is made from nothing but its name."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from course.data import GLANCE, Data, data_of, write_digits
from course.learned import Together, grown
from course.methods import METHODS, PUBLISHED_WARMUP, SCRATCH, SMALL, Method
from course.tracks import Track
from course.training import Budget, Course, Runner, budget
from ligo_spec.candidates import Start, alone, drawn, task_of
from ligo_spec.fitting import FitTask
from ligo_spec.flops import image_training_flops, training_flops
from ligo_spec.job import growth_of, load_job, open_small
from ligo_torch.fit import learn, learned_operator, small_values
from ligo_torch.huggingface import Batch, FunctionalModel, functional_model
from ligo_torch.race import operator_flops

ANY = next(iter(METHODS))
"""A method for runs whose model is not grown: it gives them the two architectures."""

SMALL_SEED = 100
"""Added to a run's seed for the small model, so that no large one is drawn from the same numbers."""


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        method: A start, or ``scratch``, or ``small alone``.
        seed: Of weights, maps and batches.
        rate: Peak learning rate of the training after growth.
        totals: Shares of the track's budget that it is measured at.
        decayed: Whether it grows from a small model whose rate had fallen, and not from one in mid-training.
    """

    method: str
    seed: int
    rate: float
    totals: tuple[float, ...]
    decayed: bool = False

    @property
    def key(self) -> str:
        """Its name among results."""
        shares = ",".join(f"{share:g}" for share in self.totals)
        return f"{self.method} | seed {self.seed} | rate {self.rate:g} | {shares}" + (" | decayed" * self.decayed)


@dataclass(frozen=True)
class Place:
    """Where a track's runs find what they share.

    Args:
        track: The track.
        folder: Sources, plans.
        corpus: The text.
        device: That they run on.
    """

    track: Track
    folder: Path
    corpus: Path
    device: str = "cpu"

    def source(self, seed: int, decayed: bool) -> Path:
        """Where the small model of a seed lies."""
        return self.folder / f"source-{seed}{'-decayed' * decayed}"


def execute(run: Run, place: Place) -> dict[str, Any]:
    """Make a run, and say what it showed."""
    torch.set_num_threads(1)
    return (_small if run.method == SMALL else _large)(
        run, place, data_of(place.track, place.corpus, torch.device(place.device))
    )


def _small(run: Run, place: Place, data: Data) -> dict[str, Any]:
    """The small model, trained on by itself; with no budget at all, only what is grown later is kept."""
    track = place.track
    task = _task(place, METHODS[ANY], run.seed, _blank(place, run.seed))
    step = _step_flops(task, _model(task, place), track)
    task = alone(task)
    model = _model(task, place)
    cost = _step_flops(task, model, track) / step
    weights = _drawn(model, SMALL_SEED + run.seed)
    runner = _runner(model, weights, data, run, track, track.warmup, "small")
    if not run.totals:
        whole = budget(track.source * track.total, 0, cost, track.warmup)
        assert whole is not None, "sources are trained for more than the warm-up"
        runner.advance(whole.decay_from)
        with runner.aside():
            runner.advance(whole.steps)
            _keep(model, runner.weights, place.source(run.seed, decayed=False))
            trunk = runner.measure()
        finals = runner.run([whole]).finals[whole.total]
        _keep(model, runner.weights, place.source(run.seed, decayed=True))
        found = {"source": {"trunk": trunk, "decayed": finals}}
        return _record(run, Course(), cost=cost, spent=0.0, fit=0.0) | found
    course = runner.run(_budgets(run, track, 0, cost, track.warmup))
    return _record(run, course, cost=cost, spent=0.0, fit=0.0)


def _large(run: Run, place: Place, data: Data) -> dict[str, Any]:
    track, random = place.track, run.method == SCRATCH
    method = METHODS[ANY if random else run.method]
    source = _blank(place, run.seed) if random else place.source(run.seed, run.decayed)
    task = _task(place, method, run.seed, source)
    model = _model(drawn(task) if random else task, place)
    step = _step_flops(task, model, track)
    if random:
        fit, runner = 0.0, _runner(model, _drawn(model, run.seed), data, run, track, track.warmup, "large")
    else:
        fit, runner = _started(run, method, task, model, data, place, step)
    spent = fit + (0.0 if random else track.source * track.total)
    budgets = _budgets(run, track, spent, 1.0, runner.warmup)
    counted = counted_flops(model, runner.weights, data.batch("flops", 0))
    course = runner.run(budgets) if budgets else Course()
    return _record(run, course, cost=1.0, spent=spent, fit=fit) | {"step_flops": step, "torch_flops": counted}


def _started(
    run: Run, method: Method, task: FitTask, model: FunctionalModel, data: Data, place: Place, step: float
) -> tuple[float, Runner]:
    """What learning the operator cost, in steps of the large model, and the training that follows."""
    operator = learned_operator(task.growth, task.operator, small_values(task, torch.device(place.device)), task.frozen)
    pull = operator_flops(operator) / step
    options = _options(run, place.track, place.track.rewarmup)
    if method.together is not None:
        return method.together[0] * pull, Together(model, operator, *method.together, data, **options)
    fit = 0.0
    if method.ahead is not None:
        method.ahead.fit(model, operator, data, run.seed)
        fit = method.ahead.passes + method.ahead.steps * pull
    elif method.fit is not None:
        learn(model, operator, _Batches(data, task, run.seed), lambda record: None)
        fit = task.options.steps * (1 + pull)
    return fit, Runner(model, grown(model, operator), data, **options)


def _options(run: Run, track: Track, warmup: int) -> dict[str, Any]:
    return {"seed": run.seed, "rate": run.rate, "warmup": warmup, "weight_decay": track.weight_decay}


def _record(run: Run, course: Course, *, cost: float, spent: float, fit: float) -> dict[str, Any]:
    finals = {f"{total:g}": losses for total, losses in course.finals.items()}
    curve = [[round(spent + own * cost, 2), round(loss, 5)] for own, loss in course.curve]
    found = {"cost": cost, "spent": spent, "fit": fit, "finals": finals, "curve": curve, "diverged": course.diverged}
    return {"key": run.key, **asdict(run), **found}


def _budgets(run: Run, track: Track, spent: float, cost: float, warmup: int) -> list[Budget]:
    found = [budget(share * track.total, spent, cost, warmup) for share in run.totals]
    return [one for one in found if one is not None]


def _runner(
    model: FunctionalModel,
    weights: Mapping[str, torch.Tensor],
    data: Data,
    run: Run,
    track: Track,
    warmup: int,
    names: str,
) -> Runner:
    return Runner(model, weights, data, **_options(run, track, warmup), names=names)


def _task(place: Place, method: Method, seed: int, source: Path) -> FitTask:
    """What a plan with this start would work on."""
    track = place.track
    with tempfile.TemporaryDirectory() as folder:
        # A fit is given the track's own batches; the plan names what they are drawn from.
        path, data = write_plan(place, plan_for(place, method, {}), Path(folder))
        job = load_job(path, source=source, data=data)
        small = open_small(job)
        start = Start(method.name, method.choice(track.deeper), method.candidate(track.fit_rate))
        task = task_of(job, small, growth_of(job, small.architecture), start, seed)
    if method.published_warmup:
        task = replace(task, options=task.options.model_copy(update={"warmup_steps": PUBLISHED_WARMUP}))
    return task


def plan_for(place: Place, method: Method, compare: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of a track, with a start of its own, to be compared with others on the track's data."""
    track = place.track
    data: dict[str, Any] = {"path": "*.txt", "tokenizer": "bytes", "seq_len": track.seq_len}
    if track.objective == "image_classification":
        data = {"kind": "images", "path": "digits.npz"}
    data["batch_size"] = track.batch_size
    return {
        "spec": "ligo/plan/1",
        "source": "small",
        "target": dict(track.target),
        "operator": method.choice(track.deeper).model_dump(mode="json", exclude_none=True),
        "compare": {"objective": track.objective, "data": data, "device": place.device, **compare},
        "output": "grown",
    }


def write_plan(place: Place, plan: Mapping[str, Any], folder: Path) -> tuple[Path, list[Path]]:
    """Write a plan, and its images where it has such: its file, and the text that is to be read instead of its own."""
    path = folder / "plan.yaml"
    path.write_text(json.dumps(plan))
    if place.track.objective == "image_classification":
        write_digits(folder / "digits.npz")
        return path, []
    return path, [place.corpus / "train" / "*.txt"]


def _blank(place: Place, seed: int) -> Path:
    """A small model as the library draws it: what it is trained from, and the sizes that scratch grows to."""
    folder = place.folder / f"blank-{seed}"
    if not folder.exists():
        config = dict(place.track.config)
        name = config["architectures"][0]
        made = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SMALL_SEED + seed)
            model = getattr(transformers, name)(made)
        stage = tempfile.mkdtemp(dir=place.folder)
        model.save_pretrained(stage)
        with contextlib.suppress(OSError):  # another run may have been faster, with the same numbers
            Path(stage).rename(folder)
    return folder


def _keep(model: FunctionalModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a small model that was trained as a checkpoint."""
    module = copy.deepcopy(model.model)
    assert isinstance(module, transformers.PreTrainedModel)
    module.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=False)
    module.tie_weights()
    module.save_pretrained(folder)


def _model(task: FitTask, place: Place) -> FunctionalModel:
    return functional_model(task.growth.large, task.binding, place.track.objective, torch.device(place.device))


def _drawn(model: FunctionalModel, seed: int) -> dict[str, torch.Tensor]:
    """Parameters as the library draws them."""
    module = model.model
    assert isinstance(module, transformers.PreTrainedModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(module)(module.config)
    device = next(module.parameters()).device
    return {name: value.detach().to(device) for name, value in fresh.named_parameters()}


def _step_flops(task: FitTask, model: FunctionalModel, track: Track) -> float:
    """Operations of a step of training, by formula."""
    large = task.growth.large
    if track.objective == "image_classification":
        return track.batch_size * image_training_flops(large, model.templates, track.config["num_labels"])
    return track.batch_size * training_flops(large, model.templates, track.seq_len)


def counted_flops(model: FunctionalModel, weights: Mapping[str, torch.Tensor], batch: Batch) -> float:
    """The same as torch counts them, forward and backward."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    module = model.model
    assert isinstance(module, transformers.PreTrainedModel)
    module.set_attn_implementation("eager")  # torch does not count its fused attention on CPUs
    with FlopCounterMode(display=False) as counter:
        model.loss(leaves, batch).backward()  # type: ignore[no-untyped-call]
    module.set_attn_implementation("sdpa")
    return float(counter.get_total_flops())


class _Batches:
    """A track's batches, as a fit asks for them."""

    unit = "a prediction"

    def __init__(self, data: Data, task: FitTask, seed: int) -> None:
        self.data, self.options, self.seed = data, task.options, seed

    def train(self, step: int) -> list[Batch]:
        return [self.data.batch(f"fit.{step}", self.seed)]

    def heldout(self) -> Iterator[Batch]:
        return islice(self.data.heldout("choose"), GLANCE)
