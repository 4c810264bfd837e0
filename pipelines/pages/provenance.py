"""What both pages say of where their figures come from: the held-out examples, the labels, the libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.pages.tables import Cell, Row, Table, table
from pipelines.pages.words import plural

_LISTED = 10


def heldout_notices(heldout: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the held-out examples of a report: which were trained on, and which are not scored."""
    shared, missing, unreadable = heldout["trained_on"], heldout["without_gold"], heldout["unreadable"]
    lines = []
    if shared["count"]:
        said = f"{shared['count']:,} of the {heldout['scored']:,} scored examples {_is_are(shared['count'])} in the training data too"
        how = f"{shared['by']['input']:,} by the same input, {shared['by']['near']:,} by nearly the same"
        lines.append(f"{said} ({how}): {_listed(shared)}. What is right on them says little.")
    if missing["count"]:
        said = plural(missing["count"], "held-out example has", "held-out examples have")
        lines.append(f"{said} no gold label and {_is_are(missing['count'])} not scored: {_listed(missing)}.")
    if unreadable["count"]:
        lines.append(
            f"{plural(unreadable['count'], 'held-out row is', 'held-out rows are')} unreadable for the task and not scored."
        )
    return lines


def _is_are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(found: Mapping[str, Any]) -> str:
    """The first ids of a part of the held-out examples."""
    ids = ", ".join(found["ids"][:_LISTED])
    return ids if found["count"] <= _LISTED else f"{ids}, ..."


def provenance_tables(report: Mapping[str, Any]) -> list[Table]:
    """`provenance` and `versions` of a report: {"labels": {"teacher": {"model": "m"}}} -> a row `labels.teacher.model`, `m`."""
    origin: list[Row] = [[name, Cell(value, "text")] for name, value in _leaves(report["provenance"])]
    versions = [[name, version] for name, version in report["versions"].items()]
    return [
        *([table("Where labels and students come from", ["what", "is"], origin)] if origin else []),
        *([table("Versions of the libraries", ["library", "version"], versions)] if versions else []),
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
