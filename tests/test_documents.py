"""The door for YAML documents: every problem at its place, nothing coerced, nothing executed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BeforeValidator, Field, field_validator

from ligo_spec.documents import Document, dump, load, load_with_positions, loads, loads_json
from ligo_spec.errors import PlanError


class Circle(Document):
    kind: Literal["circle"] = "circle"
    radius: Annotated[int, Field(ge=1, le=9)]


class Square(Document):
    kind: Literal["square"] = "square"
    side_length: float


def _short(value: Any) -> Any:
    return {"kind": value, "radius": 1} if isinstance(value, str) else value


class Drawing(Document):
    name: str
    shape: Annotated[Circle | Square, BeforeValidator(_short), Field(discriminator="kind")] = Circle(radius=1)
    tags: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    mixed: bool | int | None = None
    visible: bool = True
    in_: Annotated[str, Field(alias="in")] = "x"

    @field_validator("name")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("a name is needed")
        return value


def refused(text: str) -> list[str]:
    """The lines with which a text is refused."""
    with pytest.raises(PlanError) as caught:
        loads(text, Drawing, name="d.yaml")
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "d.yaml:1:1: expected a mapping, found nothing"),
        ("- a", "d.yaml:1:1: expected a mapping, found a list"),
        ("name: a\nname: b", "d.yaml:2:1 name: the key is there twice, first at 1:1"),
        ("name: a\n---\nname: b", "d.yaml:2:1: a second document begins here; a file holds one"),
        ("name: &a x\ntags: [*a]", "d.yaml:1:7: anchors and aliases are not allowed; write the value out"),
        ("tags: [*a]", "d.yaml:1:8: anchors and aliases are not allowed; write the value out"),
        ("name: !!python/name:os.system x", "d.yaml:1:7: tags such as tag:yaml.org,2002:python/name:os.system"),
        ("<<: {name: a}", "d.yaml:1:1: merge keys are not allowed; write the keys out"),
        ("? [a]\n: b", "d.yaml:1:3: a key must be a text"),
        ("name: " + "[" * 40 + "]" * 40, "d.yaml:1:38: is nested deeper than 32 levels"),
        ("name: [", "d.yaml:1:8: is not valid YAML"),
        ("name: a\n b: c", "d.yaml:2:3: is not valid YAML"),
        ("name: \x00", "is not valid YAML"),
    ],
)
def test_the_form_of_a_text_is_strict(text: str, line: str) -> None:
    """What is no strict YAML is refused at its place."""
    assert line in refused(text)[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\ntasg: []", "d.yaml:2:1 tasg: unknown key (did you mean tags?)"),
        ("nmae: a\nname: b", "d.yaml:1:1 nmae: unknown key (did you mean name?)"),
        ("name: a\nzzz: 1", "d.yaml:2:1 zzz: unknown key"),
        ("visible: true", "d.yaml:1:1 name: missing key"),
        ("name: 3", "d.yaml:1:7 name: expected a text, found 3"),
        ("name: ''", "d.yaml:1:7 name: a name is needed"),
        ("name: a\nvisible: yes", "d.yaml:2:10 visible: expected true or false, found the text 'yes'"),
        ("name: a\nvisible: 1", "d.yaml:2:10 visible: expected true or false, found 1"),
        ("name: a\ntags: {a: b}", "d.yaml:2:7 tags: expected a list, found a mapping"),
        ("name: a\ntags: [a, 2]", "d.yaml:2:11 tags.1: expected a text, found 2"),
        ("name: a\ncounts: {x: 1.0}", "d.yaml:2:13 counts.x: expected an integer, found 1.0"),
        ("name: a\ncounts: {x: '1'}", "d.yaml:2:13 counts.x: expected an integer, found the text '1'"),
        ("name: a\ncounts: {x: true}", "d.yaml:2:13 counts.x: expected an integer, found true"),
        ("name: a\ncounts: [1]", "d.yaml:2:9 counts: expected a mapping, found a list"),
        ("name: a\nmixed: [1]", "d.yaml:2:8 mixed: expected true or false or an integer, found a list"),
        ("name: a\nshape: {kind: circle, radius: 0}", "d.yaml:2:31 shape.radius: must be at least 1, found 0"),
        ("name: a\nshape: {kind: circle, radius: 10}", "d.yaml:2:31 shape.radius: must be at most 9, found 10"),
        ("name: a\nshape: {kind: circle}", "d.yaml:2:8 shape.radius: missing key"),
        (
            "name: a\nshape: {kind: circle, raduis: 1, radius: 2}",
            "d.yaml:2:23 shape.raduis: unknown key (did you mean radius?)",
        ),
        (
            "name: a\nshape: {kind: circel, radius: 1}",
            "d.yaml:2:8 shape: unknown kind 'circel' (did you mean circle?); one of circle, square",
        ),
        ("name: a\nshape: {radius: 1}", "d.yaml:2:8 shape: missing key kind"),
        ("name: a\nshape: 3", "d.yaml:2:8 shape: expected a mapping, found 3"),
        ("name: a\ncounts: {x: 010}", "d.yaml:2:13 counts.x: 010 is no decimal integer"),
        ("name: a\ncounts: {x: 0o17}", "d.yaml:2:13 counts.x: 0o17 is no decimal integer"),
        ("name: a\ncounts: {x: " + "9" * 5000 + "}", "d.yaml:2:13 counts.x: a number of 5000 digits"),
        ("name: a\nshape: {kind: square, side_length: .nan}", "d.yaml:2:36 shape.side_length: .nan is not a finite"),
        ("name: a\nshape: {kind: square, side_length: 1e999}", "d.yaml:2:36 shape.side_length: 1e999 is not a finite"),
        ("name: a\n\x1b[31mx: 1", "is not valid YAML"),
        ('name: a\n"\\e[31mx": 1', "d.yaml:2:1 \\x1b[31mx: unknown key"),
    ],
)
def test_each_problem_has_its_place_and_words(text: str, line: str) -> None:
    """A wrong key or value is named with line, column, path, what was found and what was wanted."""
    found = refused(text)
    assert len(found) == 1
    assert line in found[0]


def test_all_problems_come_at_once_in_order() -> None:
    """A text with several problems shows them all, from top to bottom."""
    text = "tags: [1]\nvisible: 3\nshpae: circle\ncounts: {a: b}\n"
    places = [line.split()[0] for line in refused(text)]
    assert places == ["d.yaml:1:1", "d.yaml:1:8", "d.yaml:2:10", "d.yaml:3:1", "d.yaml:4:13"]


def test_several_broken_numbers_and_duplicates_come_at_once() -> None:
    """What the reader finds by itself is collected, too."""
    assert len(refused("a: 010\nb: 1\nb: 2\nc: .inf\n")) == 3


@pytest.mark.parametrize("word", ["yes", "on", "12:30:45", "2001-01-01", "2001-13-45", "1_000", "0x", "=", "NO"])
def test_words_stay_words(word: str) -> None:
    """YAML 1.1's surprises are texts."""
    assert loads(f"name: {word}", Drawing).name == word


