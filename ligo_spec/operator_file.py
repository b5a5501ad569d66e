"""``operator.safetensors``: an operator as arrays and a manifest (``ligo/operator/1``) in the metadata.

Structured maps stay structured. Anyone may write such a file with a method of their own; ``check_operator`` says
whether it fits a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ligo_spec.checkpoint import TensorInfo, dtype_name, load_tensor_files
from ligo_spec.documents import Document, loads_json
from ligo_spec.errors import InputError, PlanError, Problem
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select
from ligo_spec.operator import Operator, SpaceMaps, Term
from ligo_spec.staging import Stage, StagedFile, staged_file

Array = npt.NDArray[Any]

METADATA_KEY = "ligo"
"""The key of the safetensors metadata that holds the manifest."""


class IdentityNode(Document):
    """The identity."""

    kind: Literal["identity"] = "identity"
    size: Annotated[int, Field(ge=1)]


class SelectNode(Document):
    """One entry a row, times a weight."""

    kind: Literal["select"] = "select"
    small: Annotated[int, Field(ge=1)]
    index: str
    """Name of an int64 tensor ``(large,)``."""
    weight: str | None = None
    """Name of a float tensor ``(large,)``; all ones where it is left out."""


class DenseNode(Document):
    """Any matrix."""

    kind: Literal["dense"] = "dense"
    matrix: str
    """Name of a float tensor ``(large, small)``."""


class BlocksNode(Document):
    """Maps over one another."""

    kind: Literal["blocks"] = "blocks"
    parts: Annotated[tuple[MapNode, ...], Field(min_length=1)]


class KronNode(Document):
    """``outer ⊗ inner``."""

    kind: Literal["kron"] = "kron"
    outer: MapNode
    inner: MapNode


MapNode = Annotated[IdentityNode | SelectNode | DenseNode | BlocksNode | KronNode, Field(discriminator="kind")]


class SpaceNode(Document):
    """Names of a space's maps."""

    out: str
    in_: Annotated[str, Field(alias="in")]
    gain: str


