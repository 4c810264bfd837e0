"""`raystill init` on corpora as people have them: what it finds, and that the run file it writes is valid and complete."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cluster.cli import main
from cluster.init.summary import InitSummary
from cluster.planning.plan import make_plan
from cluster.planning.plan_text import plan_lines
from pipelines.checks import COMMANDS, Needs, check_run
from pipelines.config.load import load_run
from pipelines.students import embedded_teacher
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import train_rows

QUEUES = ("Billing", "Late Delivery", "Other")
MESSAGE = "Hello; my order {} from Zürich, is it here?"
TICKETS = [{"Ticket ID": f"T{i}", "Message": MESSAGE.format(i), "Queue": QUEUES[i % 3]} for i in range(60)]


def table(rows: list[dict[str, Any]], separator: str = ",", encoding: str = "utf-8") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([rows[0].keys(), *(row.values() for row in rows)])
    return text.getvalue().encode(encoding)


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), sink := pa.BufferOutputStream())
    return sink.getvalue().to_pybytes()


def each(make: Callable[[int, dict[str, str]], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(i, row) for i, row in enumerate(TICKETS)]


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


# fmt: off
NESTED = each(lambda i, row: {"meta": {"id": i}, "data": {"text": row["Message"], "queue": row["Queue"]}})
CHAT = each(lambda i, row: {"messages": [turn("user", row["Message"]), turn("assistant", row["Queue"])]})
HALF = each(lambda i, row: {**row, "Queue": row["Queue"] if i % 2 else ""})
UNLABELLED = each(lambda i, row: {"text": row["Message"]})
PARTLY_LATIN = each(lambda i, row: row | {"Message": row["Message"].replace("ü", "ü" if i % 9 == 8 else "u")})
SPELLED = each(lambda i, row: row | {"Queue": "late  delivery." if i == 1 else row["Queue"]})
NUMBERS = each(lambda i, row: row | {"Queue": i % 3})
PAIRS = each(lambda i, row: {"sentence1": f"A {i}", "sentence2": "He", "gold_label": ("neutral", "entailment")[i % 2]})
CHOICES = each(lambda i, row: {"question": f"{i}?", "choices": {"text": ["red", f"c{i}"]}, "answerKey": "AB"[i % 2]})
MMLU = each(lambda i, row: {"question": f"{i} + 1?", "choices": ["no", f"{i + 1}", "2", "x"], "answer": i % 4})
ROUTED = each(lambda i, row: {"Ticket": f"Ticket text {i}", "Message": row["Message"] * 2, "Via": ("mail", "phone")[i % 2]})
SUMS = each(lambda i, row: {"question": f"Anne has {i} apples and gets {i} more apples. How many?", "answer": f"#### {2 * i}"})
QUOTED = b'"id";"the, text";"label"\n' + b'7;"Some; text, longer";"a"\n8;"Some, text; longer";"b"\n' * 30
LATE = [{"Ticket ID": f"U{i}", "Message": f"Message number {i}", "Queue": None} for i in range(160)] + TICKETS
# fmt: on
OF_QUOTED = ("classification", {"input": "the, text", "gold": "label"}, "gold")
TICKET_FIELDS = {"id": "Ticket ID", "input": "Message", "gold": "Queue"}
CLOSED = ("classification", TICKET_FIELDS, "gold")
OF_ROUTED = ("classification", {"input": "Message", "gold": "Via"}, "gold")
OF_NESTED = ("classification", {"id": "meta.id", "input": "data.text", "gold": "data.queue"}, "gold")
OF_CHAT = ("classification", {"input": "messages.user", "gold": "messages.assistant"}, "gold")
OF_PAIRS = ("nli", {"premise": "sentence1", "hypothesis": "sentence2", "gold": "gold_label"}, "gold")
OF_CHOICES = ("multiple-choice", {"question": "question", "choices": "choices.text", "gold": "answerKey"}, "gold")
OF_MMLU = ("multiple-choice", {"question": "question", "choices": "choices", "gold": "answer"}, "gold")
OF_PROBLEMS = ("arithmetic", {"id": "id", "input": "input", "gold": "label"}, "gold")
OF_SUMS = ("grade-school-math", {"question": "question", "gold": "answer"}, "gold")
Found = tuple[str, dict[str, str], str]


def renamed(name: str) -> list[dict[str, Any]]:
    return each(lambda i, row: {name: row["Ticket ID"], "Message": row["Message"], "Queue": row["Queue"]})


def numbered(name: str) -> Found:
    return "classification", {"id": name, "input": "Message", "gold": "Queue"}, "gold"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shell's folder; no teacher is downloaded."""
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path))
    (tmp_path / "SmolLM2-135M-Instruct").mkdir()
    (tmp_path / "SmolLM2-135M-Instruct" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> InitSummary:
    done = CliRunner().invoke(main, ["init", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return InitSummary.model_validate_json(done.stdout)


@pytest.mark.parametrize(
    ("name", "content", "found", "form", "warning"),
    [
        ("a.csv", table(TICKETS), CLOSED, "CSV, separator `,`, UTF-8", ""),
        ("a.csv", QUOTED, OF_QUOTED, "CSV, separator `;`", "58 of 60 rows equal an earlier row"),
        ("a.jsonl", lines(LATE), ("classification", {}, "gold-else-teacher"), "JSON Lines", "160 rows have no gold label"),
        ("a.csv", table(TICKETS, "|", "utf-8-sig"), CLOSED, "CSV, separator `|`, UTF-8", ""),
        ("a.csv", table(TICKETS, "\t", "utf-16"), CLOSED, "CSV, separator tab, UTF-16", ""),
        ("a.csv", table(TICKETS, ";", "utf-16-le"), CLOSED, "CSV, separator `;`, UTF-16-LE", ""),
        ("a.csv.gz", gzip.compress(table(TICKETS)), CLOSED, "CSV, separator `,`, UTF-8", ""),
        ("a.csv", table(TICKETS).replace(b"Ticket ID,Message,Queue", b"Ticket ID, Message, Queue"), CLOSED, "CSV", ""),
        ("a.csv", table(PARTLY_LATIN, ";", "cp1252"), CLOSED, "CSV, separator `;`, CP1252, which", "a.csv is cp1252, not UTF-8. Convert"),
        ("a.parquet", parquet(TICKETS), CLOSED, "Parquet", ""),
        *(("a.csv", table(renamed(name)), numbered(name), "CSV", "") for name in ("TicketNo", "Order Nr", "ref", "Ticket", "case_number")),
        ("a.csv", table(ROUTED), OF_ROUTED, "CSV", "column Via is taken for the gold label, since its short values repeat"),
        ("a.json", json.dumps(TICKETS).encode(), CLOSED, "JSON array", ""),
        ("a.jsonl", lines(NESTED), OF_NESTED, "JSON Lines", ""),
        ("a.jsonl", lines(CHAT), OF_CHAT, "JSON Lines", ""),
        ("a.csv", table(HALF), ("classification", TICKET_FIELDS, "gold-else-teacher"), "CSV", "30 rows have no gold label"),
        ("a.csv", table(UNLABELLED), ("classification", {"input": "text"}, "teacher"), "CSV", "without examples"),
        ("a.csv", table(TICKETS[:3]), CLOSED, "CSV", "3 rows are few"),
        ("a.csv", table([*TICKETS, *TICKETS[:5]]), CLOSED, "CSV", "5 of 65 rows repeat the id of an earlier row (first: a.csv, row 61)"),
        ("a.csv", table(SPELLED), CLOSED, "CSV", "differ only in case"),
        ("a.csv", table(NUMBERS), CLOSED, "CSV", "the labels are numbers"),
        ("a.jsonl", lines([*TICKETS, "x"]), CLOSED, "JSON Lines", "1 of 61 rows cannot be read: not a JSON object (first: a.jsonl"),
        ("a.jsonl", lines(PAIRS), OF_PAIRS, "JSON Lines", ""),
        ("a.jsonl", lines(CHOICES), OF_CHOICES, "JSON Lines", ""),
        ("a.jsonl", lines(MMLU), OF_MMLU, "JSON Lines", ""),
        ("a.csv", table(each(lambda i, row: {**MMLU[i], "choices": json.dumps(MMLU[i]["choices"])})), OF_MMLU, "CSV", ""),
        ("a.jsonl", lines(train_rows(60)), OF_PROBLEMS, "JSON Lines", ""),
        ("a.jsonl", lines(SUMS), OF_SUMS, "JSON Lines", ""),
    ],
)  # fmt: skip
def test_the_run_file_fits_the_corpus(folder: Path, name: str, content: bytes, found: Found, form: str, warning: str) -> None:  # fmt: skip
    (folder / name).write_bytes(content)
    summary, run = init(name), load_run("a.yaml")
    task, fields, labels = found
    assert (run.task, run.corpus.train) == (task, str(folder / name))
    assert summary.format.startswith(form)
    assert (run.corpus.fields, run.student.labels) == (fields or run.corpus.fields, labels or run.student.labels)
    assert warning in "\n".join(summary.warnings)
    assert warning or not summary.warnings, summary.warnings
    assert run.task_options == ({"gold": "index"} if found is OF_MMLU else {}) or task == "classification"
    check_run(run, COMMANDS["label"], Needs.INPUTS)
    assert "optimizer steps are few" not in "\n".join(plan_lines(make_plan(run, 0)))
    if summary.labels and task == "classification":
        used = load_task(task_spec(run.task, run.task_options))
        assert sorted(used.labels or ()) == sorted(summary.labels)
        assert len(used.shots) == len(used.labels or ())


def test_a_test_file_is_never_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_teacher, "embedded_teacher", lambda: print("from a library"))  # not on stdout
    (folder / "data").mkdir()
    for name, rows in (("train", TICKETS[:40]), ("test", TICKETS[40:])):
        (folder / "data" / f"{name}.csv").write_bytes(table(rows))
    init("data", "--output", "conf.yaml")
    run = load_run("conf.yaml")
    assert (run.corpus.train, run.corpus.test) == (f"{folder}/data/train.csv", f"{folder}/data/test.csv")
    assert "raystill plan conf.yaml" in (folder / "conf.yaml").read_text()


@pytest.mark.parametrize("made", ["a.yaml", "a_task.py", "test_a_task.py"])
def test_nothing_is_overwritten(folder: Path, made: str) -> None:
    (folder / "a.csv").write_bytes(table(TICKETS))
    (folder / made).write_text("mine")
    done = CliRunner().invoke(main, ["init", "a.csv", "--task"])
    assert (done.exit_code, f"{made}: it exists, and init overwrites nothing" in done.output) == (2, True)
    assert {file.name for file in folder.iterdir()} == {"SmolLM2-135M-Instruct", "a.csv", made}
    assert (folder / made).read_text() == "mine"


@pytest.mark.parametrize("corpus", [True, False])
def test_the_task_file_passes_its_test(folder: Path, corpus: bool) -> None:
    (folder / "a.jsonl").write_bytes(lines(HALF))
    if corpus:
        init("a.jsonl", "--task")
        check_run(load_run("a.yaml"), COMMANDS["label"], Needs.INPUTS)
    else:
        assert CliRunner().invoke(main, ["init", "--task", "--output", "a_task.py"]).exit_code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_a_task.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert "4 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the corpus is empty"),
        (b"a,b\n1\n2\n", "none of its rows can be read (fewer values than the header"),
        (table(TICKETS, ";", "cp1252"), "Convert it: iconv -f cp1252 -t utf-8 a.csv > utf8-a.csv."),
        (None, "there is no such file or folder"),
    ],
)
def test_a_corpus_without_rows_is_one_message(folder: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (folder / "a.csv").write_bytes(content)
    done = CliRunner().invoke(main, ["init", "a.csv"])
    assert (done.exit_code, message in done.output, (folder / "a.yaml").exists()) == (2, True, False), done.output
