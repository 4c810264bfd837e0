"""What both pages say of where their figures come from: the held-out examples, the labels, the libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.reports.format import clipped, plural
from pipelines.reports.tables import Cell, Row, Table, table, text_cell

_LISTED = 10
_ID_CHARACTERS = 60


def heldout_notices(heldout: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the held-out examples of a report: which were trained or chosen on, and which are not scored."""
    missing, unreadable, repeated = heldout["without_gold"], heldout["unreadable"], heldout["duplicates"]
    lines = []
    for shared, where, then in (
        (heldout["trained_on"], "in the training data too", "What is right on them says little."),
        (heldout["chosen_on"], "among those on which settings or weights were chosen", "That helps what was chosen."),
    ):
        if shared and shared["count"]:
            said = (
                f"{shared['count']:,} of the {heldout['scored']:,} scored examples {_is_are(shared['count'])} {where}"
            )
            how = f"{shared['by']['input']:,} by the same input, {shared['by']['near']:,} by nearly the same"
            lines.append(f"{said} ({how}): {_listed(shared)}. {then}")
    if missing["count"]:
        said = plural(missing["count"], "held-out example has", "held-out examples have")
        lines.append(f"{said} no gold label and {_is_are(missing['count'])} not scored: {_listed(missing)}.")
    if unreadable["count"]:
        lines.append(
            f"{plural(unreadable['count'], 'held-out row is', 'held-out rows are')} unreadable for the task and not scored."
        )
    if repeated["count"]:
        said = plural(repeated["count"], "held-out row has", "held-out rows have")
        lines.append(
            f"{said} the id of an earlier one and {_is_are(repeated['count'])} not scored: {_listed(repeated)}."
        )
    return lines


def unreadable_table(heldout: Mapping[str, Any]) -> Table | None:
    """The held-out rows that the task cannot read, and why; None where there are none."""
    found = heldout["unreadable"]
    rows: list[Row] = [[clipped(row["id"], _ID_CHARACTERS), text_cell(row["problem"])] for row in found["problems"]]
    first = f", the first {len(rows):,} of {found['count']:,}" if found["count"] > len(rows) else ""
    return table(f"Rows that the task cannot read{first}", ["id", "problem"], rows) if rows else None


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
