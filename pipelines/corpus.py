"""Reading a corpus: files -> splits -> rows -> examples. What a row lacks becomes that row's problem, never the run's.

In: what `corpus.train` or `corpus.test` names: a file, list, glob, folder or URI of JSON Lines (.jsonl, also .gz, .zst), CSV or
Parquet. Out: `Row`s in corpus order, each with an example or with the problem that makes it unreadable:

    Row(position=0, id="svamp-train-0", example=Example(...), problem="", raw='{"id": "svamp-train-0", ...}')

A split is a part of a file that one worker reads: a byte range of a JSON Lines file, a row group of a Parquet file, or a whole
file. The splits of a corpus, each in its order, are the corpus in its order.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.artifacts import open_filesystem
from pipelines.config import CorpusConfig, RunConfig
from pipelines.errors import BadRowError, UserError
from pipelines.tasks import Example, Task
from pipelines.tasks.base import is_unicode

SplitName = Literal["train", "heldout"]
MAX_ID_CHARACTERS = 512
MAX_RAW_CHARACTERS = 10_000
_MAX_SPLIT_BYTES = 8 << 20
_MIN_SPLIT_BYTES = 64 << 10
_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
_PROBED_ROWS = 100


@dataclass(frozen=True)
class Split:
    """A part of a file. `start` and `end` are bytes (jsonl) or row groups (parquet); `rows` caps how many are read."""

    name: SplitName
    uri: str
    kind: str
    start: int = 0
    end: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Row:
    """One row as its task reads it. `position` orders the rows of a split. Either `example` or `problem` is set."""

    position: int
    id: str
    example: Example | None
    problem: str
    raw: str
    """The row as it stands in the corpus, shortened; for the rejects."""


@dataclass(frozen=True)
class Heldout:
    """The examples that a student is scored on, and how many rows of their split could not be read."""

    examples: tuple[Example, ...]
    unreadable: int


def corpus_files(named: str | list[str], key: str) -> list[str]:
    """The files that a corpus setting names, sorted within each folder or glob.

    Raises:
        UserError: nothing is there, or a file is of a kind that is not read.
    """
    files = [uri for pattern in ([named] if isinstance(named, str) else named) for uri in _expand(pattern, key)]
    if not files:
        raise UserError(f"{key} {named}", "it names no files", "Name JSON Lines, CSV or Parquet files.")
    for uri in files:
        _kind(uri, key)
    return files


def corpus_splits(
    files: Iterable[str], name: SplitName, *, parallelism: int = 1, limit: int | None = None
) -> list[Split]:
    """The splits of files, in corpus order: enough of them for `parallelism` readers, and none above 8 MiB where it can be cut."""
    files = list(files)
    if limit is not None:
        return list(_limited(files, name, limit))
    sizes = [_size(uri) for uri in files]
    step = min(max(sum(sizes) // max(parallelism, 1), _MIN_SPLIT_BYTES), _MAX_SPLIT_BYTES)
    return list(
        itertools.chain.from_iterable(_cut(uri, size, name, step) for uri, size in zip(files, sizes, strict=True))
    )


def read_split(split: Split, task: Task, fields: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a split in their order. Raises UserError where the file itself is damaged beyond its rows."""
    for position, (record, raw) in enumerate(itertools.islice(_records(split), split.rows)):
        yield _row(position, record, raw, task, fields)


def check_columns(files: list[str], task: Task, fields: Mapping[str, str], key: str) -> None:
    """Look at the first rows before anything is started.

    Raises:
        UserError: the corpus is empty, or a column that the task reads is in none of its first 100 rows.
    """
    seen: dict[str, None] = {}
    count = 0
    for split in corpus_splits(files, "train", limit=_PROBED_ROWS):
        for record, _ in itertools.islice(_records(split), split.rows):
            count += 1
            if isinstance(record, Mapping):
                seen.update(dict.fromkeys(str(k) for k, v in record.items() if v is not None))
    if not count:
        raise UserError(f"{key} {files[0]}", "the corpus is empty", "Give a corpus with at least one row.")
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
        raise UserError(f"{key} {files[0]}", rule, "Say in corpus.fields which column holds it.")


