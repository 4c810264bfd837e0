"""What stands beside the parts of labels: the attempt, the commit records, and the scan.

    attempt.json             the identity of the labels that are being made; written first
    commits/k.json           the k-th commit
    record-k.json            all commits up to the k-th as one file, which replaces theirs. It stays beside the manifest, so that
                             damage costs the rows of one commit
    commits/record-k.json    a copy of it until the manifest exists
    commits/base.json        finished labels of 0.1 whose `engine_error` rows are retried

Each record begins with the SHA-256 of the rest, so that an edited one is noticed; those of 0.1 do not.

A part counts if a commit names it. A driver that resumes begins with a record that covers one number more than there are commits. If the
driver before it sleeps through the loss of its lease, and then writes one more commit, the record covers that commit's number.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from pydantic import BaseModel

from pipelines.data.label_manifest import CountsJson, LabelDetails, PartFile
from pipelines.data.reader import DataSplit, FileRange
from pipelines.errors import UserError
from pipelines.label.output.counts import Counts
from pipelines.label.output.parts import FOLDERS, delete_all, in_parallel
from pipelines.reuse import Attempt
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import MANIFEST, Store

ATTEMPT = "attempt.json"
COMMITS = "commits"
BASE = f"{COMMITS}/base.json"
_MERGED = re.compile(r"(commits/)?record-(\d+)\.json")
_SINGLE = re.compile(r"commits/(\d+)\.json")
_SEAL = re.compile(rb'\{"sha256":"([0-9a-f]{64})",')
BASE_NUMBER = -1
"""Of a commit that sums up finished labels of 0.1."""
_REPLACE = "or label everything again: `raystill label RUN --replace`."


class PieceName(NamedTuple):
    """Some rows of a file range (label/scan.py)."""

    range: int
    """Index of the range in the corpus."""
    number: int
    """Of the piece in its range."""


@dataclass(frozen=True)
class ScanSummary:
    """In the record that ends the scan of the corpus."""

    rows: dict[DataSplit, int]
    """Rows read."""
    splits: list[FileRange] = field(default_factory=list)
    """Written by versions that scanned the whole corpus before the first label: then this commit has all rejects of the scan."""


class Commit(BaseModel):
    """One commit record. Keys that 0.1 did not write have defaults."""

    number: int = BASE_NUMBER
    previous: int | None = None
    """The commit before it; None for the first one. A record that is missing is noticed by it."""
    fingerprint: str = ""
    """Of the attempt."""
    parts: dict[str, int] = {}
    """Parts that it adds, with their rows."""
    files: dict[str, PartFile] = {}
    """Size and hash of these parts."""
    tally: CountsJson = {}
    """`Counts` of its rows; a retried row counts as -1 `engine_error`."""
    removed: list[str] = []
    """Parts that it removes. Written by 0.1 only."""
    scanned: list[PieceName] = []
    """Pieces of the corpus whose rejects that need no teacher are all in this commit."""
    scan: ScanSummary | None = None
    """In the record that ends the scan."""

    @property
    def counts(self) -> Counts:
        """`tally` as counts."""
        return Counts.from_json(self.tally)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Self:
        """All of finished labels as one record: for labels without RECORD."""
        details = LabelDetails.model_validate(manifest.details)
        return cls(fingerprint=manifest.fingerprint, parts=details.parts, files=details.files, tally=details.tally)


class Record(BaseModel):
    """The commits up to `last`, without those that were damaged and dropped."""

    version: int = 1
    last: int
    commits: list[Commit]


@dataclass
class Committed:
    """The commit records of a folder."""

    commits: list[Commit]
    """Sorted by number."""
    last: int
    """The highest number in use, -1 if there is none."""
    damaged: list[str]
    """Records that are missing or cannot be read."""


def read_commits(store: Store) -> Committed:
    """Read all records.

    Raises:
        UserError: the record of all commits is damaged, and its copy.
    """
    names = _record_files(store)
    record = _read_record(store, names) or Record(last=BASE_NUMBER, commits=[])
    commits = {commit.number: commit for commit in record.commits}
    last, damaged = record.last, []
    # One that the record covers is of a driver that lost its lease, or of one that ended before it removed it.
    single = [name for name in names if name == BASE or (_SINGLE.fullmatch(name) and part_number(name) > record.last)]
    for name, data in zip(single, in_parallel(store.read, single), strict=True):
        number = BASE_NUMBER if name == BASE else part_number(name)
        last = max(last, number)
        try:
            commit = Commit.model_validate_json(unsealed(data))
        except ValueError:
            damaged.append(name)
        else:
            commits[number] = commit.model_copy(update={"number": number})
    ordered = [commits[number] for number in sorted(commits)]
    known = set(commits) | {part_number(name) for name in damaged if name != BASE}
    if BASE in damaged:
        raise UserError(store.shown(BASE), "not a commit record", f"Restore it, {_REPLACE}")
    for commit in ordered:
        if commit.previous is not None and commit.previous > record.last and commit.previous not in known:
            damaged.append(record_name(commit.previous))
    return Committed(ordered, last, damaged)


def committed_counts(store: Store) -> tuple[Counts, int | None]:
    """(counts of the committed rows, rows of the corpus if the scan is committed). Reads the records alone."""
    counts, total = Counts(), None
    for commit in read_commits(store).commits:
        counts.add(commit.counts)
        if commit.scan:
            total = sum(commit.scan.rows.values())
    return counts, total


def write_record(store: Store, commits: list[Commit], last: int) -> None:
    """Write all commits as one record, with a copy. Then remove the records that it covers."""
    data = sealed(Record(last=last, commits=commits))
    kept = {f"record-{last:06d}.json", f"{COMMITS}/record-{last:06d}.json"}
    for name in sorted(kept):
        store.write(name, data)
    delete_all(store, [name for name in _record_files(store) if name not in kept and _number(name) <= last])


def has_record(store: Store) -> bool:
    """True if a record of all commits can be read."""
    return len(damaged_records(store)) < sum(1 for name in _record_files(store) if _MERGED.fullmatch(name))


def _record_files(store: Store) -> list[str]:
    """Names of all records, of one commit or of many."""
    names = [*store.files(recursive=False), *store.files(COMMITS)]
    return [name for name in names if name == BASE or _MERGED.fullmatch(name) or _SINGLE.fullmatch(name)]


def read_attempt(store: Store) -> Attempt | None:
    """What the unfinished labels in a folder were begun for. None if there are none.

    Raises:
        UserError: the folder holds rows, and no file has the settings that they were made with.
    """
    try:
        if store.exists(ATTEMPT):
            attempt = Attempt(**json.loads(store.read(ATTEMPT)))
            if fingerprint(attempt.identity) == attempt.fingerprint:
                return attempt
            rule = "edited"
        else:
            rule = "missing"
    except (ValueError, TypeError):
        rule = "not readable"
    if store.exists(MANIFEST):
        return None
    names = [
        name for name in store.files() if name.endswith(".parquet") or name.startswith((COMMITS, "record-", ATTEMPT))
    ]
    if not names:
        return None
    made_for = {commit.fingerprint for commit in read_commits(store).commits} - {""}
    if len(made_for) == 1:
        return Attempt(made_for.pop(), {})
    if any(name.startswith(tuple(f"{folder}/" for folder, _ in FOLDERS.values())) for name in names):
        rule = f"{rule}; no other file has the settings that the {len(names):,} files beside it were made with"
        raise UserError(store.shown(ATTEMPT), rule, f"Restore it, {_REPLACE}")
    return None


def sealed(record: BaseModel) -> bytes:
    """A record as JSON. `unsealed` notices any edit."""
    data = record.model_dump_json().encode()
    return b'{"sha256":"%s",' % hashlib.sha256(data).hexdigest().encode() + data[1:]


def unsealed(data: bytes) -> bytes:
    """The JSON of a record, as it was written. Raises ValueError if it was edited."""
    seal = _SEAL.match(data)
    if seal is None:
        return data
    found = b"{" + data[seal.end() :]
    if hashlib.sha256(found).hexdigest().encode() != seal[1]:
        raise ValueError("edited")
    return found


def damaged_records(store: Store) -> list[str]:
    """Records of all commits that cannot be read, also if a copy can."""
    merged = [name for name in _record_files(store) if _MERGED.fullmatch(name)]
    return [name for name in merged if not _is_record(store.read(name))]


def record_name(number: int) -> str:
    """The record of the commit `number`."""
    return f"{COMMITS}/{number:06d}.json"


def part_number(name: str) -> int:
    """k of `commits/k.json` and of `folder/part-k.parquet`."""
    return int(name.rpartition("/")[2].partition(".")[0].removeprefix("part-"))


def _read_record(store: Store, names: list[str]) -> Record | None:
    merged = {name: int(found[2]) for name in names if (found := _MERGED.fullmatch(name))}
    if not merged:
        return None
    latest = [name for name, number in merged.items() if number == max(merged.values())]
    for name in latest:
        try:
            return Record.model_validate_json(unsealed(store.read(name)))
        except ValueError as error:
            cause = error
    raise UserError(store.shown(latest[-1]), "not the record of labels", f"Restore it, {_REPLACE}") from cause


def _number(name: str) -> int:
    """Of the last commit in a record."""
    merged = _MERGED.fullmatch(name)
    return BASE_NUMBER if name == BASE else int(merged[2]) if merged else part_number(name)


def _is_record(data: bytes) -> bool:
    try:
        Record.model_validate_json(unsealed(data))
    except ValueError:
        return False
    return True
