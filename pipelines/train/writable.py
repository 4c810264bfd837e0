"""Whether a student's tokenizer can write what it is to learn. A label that it cannot write would be trained as `<unk>`."""

from __future__ import annotations

from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.label_parts import LabelParts
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.store import Store
from pipelines.students.decoding import unwritable
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.tokenise import tokenizer_of

_MAX_LABELS = 100_000
"""Distinct labels that are checked. More are texts rather than labels, and would take minutes."""
_RATIONALES = 1000
_SHOWN = 5


def check_labels_writable(labels: Store, settings: TokenSettings) -> None:
    """Refuse labels that the tokenizer cannot write. Raises UserError."""
    method = METHODS[settings.method]
    if method.learns_teacher_tokens or not {"label", "text"} & set(settings.terms):
        return
    table = _columns(labels, ["gold", "label", "soft_label"])
    rows = {entry["values"]: entry["counts"] for entry in pc.value_counts(_learned(table, settings)).to_pylist()}
    if settings.compares_labels:
        others = pc.struct_field(pc.list_flatten(table["soft_label"]), "label")
        rows = dict.fromkeys(pc.unique(others).to_pylist(), 0) | rows
    tokenizer = tokenizer_of(settings.model, settings.tokenizer, settings.prompt)
    found = unwritable(tokenizer, list(islice(filter(None, rows), _MAX_LABELS)))
    if found:
        shown = ", ".join(repr(label) for label in islice(found, _SHOWN)) + (", ..." if len(found) > _SHOWN else "")
        count = f"{len(found):,} of {len(rows):,} distinct labels (rows: {sum(rows[label] for label in found):,})"
        rule = f"its tokenizer cannot write {count}: {shown} (lost: {_characters(found)})"
        remedy = "Give a model that can, such as one with a byte-level tokenizer, or change these labels in the corpus."
        raise UserError(f"student.model {settings.model}", rule, remedy)


def unwritable_rationales(labels: Store, settings: TokenSettings) -> list[str]:
    """A warning if some of the first 1,000 rationales have characters that the tokenizer cannot write."""
    method = METHODS[settings.method]
    if method.learns_teacher_tokens or not ({"rationale", "text"} & set(settings.terms) or method.reads_rationale):
        return []
    texts = [text for text in _columns(labels, ["rationale"], _RATIONALES)["rationale"].to_pylist() if text]
    found = unwritable(tokenizer_of(settings.model, settings.tokenizer, settings.prompt), texts)
    if not found:
        return []
    lost = f"{len(found):,} of the first {len(texts):,} rationales have characters that it cannot write"
    return [
        f"tokenizer of {settings.model}: {lost} (lost: {_characters(found)}). They are learned as its token for unknown text"
    ]


def _columns(labels: Store, names: list[str], rows: int | None = None) -> pa.Table:
    import pyarrow.dataset as ds

    with LabelParts.of(labels).naming_damage("data") as files:
        dataset = ds.dataset(files, filesystem=labels.fs, format="parquet")
        return dataset.to_table(columns=names) if rows is None else dataset.head(rows, columns=names)


def _learned(table: pa.Table, settings: TokenSettings) -> pa.ChunkedArray:
    """The label of each row, by settings.label_column."""
    if settings.label_column == "label":
        return table["label"]
    if settings.label_column == "gold":
        return table["gold"]
    has_gold = pc.greater(pc.utf8_length(pc.fill_null(table["gold"], "")), 0)
    return pc.if_else(has_gold, table["gold"], table["label"])


def _characters(found: dict[str, str]) -> str:
    lost = dict.fromkeys("".join(found.values()))
    return " ".join(islice(lost, 2 * _SHOWN)) or "their order or case"
