"""Values inside of a row, by dotted names in `corpus.fields`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.data.nested import value_at
from pipelines.data.reader import check_columns, corpus_files, corpus_splits, read_split
from pipelines.errors import BadRowError, UserError
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import write_corpus, write_jsonl

TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "1 and 1?"},
    {"role": "assistant", "content": "1 + 1"},
]
ROW: dict[str, Any] = {
    "a.b": "column", "a": {"b": "field", "c": [{"text": "x"}, {"text": "y"}]}, "messages": TURNS,
    "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "1"}, {"from": "human", "value": "r"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]}],
    "image": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", "column"), ("a.c.text", ["x", "y"]), ("a.c.1.text", "y"), ("a.c.2.text", None), ("a.d", None), ("a.b.c.d", None),
        ("messages.user", "1 and 1?"), ("messages.tool", None), ("messages.0.content", "s"), ("conversations.gpt", "1"),
        ("conversations.2.value", "r"), ("parts.user", "qr"), ("none.x", None), ("messages.", None), (".", None),
    ],
)  # fmt: skip
def test_a_dotted_name_is_a_column_or_a_nested_field(path: str, value: Any) -> None:
    assert value_at(ROW, path) == value


@pytest.mark.parametrize(
    ("path", "problem"), [("conversations.human", "2 messages have the role"), ("image.user", "no text")]
)
def test_what_a_name_does_not_decide_is_a_bad_row(path: str, problem: str) -> None:
    with pytest.raises(BadRowError, match=problem):
        value_at(ROW, path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet", "array.json"])
def test_messages_and_nested_ids_make_examples(tmp_path: Path, name: str) -> None:
    rows = [{"meta": {"id": f"r{i}"}, "messages": TURNS if i else TURNS * 2} for i in range(3)]
    write_corpus(tmp_path / name, rows)
    task, fields = (
        load_task(task_spec("arithmetic")),
        {"id": "meta.id", "input": "messages.user", "gold": "messages.assistant"},
    )
    files = corpus_files(str(tmp_path / name), "corpus.train")
    check_columns(files, task, fields, "corpus.train")
    read = [row for split in corpus_splits(files, "train") for row in read_split(split, task, fields)]
    assert [row.problem[:24] for row in read] == ["2 messages have the role", "", ""]
    assert [(row.id, row.example.input, row.example.gold) for row in read[1:] if row.example] == [
        ("r1", "1 and 1?", "1 + 1"), ("r2", "1 and 1?", "1 + 1"),
    ]  # fmt: skip
    twice = write_jsonl(tmp_path / "twice.jsonl", [{"meta": {"id": "r"}, "messages": TURNS * 2}])
    with pytest.raises(UserError, match=r"none of its first 1 rows has one value for `messages.user` \(2 messages"):
        check_columns([twice], task, fields, "corpus.train")
    for path, rule in (("messages.tool", "reads column `messages.tool`"), ("meta.text", "have only: .*messages")):
        with pytest.raises(UserError, match=rule):
            check_columns(files, task, {**fields, "input": path}, "corpus.train")
