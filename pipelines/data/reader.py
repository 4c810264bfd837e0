"""Reading a corpus: files -> file ranges -> rows -> examples. A bad row is a row with a problem; it never ends the run.

In: files that `corpus_files` has named. Out: `Row`s in corpus order, each with an example or with a problem:

    Row(id="svamp-train-0", example=Example(...), problem="", raw='{"id": "svamp-train-0", ...}')

One worker reads one file range. Ranges in order, each read in order, give the corpus in its order, however it is cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipelines.data.files import corpus_files, file_format, file_size, file_state
from pipelines.data.formats import cuts, records
from pipelines.data.formats.text_encoding import conversion
from pipelines.data.nested import value_at
from pipelines.errors import BadRowError, UserError
from pipelines.storage.filesystems import shown
from pipelines.tasks import Example, Task
from pipelines.tasks.base import is_unicode
from pipelines.tasks.failures import checked_example, failure_detail

__all__ = [
    "MAX_ID_CHARACTERS", "MAX_RAW_CHARACTERS", "DataSplit", "FileRange", "Row", "check_columns", "corpus_files", "corpus_splits",
    "read_split", "with_states",
]  # fmt: skip

DataSplit = Literal["train", "heldout"]
MAX_ID_CHARACTERS = 512
MAX_RAW_CHARACTERS = 10_000
_MAX_RANGE_BYTES = 8 << 20
_MIN_RANGE_BYTES = 64 << 10
_PROBED_ROWS = 100


@dataclass(frozen=True)
class FileRange:
    """One part of a file of a data split."""

    name: DataSplit
    uri: str
    kind: str
    """Key in formats.FORMATS."""
    start: int = 0
    """In the units of `formats.cuts`, as is `end`."""
    end: int | None = None
    rows: int | None = None
    """Read only the first rows; None: all."""
    state: str | None = None
    """`files.file_state` when this run began. Reading another one is refused; None: not checked."""


class Row(NamedTuple):
    """One row as its task reads it. Either `example` or `problem` is set."""

    id: str
    example: Example | None
    problem: str
    raw: str
    """Text of the row, cut at MAX_RAW_CHARACTERS."""


def corpus_splits(
    files: Iterable[str], name: DataSplit, *, parallelism: int = 1, limit: int | None = None
) -> list[FileRange]:
    """Cut files into ranges, in corpus order: at least `parallelism`, none above 8 MiB, as far as the formats can be cut.

    Args:
        limit: read only the first rows of the corpus. They are counted here, so each file is one range.
    """
    files = list(files)
    if limit is not None:
        return list(_limited(files, name, limit))
    sizes = [file_size(uri) for uri in files]
    step = min(max(sum(sizes) // max(parallelism, 1), _MIN_RANGE_BYTES), _MAX_RANGE_BYTES)
    ranges = []
    for uri, size in zip(files, sizes, strict=True):
        kind = file_format(uri)
        ranges += [FileRange(name, uri, kind, start, end) for start, end in cuts(uri, kind, size, step)]
    return ranges


def with_states(splits: Iterable[FileRange]) -> list[FileRange]:
    """The ranges with the present state of their files."""
    splits = list(splits)
    states = {uri: file_state(uri) for uri in {split.uri for split in splits}}
    return [dataclasses.replace(split, state=states[split.uri]) for split in splits]


def read_split(split: FileRange, task: Task, fields: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file range, in order.

    Args:
        fields: `corpus.fields`: field of the task -> column of the corpus.

    Raises:
        UserError: the file as a whole cannot be read, or it has changed since the run began.
    """
    id_column, gold_column = fields.get("id", "id"), fields.get("gold", task.gold_field)
    renamed = list(fields.items())
    _check_unchanged(split)
    found = itertools.islice(records(split.uri, split.kind, split.start, split.end), split.rows)
    for columns, raw, problem in found:
        row_id, example = "", None
        if columns is not None:
            try:
                given, gold = value_at(columns, id_column), value_at(columns, gold_column)
                if renamed:
                    columns |= {name: value_at(columns, column) for name, column in renamed}
                row_id = _content_id(raw) if given is None else _checked_id(given)
                columns["id"], columns["gold"] = row_id, gold
                example = checked_example(task.read(columns))
            except BadRowError as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - the task may be the user's code: its errors concern this row only
                problem = failure_detail(error)
        short = raw if len(raw) <= MAX_RAW_CHARACTERS else raw[:MAX_RAW_CHARACTERS] + "..."
        yield Row(row_id or _content_id(raw), example, problem, short)
    _check_unchanged(split)


