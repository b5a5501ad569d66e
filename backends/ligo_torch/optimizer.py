"""The state of a PyTorch optimizer, grown: ``optimizer.pt`` of a training loop or of Transformers' Trainer (SPEC 7.5).

A state numbers parameters through its groups. Which number is which parameter the file says itself (``param_names``,
of optimizers made from ``named_parameters()``), or else the plan's ``order`` says; every shape must then be that of
its parameter, or the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_pytorch import Skeleton, StateFile, StoredTensor, saved
from ligo_spec.checkpoint import DTYPES, FLOATS
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import open_input, refusal
from ligo_spec.layout import pack, unpack
from ligo_spec.optimizer import Moment, OptimizerSummary, OptimizerTask, anew, grown_moment, rule_of, share_of_new
from ligo_spec.staging import Stage
from ligo_torch.parameters import Parameters, Unit, parameters_of

Array = npt.NDArray[Any]

MOMENTS: Mapping[str, Moment] = MappingProxyType(
    {
        "exp_avg": "first",
        "momentum_buffer": "first",
        "exp_avg_sq": "second",
        "max_exp_avg_sq": "second",
    }
)
"""Entries of a parameter's state that have its shape, and what they are: Adam, AdamW, AMSGrad, SGD with momentum."""

MAX_COMPANION = 1 << 20
"""Bytes of a scheduler's state: a few numbers a group."""


def open_optimizer(task: OptimizerTask) -> TorchOptimizer:
    """Read the head of a state and settle what is whose; see ``ligo_spec.optimizer.open_optimizer``.

    Raises:
        InputError: The state is damaged, hostile, of another model, or of an optimizer that is not known.
    """
    return TorchOptimizer(task)


@dataclass(frozen=True, eq=False)
class _Group:
    """One group of a state: its options, and the names of its parameters."""

    options: Mapping[str, Any]
    names: tuple[str, ...]


