"""Before a teacher starts: rows whose prompt has been answered before take that answer over. A kill keeps what is committed, as always."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
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
from pipelines.label.stored.lookup import StoredAnswers, look_up
from pipelines.label.stored.sources import EARLIER_FOLDER, TextFile, missing_files, text_files
from pipelines.runtime.progress import Progress
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec

_LOOKED_UP = f"{COMMITS}/looked-up.json"
"""Names of the files that a killed run had looked up in full."""
_BLOCK_BYTES = 16 << 20
"""Of examples that are looked up together."""


def take_over(
    run: RunConfig,
    scan: ScanRecord,
    writer: LabelWriter,
    live: LabelProgressFile,
    failures: TaskFailures,
    keys: AnswerKeys,
) -> None:
    """Commit the outcomes of all rows whose answer is stored.

    Raises:
        StageFailedError: too many of these rows are rejected, or a file cannot be read any more.
    """
    from ray.exceptions import RayError

    files, total = text_files(run, writer.store), sum(scan.rows.values())
    names = [file.shown for file in files]
    if not files or writer.finished_rows >= total or _looked_up(writer.store) == names:
        return
    live.phase("looking up stored answers")
    for name in missing_files(run):
        _warn(f"{name}: missing")
    index, problems = build_index(files)
    for problem in problems:
        _warn(f"{problem.file}: {problem.rule}")
    first_rows, done = FirstRows(run.labelling), _Done()
    failures.begin(total, writer.counts)
    before = copy.deepcopy(writer.counts)
    with Progress("reuse", total=total, unit="rows", start=writer.finished_rows, file=live) as progress:
        try:
            for table in _tables(run, scan, writer, files, index, keys):
                writer.add(table)
                done.add(table)
                first_rows.check(table)
                failures.check(table)
                live.update(writer.counts)
                progress.advance(len(table), detail=shares(writer.counts.accepted, writer.counts.rejected))
        except RayError as error:
            cause = cause_of(error).rstrip(".")
            raise StageFailedError(
                f"looking up stored answers failed: {cause}. Finished rows are kept. Run the same command to resume."
            ) from error
        finally:
            writer.commit()
    done.into(writer)
    writer.store.write(_LOOKED_UP, json.dumps(names).encode())
    count = writer.counts.stored - before.stored
    left = total - writer.finished_rows
    print(f"label: {count:,} rows take over stored answers, {left:,} are left", file=sys.stderr, flush=True)


def drop_taken_over(run: RunConfig, labels: Store, check_lock: Callable[[], None]) -> None:
    """Remove the answers from EARLIER_FOLDER that the finished labels have. The others stay: they were paid for."""
    import ray

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


def _tables(
    run: RunConfig,
    scan: ScanRecord,
    writer: LabelWriter,
    files: Sequence[TextFile],
    index: Any,
    keys: AnswerKeys,
) -> Iterator[pa.Table]:
    import ray
    from ray.data import DataContext

    spec = task_spec(run.task, run.task_options)
    answers = ray.put(StoredAnswers(run, spec, read_shots(run.teacher, load_task(spec)), keys, files))
    context = copy.deepcopy(DataContext.get_current())
    context.target_max_block_size = _BLOCK_BYTES
    with DataContext.current(context):
        found = open_examples(run, spec, scan, writer).map_batches(
            look_up, fn_args=(answers, index), batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS
        )
        for table in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if len(table):
                yield table


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
