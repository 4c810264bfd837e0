"""`raystill label --check`: read every committed file of labels, finished or not, and compare size, rows and hash. Records too."""

from __future__ import annotations

from pipelines.data.label_parts import Damage, LabelParts, label_details
from pipelines.label.output.commits import damaged_records, read_commits
from pipelines.runtime.progress import Progress
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import Store

ASIDE = "damaged"


def set_damaged_aside(store: Store) -> tuple[int, list[Damage]]:
    """Move damaged files into `damaged/`, so that the next run labels their rows again.

    Returns:
        (files that were read, the damaged ones)
    """
    damaged = [Damage(name, "not the record that was written") for name in damaged_records(store)]
    parts, lost = _committed(store)
    damaged += [Damage(name, "missing, or not the record that was written") for name in lost]
    for record in damaged:
        _set_aside(store, record.name)
    with Progress("check", total=len(parts.rows), unit="files") as progress:
        for name in parts.rows:
            found = parts.damage(name)
            if found is not None:
                damaged.append(found)
                _set_aside(store, name)
            progress.advance(1)
    return len(parts.rows), damaged


def _committed(store: Store) -> tuple[LabelParts, list[str]]:
    """The parts that count, and the damaged records of single commits."""
    manifest = read_manifest(store, "labels")
    if manifest is not None:
        details = label_details(manifest, store)
        return LabelParts(store, details.parts, details.files), []
    committed = read_commits(store)
    commits = committed.commits
    removed = {name for commit in commits for name in commit.removed}
    rows = {name: count for commit in commits for name, count in commit.parts.items() if name not in removed}
    files = {name: file for commit in commits for name, file in commit.files.items()}
    return LabelParts(store, rows, files), committed.damaged


def _set_aside(store: Store, name: str) -> None:
    if store.exists(name):
        store.write(f"{ASIDE}/{name}", store.read(name))
        store.delete(name)
