"""Files of every format, whole and damaged. A damaged row is a problem of that row, a damaged file is one error."""

import decimal
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import reader
from pipelines.data.files import file_state
from pipelines.data.formats import csv_rows, format_of, json_array, json_lines, records
from pipelines.data.reader import FileRange, Row, check_columns, corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.storage.fingerprint import file_fingerprint
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import jsonl, word_problem_rows, write_corpus, write_table

TASK = load_task(task_spec("arithmetic"))
ROWS = word_problem_rows(100)
GOOD = jsonl(ROWS[:1])


def read(path: Path | str, **options: Any) -> list[Row]:
    files = corpus_files(str(path), "corpus.train")
    return [row for split in corpus_splits(files, "train", **options) for row in read_split(split, TASK, {})]


def encodable(row: Row) -> Row:
    """The row, whose texts must be Unicode and which has either an example or a problem."""
    row.raw.encode()
    row.id.encode()
    assert (row.example is None) == bool(row.problem)
    return row


PARTS = {
    "c.jsonl": 1, "c.json": 1, "c.ndjson": 1, "c.jsonl.gz": 1, "c.jsonl.zst": 1, "C.JSONL.GZ": 1, "c.csv": 1, "c.csv.gz": 1,
    "c.csv.zst": 1, "c.csv.bz2": 1, "array.json": 1, "array.json.bz2": 1, "c.parquet": 4, "c.arrow": 4, "c.feather": 4, "stream.arrow": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path / name.lower(), ROWS)
    (tmp_path / name.lower()).rename(tmp_path / name)
    rows = read(tmp_path / name)
    expected = [(row["id"], row["input"], row["label"]) for row in ROWS]
    assert [(row.id, row.example.input, row.example.gold) for row in rows if row.example] == expected
    assert len(corpus_splits([str(tmp_path / name)], "train")) == PARTS[name]
    assert [row.id for row in read(tmp_path / name, limit=41)] == [row["id"] for row in ROWS[:41]]


def test_a_lance_folder_is_one_data_set(tmp_path: Path) -> None:
    lance, named = pytest.importorskip("lance"), str(tmp_path / "c.lance")
    lance.write_dataset(pa.Table.from_pylist(ROWS[:60]), named, max_rows_per_file=30)
    assert [row.id for row in read(named)] == [row["id"] for row in ROWS[:60]]
    before, parts = (file_fingerprint(named), file_state(named)), corpus_splits([named], "train")
    assert [(part.start, part.end) for part in parts] == [(0, 1), (1, 2)]
    lance.write_dataset(pa.Table.from_pylist(ROWS[60:70]), named, mode="append")
    assert len(read(named)) == 70
    assert before[0] != file_fingerprint(named)
    assert before[1] != file_state(named)
    (tmp_path / "no.lance").mkdir()
    with pytest.raises(UserError, match="not readable as Lance"):
        read(tmp_path / "no.lance")


@pytest.mark.parametrize(("name", "kind"), [("a.parquet.gz", None), ("a.txt", None), ("a", None), ("a.gz", None),
                                            ("d.csv/a.jsonl", "jsonl"), ("s3://b/a.csv?region=x.parquet", "csv")])  # fmt: skip
def test_the_name_gives_the_format(name: str, kind: str | None) -> None:
    assert format_of(name) == kind


