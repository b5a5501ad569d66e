"""The folder ``schema/``: today's schemas, vectors judged alike by loader and schema, a SPEC that code can cite."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ligo_spec import json_schema
from ligo_spec.documents import Document, loads, loads_json
from ligo_spec.errors import PlanError
from ligo_spec.methods import DEPTH_METHODS, WIDTH_METHODS
from ligo_spec.plan import OperatorChoice
from ligo_spec.presets import PRESETS
from ligo_spec.schemas import DOCUMENTS

ROOT = Path(__file__).resolve().parents[1]
V1 = ROOT / "schema" / "v1"

Kind = Literal["plan", "family", "operator"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def documents(folder: str) -> list[Path]:
    return sorted(path for path in (V1 / folder).iterdir() if path.suffix in (".yaml", ".json"))


def kind_of(path: Path) -> Kind:
    return next(kind for kind in KINDS if path.name.startswith(f"{kind}-"))


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def load_as(kind: Kind, text: str, name: str) -> Document:
    return (loads_json if name.endswith(".json") else loads)(text, DOCUMENTS[kind], name=name)


def as_an_editor_reads(text: str, name: str) -> Any:
    """The value of a text by a library that is not ours: anchors, tags and duplicate keys are fine with it."""
    if name.endswith(".json"):
        return json.loads(text)
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True
    return yaml.load(text)


def complaints(kind: Kind, value: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema(kind))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def only_loader() -> set[str]:
    lines = text_of(V1 / "invalid" / "only-loader.txt").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


# --- the schemas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_schema_is_todays(kind: Kind) -> None:
    stored = text_of(V1 / f"{kind}.schema.json")
    assert stored == json.dumps(json_schema(kind), indent=2) + "\n", "run make schema"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_valid_and_says_what_it_is(kind: Kind) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:ligo-spec:{kind}:1"
    assert schema["title"]
    assert schema["description"]
    assert schema["additionalProperties"] is False
    spec = schema["properties"]["spec"]
    assert spec["const"] == f"ligo/{kind}/1"


def test_the_spec_has_a_row_and_a_section_for_every_method() -> None:
    text = text_of(V1 / "SPEC.md")
    rows = re.findall(r"^\| `(\w+)` \| (?:all|layers)", text, re.MULTILINE)
    assert sorted(rows) == sorted((*WIDTH_METHODS, *DEPTH_METHODS))
    titles = " ".join(re.findall(r"^### 4\.\d+ (.*)$", text, re.MULTILINE))
    assert {name for name in rows if f"`{name}`" not in titles} == set()


def test_editors_know_every_method_and_preset() -> None:
    schema = json_schema("plan")
    choice = schema["$defs"][OperatorChoice.__name__]["properties"]
    depth = tuple(name for name in DEPTH_METHODS if name != "ranges")  # which cannot do without its layers
    for key, names in (("width", WIDTH_METHODS), ("depth", depth), ("preset", tuple(PRESETS))):
        offered = next(branch["enum"] for branch in choice[key]["anyOf"] if "enum" in branch)
        assert sorted(offered) == sorted(names)
    for name in (*WIDTH_METHODS, *DEPTH_METHODS):
        own = [node for node in schema["$defs"].values() if node["properties"].get("method", {}).get("const") == name]
        assert len(own) == 1
        assert "method" in own[0]["required"]


# --- the vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", documents("valid"), ids=lambda path: path.name)
def test_a_valid_document_is_accepted_by_both(path: Path) -> None:
    kind, text = kind_of(path), text_of(path)
    load_as(kind, text, path.name)
    assert complaints(kind, as_an_editor_reads(text, path.name)) == []


@pytest.mark.parametrize("path", documents("invalid"), ids=lambda path: path.name)
def test_an_invalid_document_is_refused_with_its_message(path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        load_as(kind_of(path), text_of(path), path.name)
    assert f"{caught.value}\n" == text_of(path.with_suffix(".txt"))


@pytest.mark.parametrize("path", documents("invalid"), ids=lambda path: path.name)
def test_the_schema_refuses_what_it_can(path: Path) -> None:
    try:
        value = as_an_editor_reads(text_of(path), path.name)
    except (YAMLError, ValueError):
        assert path.name in only_loader(), "no value, so no schema can refuse it"
        return
    assert bool(complaints(kind_of(path), value)) == (path.name not in only_loader())


def test_every_file_of_the_vectors_has_its_place() -> None:
    names = {path.name for path in documents("invalid")}
    stems = {path.stem for path in documents("invalid")}
    texts = {path.stem for path in (V1 / "invalid").glob("*.txt")} - {"only-loader"}
    assert len(stems) == len(names)
    assert texts == stems
    assert only_loader() <= names
    assert {kind_of(path) for path in documents("valid")} == {kind_of(path) for path in documents("invalid")}
    assert len(documents("valid")) + len(names) + len(texts) + 1 == len(list(V1.glob("*/*")))


def test_one_vector_has_many_problems() -> None:
    assert any(len(text_of(path).splitlines()) > 10 for path in (V1 / "invalid").glob("plan-*.txt"))


# What may stand somewhere in a document: wrong types, bounds, short and long forms, good and bad paths and units.
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2, 1.5, 2**33, "", "x", "stack", "net2net", "ligo", "5GB", " 5 gib ", "0B", "5TB"),
    *("a/../b", "..", "a..b", "/x", "C:x", "\\\\host\\x", "\\x", "residual.out", [], ["x"], [["x", "y"]], {}),
    *({"method": "stack"}, {"method": "net2net", "choice": "even"}, {"path": "x"}, {"is": "weight"}),
    *({"config": None}, {"config": None, "default": "1"}, {"kind": "identity", "size": 4}),
]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@given(st.data())
def test_a_schema_is_no_stricter_than_the_loader(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(documents("valid")))
    value = copy.deepcopy(as_an_editor_reads(text_of(path), path.name))
    *above, last = data.draw(st.sampled_from(list(places(value))))
    holder = value
    for key in above:
        holder = holder[key]
    holder[last] = data.draw(st.sampled_from(VALUES))
    if complaints(kind_of(path), value):
        with pytest.raises(PlanError):
            load_as(kind_of(path), json.dumps(value), "changed.json")


# --- what is shipped and shown ---------------------------------------------------------------------------------------


def shipped() -> list[tuple[str, Kind, str]]:
    """Name, kind and text of every family of the package, every plan in examples/, and those in the README."""
    families = sorted((ROOT / "ligo_spec" / "families").glob("*.yaml"))
    plans = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "ligo/plan/1" in text_of(path)]
    readme = [
        (f"README block {number}", block)
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", text_of(ROOT / "README.md"), re.M | re.S))
        if block.startswith("spec: ligo/plan/1")
    ]
    assert families
    assert plans
    assert readme
    return [
        *((path.name, "family", text_of(path)) for path in families),
        *((path.name, "plan", text_of(path)) for path in plans),
        *((name, "plan", text) for name, text in readme),
    ]


@pytest.mark.parametrize(("name", "kind", "text"), shipped(), ids=lambda value: value if len(value) < 40 else "")
def test_what_is_shipped_and_shown_is_accepted_by_both(name: str, kind: Kind, text: str) -> None:
    load_as(kind, text, name)
    assert complaints(kind, as_an_editor_reads(text, name)) == []


# --- SPEC.md ---------------------------------------------------------------------------------------------------------

CITED = re.compile(r"SPEC(?:\.md)?,? +(?:sections? +)?(\d+(?:\.\d+)*)")


def headings() -> set[str]:
    lines = text_of(V1 / "SPEC.md").splitlines()
    return {match[1] for line in lines if (match := re.match(r"#{2,3} (\d+(?:\.\d+)?)\.? ", line))}


def citations() -> set[tuple[str, str]]:
    folders = [ROOT / name for name in ("ligo_spec", "backends", "converters", "schema")]
    files = [path for folder in folders for end in ("py", "yaml", "json") for path in sorted(folder.rglob(f"*.{end}"))]
    return {(path.name, number) for path in files for number in CITED.findall(text_of(path))}


def test_every_section_that_code_cites_is_there() -> None:
    found = citations()
    assert {("certify.py", "5.3"), ("net2net.py", "4.2"), ("plan.py", "6.3"), ("reference.py", "3.1")} <= found
    assert {(name, number) for name, number in found if number not in headings()} == set()


def test_the_sections_are_numbered_without_gaps() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in headings()]
    tops = sorted(number[0] for number in numbers if len(number) == 1)
    assert tops == list(range(1, len(tops) + 1))
    for top in tops:
        parts = sorted(number[1] for number in numbers if len(number) == 2 and number[0] == top)
        assert parts == list(range(1, len(parts) + 1))


def test_the_spec_names_every_method_and_preset() -> None:
    titles = [line for line in text_of(V1 / "SPEC.md").splitlines() if line.startswith("### 4.")]
    for name in (*WIDTH_METHODS, *DEPTH_METHODS):
        assert sum(f"`{name}`" in title for title in titles) == 1, name
    text = text_of(V1 / "SPEC.md")
    assert all(f"`{name}`" in text for name in PRESETS)


@pytest.mark.parametrize("path", [V1.parent / "README.md", V1 / "SPEC.md"], ids=lambda path: path.name)
def test_lines_are_short_and_links_lead_somewhere(path: Path) -> None:
    text = text_of(path)
    assert [line for line in text.splitlines() if len(line) > 120] == []
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
