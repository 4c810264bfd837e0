"""A plan of a large corpus reads some places of it, and states its error."""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from cluster.planning import corpus_sample
from cluster.planning.corpus_sample import corpus_rows
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import train_rows

ROWS = 20_000
Lines = Sequence[dict[str, str]]


def write_csv(path: Path, rows: Lines) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def json_lines(rows: Lines) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Path, Lines], object]] = {
    "jsonl": lambda path, rows: path.write_bytes(json_lines(rows)),
    "jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(json_lines(rows), 1)),
    "json": lambda path, rows: path.write_text(json.dumps(rows)),
    "csv": write_csv,
    "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3000),
    "arrow": lambda path, rows: pa.feather.write_feather(pa.Table.from_pylist(rows), path, chunksize=1000),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_sample_estimates_rows_of_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    for name, size in (("READ_WHOLE_BYTES", 0), ("_WINDOW_BYTES", 8 << 10), ("_PREFIX_BYTES", 120 << 10)):
        monkeypatch.setattr(corpus_sample, name, size)
    problems = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(500))]
    rows = [{**problems[i % 500], "id": f"r{i}", "label": "?" if i % 10 == 3 else "1 + 1"} for i in range(ROWS)]
    files = [tmp_path / f"{half}.{suffix}" for half in ("a", "b")]
    WRITERS[suffix](files[0], rows[: ROWS // 4])
    WRITERS[suffix](files[1], rows[ROWS // 4 :])
    task, named = load_task(task_spec("arithmetic")), [str(file) for file in files]
    found = corpus_rows(named, task, {}, limit=None, examples=1000)
    assert found.sample.read < ROWS / 2
    assert found.readable == pytest.approx(0.9 * ROWS, rel=0.05)
    assert found.unreadable == pytest.approx(0.1 * ROWS, rel=0.2)
    assert found.examples[0].id == "r0", "the first prompt is that of the first row"
    assert len({example.id for example in found.examples}) > 30
    limited = corpus_rows(named, task, {}, limit=100, examples=10)
    assert limited.readable + limited.unreadable == 100
