"""From files to rows: cuts, limits, ids, columns. Rows and files that are damaged: test_formats.py."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.data import reader
from pipelines.data.reader import corpus_splits, read_split, with_states
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import word_problem_rows, write_jsonl

TASK = load_task(task_spec("arithmetic"))
ROWS = word_problem_rows(200)


def read_all(files: list[str], **options: Any) -> list[reader.Row]:
    return [row for split in corpus_splits(files, "train", **options) for row in read_split(split, TASK, {})]


@pytest.mark.parametrize("when", ["before", "while it is read"])
def test_a_corpus_that_changes_during_a_run_is_refused(tmp_path: Path, when: str) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", ROWS[:100])
    [split] = with_states(corpus_splits([file], "train"))
    rows = read_split(split, TASK, {})
    if when != "before":
        next(rows)
    write_jsonl(tmp_path / "c.jsonl", ROWS[50:150])
    with pytest.raises(UserError, match=r"c.jsonl: it has changed since this run began. Finished rows are kept"):
        list(rows)


def test_limit_takes_the_first_rows_across_files(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{i}.jsonl", ROWS[i * 50 : i * 50 + 50]) for i in range(4)]
    assert [row.id for row in read_all(files, limit=70)] == [f"r{i}" for i in range(70)]
