"""The files of finished labels, exactly those that the manifest names.

A lost or cut file is noticed when a stage begins, by one listing. An edited file is noticed when it is read, by its hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from pipelines.data.heldout import is_validation
from pipelines.data.label_manifest import LabelDetails, PartFile
from pipelines.errors import UserError
from pipelines.storage.manifest import Manifest, require_manifest
from pipelines.storage.store import MANIFEST, Store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_READ_ROWS = 8192
CHANGED = "its content has changed since it was written"
_REMEDY = "Run `raystill label RUN`: it labels the rows of this file again."


class Damage(NamedTuple):
    """A file that is not as its record says."""

    name: str
    problem: str


@dataclass(frozen=True)
class LabelParts:
    """The parts of finished labels. Workers may receive it."""

    store: Store
    rows: Mapping[str, int]
    """By name."""
    files: Mapping[str, PartFile]

    @classmethod
    def of(cls, store: Store) -> LabelParts:
        """The parts that the manifest names.

        Raises:
            UserError: the labels are not finished, a part is missing or has another size, or the manifest counts other rows.
        """
        manifest = require_manifest(store, "labels", "label RUN")
        details = label_details(manifest, store)
        damage = damaged_part(details.parts, details.files, store.sizes())
        if damage is not None:
            raise UserError(store.shown(damage.name), damage.problem, _REMEDY)
        damage = wrong_count(manifest.counts, details.parts)
        if damage is not None:
            remedy = "Run `raystill label RUN`: it writes the manifest again from the record of all commits."
            raise UserError(store.shown(damage.name), damage.problem, remedy)
        return cls(store, details.parts, details.files)

    def names(self, folder: str) -> list[str]:
        """The parts of a folder, such as `data` or `heldout/data`, sorted."""
        return sorted(name for name in self.rows if name.rpartition("/")[0] == folder)

    def num_rows(self, folder: str) -> int:
        """Rows of all parts of a folder."""
        return sum(self.rows[name] for name in self.names(folder))

    def open(self, name: str) -> pq.ParquetFile:
        """Read a part, and check it. Holds the compressed file in memory.

        Raises:
            UserError: the content is not what the manifest describes.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            raise UserError(self.store.shown(name), "missing", _REMEDY) from error
        remedy = _REMEDY.replace("label RUN", "label RUN --check")
        if name in self.files and hashlib.sha256(data).hexdigest() != self.files[name].sha256:
            raise UserError(self.store.shown(name), CHANGED, remedy)
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
        except (OSError, pa.ArrowException) as error:
            raise UserError(self.store.shown(name), "not Parquet", remedy) from error
        if file.metadata.num_rows != self.rows[name]:
            rule = f"it has {file.metadata.num_rows:,} rows, the manifest says {self.rows[name]:,}"
            raise UserError(self.store.shown(name), rule, remedy)
        return file

    def rationales(self, name: str) -> dict[str, list[str]]:
        """By id the rationales of those rows of a part of `data` that have several, the row's own first.

        Raises:
            UserError: as `open`, or another version wrote them.
        """
        from pipelines.data.schema import RATIONALE

        beside = f"rationales/{name.rpartition('/')[2]}"
        found: dict[str, list[str]] = {}
        if beside not in self.rows:
            return found
        file = self.open(beside)
        version, known = ((schema.metadata or {}).get(b"version", b"?") for schema in (file.schema_arrow, RATIONALE))
        if version != known:
            rule = f"it has version {version.decode(errors='replace')} of its schema, must be {known.decode()}"
            raise UserError(self.store.shown(beside), rule, "Train with the Raystill that labelled, or set per_row: 1.")
        for row in file.read(RATIONALE.names).sort_by("index").to_pylist():
            found.setdefault(row["id"], []).append(row["rationale"])
        return found

    def read_rows(self, folder: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Columns of all rows of a folder. Raises as `open`."""
        for name in self.names(folder):
            for batch in self.open(name).iter_batches(_READ_ROWS, columns=columns):
                yield from batch.to_pylist()

    def training_rows(self, share: float, columns: list[str]) -> Iterator[dict[str, Any]]:
        """`id` and columns of the rows of `data` outside the validation split. `share`: of the split, by the hash of the id."""
        return (row for row in self.read_rows("data", ["id", *columns]) if not is_validation(row["id"], share))

    @contextmanager
    def naming_damage(self, folder: str) -> Iterator[list[str]]:
        """Paths of a folder's parts, for readers that check no hash. Their error becomes the UserError of the part that has changed."""
        import pyarrow as pa

        try:
            yield [self.store.path(name) for name in self.names(folder)]
        except (OSError, ValueError, KeyError, pa.ArrowException):
            for name in self.names(folder):
                self.open(name)
            raise

    def damage(self, name: str) -> Damage | None:
        """Read a part. None if it is as it was written."""
        try:
            self.open(name)
        except UserError as error:
            return Damage(name, error.rule)
        return None


def damaged_part(parts: Mapping[str, int], files: Mapping[str, PartFile], sizes: Mapping[str, int]) -> Damage | None:
    """The first part that is missing or has another size.

    Args:
        parts: parts with their rows.
        files: their sizes; labels of 0.1 have none.
        sizes: `Store.sizes` of the labels folder.
    """
    for name in parts:
        if name not in sizes:
            return Damage(name, f"missing; it had {parts[name]:,} rows")
        if name in files and sizes[name] != files[name].bytes:
            return Damage(name, f"it has {sizes[name]:,} bytes instead of {files[name].bytes:,}")
    return None


def label_details(manifest: Manifest, store: Store) -> LabelDetails:
    """The manifest's details that name files. Raises UserError if they are damaged."""
    # The other keys may be of a version with other rules.
    found = {key: manifest.details[key] for key in ("parts", "files", "tally") if key in manifest.details}
    try:
        return LabelDetails.model_validate(found)
    except ValidationError as error:
        rule = "its details are not those of labels"
        remedy = (
            "Restore it, or remove this file alone: `raystill label RUN` writes it again from the record beside it."
        )
        raise UserError(store.shown(MANIFEST), rule, remedy) from error


def wrong_count(counts: Mapping[str, Any], parts: Mapping[str, int]) -> Damage | None:
    """What a manifest counts and its parts do not have.

    Args:
        counts: `Manifest.counts`. A count that it lacks is not compared.
        parts: with their rows.
    """
    rows: Counter[str] = Counter()
    for name, count in parts.items():
        rows[name.rpartition("/")[0]] += count
    heldout = counts.get("heldout", {})
    counted = {
        "data": counts.get("accepted"),
        "rejects": counts.get("rejected"),
        "heldout/data": heldout.get("answered"),
        "heldout/rejects": heldout.get("unanswered"),
    }
    for folder, count in counted.items():
        if count not in (None, rows[folder]):
            return Damage(MANIFEST, f"it counts {count} rows in {folder}, its parts have {rows[folder]}")
    read, total = counts.get("read"), rows["data"] + rows["rejects"]
    if read not in (None, total):
        return Damage(MANIFEST, f"it counts {read} rows read, its parts have {total}")
    return None
