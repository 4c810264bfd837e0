"""What earlier runs have committed: read back when a labels folder is opened.

A commit counts if its record can be read and each of its parts has the size that the record names. The rows of any other commit are
labelled again. Files that no commit names are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.data.label_manifest import PartFile
from pipelines.data.label_parts import damaged_part
from pipelines.data.reader import DataSplit
from pipelines.errors import UserError
from pipelines.label.output.commits import (
    BASE_NUMBER,
    COMMITS,
    Commit,
    PieceName,
    damaged_records,
    has_record,
    part_number,
    read_commits,
    write_record,
)
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import Keys
from pipelines.label.output.key_files import DONE, FAILED, NO_ROWS, RETRIED, SPLITS, KeyRows, committed_keys, keys_of
from pipelines.label.output.parts import (
    FOLDERS,
    RATIONALES_FOLDER,
    RETRIED_FOLDER,
    TEXTS_FOLDER,
    TOKEN_LOGPROBS_FOLDER,
    delete_all,
)
from pipelines.label.output.retries import Retried, ToRetry, add_engine_errors
from pipelines.label.stored.sources import set_aside
from pipelines.runtime.terminal import say
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import UNFINISHED, Store


@dataclass
class LabelState:
    """The committed labels of a folder."""

    commits: list[Commit] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    next_number: int = 0
    """Of the next commit."""
    corpus_rows: dict[DataSplit, int] | None = None
    """Rows of the corpus. None until a scan has read all of it."""
    scan_counted: bool = False
    """True if the counts include all rejects of the scan: versions with another scan have committed them."""
    to_retry: dict[DataSplit, ToRetry] = field(default_factory=dict)
    """By split the ids of rows with `engine_error`."""
    retried_by_shards: int = 0
    """How many of them shards have answered since, each from its own copy of `to_retry`."""

    @property
    def parts(self) -> dict[str, int]:
        """The parts that count, with their rows."""
        return {name: rows for commit in self.commits for name, rows in commit.parts.items()}

    @property
    def files(self) -> dict[str, PartFile]:
        """Size and hash of each part of `parts`, if its record has them."""
        return {name: file for commit in self.commits for name, file in commit.files.items()}

    @property
    def scanned(self) -> frozenset[PieceName] | None:
        """Pieces of the corpus whose rejects are committed. None: all."""
        return None if self.scan_counted else frozenset(piece for commit in self.commits for piece in commit.scanned)

    @property
    def retry_rows(self) -> int:
        """Rows to retry."""
        return sum(map(len, self.to_retry.values())) - self.retried_by_shards


def recover(
    store: Store, reopened: Manifest | None, check_lock: Callable[[], None], *, resumes: bool = True
) -> LabelState:
    """Read the committed labels, and remove what a killed run has left. Reports damage on stderr.

    Args:
        resumes: another driver has begun these labels.
        reopened: the manifest of finished labels that are resumed.
        check_lock: raises if the folder's lock is lost.

    Raises:
        UserError: a damaged file leaves nothing to recover from.
    """
    if reopened and not has_record(store):
        check_lock()
        delete_all(store, {*store.files(COMMITS), *damaged_records(store)})
        commits, last, damaged = [Commit.of_manifest(reopened)], BASE_NUMBER, []
    else:
        committed = read_commits(store)
        commits, last, damaged = committed.commits, committed.last, committed.damaged
    sizes = store.sizes()
    state = LabelState(_undamaged(store, sizes, commits, damaged))
    state.next_number = 1 + max([last, *map(part_number, state.parts)])
    for commit in state.commits:
        state.counts.add(commit.counts)
        if commit.scan:
            state.corpus_rows = commit.scan.rows
            state.scan_counted |= bool(commit.scan.splits)
        state.scan_counted |= commit.number == BASE_NUMBER
    _remove_leftovers(store, sizes, state, check_lock)
    if resumes:
        # Dropped commits stay dropped, and one number is left to a driver that lost its lease and has not noticed yet.
        write_record(store, state.commits, state.next_number)
        state.next_number += 1
    _index(store, state)
    return state


def _undamaged(store: Store, sizes: Mapping[str, int], commits: list[Commit], damaged: list[str]) -> list[Commit]:
    """The commits without lost or cut parts. Extends and reports `damaged`. Lost texts cost no label: their commits stay, without them."""
    removed = {name for commit in commits for name in commit.removed}
    removed |= _lost_texts(store, commits, sizes)
    kept, rows = [], 0
    for commit in commits:
        parts = {name: count for name, count in commit.parts.items() if name not in removed}
        kept_files = {name: file for name, file in commit.files.items() if name in parts}
        found = damaged_part(parts, commit.files, sizes)
        if found is None:
            kept.append(commit.model_copy(update={"parts": parts, "files": kept_files, "removed": []}))
            continue
        if commit.number == BASE_NUMBER or commit.removed:
            remedy = "Restore it, or label everything again: `raystill label RUN --replace`."
            raise UserError(store.shown(found.name), found.problem, remedy)
        damaged.append(found.name)
        rows += commit.counts.done
    if damaged:
        files = ", ".join(damaged[:3]) + (f" and {len(damaged) - 3} more" if len(damaged) > 3 else "")
        say(f"label: missing or damaged in {store.shown()}: {files}. Their rows are labelled again"
              f"{f' ({rows:,})' if rows else ''}.")  # fmt: skip
    return kept


def _lost_texts(store: Store, commits: list[Commit], sizes: Mapping[str, int]) -> set[str]:
    lost = {
        name
        for commit in commits
        for name, count in commit.parts.items()
        if name.startswith(f"{TEXTS_FOLDER}/") and damaged_part({name: count}, commit.files, sizes)
    }
    if lost:
        files = ", ".join(sorted(lost)[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        rule = f"missing or damaged in {store.shown()}: {files}. Their rows stay labelled, their answers are not stored any more"
        say(f"label: {rule}.")
    return lost


def _remove_leftovers(
    store: Store, sizes: Mapping[str, int], state: LabelState, check_lock: Callable[[], None]
) -> None:
    """Remove parts that no record names, and files that were being written when a run was killed. Their answers are kept."""
    folders = [*(folder for folder, _ in FOLDERS.values()), RATIONALES_FOLDER, TOKEN_LOGPROBS_FOLDER, RETRIED_FOLDER]
    named = state.parts
    unnamed = [name for name in sizes if name not in named]
    leftovers = [
        name for name in unnamed if name.endswith(UNFINISHED) or name.startswith(tuple(f"{f}/" for f in folders))
    ]
    # After the records are read: a driver that slept since would remove what its successor has committed.
    check_lock()
    delete_all(store, leftovers)
    texts = [name for name in unnamed if name.startswith(f"{TEXTS_FOLDER}/") and name not in leftovers]
    set_aside(store, texts, check_lock)


def finished_keys(store: Store, state: LabelState) -> Iterator[tuple[DataSplit, Keys]]:
    """The ids of rows that the teacher answered, some thousand at a time, by data split. Rows to retry are not among them."""
    for split, _, rows in committed_keys(store, state.commits, [DONE]):
        yield split, keys_of(rows)


def _index(store: Store, state: LabelState) -> None:
    """Find the rows to retry."""
    found: dict[tuple[DataSplit, int], list[KeyRows]] = {}
    for split, kind, rows in committed_keys(store, state.commits, [FAILED, RETRIED]):
        found.setdefault((split, kind), []).append(rows)
    for split in SPLITS:
        retried = Retried.of(found.get((split, RETRIED), []))
        failed = np.concatenate([NO_ROWS, *found.get((split, FAILED), [])])
        is_replaced = retried.replaces(keys_of(failed), failed["commit"])
        state.to_retry[split] = ToRetry(keys_of(failed[~is_replaced]))
        # Retries of rows whose own commit was damaged and dropped: nothing is there to subtract from.
        add_engine_errors(state.counts, split, retried.total - int(is_replaced.sum()))
