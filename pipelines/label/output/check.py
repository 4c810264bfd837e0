"""`raystill label --check`: read every committed file of labels, finished or not, and compare size, rows and hash."""

from __future__ import annotations

from pipelines.data.label_manifest import LabelDetails
from pipelines.data.label_parts import Damage, LabelParts
from pipelines.label.output.commits import read_commits
from pipelines.runtime.progress import Progress
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import Store

ASIDE = "damaged"


def set_damaged_aside(store: Store) -> tuple[int, list[Damage]]:
    """Move damaged files into `damaged/`, so that the next run labels their rows again.

    Returns:
        (files that were read, the damaged ones)
    """
    parts = _committed(store)
    damaged = []
    with Progress("check", total=len(parts.rows), unit="files") as progress:
        for name in parts.rows:
            found = parts.damage(name)
            if found is not None:
                damaged.append(found)
                _set_aside(store, name)
            progress.advance(1)
    return len(parts.rows), damaged


def _committed(store: Store) -> LabelParts:
    manifest = read_manifest(store, "labels")
    if manifest is not None:
        details = LabelDetails.model_validate(manifest.details)
        return LabelParts(store, details.parts, details.files)
    commits = read_commits(store).commits
    removed = {name for commit in commits for name in commit.removed}
    rows = {name: count for commit in commits for name, count in commit.parts.items() if name not in removed}
    return LabelParts(store, rows, {name: file for commit in commits for name, file in commit.files.items()})


def _set_aside(store: Store, name: str) -> None:
    if store.exists(name):
        store.write(f"{ASIDE}/{name}", store.read(name))
        store.delete(name)
