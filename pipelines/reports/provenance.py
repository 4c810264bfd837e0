"""Tables with the origin of a report's figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipelines.reports.tables import Cell, Row, Table, table


def provenance_tables(provenance: Mapping[str, JsonValue], versions: Mapping[str, str]) -> list[Table]:
    """{"labels": {"teacher": {"model": "m"}}} -> a row `labels.teacher.model`, `m`; and a row per library."""
    origin: list[Row] = [[name, Cell(value, "text")] for name, value in _leaves(dict(provenance))]
    libraries = [[name, version] for name, version in versions.items()]
    return [
        *([table("Provenance of labels and students", ["key", "value"], origin)] if origin else []),
        *([table("Versions of the libraries", ["library", "version"], libraries)] if libraries else []),
    ]


def _leaves(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
