"""The JSON Schemas of the documentation, for checking what commands print."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import referencing
import support

SCHEMAS = support.REPOSITORY / "docs" / "reference" / "schemas"


def validate(document: Any, name: str) -> None:
    """Fails where a document is not what the schema of this name says."""
    schemas = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    resources = [(file, referencing.Resource.from_contents(schema)) for file, schema in schemas.items()]
    registry = referencing.Registry().with_resources(resources)
    jsonschema.Draft202012Validator(schemas[f"{name}.json"], registry=registry).validate(document)