ENDINGS = {
    "no line break at the end": jsonl(ROWS)[:-1],
    "\\r\\n": jsonl(ROWS).replace(b"\n", b"\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + jsonl(ROWS),
    "blank lines": b"\n \n" + jsonl(ROWS).replace(b"\n", b"\n\n\t\n"),
}


@pytest.mark.parametrize("content", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_form_of_line_end_is_read(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / ("c.jsonl.gz" if compressed else "c.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert [row.id for row in read(path)] == [row["id"] for row in ROWS]


@pytest.mark.parametrize(("before", "after"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n"), (b" ", b"")])
def test_content_ids_do_not_depend_on_line_ends(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(before + json.dumps({"input": "Anne has 4.", "label": "4"}).encode() + after)
    # The hash of the line: labels of 0.1 are found by it.
    assert read(path)[0].id == "row-ee4a41839f7c31f9c69897ce"


HOSTILE_JSON = {
    b"\xff\xfe": "not UTF-8",
    b"{oops": "not JSON",
    b"[" * 100_000: "not JSON",
    b'{"a":' * 100_000: "not JSON",
    b'{"id": "a", "input": NaN}': "not JSON",
    b'{"id": "a", "input": ' + b"9" * 5000 + b"}": "not JSON",
    b'{"id": "a", "input": "x\x01"}': "not JSON",
    b"[1, 2]": "not a JSON object",
    b"null": "not a JSON object",
    b'{"id": "a", "id": "b", "input": "x"}': "the same key twice",
    b"{}": "missing or null",
    b'{"id": "a", "input": ["x"]}': "a list",
    b'{"id": "a", "input": 1e999}': "the number inf",
    b'{"id": "a", "input": "' + b"x" * 1_000_000 + b'"}': "1,000,000 characters",
    b'{"id": "a", "input": "a\\u0000b"}': "NUL",
    b'{"id": "a", "input": "\\ud800"}': "not valid Unicode",
    b'{"id": "\\ud800", "input": "x"}': "not valid Unicode",
    b'{"id": 1.5, "input": "x"}': "the id is a float",
    b'{"id": true, "input": "x"}': "the id is a bool",
    b'{"id": "", "input": "x"}': "the id has 0 characters",
    b'{"id": ' + b"9" * 600 + b', "input": "x"}': "600 characters",
}


@pytest.mark.parametrize(("line", "problem"), HOSTILE_JSON.items(), ids=range(len(HOSTILE_JSON)))
def test_a_hostile_line_is_that_rows_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    before, bad, after = map(encodable, read(path))
    assert bad.example is None
    assert problem in bad.problem
    assert len(bad.raw) <= reader.MAX_RAW_CHARACTERS + 3
    assert before.example == after.example is not None


ARRAYS = {
    b"[]": [],
    b' \xef\xbb\xbf[ {"input": "1?"} ]\n': [""],
    b'[{"input": "1?"}, 7, "x", {"input": "2?"}]': ["", "not a JSON object", "not a JSON object", ""],
    b'[{"input": "1?", "input": "2?"}, {"input": "\xff"}]': ["same key twice", "not UTF-8"],
    b'[{"input": "1?"}, {"input": NaN}, {"input": "2?"}]': ["", "NaN is not JSON", ""],
    b'[{"input": "1?"} {"input": "2?"}]': "element 2 of its array is not JSON",
    b'[{"input": "1?"}, {"input": ': "element 2 of its array is not JSON",
    b'[{"input": "1?"},]': "element 2 of its array is not JSON",
    b'[{"input": "1?"}] {}': "text follows its array of 1 elements",
    b"[" * 100_000: "element 1 of its array is not JSON",
}


@pytest.mark.parametrize("content", ARRAYS)
def test_a_bad_element_is_a_row_and_a_bad_array_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content.removeprefix(b" "))
    expected = ARRAYS[content]
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read(tmp_path / "c.json")
        return
    rows = [encodable(row) for row in read(tmp_path / "c.json")]
    assert [bool(row.problem) for row in rows] == [bool(problem) for problem in expected]
    assert all(problem in row.problem for row, problem in zip(rows, expected, strict=True))


def test_elements_longer_than_the_buffer_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "BUFFER_BYTES", 7)
    write_corpus(tmp_path / "array.json", ROWS)
    assert [row.id for row in read(tmp_path / "array.json")] == [row["id"] for row in ROWS]


def test_huge_numbers_within_the_bounds_are_text(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": ' + b"9" * 500 + b', "input": ' + b"8" * 4000 + b"}\n")
    (row,) = read(path)
    assert (row.id, row.example and row.example.input) == ("9" * 500, "8" * 4000)


def in_parts(path: Path, step: int) -> list[Any]:
    size = path.stat().st_size
    return [row for at in range(0, size, step) for row in records(str(path), "jsonl", at, min(at + step, size))]


@pytest.mark.parametrize("step", [1, 7, 100, 10_000])
def test_an_endless_line_is_one_bounded_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 400)
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + b'{"id": "' + b"x" * 1000 + b'"}\n' + GOOD + b"y" * 400)
    found = in_parts(path, step)
    assert [row.problem for row in found] == ["", "a line beyond 400 bytes", "", "a line beyond 400 bytes"]
    assert max(len(row.raw) for row in found) <= 400


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
    path.write_bytes(b"".join(pieces))
    whole = list(map(encodable, read_split(FileRange("train", str(path), "jsonl"), TASK, {})))
    cut = in_parts(path, step)
    assert cut == list(records(str(path), "jsonl"))
    assert len(cut) == len(whole)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text('a,"\n\r\x00é', max_size=80).map(str.encode)))
def test_any_csv_bytes_give_rows_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    try:
        list(map(encodable, read_split(FileRange("train", str(path), "csv"), TASK, {})))
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
    first, bad, *rest = map(encodable, read(path))
    assert bad.example is None
    assert problem in bad.problem
    assert [row.id for row in (first, *rest) if row.example] == ["z", "b", "c"][: len(rest) + 1]
    assert len(rest) == after.count(b"\n")


def test_an_open_quote_does_not_swallow_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_FIELD_CHARACTERS", 100_000)
    path = tmp_path / "c.csv"
    path.write_bytes(b'id,input,label\na,"Anne,4\n' + b"".join(b"r%d,Ben has 5.,5\n" % i for i in range(20_000)))
    bad, *others = read(path)
    assert "field larger than field limit" in bad.problem
    assert len(others) == 20_000
    assert not any(row.problem for row in others)


def test_a_csv_field_may_hold_line_breaks_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b'id,input,label\na,"Anne has 4,\n""four"".",4\n\nb,Ben has 5.,5\n')
    found = [row.example.input for row in read(tmp_path / "c.csv") if row.example]
    assert found == ['Anne has 4,\n"four".', "Ben has 5."]


