"""Reading a corpus: files -> splits -> rows -> examples. What a row lacks becomes that row's problem, never the run's.

In: what `corpus.train` or `corpus.test` names (corpus_files.py): JSON Lines, CSV, Parquet or Arrow (corpus_formats.py).
Out: `Row`s in corpus order, each with an example or with the problem that makes it unreadable:

    Row(position=0, id="svamp-train-0", example=Example(...), problem="", raw='{"id": "svamp-train-0", ...}')

A split is a part of a file that one worker reads: a byte range of a JSON Lines file, a row group of a Parquet file, a record batch of
an Arrow file, or a whole file. The splits of a corpus, each in its order, are the corpus in its order, however it is cut.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipelines.data.files import corpus_files, file_format, file_size
from pipelines.data.formats import cuts, records
from pipelines.errors import BadRowError, UserError
from pipelines.storage.filesystems import shown
from pipelines.tasks import Example, Task
from pipelines.tasks.base import is_unicode

__all__ = [
    "MAX_ID_CHARACTERS", "MAX_RAW_CHARACTERS", "DataSplit", "FileRange", "Row", "check_columns", "corpus_files", "corpus_splits",
    "read_split",
]  # fmt: skip

DataSplit = Literal["train", "heldout"]
MAX_ID_CHARACTERS = 512
MAX_RAW_CHARACTERS = 10_000
_MAX_SPLIT_BYTES = 8 << 20
_MIN_SPLIT_BYTES = 64 << 10
_PROBED_ROWS = 100


@dataclass(frozen=True)
class FileRange:
    """A part of a file. `start` and `end` are what corpus_formats.cuts counts in; `rows` caps how many are read."""

    name: DataSplit
    uri: str
    kind: str
    start: int = 0
    end: int | None = None
    rows: int | None = None


class Row(NamedTuple):
    """One row as its task reads it. `position` orders the rows of a split. Either `example` or `problem` is set."""

    position: int
    id: str
    example: Example | None
    problem: str
    raw: str
    """The row as it stands in the corpus, shortened; for the rejects."""


def corpus_splits(
    files: Iterable[str], name: DataSplit, *, parallelism: int = 1, limit: int | None = None
) -> list[FileRange]:
    """The splits of files, in corpus order: enough of them for `parallelism` readers, and none above 8 MiB where it can be cut."""
    files = list(files)
    if limit is not None:
        return list(_limited(files, name, limit))
    sizes = [file_size(uri) for uri in files]
    step = min(max(sum(sizes) // max(parallelism, 1), _MIN_SPLIT_BYTES), _MAX_SPLIT_BYTES)
    splits = []
    for uri, size in zip(files, sizes, strict=True):
        kind = file_format(uri)
        splits += [FileRange(name, uri, kind, start, end) for start, end in cuts(uri, kind, size, step)]
    return splits


def read_split(split: FileRange, task: Task, fields: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a split in their order. Raises UserError where the file itself is damaged beyond its rows."""
    id_column, gold_column = fields.get("id", "id"), fields.get("gold", task.gold_field)
    renamed = list(fields.items())
    found = itertools.islice(records(split.uri, split.kind, split.start, split.end), split.rows)
    for position, (record, raw, problem) in enumerate(found):
        identity, example = "", None
        if not problem:
            given = record.get(id_column)
            gold = record.get(gold_column)
            if renamed:
                record |= {name: record.get(column) for name, column in renamed}
            try:
                identity = _content_id(raw) if given is None else _checked_id(given)
                record["id"] = identity
                record["gold"] = gold
                example = task.read(record)
            except BadRowError as error:
                problem = str(error)
        identity = identity or _content_id(raw)
        short = raw if len(raw) <= MAX_RAW_CHARACTERS else raw[:MAX_RAW_CHARACTERS] + "..."
        yield Row(position, identity, example, problem, short)


def check_columns(files: list[str], task: Task, fields: Mapping[str, str], key: str) -> None:
    """Look at the first rows before anything is started.

    Raises:
        UserError: the corpus is empty, or a column that the task reads is in none of its first 100 rows.
    """
    seen: dict[str, None] = {}
    count = 0
    first_problem = ""
    for split in corpus_splits(files, "train", limit=_PROBED_ROWS):
        for record, _, problem in itertools.islice(records(split.uri, split.kind), split.rows):
            count += 1
            first_problem = first_problem or problem
            if not problem:
                seen.update(dict.fromkeys(str(k) for k, v in record.items() if v is not None))
    where = f"{key} {shown(files[0])}"
    if not count:
        raise UserError(where, "the corpus is empty", "Give a corpus with at least one row.")
    if not seen:
        rule = f"none of its first {count} rows can be read ({first_problem or 'all values are null'})"
        raise UserError(where, rule, "Give JSON Lines with one object per line, CSV with a header, Parquet or Arrow.")
    unknown = [name for name in fields if name not in {"id", "gold", *task.required, *task.optional}]
    if unknown:
        takes = ", ".join(["id", "gold", *task.required, *task.optional])
        raise UserError(f"corpus.fields.{unknown[0]}", f"task {task.name} reads no such field", f"It reads: {takes}.")
    missing = [fields.get(name, name) for name in task.required if fields.get(name, name) not in seen]
    if "gold" in fields and fields["gold"] not in seen:
        missing.append(fields["gold"])
    if missing:
        rule = (
            f"task {task.name} reads column `{missing[0]}`, the first {count} rows have only: {', '.join(sorted(seen))}"
        )
        raise UserError(where, rule, "Say in corpus.fields which column holds it.")


def _limited(files: list[str], name: DataSplit, limit: int) -> Iterator[FileRange]:
    for uri in files:
        if limit <= 0:
            return
        kind = file_format(uri)
        count = sum(1 for _ in itertools.islice(records(uri, kind), limit))
        yield FileRange(name, uri, kind, rows=count)
        limit -= count


def _content_id(raw: str) -> str:
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
