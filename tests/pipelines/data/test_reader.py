from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config.load import parse_run
from pipelines.data import reader
from pipelines.data.heldout import heldout_examples, is_validation
from pipelines.data.reader import check_columns, corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import write_jsonl

TASK = load_task(task_spec("arithmetic"))
ROWS = [{"id": f"r{i}", "input": f"Anne has {i} apples. How many?", "label": f"{i} + 0"} for i in range(200)]


def read_all(files: list[str], **options: Any) -> list[reader.Row]:
    return [row for split in corpus_splits(files, "train", **options) for row in read_split(split, TASK, {})]


@pytest.fixture(params=["jsonl", "jsonl.gz", "csv", "parquet"])
def corpus_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"c.{request.param}"
    if request.param == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "input", "label"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=30)
    elif request.param == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode()))
    else:
        write_jsonl(path, ROWS)
    return str(path)


def test_every_format_gives_the_same_examples_in_order(corpus_file: str) -> None:
    rows = read_all([corpus_file])
    assert [row.id for row in rows] == [row["id"] for row in ROWS]
    assert rows[7].example is not None
    assert (rows[7].example.input, rows[7].example.gold) == ("Anne has 7 apples. How many?", "7 + 0")


@pytest.mark.parametrize("step", [1, 7, 64, 1000, 10**6])
def test_cutting_a_file_anywhere_loses_and_doubles_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    rows = [{**row, "input": row["input"] + "é" * (i % 13)} for i, row in enumerate(ROWS[:60])]
    file = write_jsonl(tmp_path / "c.jsonl", rows)
    monkeypatch.setattr(reader, "_MIN_RANGE_BYTES", step)
    assert [row.id for row in read_all([file], parallelism=10**9)] == [row["id"] for row in rows]


def test_limit_takes_the_first_rows_across_files(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{i}.jsonl", ROWS[i * 50 : i * 50 + 50]) for i in range(4)]
    assert [row.id for row in read_all(files, limit=70)] == [f"r{i}" for i in range(70)]


HOSTILE = [
    (b"\xff\xfe\n", "not UTF-8"),
    (b"{oops\n", "not JSON"),
    (b"[1, 2]\n", "not a JSON object"),
    (b'"text"\n', "not a JSON object"),
    (b'{"id": "a", "input": null}\n', "missing or null"),
    (b'{"id": "a", "input": ["x"]}\n', "a list"),
    (b'{"id": "a", "input": "  "}\n', "empty"),
    (b'{"id": {"a": 1}, "input": "x"}\n', "the id is a dict"),
    (b'{"id": "", "input": "x"}\n', "the id has 0 characters"),
    (b'{"id": "a", "input": "' + b"x" * 1_000_000 + b'"}\n', "1,000,000 characters"),
    (b'{"id": "a", "input": NaN}\n', "not JSON"),
    (b'{"id": "a", "input": "a\\u0000b"}\n', "NUL"),
    (b'{"id": "a", "input": "\\ud800"}\n', "not valid Unicode"),
    (b'{"id": "\\ud800", "input": "x"}\n', "not valid Unicode"),
    (b"[" * 100_000 + b"\n", "not JSON"),
]


@pytest.mark.parametrize(("line", "problem"), HOSTILE, ids=[p for _, p in HOSTILE])
def test_a_hostile_row_is_that_rows_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(line + json.dumps(ROWS[0]).encode() + b"\n")
    bad, good = read_all([str(path)])
    assert bad.example is None
    assert problem in bad.problem
    assert len(bad.raw) <= reader.MAX_RAW_CHARACTERS + 3
    bad.raw.encode()
    assert good.example is not None


def test_a_row_without_id_gets_the_hash_of_its_content(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", [{"input": "a"}, {"input": "b"}, {"input": "a"}])
    first, second, third = read_all([file])
    assert first.id == third.id != second.id


def test_fields_rename_columns(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", [{"key": 5, "text": "Anne has 4.", "answer": "4"}])
    split = corpus_splits([file], "train")[0]
    (row,) = read_split(split, TASK, {"id": "key", "input": "text", "gold": "answer"})
    assert (row.id, row.example and row.example.gold) == ("5", "4")


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([], {}, "the corpus is empty"),
        ([{"id": 1, "text": "x"}], {}, "reads column `input`, the first 1 rows have only: id, text"),
        ([{"id": 1, "input": "x"}], {"gold": "answer"}, "reads column `answer`"),
        ([{"id": 1, "input": "x"}], {"premise": "p"}, "reads no such field"),
    ],
)
def test_a_corpus_without_what_the_task_reads_is_refused(tmp_path: Path, rows: Any, fields: Any, message: str) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", rows)
    with pytest.raises(UserError) as caught:
        check_columns([file], TASK, fields, "corpus.train")
    assert message in str(caught.value)


@pytest.mark.parametrize("named", ["nothing.jsonl", "nothing/*.jsonl", "c.txt", []])
def test_files_that_are_not_there_or_not_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("x")
    with pytest.raises(UserError):
        corpus_files(named, "corpus.train")


def test_a_folder_and_a_glob_name_its_data_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "_skipped.jsonl", "notes.md"):
        write_jsonl(tmp_path / name, ROWS[:1])
    expected = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert corpus_files(str(tmp_path), "corpus.train") == expected
    assert corpus_files(f"{tmp_path}/[ab].jsonl", "corpus.train") == expected


def test_validation_is_a_share_by_id_and_stays_when_rows_are_added() -> None:
    ids = [f"id-{i}" for i in range(10_000)]
    assert 900 < sum(is_validation(i, 0.1) for i in ids) < 1100
    assert {i for i in ids if is_validation(i, 0.1)} <= {i for i in ids if is_validation(i, 0.2)}
    assert not any(is_validation(i, 0.0) for i in ids)


def test_heldout_examples_are_the_test_set_or_the_validation_share(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [*ROWS[:3], ROWS[0], {"id": "bad"}, {**ROWS[3], "label": "some"}])
    base = {"name": "a", "output": "o", "task": "arithmetic", "teacher": {"engine": "echo"}, "student": {"model": "m"}}
    with_test = heldout_examples(parse_run({**base, "corpus": {"train": train, "test": test}}), TASK)
    assert [e.id for e in with_test.examples] == ["r0", "r1", "r2"]
    assert [row_id for row_id, _ in with_test.unreadable] == ["bad", "r3"]
    assert with_test.duplicates == ("r0",)
    assert "gold label 'some' is no arithmetic expression" in with_test.unreadable[1][1]
    without = heldout_examples(parse_run({**base, "corpus": {"train": train, "validation": 0.2}}), TASK)
    assert [e.id for e in without.examples] == [r["id"] for r in ROWS if is_validation(str(r["id"]), 0.2)]