COLUMNS: dict[str, tuple[pa.Array, str]] = {
    "binary": (pa.array([b"x", b"Anne"], pa.binary()), "a bytes"),
    "timestamp": (pa.array([1, 2], pa.timestamp("ns")), "must be text"),
    "date beyond Python's": (pa.array([2**50, 2**51], pa.timestamp("ms")), ""),
    "decimal": (pa.array([decimal.Decimal("1.5")] * 2), "a Decimal"),
    "list": (pa.array([["x"], ["y"]]), "a list"),
    "struct": (pa.array([{"a": 1}] * 2), "a dict"),
    "null": (pa.nulls(2), "missing or null"),
    "NaN": (pa.array([float("nan"), float("inf")]), "the number"),
    "not UTF-8": (pa.array([b"\xff", b"\xfe\x00"], pa.binary()).view(pa.string()), "a bytes"),
    "list not UTF-8": (pa.array([[b"\xff"], [b"\xfe"]]).cast(pa.list_(pa.binary())).view(pa.list_(pa.string())), ""),
    "dictionary": (pa.array(["x", "y"]).dictionary_encode(), ""),
    "text view": (pa.array(["x", "y"], pa.string_view()), ""),
    "integer": (pa.array([2**63 - 1, -(2**63)]), ""),
}


@pytest.mark.parametrize(("column", "problem"), COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("name", ["c.parquet", "c.arrow", "stream.arrow"])
def test_columns_of_any_type_are_text_or_a_problem(tmp_path: Path, name: str, column: pa.Array, problem: str) -> None:
    write_table(tmp_path / name, pa.table({"id": ["a", "b"], "input": column, "label": ["1", "2"]}))
    rows = list(map(encodable, read(tmp_path / name)))
    assert [row.id for row in rows] == ["a", "b"]
    assert all(problem in row.problem for row in rows)
    # A column that the task does not read harms nothing.
    write_table(tmp_path / name, pa.table({"id": ["a", "b"], "input": ["x", "y"], "beside": column}))
    assert not any(row.problem for row in read(tmp_path / name))


def test_empty_files_among_others_do_no_harm(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.jsonl.zst", "e.csv.gz"):
        (tmp_path / name).write_bytes(b"")
    write_corpus(tmp_path / "f.jsonl", ROWS)
    write_table(tmp_path / "g.parquet", pa.Table.from_pylist(ROWS).slice(0, 0))
    check_columns(corpus_files(str(tmp_path), "corpus.train"), TASK, {}, "corpus.train")
    assert [row.id for row in read(tmp_path)] == [row["id"] for row in ROWS]


@pytest.mark.parametrize(
    "name", [name for name in PARTS if name.endswith((".gz", ".zst", ".parquet", ".arrow", ".feather"))]
)
@pytest.mark.parametrize("share", [0.5, 0.95, 0.05, 0.0])
def test_a_cut_or_foreign_file_is_one_error_that_names_it(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name.lower()
    write_corpus(path, ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)] or os.urandom(64) + jsonl(ROWS))
    with pytest.raises(UserError, match=rf"{path}.*not readable as"):
        read(path)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(["c.parquet", "c.arrow", "stream.arrow"])
)
def test_a_damaged_byte_gives_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, byte: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    write_corpus(path, ROWS)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] = byte
    path.write_bytes(content)
    try:
        for row in read(path):
            row.raw.encode()
    except UserError as error:
        assert name in str(error)  # noqa: PT017


def test_a_file_that_vanishes_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file any more"):
        list(read_split(FileRange("train", str(tmp_path / "c.jsonl"), "jsonl"), TASK, {}))
