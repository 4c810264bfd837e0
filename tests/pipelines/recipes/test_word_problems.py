import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipelines.recipes import word_problems
from pipelines.recipes.word_problems import TEST_TEMPLATES, TRAIN_TEMPLATES, Template
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.parsing.expressions import evaluate_expression

SHIPPED = Path(word_problems.__file__).parent / "corpora" / "word_problems"
TASK = load_task(task_spec("arithmetic"))


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SHIPPED / name).read_text(encoding="utf-8").splitlines()]


def _pattern(template: Template) -> re.Pattern[str]:
    """What the template's problems look like."""
    return re.compile(re.sub(r"\\{[a-zA-Z]+\\}", r"[A-Za-z0-9]+", re.escape(template.text)))


def test_the_shipped_files_are_what_the_module_writes(tmp_path: Path) -> None:
    word_problems.main([str(tmp_path)])
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), f"regenerate {SHIPPED}"


def test_another_seed_gives_other_rows_and_the_same_seed_the_same() -> None:
    assert word_problems.train_rows(50, 1) == word_problems.train_rows(50, 1) != word_problems.train_rows(50, 2)


@pytest.mark.parametrize(("name", "count"), [("train.jsonl", 600), ("test.jsonl", 120)])
def test_every_label_is_right(name: str, count: int) -> None:
    rows = _rows(name)
    assert len({row["id"] for row in rows}) == len({row["input"] for row in rows}) == len(rows) == count
    for row in rows:
        example = TASK.read({"id": row["id"], "input": row["input"], "gold": row["label"]})
        assert example.gold == row["label"]
        value = evaluate_expression(row["label"])
        assert value.denominator == 1
        assert value >= 0
        numbers = re.findall(r"[0-9]+", row["input"])
        assert sorted(numbers) == sorted(re.findall(r"[0-9]+", row["label"]))
        assert all(2 <= int(number) <= 180 for number in numbers)
        assert not re.search(r"[{}]|boxs", row["input"])


def test_training_and_test_share_no_template_and_no_input() -> None:
    assert not {t.text for t in TRAIN_TEMPLATES} & {t.text for t in TEST_TEMPLATES}
    assert not {row["input"] for row in _rows("train.jsonl")} & {row["input"] for row in _rows("test.jsonl")}
    for template in TEST_TEMPLATES:
        pattern = _pattern(template)
        assert any(pattern.fullmatch(row["input"]) for row in _rows("test.jsonl"))
        assert not any(pattern.fullmatch(row["input"]) for row in _rows("train.jsonl")), template


def test_operations_are_balanced_and_their_operands_stand_in_both_orders() -> None:
    for name in ("train.jsonl", "test.jsonl"):
        rows = _rows(name)
        assert set(Counter(row["label"].split()[1] for row in rows).values()) == {len(rows) // 4}
        for operation in "-/":
            same = [row for row in rows if row["label"].split()[1] == operation]
            in_order = sum(re.findall(r"[0-9]+", row["input"]) == row["label"].split()[::2] for row in same)
            assert 0.3 * len(same) < in_order < 0.9 * len(same), (name, operation, in_order)


def test_each_operation_has_enough_templates() -> None:
    assert min(Counter(t.operation for t in TRAIN_TEMPLATES).values()) >= 8
    assert min(Counter(t.operation for t in TEST_TEMPLATES).values()) >= 3


def test_no_problem_is_one_of_the_prompt() -> None:
    shown = {shot.question for shot in TASK.shots}
    assert not shown & {row["input"] for row in (*_rows("train.jsonl"), *_rows("test.jsonl"))}


def test_it_needs_a_folder() -> None:
    with pytest.raises(SystemExit):
        word_problems.main([])


def test_more_rows_than_there_are_is_an_error_and_no_endless_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("_THINGS", "_BOXES"):
        monkeypatch.setattr(word_problems, words, getattr(word_problems, words)[:1])
    monkeypatch.setattr(word_problems, "LARGEST", 2)
    with pytest.raises(ValueError, match="ask for fewer"):
        word_problems.train_rows(30_000, 0)