def is_validation(example_id: str, share: float) -> bool:
    """Whether an example of the train corpus is held out for validation: by the hash of its id, whatever else is in the corpus."""
    bucket = int.from_bytes(hashlib.sha256(f"validation:{example_id}".encode()).digest()[:8], "big")
    return bucket < share * 2**64


def heldout_files(corpus: CorpusConfig) -> list[str] | None:
    """The files of the examples that are scored: test, else a validation file, else None (a share of train)."""
    if corpus.test is not None:
        return corpus_files(corpus.test, "corpus.test")
    if isinstance(corpus.validation, str):
        return corpus_files(corpus.validation, "corpus.validation")
    return None


def heldout_examples(run: RunConfig, task: Task) -> Heldout:
    """The test examples, or the validation ones where there is no test set. The first of several with the same id counts."""
    files = heldout_files(run.corpus)
    share = None if files else run.corpus.validation
    splits = corpus_splits(files or corpus_files(run.corpus.train, "corpus.train"), "heldout", limit=run.corpus.limit)
    examples: dict[str, Example] = {}
    unreadable = 0
    for split in splits:
        for row in read_split(split, task, run.corpus.fields):
            if isinstance(share, float) and not is_validation(row.id, share):
                continue
            if row.example is None:
                unreadable += 1
            else:
                examples.setdefault(row.id, row.example)
    return Heldout(tuple(examples.values()), unreadable)


