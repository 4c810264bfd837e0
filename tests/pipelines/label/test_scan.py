"""The scan decides what a plain loop over the corpus would, however many readers ask it, in whatever order."""

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.data import reader as reader_module
from pipelines.data.near_duplicates import NearDuplicates, signature
from pipelines.data.reader import FileRange, corpus_files, corpus_splits
from pipelines.errors import UserError
from pipelines.label import reading
from pipelines.label import scan as scan_module
from pipelines.label.id_table import FINISHED, FIRST, REPEATED, IdTable
from pipelines.label.output.commits import PieceName
from pipelines.label.output.id_index import id_keys
from pipelines.label.reading import ExampleReader
from pipelines.label.scan import CorpusScan, Decision, PieceRows
from pipelines.tasks import task_spec
from tests.support.corpora import train_rows, write_jsonl

ROWS = 1500


class LocalScan:
    """A CorpusScan in this process, whose callers are threads."""

    def __init__(self, splits: Sequence[FileRange], near: float | None, committed: frozenset[PieceName] | None) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.scan = CorpusScan([1.0] * len(splits), near, committed)
        self.deal, self.finish, self.report = self.scan.deal, self.scan.finish, self.scan.report
        self.damaged, self.take = self.scan.damaged, self.scan.take

    def decide(self, pieces: Sequence[PieceRows]) -> list[Decision]:
        return asyncio.run_coroutine_threadsafe(self.scan.decide(pieces), self._loop).result(60)


def rows_with_trouble() -> list[dict[str, Any]]:
    """An unreadable row with the id of a good one, repeated ids and repeated texts."""
    draw = random.Random(7)
    rows: list[dict[str, Any]] = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(ROWS))]
    rows += [{**draw.choice(rows[:1000]), "id": f"again{i}"} for i in range(40)]
    rows += [{**rows[i], "input": f"Another text {i}, with words of its own."} for i in (5, 5, 9, 1200)]
    draw.shuffle(rows)
    rows.insert(3, {"id": "r77", "input": None})
    return rows


def expected(rows: list[dict[str, Any]], threshold: float | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"bad_input": [], "duplicate": [], "near_duplicate": []}
    seen: set[str] = set()
    kept = NearDuplicates(threshold or 0.5)
    for position, row in enumerate(rows):
        if row["input"] is None:
            found["bad_input"].append(row["id"])
        elif row["id"] in seen:
            found["duplicate"].append(row["id"])
        else:
            seen.add(row["id"])
            if threshold and kept.earlier(position, signature(row["input"])) is not None:
                found["near_duplicate"].append(row["id"])
    return {reason: sorted(ids) for reason, ids in found.items() if ids}


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FileRange]:
    """Six ranges, each of several pieces, of which some are decided together."""
    monkeypatch.setattr(reader_module, "_MIN_RANGE_BYTES", 35_000)
    monkeypatch.setattr(reading, "PIECE_ROWS", 100)
    monkeypatch.setattr(reading, "_AHEAD_CHARACTERS", 40_000)
    path = write_jsonl(tmp_path / "train.jsonl", rows_with_trouble())
    found = corpus_splits(corpus_files(path, "corpus.train"), "train", parallelism=1000)
    assert len(found) > 4
    return found


def read(
    splits: Sequence[FileRange], near: float | None = None, committed: frozenset[PieceName] | None = frozenset(), done: Sequence[str] = ()
) -> tuple[list[str], scan_module.ScanReport]:  # fmt: skip
    """Read all ranges at the same time, the last one first and one of them twice. Returns the ids to answer and the report."""
    scan = LocalScan(splits, near, committed)
    scan.finish("train", id_keys(done))
    reader = ExampleReader(splits, task_spec("arithmetic", {}), {}, scan, near is not None)
    order = [*reversed(range(len(splits))), 2]
    with ThreadPoolExecutor(len(order)) as pool:
        blocks = list(pool.map(lambda index: list(reader.blocks(index)), order))
    assert blocks[-1] == blocks[order.index(2)], "a reader that starts again gets the same rows"
    return [row["id"] for some in blocks[:-1] for block in some for row in block.to_pylist()], scan.take()


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_the_scan_rejects_what_a_loop_would(splits: list[FileRange], threshold: float | None) -> None:
    rows = rows_with_trouble()
    queried, report = read(splits, threshold)
    wanted = expected(rows, threshold)
    rejects = pa.concat_tables(report.rejects).to_pylist()
    assert {reason: sorted(r["id"] for r in rejects if r["reason"] == reason) for reason in wanted} == wanted
    assert len(rejects) == sum(map(len, wanted.values()))
    assert (report.is_complete, report.total, report.rows["train"]) == (True, len(rows), len(rows))
    assert len(queried) == len(set(queried)) == len(rows) - len(rejects)
    # The next run: two pieces are committed, and some rows are labelled.
    first = frozenset(sorted(report.pieces)[:2])
    again, second = read(splits, threshold, first, queried[:700])
    assert sorted(again) == sorted(queried[700:])
    assert sorted([*second.pieces, *first]) == sorted(report.pieces)
    assert read(splits, threshold, None, queried)[1].rejects == []


def test_a_damaged_file_is_named_by_the_scan(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(b"\x1f\x8b no gzip")
    splits = corpus_splits([str(path)], "train")
    scan = LocalScan(splits, None, None)
    reader = ExampleReader(splits, task_spec("arithmetic", {}), {}, scan)
    with pytest.raises(UserError):
        list(reader.blocks(0))
    assert scan.take().damage[0].endswith("train.jsonl.gz")


def test_an_id_table_grows_and_keeps_every_id() -> None:
    draw = random.Random(3)
    table, known, seen = IdTable(), set(range(0, 20_000, 7)), set[int]()
    table.finish(id_keys(map(str, known)))
    for _ in range(20):
        some = [draw.randrange(20_000) for _ in range(2_000)]
        wanted = []
        for number in some:
            wanted.append(REPEATED if number in seen else FINISHED if number in known else FIRST)
            seen.add(number)
        assert table.take(id_keys(map(str, some))).tolist() == wanted


def test_an_error_of_the_scan_is_not_the_files(splits: list[FileRange], monkeypatch: pytest.MonkeyPatch) -> None:
    scan = LocalScan(splits, None, None)
    monkeypatch.setattr(scan, "decide", lambda pieces: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(ExampleReader(splits, task_spec("arithmetic", {}), {}, scan).blocks(0))
    assert scan.take().damage is None
