"""What earlier runs have committed: read back when a labels folder is opened. Removes what no commit names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.label.output.commits import BASE, COMMITS, Commit, ScanRecord, part_number, read_scan
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import Keys, id_keys, key_set
from pipelines.label.output.parts import FOLDERS, TOKEN_LOGPROBS_FOLDER, read_part
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

_SCAN_REASONS = ("bad_input", "duplicate", "near_duplicate")


@dataclass
class LabelState:
    """The committed labels of a folder."""

    counts: Counts = field(default_factory=Counts)
    parts: dict[str, int] = field(default_factory=dict)
    """The parts that count, with their rows."""
    next_number: int = 0
    """Of the next commit."""
    scan: ScanRecord | None = None
    """The committed scan, if there is one."""
    scan_counted: bool = False
    """True if the counts include the scan's rejects although `scan` is None: labels that were finished once."""
    done: dict[str, Keys] = field(default_factory=dict)
    """By split the ids of rows that the teacher answered."""
    to_retry: dict[tuple[str, str], str] = field(default_factory=dict)
    """(split, id) of every row with `engine_error` -> the part that holds it."""

    def add(self, commit: Commit) -> None:
        """Apply a commit."""
        self.parts |= commit.parts
        for name in commit.removed:
            self.parts.pop(name, None)
        self.counts.add(commit.counts)


def recover(store: Store, reopened: Manifest | None, check_lock: Callable[[], None]) -> LabelState:
    """Read the committed labels, and remove what a killed run has left.

    Args:
        reopened: the manifest of finished labels whose `engine_error` rows are retried.
        check_lock: raises if the folder's lock is lost.
    """
    if reopened:
        for name in store.files(COMMITS):
            store.delete(name)
        state, commits = LabelState(scan_counted=True), [Commit.of_manifest(reopened)]
        last = -1
    else:
        names = store.files(COMMITS, ".json")
        state, commits = LabelState(scan_counted=BASE in names), [Commit.from_json(store.read(name)) for name in names]
        last = max((part_number(name) for name in names if name != BASE), default=-1)
    for commit in commits:
        state.add(commit)
        if commit.scan:
            state.scan = read_scan(store, commit.scan)
    # BASE sorts last, and other records remove parts that it adds.
    for name in {name for commit in commits for name in commit.removed}:
        state.parts.pop(name, None)
    _remove_leftovers(store, state, check_lock)
    state.next_number = 1 + max([last, *map(part_number, state.parts)])
    for split in ("train", "heldout"):
        _index(store, state, split)
    return state


def _remove_leftovers(store: Store, state: LabelState, check_lock: Callable[[], None]) -> None:
    """Remove parts that no record names, and files that were being written when a run was killed."""
    folders = [*(folder for folder, _ in FOLDERS.values()), TOKEN_LOGPROBS_FOLDER]
    leftovers = [name for folder in folders for name in store.files(folder) if name not in state.parts]
    leftovers += store.unfinished()
    # After the records are read: a driver that slept since would remove what its successor has committed.
    check_lock()
    for name in set(leftovers):
        store.delete(name)


def _index(store: Store, state: LabelState, split: str) -> None:
    """Find the ids that the teacher answered, and the rows to retry."""
    folders = tuple(f"{FOLDERS[split, accepted][0]}/" for accepted in (True, False))
    names = [name for name in sorted(state.parts) if name.startswith(folders)]
    total = sum(state.parts[name] for name in names)
    state.done[split] = key_set((_answered(store, state, name, split) for name in names), total)


def _answered(store: Store, state: LabelState, name: str, split: str) -> Keys:
    """The ids of a part whose rows the teacher answered.

    Rejects of the scan are left out: the dataset skips them by position, and a `duplicate` or an unreadable row may have the id of a
    row that still needs a label.
    """
    if "rejects/" not in name:
        return id_keys(read_part(store, name, ["id"])["id"].to_pylist())
    rows = read_part(store, name, ["id", "reason"])
    failed = rows.filter(pc.equal(rows["reason"], "engine_error"))
    state.to_retry |= {(split, row): name for row in failed["id"].to_pylist()}
    answered = rows.filter(pc.invert(pc.is_in(rows["reason"], pa.array([*_SCAN_REASONS, "engine_error"]))))
    return id_keys(answered["id"].to_pylist())