def check_columns(files: list[str], task: Task, fields: Mapping[str, str], key: str) -> None:
    """Check the first 100 rows before anything starts.

    Raises:
        UserError: the corpus is empty, none of these rows can be read, or a column that the task reads is in none of them.
    """
    columns, named, count, problem, nested_problems = _probe(files, fields)
    where = f"{key} {shown(files[0])}"
    if not count:
        raise UserError(where, "the corpus is empty", "Give a corpus with at least one row.")
    if not columns:
        rule = f"none of its first {count} rows can be read ({problem or 'all values are null'})"
        remedy = "Give JSON Lines with one object per line, an array, CSV with a header, Parquet or Arrow."
        raise UserError(where, rule, _conversion(files[0]) or remedy)
    known = ["id", "gold", *task.required, *task.optional]
    unknown = [name for name in fields if name not in known]
    if unknown:
        rule = f"task {task.name} reads no such field"
        hint = "The label of a person is the field `gold`. " if unknown[0] == "label" else ""
        raise UserError(f"corpus.fields.{unknown[0]}", rule, f"{hint}It reads: {', '.join(known)}.")
    missing = [fields.get(name, name) for name in task.required if fields.get(name, name) not in columns]
    if "gold" in fields and fields["gold"] not in columns | named:  # rows with a gold label may come later
        missing.append(fields["gold"])
    if missing:
        there = ", ".join(sorted(columns))
        rule = f"task {task.name} reads column `{missing[0]}`, the first {count} rows have only: {there}"
        if missing[0] in nested_problems:
            rule = f"none of its first {count} rows has one value for `{missing[0]}` ({nested_problems[missing[0]]})"
        raise UserError(where, rule, "Name its column in corpus.fields, nested ones as in data.question.")


def _conversion(uri: str) -> str:
    """How to convert a text file that is not UTF-8. Empty for other files."""
    kind = file_format(uri)
    found = conversion(uri, reads_utf_16=kind == "csv") if kind in ("csv", "jsonl") else None
    return f"{found}." if found else ""


def _check_unchanged(split: FileRange) -> None:
    """Rows are skipped by their position, so an edited file would lose rows and label others twice."""
    if split.state is not None and file_state(split.uri) != split.state:
        rule = "it has changed since this run began. Finished rows are kept"
        remedy = "Restore it and run the same command, or label the new corpus into another output."
        raise UserError(f"corpus {shown(split.uri)}", rule, remedy)


class _Probe(NamedTuple):
    """What the first rows of a corpus have."""

    columns: set[str]
    """Columns and nested fields with a value."""
    named: set[str]
    """Columns, also those without a value."""
    rows: int
    problem: str
    """Of the first row that cannot be read."""
    nested_problems: dict[str, str]
    """Nested field -> the first problem with it."""


def _probe(files: list[str], fields: Mapping[str, str]) -> _Probe:
    nested = [column for column in fields.values() if "." in column]
    columns: set[str] = set()
    named: set[str] = set()
    nested_problems: dict[str, str] = {}
    count, first_problem = 0, ""
    for split in corpus_splits(files, "train", limit=_PROBED_ROWS):
        for row, _, problem in itertools.islice(records(split.uri, split.kind), split.rows):
            count += 1
            first_problem = first_problem or problem
            named.update(map(str, row or {}))
            columns.update(str(name) for name, value in (row or {}).items() if value is not None)
            for path in nested:
                try:
                    columns.update([path] if value_at(row or {}, path) is not None else [])
                except BadRowError as error:
                    nested_problems.setdefault(path, str(error))
    return _Probe(columns, named, count, first_problem, nested_problems)


def _limited(files: list[str], name: DataSplit, limit: int) -> Iterator[FileRange]:
    for uri in files:
        if limit <= 0:
            return
        kind = file_format(uri)
        count = sum(1 for _ in itertools.islice(records(uri, kind), limit))
        yield FileRange(name, uri, kind, rows=count)
        limit -= count


def _content_id(raw: str) -> str:
    """The id of a row without one. Labels of a corpus are found again by it: it must never change."""
    text = raw.strip().encode("utf-8", errors="replace")
    return "row-" + hashlib.sha256(text).hexdigest()[:24]


def _checked_id(given: object) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise BadRowError(f"the id is a {type(given).__name__}, text or a whole number is needed")
    text = str(given)
    if not text or len(text) > MAX_ID_CHARACTERS:
        raise BadRowError(f"the id has {len(text)} characters, 1 to {MAX_ID_CHARACTERS} are allowed")
    if not is_unicode(text):
        raise BadRowError("the id is not valid Unicode (a lone surrogate)")
    return text
