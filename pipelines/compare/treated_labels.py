"""Labels that a treatment has changed, for the control arms of a grid.

In: the labels of the run. Out, while cells need them: OUTPUT/compare/labels/NAME, an artifact with the same columns:

    shuffled-rationales  each training row has the rationale of another row, or all of them if that has several; the label stays
    gold-only            the rows with a gold label, of which `gold_fraction` is kept
    gold-else-teacher    all rows; those that gold-only leaves out have no gold label

Rows are drawn by the hash that draws fractions of the labels (`in_fraction`), so that seeds draw other rows and a larger share contains
a smaller one. Rationales move to the next row in the order of that hash: within a fraction, they are those of the same fraction.
Validation rows keep their rationale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.compare.model import TreatmentKind
from pipelines.data.heldout import is_validation
from pipelines.data.label_manifest import PartFile
from pipelines.data.label_parts import LabelParts, label_details, wrong_count
from pipelines.data.schema import RATIONALE
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest, read_manifest, write_manifest
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.train.data.sequences import fraction_bucket, in_fraction

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1
"""Raised if the same treatment gives other labels."""
_ROWS = 8192
_Moved = Mapping[str, tuple[str, str]]
"""By id, the id and the rationale of another row."""


@dataclass(frozen=True)
class Treatment:
    """What is changed."""

    kind: TreatmentKind
    seed: int
    validation_share: float
    """Share of the rows that is held out by the hash of the id."""
    gold_fraction: float | None = None
    """Of all rows: the share of the gold labels times the fraction of the labels."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        share = "" if self.gold_fraction is None else f"-{self.gold_fraction:g}"
        return f"{self.kind}{share}-seed{self.seed}"


def treated_manifest(labels: Manifest, treatment: Treatment) -> Manifest:
    """The manifest of the changed labels, which need not exist."""
    content = labels.details.get("content")
    change = {
        "format": _FORMAT, "kind": treatment.kind, "seed": treatment.seed, "gold_fraction": treatment.gold_fraction,
        "validation_share": treatment.validation_share,
    }  # fmt: skip
    identity = {**labels.identity, "treatment": change, "labels": labels.fingerprint, "content": content}
    details = {**labels.details, "content": fingerprint({"content": content, "treatment": change})}
    return labels.model_copy(update={"identity": identity, "fingerprint": fingerprint(identity), "details": details})


def write_treated(labels: Store, manifest: Manifest, treatment: Treatment, target: Store) -> None:
    """Write the changed labels, unless they exist.

    Args:
        manifest: of `labels`.
    """
    made = treated_manifest(manifest, treatment)
    there = read_manifest(target, "labels")
    # Versions that counted the rows of the run's labels here were refused by training.
    if (
        there is not None
        and there.fingerprint == made.fingerprint
        and not wrong_count(there.counts, label_details(there, target).parts)
    ):
        return
    target.clear()
    source = LabelParts.of(labels)
    moved = _moved_rationales(source, treatment) if treatment.kind == "shuffled-rationales" else {}
    several = {row: texts for name in source.names("data") for row, texts in source.rationales(name).items()}
    files: dict[str, PartFile] = {}
    for name in source.names("data"):
        rows, schema = _changed_rows(source, name, treatment, moved)
        files[name] = _write_part(target, name, rows, schema)
        # Together with the rationale in `data` move those of the same row in `rationales`.
        texts = [(row["id"], several.get(moved[row["id"]][0] if row["id"] in moved else row["id"], ())) for row in rows]
        beside = [{"id": row, "rationale": text, "index": i} for row, some in texts for i, text in enumerate(some)]
        if beside:
            part = f"rationales/{name.rpartition('/')[2]}"
            files[part] = _write_part(target, part, beside, RATIONALE)
    parts = {
        "parts": {name: file.rows for name, file in files.items()},
        "files": {name: file.model_dump() for name, file in files.items()},
    }
    num_rows = sum(file.rows for name, file in files.items() if name.startswith("data/"))
    counts = {"read": num_rows, "accepted": num_rows, "rejected": 0, "rejected_by_reason": {}, "heldout": {}}
    write_manifest(target, made.model_copy(update={"counts": made.counts | counts, "details": made.details | parts}))


def gold_rows(labels: LabelParts) -> tuple[int, int]:
    """Rows with a gold label, and all rows."""
    with_gold = sum(bool(row["gold"]) for row in labels.read_rows("data", ["gold"]))
    return with_gold, labels.num_rows("data")


def _moved_rationales(labels: LabelParts, treatment: Treatment) -> _Moved:
    """By id, the id and the rationale of the next training row that has one."""
    found = [
        (fraction_bucket(row["id"], treatment.seed), row["id"], row["rationale"])
        for row in labels.read_rows("data", ["id", "rationale"])
        if row["rationale"] and not is_validation(row["id"], treatment.validation_share)
    ]
    found.sort()
    following = found[1:] + found[:1]
    return {row_id: (other, rationale) for (_, row_id, _), (_, other, rationale) in zip(found, following, strict=True)}


def _changed_rows(
    labels: LabelParts, name: str, treatment: Treatment, moved: _Moved
) -> tuple[list[dict[str, Any]], pa.Schema]:
    source = labels.open(name)
    rows = [row for batch in source.iter_batches(_ROWS) for row in batch.to_pylist() if _changed(row, treatment, moved)]
    return rows, source.schema_arrow


def _write_part(target: Store, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> PartFile:
    import pyarrow as pa

    data = parquet_bytes(pa.Table.from_pylist(rows, schema=schema))
    target.write(name, data)
    return PartFile(rows=len(rows), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _changed(row: dict[str, Any], treatment: Treatment, moved: _Moved) -> bool:
    """Change a row. False: it is left out."""
    if treatment.kind == "shuffled-rationales":
        row["rationale"] = moved[row["id"]][1] if row["id"] in moved else row["rationale"]
        return True
    held_out = is_validation(row["id"], treatment.validation_share)
    has_gold = bool(row["gold"]) and (
        held_out or in_fraction(row["id"], treatment.gold_fraction or 0.0, treatment.seed)
    )
    if not has_gold:
        row["gold"] = None
    return has_gold or treatment.kind == "gold-else-teacher"
