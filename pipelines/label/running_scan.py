"""The driver's side of the scan (scan.py): starts it with what is committed, and commits what it finds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.config import RunConfig
from pipelines.data.formats import FORMATS
from pipelines.data.heldout import heldout_files
from pipelines.data.reader import FileRange, corpus_files, corpus_splits, with_states
from pipelines.errors import UserError
from pipelines.label.early_stop import TaskFailures
from pipelines.label.output.recovery import finished_keys
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reading import ExampleReader, RemoteScan
from pipelines.label.scan import ScanReport, scan_actor
from pipelines.tasks import task_spec

_POLL_EVERY_S = 0.2
_MIN_RANGES = 64
"""Per data split, as far as its files can be cut. Commits name ranges by their index, so nothing else may decide how files are cut."""


def corpus_ranges(run: RunConfig) -> list[FileRange]:
    """The file ranges of the corpus: train, then held-out files. The same in each run of the same labels."""
    train, heldout = corpus_files(run.corpus.train, "corpus.train"), heldout_files(run.corpus) or []
    return [
        *corpus_splits(train, "train", parallelism=_MIN_RANGES, limit=run.corpus.limit),
        *corpus_splits(heldout, "heldout", parallelism=_MIN_RANGES, limit=run.corpus.limit),
    ]


class RunningScan:
    """One reading of the corpus."""

    def __init__(
        self, run: RunConfig, ranges: Sequence[FileRange], writer: LabelWriter, failures: TaskFailures
    ) -> None:
        import ray

        self._writer, self._failures = writer, failures
        near, state = run.teacher.filters.near_duplicates, writer.state
        self._actor = scan_actor(_sizes(ranges), near, state.scanned)
        known = [self._actor.finish.remote(split, keys) for split, keys in finished_keys(writer.store, state)]
        ray.get(known)
        spec, fields = task_spec(run.task, run.task_options), dict(run.corpus.fields)
        reader = ExampleReader(with_states(ranges), spec, fields, RemoteScan(self._actor), near is not None)
        self.reader: Any = ray.put(reader)
        """Reference of an ExampleReader."""
        self.tickets = reader.tickets
        self.total = sum(state.corpus_rows.values()) if state.corpus_rows else None
        """Rows of the corpus, an estimate until it is read. None: not known yet."""
        self.rejected = 0
        """Rows whose rejects were taken."""
        self.seconds = 0.0
        """Until the corpus was read. 0: it is not read yet."""
        self._requested: Any = self._actor.take.remote()
        self._began_s = self._requested_s = time.monotonic()

    def poll(self) -> None:
        """Take what the scan has reported. Does not wait for it.

        Raises:
            UserError: a file as a whole cannot be read.
            StageFailedError: the task raises on too many rows.
        """
        import ray

        if time.monotonic() - self._requested_s < _POLL_EVERY_S or not ray.wait([self._requested], timeout=0)[0]:
            return
        self._take(ray.get(self._requested))
        self._requested, self._requested_s = self._actor.take.remote(), time.monotonic()

    def finish(self) -> None:
        """Take all that has been reported. Raises as `poll`."""
        import ray

        for report in ray.get([self._requested, self._actor.take.remote()]):
            self._take(report)
        if self.total is not None:
            self._failures.decide(self.total)

    def _take(self, report: ScanReport) -> None:
        self._writer.add_scanned(report.pieces, report.rejects)
        self.total = self.total if report.total is None else report.total
        self.rejected += sum(map(len, report.rejects))
        for rejects in report.rejects:
            self._failures.check(rejects, self.total)
        if report.damage is not None:
            raise UserError(*report.damage)
        if report.is_complete and not self.seconds:
            self.seconds = time.monotonic() - self._began_s
            self._writer.finish_scan(report.rows)

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self._actor)


@contextmanager
def running_scan(
    run: RunConfig, ranges: Sequence[FileRange], writer: LabelWriter, failures: TaskFailures
) -> Iterator[RunningScan]:
    """A scan that ends with the block."""
    scan = RunningScan(run, ranges, writer, failures)
    try:
        yield scan
    finally:
        scan.close()


def _sizes(ranges: Sequence[FileRange]) -> list[float]:
    """Bytes of each range; 1 for each if a file has none that say something about its rows."""
    sizes = [one.end - one.start if FORMATS[one.kind].by_bytes and one.end is not None else None for one in ranges]
    known = [float(size) for size in sizes if size is not None]
    return known if len(known) == len(sizes) else [1.0] * len(sizes)