class TermNode(Document):
    """One term of the operator."""

    maps: dict[str, Annotated[tuple[MapNode, ...], Field(min_length=1)]]
    """By name; one map for all layers, or one per layer of the large model."""
    spaces: dict[str, SpaceNode]
    depth: dict[str, str]
    """Canonical template (``STACK.*`` for the rest) -> name of a float tensor ``(layers_large, layers_small)``."""
    tensors: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Canonical templates of the tensors that the term is for; all where it is left out."""


class OperatorManifest(Document):
    """What the metadata of an operator file says."""

    spec: Literal["ligo/operator/1"]
    family: str
    small: dict[str, int]
    large: dict[str, int]
    terms: Annotated[tuple[TermNode, ...], Field(min_length=1)]
    eps_scale: dict[str, float] = {}
    plan_sha256: str | None = None
    """Of the resolved plan that it was made for."""


def describe(operator: Operator, plan_sha256: str | None = None) -> tuple[OperatorManifest, dict[str, Array]]:
    """The manifest of an operator and the arrays that it names."""
    arrays: dict[str, Array] = {}
    terms = []
    for number, term in enumerate(operator.terms):
        prefix = f"terms.{number}"
        maps = {
            name: tuple(_node(map_, f"{prefix}.maps.{name}.{i}", arrays) for i, map_ in enumerate(choices))
            for name, choices in term.maps.items()
        }
        spaces = {
            name: SpaceNode.model_validate({"out": s.out, "in": s.in_, "gain": s.gain})
            for name, s in term.spaces.items()
        }
        depth = {key: _keep(arrays, f"{prefix}.depth.{key}", np.asarray(mix)) for key, mix in term.depth.items()}
        tensors = None if term.tensors is None else tuple(sorted(term.tensors))
        terms.append(TermNode(maps=maps, spaces=spaces, depth=depth, tensors=tensors))
    manifest = OperatorManifest(
        spec="ligo/operator/1",
        family=operator.family,
        small=dict(operator.small),
        large=dict(operator.large),
        terms=tuple(terms),
        eps_scale=dict(operator.eps_scale),
        plan_sha256=plan_sha256,
    )
    return manifest, arrays


def restore(manifest: OperatorManifest, read: Callable[[str], Array]) -> Operator:
    """The operator that a manifest describes; ``read`` gives its arrays by name.

    Raises:
        InputError: An array is missing or of the wrong kind or shape.
    """
    terms = tuple(
        Term(
            {name: tuple(_map(node, read) for node in nodes) for name, nodes in term.maps.items()},
            {name: SpaceMaps(node.out, node.in_, node.gain) for name, node in term.spaces.items()},
            {key: _array(read, name, "f", 2) for key, name in term.depth.items()},
            None if term.tensors is None else frozenset(term.tensors),
        )
        for term in manifest.terms
    )
    return Operator(manifest.family, manifest.small, manifest.large, terms, manifest.eps_scale)


def write_operator(stage: Stage, name: str, operator: Operator, *, plan_sha256: str | None = None) -> StagedFile:
    """Write an operator file through a stage; its size and checksum.

    Raises:
        OutputError: It does not fit or cannot be written.
    """
    manifest, arrays = describe(operator, plan_sha256)
    metadata = {METADATA_KEY: manifest.model_dump_json(by_alias=True, exclude_none=True)}
    infos = [TensorInfo(key, dtype_name(array.dtype), array.shape) for key, array in arrays.items()]
    return load_tensor_files().write_file(stage, name, infos, arrays.__getitem__, metadata=metadata)


def save_operator(operator: Operator, path: str | Path, *, plan_sha256: str | None = None) -> None:
    """Write an operator file; it appears under its name only when it is complete.

    Raises:
        OutputError: The file exists or cannot be written.
    """
    with staged_file(path) as stage:
        write_operator(stage, stage.target.name, operator, plan_sha256=plan_sha256)


def load_operator(path: str | Path) -> Operator:
    """Read an operator file.

    Raises:
        InputError: It is no operator file, or a damaged one.
    """
    file = load_tensor_files().read_file(Path(path))
    if METADATA_KEY not in file.metadata:
        raise InputError(Problem(str(path), f"is no operator file: its metadata has no key {METADATA_KEY!r}"))
    try:
        manifest = loads_json(file.metadata[METADATA_KEY], OperatorManifest, name=str(path))
        return restore(manifest, file.read)
    except KeyError as error:
        raise InputError(Problem(str(path), f"the manifest names a tensor {error} that is not in the file")) from error
    except PlanError as error:
        raise InputError(error.problems) from error
    except InputError as error:
        raise InputError([Problem(str(path), str(problem)) for problem in error.problems]) from error


def _node(map_: Map, name: str, arrays: dict[str, Array]) -> Any:
    match map_:
        case Identity(size=size):
            return IdentityNode(size=size)
        case Select(index=index, small=small, weight=weight):
            kept = None if weight is None else _keep(arrays, f"{name}.weight", weight)
            return SelectNode(small=small, index=_keep(arrays, f"{name}.index", index), weight=kept)
        case Dense(matrix=matrix):
            return DenseNode(matrix=_keep(arrays, f"{name}.matrix", matrix))
        case Blocks(parts=parts):
            return BlocksNode(parts=tuple(_node(part, f"{name}.{i}", arrays) for i, part in enumerate(parts)))
        case Kron(outer=outer, inner=inner):
            return KronNode(outer=_node(outer, f"{name}.outer", arrays), inner=_node(inner, f"{name}.inner", arrays))


def _keep(arrays: dict[str, Array], name: str, array: Array) -> str:
    arrays[name] = array
    return name


def _map(node: Any, read: Callable[[str], Array]) -> Map:
    match node:
        case IdentityNode(size=size):
            return Identity(size)
        case SelectNode(small=small, index=index, weight=weight):
            return Select(_array(read, index, "i", 1), small, None if weight is None else _array(read, weight, "f", 1))
        case DenseNode(matrix=matrix):
            return Dense(_array(read, matrix, "f", 2))
        case BlocksNode(parts=parts):
            return Blocks(tuple(_map(part, read) for part in parts))
        case KronNode(outer=outer, inner=inner):
            return Kron(_map(outer, read), _map(inner, read))
    raise AssertionError(f"a map node of kind {type(node).__name__}")  # the union has no other


def _array(read: Callable[[str], Array], name: str, kind: str, ndim: int) -> Array:
    array = read(name)
    if array.dtype.kind != kind or array.ndim != ndim:
        wanted = {"f": "floats", "i": "integers"}[kind]
        raise InputError(
            Problem(name, f"must hold {wanted} with {ndim} dimensions, found {array.dtype} of shape {array.shape}")
        )
    if kind == "f" and not np.isfinite(array).all():
        raise InputError(Problem(name, "holds values that are not finite"))
    return array.astype(np.int64) if kind == "i" else array
