"""Values inside of a row, by dotted names in `corpus.fields`."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.data.nested import value_at
from pipelines.data.reader import check_columns, corpus_splits, read_split
from pipelines.errors import BadRowError, UserError
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import write_corpus

ASKED = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "1 and 1?"},
    {"role": "assistant", "content": "1 + 1"},
]
ROW: dict[str, Any] = {
    "a.b": "column", "a": {"b": "field", "c": [{"text": "x"}, {"text": "y"}]}, "messages": ASKED,
    "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "1"}, {"from": "human", "value": "r"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]}],
    "image": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}],
}  # fmt: skip
VALUES = {
    "a.b": "column", "a.c.text": ["x", "y"], "a.c.1.text": "y", "a.c.2.text": None, "a.d": None, "a.b.c.d": None, "none.x": None,
    "messages.user": "1 and 1?", "messages.tool": None, "messages.0.content": "s", "conversations.gpt": "1", "parts.user": "qr",
    "conversations.2.value": "r", "messages.": None, ".": None,
}  # fmt: skip


def test_a_dotted_name_is_a_column_or_a_nested_field() -> None:
    assert {path: value_at(ROW, path) for path in VALUES} == VALUES
    for path, problem in (("conversations.human", "2 messages have the role"), ("image.user", "no text")):
        with pytest.raises(BadRowError, match=problem):
            value_at(ROW, path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet", "array.json"])
def test_messages_and_nested_ids_make_examples(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path / name, [{"meta": {"id": f"r{i}"}, "messages": ASKED if i else ASKED * 2} for i in range(3)])
    task, files = load_task(task_spec("arithmetic")), [str(tmp_path / name)]
    fields = {"id": "meta.id", "input": "messages.user", "gold": "messages.assistant"}
    check_columns(files, task, fields, "corpus.train")
    first, *read = [row for split in corpus_splits(files, "train") for row in read_split(split, task, fields)]
    assert first.problem.startswith("2 messages have the role")
    found = [(row.id, row.example.input, row.example.gold) for row in read if row.example]
    assert found == [("r1", "1 and 1?", "1 + 1"), ("r2", "1 and 1?", "1 + 1")]
    for path, rule in (("messages.tool", "reads column `messages.tool`"), ("meta.text", "have only: .*messages")):
        with pytest.raises(UserError, match=rule):
            check_columns(files, task, {**fields, "input": path}, "corpus.train")
