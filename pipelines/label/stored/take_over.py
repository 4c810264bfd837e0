"""Before a teacher starts: rows whose prompt has been answered before take that answer over. A kill keeps what is committed, as always."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from pipelines.config import READER_CPUS, RunConfig
from pipelines.data.reader import FileRange
from pipelines.data.schema import TEXT_PARQUET
from pipelines.data.shots import read_shots
from pipelines.errors import StageFailedError
from pipelines.label.early_stop import FirstRows, TaskFailures
from pipelines.label.engines.causes import cause_of
from pipelines.label.engines.dataset import open_examples
from pipelines.label.output.commits import COMMITS
from pipelines.label.output.parts import TEXTS_FOLDER
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.label.reporting.usage import shares
from pipelines.label.running_scan import RunningScan, running_scan
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
from pipelines.runtime.terminal import say
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
        ranges: Sequence[FileRange],
        writer: LabelWriter,
        live: LabelProgressFile,
        failures: TaskFailures,
        keys: AnswerKeys,
    ) -> None:
        """`ranges`: of the corpus."""
        self._run, self._ranges, self._writer, self._live = run, ranges, writer, live
        self._failures, self._keys = failures, keys
        self._files: list[TextFile] = []
        self._index: Any = None

    def take_over(self) -> None:
        """Commit the outcomes of all rows whose answer is stored.

        Raises:
            UserError: a file of the corpus cannot be read.
            StageFailedError: too many of these rows are rejected, or a file cannot be read any more.
        """
        writer, files = self._writer, text_files(self._run, self._writer.store)
        names = [file.shown for file in files]
        if not files or writer.is_complete or _looked_up(writer.store) == names:
            return
        self._live.phase("looking up stored answers")
        self._open(files)
        before = writer.counts.stored
        self._commit()
        writer.store.write(_LOOKED_UP, json.dumps(names).encode())
        count, left = writer.counts.stored - before, (writer.total or 0) - writer.finished_rows
        say(f"label: {count:,} rows take over stored answers, {left:,} are left")

    def missing(self) -> Iterator[MissingPrompt]:
        """The prompt that each row without an outcome needs next, and that has no stored answer. Raises as `take_over`."""
        if self._writer.is_complete:
            return
        if (files := text_files(self._run, self._writer.store)) != self._files or self._index is None:
            self._open(files)
        with self._reading() as scan:
            for table in self._tables(scan, find_missing):
                scan.poll()
                yield from missing_prompts(table)

    def _open(self, files: list[TextFile]) -> None:
        for name in missing_files(self._run):
            _warn(f"{name}: missing")
        self._index, problems = build_index(files)
        self._files = files
        for problem in problems:
            _warn(f"{problem.file}: {problem.rule}")

    def _commit(self) -> None:
        writer, first_rows = self._writer, FirstRows(self._run.labelling, self._run.teacher.sampling.max_tokens)
        with Progress("reuse", writer.total, "rows", start=writer.finished_rows, file=self._live) as progress:
            try:
                with self._reading() as scan:
                    for table in self._tables(scan, look_up):
                        scan.poll()
                        writer.add(table)
                        first_rows.check(table)
                        self._failures.check(table, scan.total)
                        self._live.update(writer.counts)
                        progress.total = scan.total
                        progress.advance(len(table), detail=shares(writer.counts.accepted, writer.counts.rejected))
            finally:
                writer.commit()

    @contextmanager
    def _reading(self) -> Iterator[RunningScan]:
        """A scan of the corpus, whose rejects are committed at the end of the block."""
        from ray.exceptions import RayError

        with running_scan(self._run, self._ranges, self._writer, self._failures) as scan:
            try:
                yield scan
            except RayError as error:
                with suppress(RayError):
                    scan.finish()  # raises a UserError if a reader has named a damaged file
                cause = cause_of(error).rstrip(".")
                raise StageFailedError(
                    f"looking up stored answers failed: {cause}. Finished rows are kept. Run the same command to resume."
                ) from error
            scan.finish()

    def _tables(self, scan: RunningScan, function: Any) -> Iterator[pa.Table]:
        """Tables of a function of lookup.py over all rows without an outcome."""
        import ray

        run, spec = self._run, task_spec(self._run.task, self._run.task_options)
        shots = read_shots(run.teacher, load_task(spec))
        answers = ray.put(StoredAnswers(run, spec, shots, self._keys, self._files))
        found = open_examples(scan.reader, range(scan.tickets)).map_batches(
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
    say(f"label: {text}. Its answers are not taken over.")
