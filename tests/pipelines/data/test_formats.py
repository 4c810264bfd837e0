"""Files of every format, whole and damaged: what is wrong with a row is the row's problem, what is wrong with a file is one error."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.formats import csv_rows, format_of, json_lines, records
from pipelines.data.reader import FileRange, Row, check_columns, corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec

TASK = load_task(task_spec("arithmetic"))
ROWS = [{"id": f"r{i}", "input": f"Anne has {i} äpples. How many?", "label": f"{i} + 0"} for i in range(100)]
GOOD = json.dumps(ROWS[0]).encode() + b"\n"


def read(path: Path | str, **options: Any) -> list[Row]:
    files = corpus_files(str(path), "corpus.train")
    return [row for split in corpus_splits(files, "train", **options) for row in read_split(split, TASK, {})]


def jsonl(rows: list[Any] = ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "input", "label"])
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def write_table(path: Path, table: pa.Table) -> None:
    """In the format that the name says; `stream.arrow` is a stream, other .arrow an IPC file."""
    if path.name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=30)
        return
    with pa.OSFile(str(path), "wb") as file:
        make = pa.ipc.new_stream if path.name == "stream.arrow" else pa.ipc.new_file
        with make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=30)


def write(path: Path) -> None:
    """ROWS in the format that the name says."""
    table = pa.Table.from_pylist(ROWS)
    name = path.name
    content = csv_bytes() if ".csv" in name else jsonl()
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    elif name.endswith(".zst"):
        path.write_bytes(pa.Codec("zstd").compress(content, asbytes=True))
    elif name.endswith(".feather"):
        feather.write_feather(table, str(path), chunksize=30)
    elif name.endswith((".arrow", ".parquet")):
        write_table(path, table)
    else:
        path.write_bytes(content)


NAMES = {
    "c.jsonl": 1, "c.json": 1, "c.ndjson": 1, "c.jsonl.gz": 1, "c.jsonl.zst": 1, "C.JSONL.GZ": 1, "c.csv": 1, "c.csv.gz": 1,
    "c.csv.zst": 1, "c.parquet": 4, "c.arrow": 4, "c.feather": 4, "stream.arrow": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    rows = read(tmp_path / name)
    assert [(row.id, row.example and row.example.input) for row in rows] == [(r["id"], r["input"]) for r in ROWS]
    assert len(corpus_splits([str(tmp_path / name)], "train")) == NAMES[name]
    limited = corpus_splits([str(tmp_path / name)], "train", limit=41)
    assert [row.id for split in limited for row in read_split(split, TASK, {})] == [r["id"] for r in ROWS[:41]]


@pytest.mark.parametrize(("name", "kind"), [("a.parquet.gz", None), ("a.txt", None), ("a", None), ("a.gz", None),
                                            ("d.csv/a.jsonl", "jsonl"), ("s3://b/a.csv?region=x.parquet", "csv")])  # fmt: skip
def test_the_format_goes_by_the_name(name: str, kind: str | None) -> None:
    assert format_of(name) == kind


ENDINGS = {
    "no line break at the end": jsonl()[:-1],
    "\\r\\n": jsonl().replace(b"\n", b"\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + jsonl(),
    "blank lines": b"\n \n" + jsonl().replace(b"\n", b"\n\n\t\n"),
}


@pytest.mark.parametrize("content", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_lines_may_end_and_begin_as_they_do(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / ("c.jsonl.gz" if compressed else "c.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert [row.id for row in read(path)] == [r["id"] for r in ROWS]


def test_ids_of_rows_without_id_do_not_depend_on_how_lines_end(tmp_path: Path) -> None:
    row = {"input": "Anne has 4.", "label": "4"}
    ids = set()
    for number, (before, after) in enumerate([(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n"), (b" ", b"")]):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(before + json.dumps(row).encode() + after)
        ids.add(read(path)[0].id)
    # The hash of the line: a corpus that was labelled keeps its ids.
    assert ids == {"row-ee4a41839f7c31f9c69897ce"}


HOSTILE_JSON = {
    b'{"id": "a", "id": "b", "input": "x"}': "the same key twice",
    b'{"id": "a", "input": {"text": "x"}}': "a dict",
    b'{"id": 1.5, "input": "x"}': "the id is a float",
    b'{"id": true, "input": "x"}': "the id is a bool",
    b'{"id": "a", "input": true}': "a bool",
    b'{"id": "a", "input": ' + b"9" * 5000 + b"}": "not JSON",
    b'{"id": ' + b"9" * 600 + b', "input": "x"}': "600 characters",
    b'{"id": "a", "input": 1e999}': "the number inf",
    b'{"id": "a", "input": Infinity}': "not JSON",
    b'{"a":' * 100_000: "not JSON",
    b'{"id": "a", "input": "x", "label": [1]}': "a list",
    b'{"id": "a", "input": "x"} {"id": "b", "input": "y"}': "not JSON",
    b'{"id": "a", "input": "x\x01"}': "not JSON",
    b"\x00": "not JSON",
    b"\xff\xfe{\x00}\x00": "not UTF-8",
    b"null": "not a JSON object",
    b"{}": "missing or null",
}


@pytest.mark.parametrize(("line", "problem"), HOSTILE_JSON.items(), ids=range(len(HOSTILE_JSON)))
def test_a_hostile_line_is_that_rows_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    before, bad, after = read(path)
    assert bad.example is None
    assert problem in bad.problem
    bad.raw.encode()
    bad.id.encode()
    assert before.example == after.example is not None


def test_huge_numbers_within_the_bounds_are_text(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": ' + b"9" * 500 + b', "input": ' + b"8" * 4000 + b"}\n")
    (row,) = read(path)
    assert (row.id, row.example and row.example.input) == ("9" * 500, "8" * 4000)


@pytest.mark.parametrize("step", [1, 7, 100, 10_000])
def test_a_line_without_end_is_one_problem_and_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 400)
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + b'{"id": "' + b"x" * 1000 + b'"}\n' + GOOD + b"y" * 400)
    size = path.stat().st_size
    found = [row for at in range(0, size, step) for row in records(str(path), "jsonl", at, min(at + step, size))]
    assert [problem for *_, problem in found] == ["", "a line beyond 400 bytes", "", "a line beyond 400 bytes"]


def parts(path: Path, step: int) -> list[Any]:
    size = path.stat().st_size
    return [row for at in range(0, size, step) for row in records(str(path), "jsonl", at, min(at + step, size))]


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\n", b"\r\n", b"\xef\xbb\xbf", b'{"id": "a", "input": "x"}', b"{", b'"', b"\xff", b"\\ud800",
                         b"NaN", b"[[", b"\x00", b'{"id": 1, "input": "1 + 1", "label": "2"}\n']),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(pieces=PIECES, step=st.integers(1, 120))
def test_any_bytes_give_rows_or_problems_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], step: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    content = b"".join(pieces)
    path.write_bytes(content)
    whole = list(read_split(FileRange("train", str(path), "jsonl"), TASK, {}))
    for row in whole:
        assert (row.example is None) == bool(row.problem)
        row.raw.encode()
        row.id.encode()
    cut = parts(path, step)
    assert cut == list(records(str(path), "jsonl"))
    assert len(cut) == len(whole)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text('a,"\n\r\x00é', max_size=80).map(str.encode)))
def test_any_bytes_in_a_csv_give_rows_problems_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    try:
        for row in read_split(FileRange("train", str(path), "csv"), TASK, {}):
            assert (row.example is None) == bool(row.problem)
            row.raw.encode()
            row.id.encode()
    except UserError as error:
        assert "header" in str(error) or "two columns" in str(error)  # noqa: PT017


CSV_PROBLEMS = {
    b"a,Anne has 4.": "fewer values",
    b"a,Anne has 4.,4,5": "more values",
    b'a,"Anne has 4.,4': "not CSV",
    b'a,"Anne has" 4.,4': "not CSV",
    b"a,Anne has \xff.,4": "not UTF-8 (column `input`)",
    b"a,,4": "missing or null",
    b"a,Anne\x00,4": "NUL",
    b"a," + b"x" * 1_000_000 + b",4": "1,000,000 characters",
}


@pytest.mark.parametrize(("line", "problem"), CSV_PROBLEMS.items(), ids=CSV_PROBLEMS.values())
@pytest.mark.parametrize("after", [b"b,Ben has 5.,5\r\nc,Clara has 6.,6\r\n", b""])
def test_a_hostile_csv_row_is_that_rows_problem(tmp_path: Path, line: bytes, problem: str, after: bytes) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"\xef\xbb\xbfid,input,label\r\nz,Zoe has 3.,3\r\n" + line + b"\r\n" + after)
    first, bad, *rest = read(path)
    assert bad.example is None
    assert problem in bad.problem
    assert first.id == "z"
    assert [row.id for row in rest] == (["b", "c"] if after else [])
    assert all(row.example for row in rest)


def test_an_open_quote_does_not_take_the_rest_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    rest = b"".join(b"r%d,Ben has 5.,5\n" % i for i in range(200_000))
    path.write_bytes(b'id,input,label\na,"Anne,4\n' + rest)
    assert path.stat().st_size > csv_rows.MAX_FIELD_CHARACTERS
    bad, *others = read(path)
    assert "field larger than field limit" in bad.problem
    assert len(others) == 200_000
    assert not any(row.problem for row in others)


def test_a_csv_field_may_hold_line_breaks_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b'id,input,label\na,"Anne has 4,\n""four"".",4\n\nb,Ben has 5.,5\n')
    first, second = read(path)
    assert first.example is not None
    assert (first.example.input, second.id) == ('Anne has 4,\n"four".', "b")


@pytest.mark.parametrize(
    ("header", "rule"),
    [(b"id,input,input\n1,a,b\n", "two columns are called `input`"), (b'"id\n1\n', "header is not CSV")],
)
def test_a_csv_header_that_cannot_be_is_one_error(tmp_path: Path, header: bytes, rule: str) -> None:
    (tmp_path / "c.csv").write_bytes(header)
    with pytest.raises(UserError, match=rule):
        read(tmp_path / "c.csv")


COLUMNS: dict[str, tuple[pa.Array, str]] = {
    "binary": (pa.array([b"x", b"Anne"], pa.binary()), "a bytes"),
    "timestamp": (pa.array([1, 2], pa.timestamp("ns")), "text is needed"),
    "date beyond Python's": (pa.array([2**50, 2**51], pa.timestamp("ms")), ""),
    "decimal": (pa.array([decimal.Decimal("1.5")] * 2), "a Decimal"),
    "date": (pa.array([datetime.date(2024, 1, 1)] * 2), "a date"),
    "list": (pa.array([["x"], ["y"]]), "a list"),
    "map": (pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())), "a list"),
    "struct": (pa.array([{"a": 1}] * 2), "a dict"),
    "null": (pa.nulls(2), "missing or null"),
    "NaN": (pa.array([float("nan"), float("inf")]), "the number"),
    "not UTF-8": (pa.array([b"\xff", b"\xfe\x00"], pa.binary()).view(pa.string()), "a bytes"),
    "list not UTF-8": (pa.array([[b"\xff"], [b"\xfe"]]).cast(pa.list_(pa.binary())).view(pa.list_(pa.string())), ""),
    "dictionary": (pa.array(["x", "y"]).dictionary_encode(), ""),
    "large text": (pa.array(["x", "y"], pa.large_string()), ""),
    "text view": (pa.array(["x", "y"], pa.string_view()), ""),
    "integer": (pa.array([2**63 - 1, -(2**63)]), ""),
}


@pytest.mark.parametrize(("column", "problem"), COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("name", ["c.parquet", "c.arrow", "stream.arrow"])
def test_columns_of_any_type_are_text_or_their_rows_problem(
    tmp_path: Path, name: str, column: pa.Array, problem: str
) -> None:
    write_table(tmp_path / name, pa.table({"id": ["a", "b"], "input": column, "label": ["1", "2"]}))
    rows = read(tmp_path / name)
    assert [row.id for row in rows] == ["a", "b"]
    for row in rows:
        row.raw.encode()
        assert problem in row.problem
        assert bool(row.example) == (not row.problem)
    # A column that the task does not read harms nothing.
    write_table(tmp_path / name, pa.table({"id": ["a", "b"], "input": ["x", "y"], "beside": column}))
    assert not any(row.problem for row in read(tmp_path / name))


def test_an_empty_file_among_several_is_no_harm(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.jsonl.zst", "e.csv.gz"):
        (tmp_path / name).write_bytes(b"")
    write(tmp_path / "f.jsonl")
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "g.parquet")
    files = corpus_files(str(tmp_path), "corpus.train")
    check_columns(files, TASK, {}, "corpus.train")
    assert [row.id for row in read(tmp_path)] == [r["id"] for r in ROWS]


@pytest.mark.parametrize(
    "name", ["c.jsonl.gz", "c.jsonl.zst", "c.csv.gz", "c.parquet", "c.arrow", "c.feather", "stream.arrow"]
)
@pytest.mark.parametrize("cut", [0.5, 0.95, 0.05])
def test_a_file_that_is_cut_short_is_one_error_that_names_it(tmp_path: Path, name: str, cut: float) -> None:
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(UserError, match="not readable as") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.jsonl.zst", "c.parquet", "c.arrow", "stream.arrow"])
def test_a_file_that_is_not_what_its_name_says_is_one_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(os.urandom(64) + jsonl())
    with pytest.raises(UserError, match=r"not readable as|Arrow"):
        read(path)


@settings(max_examples=150, deadline=None)
@given(
    at=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    name=st.sampled_from(["c.parquet", "c.arrow", "stream.arrow"]),
)
def test_a_damaged_byte_gives_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, byte: int, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = folder / f"whole-{name}"
    if not whole.exists():
        write(folder / name)
        whole.write_bytes((folder / name).read_bytes())
    content = bytearray(whole.read_bytes())
    content[int(at * len(content))] = byte
    (folder / name).write_bytes(content)
    try:
        for row in read(folder / name):
            row.raw.encode()
    except UserError as error:
        assert name in str(error)  # noqa: PT017


def test_a_file_that_vanishes_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file any more"):
        list(read_split(FileRange("train", str(tmp_path / "c.jsonl"), "jsonl"), TASK, {}))


def test_a_corpus_of_nothing_readable_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(ROWS, indent=1))
    with pytest.raises(UserError, match="none of its first 100 rows can be read"):
        check_columns([str(path)], TASK, {}, "corpus.train")
