"""JSON Schemas of the documents, from the models that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ligo_spec.documents import Document
from ligo_spec.family import Family
from ligo_spec.operator_file import OperatorManifest
from ligo_spec.plan import Plan

DOCUMENTS: dict[str, type[Document]] = {"family": Family, "operator": OperatorManifest, "plan": Plan}
"""The documents by name."""

ASSUMED = "assumed"
"""Beside a discriminator, in our models: the tag of what has none."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The version of JSON Schema."""


def json_schema(name: Literal["plan", "family", "operator"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document.

    Short forms (``width: stack``) are part of the schema, so that an editor accepts what ``ligo check`` accepts.
    """
    schema = DOCUMENTS[name].model_json_schema(by_alias=True, mode="validation")
    nodes = [node for node in _nodes(schema) if isinstance(node, dict)]
    for node in nodes:
        union = node.pop("discriminator", {})  # OpenAPI's word, which JSON Schema does not know
        assumed = node.pop(ASSUMED, None)
        for tag, reference in union.get("mapping", {}).items():
            if tag == assumed:
                continue
            # The loader tells the branches apart by their tag alone, so the tag must be there.
            branch = schema["$defs"][reference.rpartition("/")[2]]
            branch["required"] = sorted({union["propertyName"], *branch.get("required", ())})
    for node in nodes:
        if "anyOf" in node:  # bounds that stand behind a short form are repeated outside it, where they mean nothing
            for bound in ("ge", "minLength"):
                node.pop(bound, None)
        if isinstance(node.get("description"), str):
            node["description"] = node["description"].replace("``", "`")
        if "properties" in node and node.get("type") == "object":
            for value in node["properties"].values():
                value.pop("title", None)  # the key in other letters
    head = {"$schema": DIALECT, "$id": f"urn:ligo-spec:{name}:1", "title": f"ligo/{name}/1"}
    return head | {key: value for key, value in schema.items() if key != "title"}


def _nodes(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(item)
