"""Before a teacher starts: rows whose prompt has been answered before take that answer over. A kill keeps what is committed, as always."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import READER_CPUS, RunConfig
from pipelines.data.schema import TEXT_PARQUET
from pipelines.errors import StageFailedError
from pipelines.label.answers.prompts import read_shots
from pipelines.label.early_stop import FirstRows, TaskFailures
from pipelines.label.engines.causes import cause_of
from pipelines.label.engines.dataset import open_examples
from pipelines.label.output.commits import COMMITS, ScanRecord
from pipelines.label.output.id_index import Keys, id_keys
from pipelines.label.output.parts import TEXTS_FOLDER
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.label.reporting.usage import shares
from pipelines.label.stored.index import AnswerIndex, build_index, open_texts
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.lookup import (
    EXAMPLES_AT_A_TIME,
    MissingPrompt,
    StoredAnswers,
    find_missing,
    look_up,
    missing_prompts,
)
from pipelines.label.stored.sources import (
    BATCHES_FOLDER,
    EARLIER_FOLDER,
    TextFile,
    missing_files,
    set_aside,
    text_files,
)
from pipelines.runtime.progress import Progress
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec

_LOOKED_UP = f"{COMMITS}/looked-up.json"
"""Names of the files that a killed run had looked up in full."""


class StoredLookup:
    """The stored answers that one run may take over, while it labels."""

    def __init__(
        self,
        run: RunConfig,
        scan: ScanRecord,
        writer: LabelWriter,
        live: LabelProgressFile,
        failures: TaskFailures,
        keys: AnswerKeys,
    ) -> None:
        self._run, self._scan, self._writer, self._live = run, scan, writer, live
        self._failures, self._keys, self._total = failures, keys, sum(scan.rows.values())
        self._files: list[TextFile] = []
        self._index: Any = None

    def take_over(self) -> None:
        """Commit the outcomes of all rows whose answer is stored.

        Raises:
            StageFailedError: too many of these rows are rejected, or a file cannot be read any more.
        """
        writer, files = self._writer, text_files(self._run, self._writer.store)
        names = [file.shown for file in files]
        if not files or writer.finished_rows >= self._total or _looked_up(writer.store) == names:
            return
        self._live.phase("looking up stored answers")
        self._open(files)
        before = writer.counts.stored
        self._commit()
        writer.store.write(_LOOKED_UP, json.dumps(names).encode())
        count, left = writer.counts.stored - before, self._total - writer.finished_rows
        print(f"label: {count:,} rows take over stored answers, {left:,} are left", file=sys.stderr, flush=True)

    def missing(self) -> Iterator[MissingPrompt]:
        """The prompt that each row without an outcome needs next, and that has no stored answer."""
        if self._writer.finished_rows >= self._total:
            return
        if (files := text_files(self._run, self._writer.store)) != self._files or self._index is None:
            self._open(files)
        for table in self._tables(find_missing):
            yield from missing_prompts(table)

    def _open(self, files: list[TextFile]) -> None:
        for name in missing_files(self._run):
            _warn(f"{name}: missing")
        self._index, problems = build_index(files)
        self._files = files
        for problem in problems:
            _warn(f"{problem.file}: {problem.rule}")

    def _commit(self) -> None:
        from ray.exceptions import RayError

        writer, first_rows, done = self._writer, FirstRows(self._run.labelling), _Done()
        self._failures.begin(self._total, writer.counts)
        with Progress("reuse", self._total, "rows", start=writer.finished_rows, file=self._live) as progress:
            try:
                for table in self._tables(look_up):
                    writer.add(table)
                    done.add(table)
                    first_rows.check(table)
                    self._failures.check(table)
                    self._live.update(writer.counts)
                    progress.advance(len(table), detail=shares(writer.counts.accepted, writer.counts.rejected))
            except RayError as error:
                cause = cause_of(error).rstrip(".")
                raise StageFailedError(
                    f"looking up stored answers failed: {cause}. Finished rows are kept. Run the same command to resume."
                ) from error
            finally:
                writer.commit()
        done.into(writer)

    def _tables(self, function: Any) -> Iterator[pa.Table]:
        """Tables of a function of lookup.py over all rows without an outcome."""
        import ray

        run, spec = self._run, task_spec(self._run.task, self._run.task_options)
        shots = read_shots(run.teacher, load_task(spec))
        answers = ray.put(StoredAnswers(run, spec, shots, self._keys, self._files))
        found = open_examples(run, spec, self._scan, self._writer).map_batches(
            function,
            fn_args=(answers, self._index),
            batch_size=EXAMPLES_AT_A_TIME,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
        )
        for table in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if len(table):
                yield table


def drop_taken_over(run: RunConfig, labels: Store, check_lock: Callable[[], None]) -> None:
    """Remove the answers from EARLIER_FOLDER that the finished labels have. The others stay: they were paid for."""
    import ray

    set_aside(labels, labels.files(BATCHES_FOLDER, ".parquet"), check_lock)
    earlier = labels.files(EARLIER_FOLDER, ".parquet")
    if not earlier or run.labelling.reuse == []:
        return
    index, _ = build_index([TextFile(labels, name) for name in labels.files(TEXTS_FOLDER, ".parquet")])
    check_lock()
    rest = ray.remote(num_cpus=READER_CPUS)(_without_known)
    for name, left in zip(
        earlier, ray.get([rest.remote(TextFile(labels, name), index) for name in earlier]), strict=True
    ):
        if left == 0:
            check_lock()
            labels.delete(name)


class _Done:
    """The ids of rows that took over an answer."""

    def __init__(self) -> None:
        self._keys: dict[str, list[Keys]] = {"train": [], "heldout": []}

    def add(self, outcomes: pa.Table) -> None:
        """Rows of a table of outcomes."""
        for split, keys in self._keys.items():
            ids = outcomes.filter(pc.equal(outcomes["split"], split))["id"]
            keys.append(id_keys(ids.to_pylist()))

    def into(self, writer: LabelWriter) -> None:
        """Add them to those that the writer knows."""
        for split, keys in self._keys.items():
            writer.state.add_done(split, keys)


def _looked_up(labels: Store) -> list[str]:
    try:
        found: list[str] = json.loads(labels.read(_LOOKED_UP))
    except (FileNotFoundError, ValueError):
        return []
    return found


def _without_known(file: TextFile, index: AnswerIndex) -> int | None:
    """Write the file again without the answers that the index has. Returns the number of those that stay, None if the file is damaged."""
    try:
        with open_texts(file) as parquet:
            table = parquet.read()
    except (OSError, pa.ArrowException):
        return None
    unknown = index.find(table["key"].to_pylist()) < 0
    left = int(unknown.sum())
    if 0 < left < len(table):
        file.store.write(file.name, parquet_bytes(table.filter(pa.array(unknown)), **TEXT_PARQUET))
    return left


def _warn(text: str) -> None:
    print(f"label: {text}. Its answers are not taken over.", file=sys.stderr, flush=True)