@pytest.mark.parametrize(("number", "value"), [("1e-4", 1e-4), ("-.5", -0.5), ("3.", 3.0), ("+2", 2.0), ("7", 7.0)])
def test_numbers_are_read_by_the_rules_of_yaml_1_2(number: str, value: float) -> None:
    """Floats may leave out what YAML 1.2 lets them."""
    drawing = loads(f"name: a\nshape: {{kind: square, side_length: {number}}}", Drawing)
    assert isinstance(drawing.shape, Square)
    assert drawing.shape.side_length == value


def test_short_forms_are_expanded() -> None:
    """A validator may turn a short form into a long one."""
    assert loads("name: a\nshape: circle", Drawing).shape == Circle(radius=1)


def test_bombs_are_refused_at_once() -> None:
    """An alias bomb ends at its first anchor, a large file before it is parsed."""
    bomb = "a: &a [x]\n" + "\n".join(f"{c}: &{c} [*{p}, *{p}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    assert "anchors" in refused(bomb)[0]
    assert "larger than" in refused("name: " + "a" * 2_000_000)[0]


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    """A missing file, a directory, a pipe, bytes that are no text, and a large file are refused, without waiting."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"name: \xff")
    (tmp_path / "large").write_bytes(b"#" * 2_000_000)
    for name, words in {
        "missing": "No such file",
        ".": "a directory",
        "pipe": "a pipe",
        "bytes": "not UTF-8",
        "large": "at most 1048576",
    }.items():
        with pytest.raises(PlanError, match=words):
            load(tmp_path / name, Drawing)


def test_positions_are_kept_for_later_checks(tmp_path: Path) -> None:
    """A rule that looks at several keys can say where they stand; a key that is not there points at its parent."""
    path = tmp_path / "d.yaml"
    path.write_text("name: a\ncounts:\n  x: 1\n", "utf-8")
    loaded = load_with_positions(path, Drawing)
    assert loaded.where("counts", "x") == f"{path}:3:6 counts.x"
    assert loaded.where("counts", "y") == f"{path}:3:3 counts.y"
    assert loaded.where("shape") == f"{path}:1:1 shape"


def test_json_is_read_by_the_same_rules() -> None:
    """JSON documents get the same words, without lines."""
    assert loads_json('{"name": "a", "tags": ["b"]}', Drawing).tags == ("b",)
    with pytest.raises(PlanError, match=r"f\.json nmae: unknown key \(did you mean name\?\)"):
        loads_json('{"name": "a", "nmae": 1}', Drawing, name="f.json")
    with pytest.raises(PlanError, match="stands twice"):
        loads_json('{"name": "a", "name": "b"}', Drawing)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
drawings = st.builds(
    Drawing,
    name=texts.filter(bool),
    shape=st.builds(Circle, radius=st.integers(1, 9))
    | st.builds(Square, side_length=st.floats(allow_nan=False, allow_infinity=False)),
    tags=st.lists(texts).map(tuple),
    counts=st.dictionaries(texts, st.integers(-(10**15), 10**15)),
    mixed=st.none() | st.booleans() | st.integers(-9, 9),
    visible=st.booleans(),
    **{"in": texts},
)


@given(drawings)
@example(Drawing(name="010", tags=("null", "~", "", "1e3", "- a", "a: b", "#", "<<", "&a", "!x", "0o7", "é\u2028")))
def test_what_is_dumped_reads_back_equal(drawing: Drawing) -> None:
    """``loads(dump(x)) == x``."""
    assert loads(dump(drawing), Drawing) == drawing


@given(st.binary(max_size=60))
def test_no_bytes_get_past_the_door(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever the bytes are, the answer is a document or a refusal."""
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    with contextlib.suppress(PlanError):
        assert isinstance(load(path, Drawing), Drawing)


SEED = "name: a\nshape: {kind: circle, radius: 3}\ntags: [x, 'y']\ncounts: {p: 1, q: 22}\nvisible: false\n"


@given(st.integers(0, len(SEED)), st.integers(0, 5), st.text("{}[]:,-?!&*<>|'\"#%@`~ \n\t01ax.", max_size=4))
def test_no_mutation_gets_past_the_door(place: int, cut: int, patch: str) -> None:
    """A valid text with a few characters changed is a document or a refusal."""
    text = SEED[:place] + patch + SEED[place + cut :]
    with contextlib.suppress(PlanError):
        assert isinstance(loads(text, Drawing), Drawing)