class TorchOptimizer:
    """A state of the small model's optimizer, ready to be written grown.

    Args:
        task: What to grow, and how.

    Raises:
        InputError: As for ``open_optimizer``.
    """

    def __init__(self, task: OptimizerTask) -> None:
        self.task = task
        self._file = StateFile(task.path)
        where = f"{task.small.directory}/config.json"
        self._small = parameters_of(task.growth.small, where)
        self._large = parameters_of(task.growth.large, where)
        groups, states = _checked(task.path, self._file.value)
        named = _named(task, groups, self._small)
        numbers = [number for group in groups for number in group["params"]]
        names = [name for group in named for name in group.names]
        self._states = {name: states[number] for number, name in zip(numbers, names, strict=True) if number in states}
        self._check_shapes(numbers, names)
        self._dual = task.dual(self._small.binding.templates())
        self._in_file = lru_cache(maxsize=4)(self._read_tensor)
        self._in_memory = lru_cache(maxsize=1)(self._joined)
        self._grown_whole = lru_cache(maxsize=4)(self._grown_canonical)
        self._skeleton = Skeleton()
        self._value = self._grown(named)

    @property
    def summary(self) -> OptimizerSummary:
        """What will be written."""
        options = self.task.options
        steps = [self._number(state["step"]) for state in self._states.values() if "step" in state]
        shapes = {part: self._shape(part) for name in self._written for part in self._large.holds(name)}
        fresh = options.reset == "all"
        return OptimizerSummary(
            file=str(self.task.path),
            groups=len(self._value["param_groups"]),
            parameters=(len(self._states), len(self._written)),
            step=int(max(steps, default=0)),
            rule=rule_of(self._dual, options),
            exact=self._dual.exact and not fresh,
            new=1.0 if fresh else share_of_new(self._dual, options, shapes),
            anew=sum(self._is_anew(name) for name in self._written),
            bytes=self._skeleton.nbytes,
        )

    def write(self, stage: Stage, name: str, /) -> None:
        """Write the grown state; one parameter's moment is in memory at a time.

        Raises:
            InputError: The file changed, or a part of it is damaged.
            NumericalError: A moment is not finite.
            OutputError: It cannot be written.
        """
        stage.write_bytes(name, saved(self._value, self._skeleton))
        self._file.check_unchanged()

    def check_companion(self, path: Path, /) -> None:
        """A scheduler's state must be small, and hold plain values only.

        Raises:
            InputError: It is not.
        """
        if path.suffix != ".pt":
            return
        with open_input(path) as file:
            if file.size > MAX_COMPANION:
                raise refusal(path, f"has {file.size} bytes, at most {MAX_COMPANION} are carried over")
        StateFile(path)

    # --- what is read -------------------------------------------------------------------------------------------------

    def _number(self, value: Any) -> float:
        return float(self._file.read(value)) if isinstance(value, StoredTensor) else float(value)

    def _check_shapes(self, numbers: Sequence[int], names: Sequence[str]) -> None:
        """Every moment has the shape of its parameter, so the order that was taken for granted is the right one."""
        for number, name in zip(numbers, names, strict=True):
            for key, value in self._states.get(name, {}).items():
                place = f"state {number} ({name})"
                if key in MOMENTS and isinstance(value, StoredTensor):
                    wanted = self._small.shapes[name]
                    if value.shape != wanted:
                        message = f"{place}: {key} has shape {value.shape}, the parameter has {wanted}; {_REMEDY}"
                        raise refusal(self.task.path, message)
                    if value.dtype not in FLOATS:
                        raise refusal(self.task.path, f"{place}: {key} holds {value.dtype}, no moment does")
                elif key == "step" and (isinstance(value, int | float) or _is_number(value)):
                    continue
                elif not (key in MOMENTS and value is None):
                    known = ", ".join(("step", *MOMENTS))
                    raise refusal(
                        self.task.path,
                        f"{place} has {printable(key)}, which is not known; known are {known} (Adam, AdamW, SGD)",
                    )

    def _read_tensor(self, key: str, tensor: str) -> Array:
        """A moment of the small model, in the form of a tensor of its checkpoint."""
        return self._small.in_file(self._small.unit_of_tensor[tensor], tensor, partial(self._moment, key))

    def _moment(self, key: str, name: str) -> Array:
        value = self._states.get(name, {}).get(key)
        if value is None:
            raise refusal(self.task.path, f"has no {key} of {name}, which layers with one are mixed with")
        return self._file.read(value)

    def _canonical(self, key: str, name: str) -> Array:
        """A moment of the small model by canonical name; one that lies in slices is put together."""
        held = self._small.binding.pieces.get(name)
        if held is not None:
            return np.stack([self._canonical(key, held[expert]) for expert in range(len(held))])
        tensor, part = self._small.tensor_of[name]
        parts: list[Array] = unpack(self._in_file(key, tensor), self._small.binding.slots[tensor].steps)
        return parts[part]

    # --- what is written ----------------------------------------------------------------------------------------------

    def _grown(self, named: Sequence[_Group]) -> dict[str, Any]:
        """The object that is saved, its tensors without values."""
        home = {name: number for number, group in enumerate(named) for name in group.names}
        sources = {name: self._source(name) for name in self._large.trained()}
        members: list[list[str]] = [[] for _ in named]
        for name, source in sources.items():
            if source in home:
                members[home[source]].append(name)
        state: dict[int, dict[str, Any]] = {}
        self._written: list[str] = []
        groups, count = [], 0
        for names in members:
            for number, name in enumerate(names, count):
                if sources[name] in self._states and self.task.options.reset != "all":
                    state[number] = self._grown_state(name, self._states[sources[name]])
                    self._written.append(name)
            count += len(names)
        count = 0
        for group, names in zip(named, members, strict=True):
            options = {key: self._option(value) for key, value in group.options.items()}
            options |= {"param_names": names} if "param_names" in group.options else {}
            groups.append({**options, "params": list(range(count, count + len(names)))})
            count += len(names)
        return {"state": state, "param_groups": groups}

    def _option(self, value: Any) -> Any:
        if not isinstance(value, StoredTensor):
            return value
        return self._skeleton.tensor(value.shape, DTYPES[value.dtype], lambda: self._file.read(value))

    def _source(self, name: str) -> str:
        """The small parameter that counts most in a large one."""
        tensor = self._small.tensor_with(self._dual.tensors[self._large.holds(name)[0]].source)
        place = self._large.unit_of[name].parameters.index(name)
        return self._small.unit_of_tensor[tensor].parameters[place]

    def _is_anew(self, name: str) -> bool:
        return all(anew(self._dual.tensors[part], self.task.options) for part in self._large.holds(name))

    def _grown_state(self, name: str, source: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in source.items():
            if key == "step":
                made[key] = self._grown_step(value, fresh=self._is_anew(name))
            elif value is None:
                made[key] = None
            else:
                kind = DTYPES[value.dtype]
                made[key] = self._skeleton.tensor(self._large.shapes[name], kind, partial(self._made, key, name))
        return made

    def _grown_step(self, value: Any, *, fresh: bool) -> Any:
        if not isinstance(value, StoredTensor):
            return type(value)(0) if fresh else value
        kind = DTYPES[value.dtype]
        return self._skeleton.tensor(
            value.shape, kind, lambda: np.zeros(value.shape, kind) if fresh else self._file.read(value)
        )

    def _made(self, key: str, name: str) -> Array:
        """The moment of one large parameter."""
        return self._in_memory(key, self._large.unit_of[name])[name]

    def _joined(self, key: str, unit: Unit) -> dict[str, Array]:
        return self._large.in_memory(unit, partial(self._packed, key))

    def _packed(self, key: str, tensor: str) -> Array:
        slot = self._large.binding.slots[tensor]
        whole = {name: self._grown_whole(key, name) for name in slot.names}
        packed: Array = pack(slot.taken(whole), slot.steps)
        return packed

    def _grown_canonical(self, key: str, name: str) -> Array:
        read = partial(self._canonical, key)
        return grown_moment(self._dual.tensors[name], MOMENTS[key], read, self.task.options, self.task.backend)

    def _shape(self, canonical: str) -> tuple[int, ...]:
        template = self._dual.tensors[canonical].template
        return tuple(side or 1 for side in self.task.growth.large.shape(template))


_REMEDY = (
    "save optimizers of model.named_parameters(), so that names are in the file, or say the plan's optimizer.order"
)


def _is_number(value: Any) -> bool:
    return isinstance(value, StoredTensor) and value.shape in ((), (1,))


def _checked(path: Path, value: Any) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """The groups and the states of a file that has the form of a ``state_dict()``."""
    form = "is no state_dict() of an optimizer: "
    if not isinstance(value, dict) or set(value) != {"state", "param_groups"}:
        keys = ", ".join(map(printable, list(value)[:5])) if isinstance(value, dict) else type(value).__name__
        raise refusal(path, f"{form}expected state and param_groups, found {keys}")
    groups, states = value["param_groups"], value["state"]
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        raise refusal(path, f"{form}param_groups is no list of groups")
    numbers = []
    for place, group in enumerate(groups):
        params = group.get("params")
        if not isinstance(params, list) or not all(type(number) is int for number in params):
            raise refusal(path, f"{form}params of group {place} is no list of numbers")
        numbers += params
        for key, item in group.items():
            if key not in ("params", "param_names") and not (isinstance(key, str) and _plain(item)):
                raise refusal(path, f"{form}{printable(key)} of group {place} is no plain value")
    if numbers != list(range(len(numbers))):
        raise refusal(path, f"{form}its groups do not number parameters 0, 1, 2, ... in order")
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        raise refusal(path, f"{form}state is no mapping of mappings")
    strangers = [key for key in states if key not in set(numbers)]
    if strangers:
        raise refusal(path, f"{form}state {printable(strangers[0])} is of no parameter in a group")
    return groups, states


def _plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str) or _is_number(value)


