"""JSON Schemas of the documents, from the models that read them."""

from __future__ import annotations

from typing import Any, Literal

from ligo_spec.documents import Document
from ligo_spec.family import Family
from ligo_spec.operator_file import OperatorManifest
from ligo_spec.plan import Plan

DOCUMENTS: dict[str, type[Document]] = {"family": Family, "operator": OperatorManifest, "plan": Plan}
"""The documents by name."""


def json_schema(name: Literal["plan", "family", "operator"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document.

    Short forms (``width: stack``) are part of the schema, so that an editor accepts what ``ligo check`` accepts.
    """
    schema = DOCUMENTS[name].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