def _expand(pattern: str, key: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    filesystem, path = open_filesystem(pattern)
    prefix = pattern.partition("://")[0] + "://" if "://" in pattern else ""
    base = path if not any(c in path for c in "*?[") else path.partition("*")[0].partition("?")[0].partition("[")[0]
    if base == path:
        info = filesystem.get_file_info(path)
        if info.type == FileType.File:
            return [pattern if prefix else path]
        if info.type == FileType.NotFound:
            raise UserError(f"{key} {pattern}", "there is no such file or folder", "Name an existing corpus.")
        found = filesystem.get_file_info(FileSelector(path, recursive=True))
        names = [f.path for f in found if f.type == FileType.File and _is_data(f.path)]
    else:
        selector = FileSelector(base.rpartition("/")[0] or "/", recursive=True, allow_not_found=True)
        found = filesystem.get_file_info(selector)
        names = [f.path for f in found if f.type == FileType.File and fnmatch.fnmatch(f.path, path)]
    return [f"{prefix}{name}" for name in sorted(names)]


def _is_data(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not name.startswith((".", "_")) and _suffix(name) in _KINDS


def _suffix(name: str) -> str:
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return "." + name.rpartition(".")[2].lower()


def _kind(uri: str, key: str) -> str:
    kind = _KINDS.get(_suffix(uri))
    if kind is None:
        raise UserError(
            f"{key} {uri}", "neither JSON Lines, CSV nor Parquet by its name", f"Known: {', '.join(_KINDS)}."
        )
    return kind


def _size(uri: str) -> int:
    filesystem, path = open_filesystem(uri)
    return int(filesystem.get_file_info(path).size or 0)


def _cut(uri: str, size: int, name: SplitName, step: int) -> Iterator[Split]:
    kind = _kind(uri, "corpus")
    if kind == "jsonl" and not uri.endswith(_COMPRESSED):
        for start in range(0, size, step):
            yield Split(name, uri, kind, start, min(start + step, size))
    elif kind == "parquet":
        groups = _parquet(uri).num_row_groups
        for start in range(groups):
            yield Split(name, uri, kind, start, start + 1)
    else:
        yield Split(name, uri, kind)


def _limited(files: list[str], name: SplitName, limit: int) -> Iterator[Split]:
    for uri in files:
        if limit <= 0:
            return
        whole = Split(name, uri, _kind(uri, "corpus"))
        count = sum(1 for _ in itertools.islice(_records(whole), limit))
        yield Split(name, uri, whole.kind, rows=count)
        limit -= count


def _records(split: Split) -> Iterator[tuple[Any, str]]:
    """(row, raw text) of a split; the row is an error message where the line is not readable."""
    if split.kind == "parquet":
        yield from _parquet_records(split)
    elif split.kind == "csv":
        yield from _csv_records(split)
    else:
        yield from _json_records(split)


def _json_records(split: Split) -> Iterator[tuple[Any, str]]:
    for line in _lines(split):
        if not line.strip():
            continue
        try:
            yield json.loads(line.decode("utf-8"), parse_constant=_no_constant), line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield f"not UTF-8 (byte {error.start})", line.decode("utf-8", errors="replace")
        except (ValueError, RecursionError) as error:
            yield f"not JSON ({str(error)[:100]})", line.decode("utf-8", errors="replace")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _lines(split: Split) -> Iterator[bytes]:
    """The lines that begin within the split's bytes."""
    filesystem, path = open_filesystem(split.uri)
    if split.start == 0 and split.end is None:
        with filesystem.open_input_stream(path) as stream:  # decompresses by the name's ending
            yield from io.BufferedReader(stream)
        return
    with filesystem.open_input_file(path) as file:
        end = math.inf if split.end is None else split.end
        file.seek(max(split.start - 1, 0))
        reader = io.BufferedReader(file)
        position = max(split.start - 1, 0)
        if split.start > 0:
            position += len(reader.readline())
        while position < end and (line := reader.readline()):
            position += len(line)
            yield line


def _csv_records(split: Split) -> Iterator[tuple[Any, str]]:
    filesystem, path = open_filesystem(split.uri)
    with filesystem.open_input_stream(path) as stream:
        text = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            for record in csv.DictReader(text):
                raw = json.dumps(record, ensure_ascii=True)
                if any("\udc80" <= c <= "\udcff" for v in record.values() for c in str(v)):
                    yield "not UTF-8", raw
                elif None in record:
                    yield "more values than the header has columns", raw
                else:
                    yield {k: (None if v == "" else v) for k, v in record.items()}, raw
        except csv.Error as error:
            raise UserError(split.uri, f"not readable as CSV ({error})", "Mend the file.") from error


def _parquet(uri: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(uri)
    try:
        return pq.ParquetFile(path, filesystem=filesystem)
    except pa.ArrowInvalid as error:
        raise UserError(uri, f"not a Parquet file ({error})", "Mend or remove the file.") from error


def _parquet_records(split: Split) -> Iterator[tuple[Any, str]]:
    file = _parquet(split.uri)
    groups = range(split.start, file.num_row_groups if split.end is None else split.end)
    for batch in file.iter_batches(row_groups=list(groups), batch_size=1024):
        for record in batch.to_pylist():
            yield record, json.dumps(record, ensure_ascii=False, default=str)


def _row(position: int, record: Any, raw: str, task: Task, fields: Mapping[str, str]) -> Row:
    raw = raw.strip().encode("utf-8", errors="replace").decode()
    identity = "row-" + hashlib.sha256(raw.encode()).hexdigest()[:24]
    shown = raw if len(raw) <= MAX_RAW_CHARACTERS else raw[:MAX_RAW_CHARACTERS] + "..."
    if not isinstance(record, Mapping):
        problem = record if isinstance(record, str) and not raw.startswith('"') else "not a JSON object"
        return Row(position, identity, None, problem, shown)
    try:
        given = record.get(fields.get("id", "id"))
        identity = identity if given is None else _checked_id(given)
        row = {**record, **{name: record.get(column) for name, column in fields.items()}, "id": identity}
        row["gold"] = record.get(fields.get("gold", task.gold_field))
        return Row(position, identity, task.read(row), "", shown)
    except BadRowError as error:
        return Row(position, identity, None, str(error), shown)


def _checked_id(given: object) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise BadRowError(f"the id is a {type(given).__name__}, text or a whole number is needed")
    text = str(given)
    if not text or len(text) > MAX_ID_CHARACTERS:
        raise BadRowError(f"the id has {len(text)} characters, 1 to {MAX_ID_CHARACTERS} are allowed")
    if not is_unicode(text):
        raise BadRowError("the id is not valid Unicode (a lone surrogate)")
    return text