def _named(task: OptimizerTask, groups: Sequence[dict[str, Any]], small: Parameters) -> list[_Group]:
    """The names of every group's parameters."""
    stated = [group.get("param_names") for group in groups]
    if any(names is not None for names in stated):
        found = [_stated(task.path, names, group, small) for names, group in zip(stated, groups, strict=True)]
    else:
        found = _by_rule(task, groups, small)
    rest = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    return [_Group(options, tuple(names)) for options, names in zip(rest, found, strict=True)]


def _stated(path: Path, names: Any, group: dict[str, Any], small: Parameters) -> list[str]:
    if not isinstance(names, list) or len(names) != len(group["params"]):
        raise refusal(path, "has a group without a name for each of its parameters")
    order = {name: place for place, name in enumerate(small.shapes)}
    unknown = [name for name in names if name not in order]
    if unknown:
        raise refusal(path, f"names a parameter {printable(unknown[0])}, which the model does not have")
    places = [order[name] for name in names]
    if places != sorted(set(places)):
        raise refusal(path, "names the parameters of a group in another order than the model's, or one twice")
    return names


def _by_rule(task: OptimizerTask, groups: Sequence[dict[str, Any]], small: Parameters) -> list[list[str]]:
    """Names by the plan's ``order``; as many as there are numbers, or the file is of another model."""
    trained = small.trained()
    if task.options.order == "trainer":
        wanted = [[n for n in trained if (n in small.decayed) == decays] for decays in (True, False)]
        rule = "the Trainer's two groups have"
    else:
        wanted, rule = [trained], "the model's one group has"
    counts, found = [len(names) for names in wanted], [len(group["params"]) for group in groups]
    if counts != found:
        message = f"has groups of {_short(found)} parameters, {rule} {_short(counts)}; {_REMEDY}"
        raise InputError(Problem(printable(task.path), message))
    return wanted


def _short(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts[:6])) + (", ..." if len(counts) > 6 else "")
