import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipelines.recipes import word_problems
from pipelines.recipes.word_problems import TEST_TEMPLATES, TRAIN_TEMPLATES, Template
from pipelines.tasks.parsing.expressions import evaluate_expression

SHIPPED = Path(word_problems.__file__).parent / "corpora" / "word_problems"


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SHIPPED / name).read_text(encoding="utf-8").splitlines()]


def _pattern(template: Template) -> re.Pattern[str]:
    """Pattern of the template's problems."""
    return re.compile(re.sub(r"\\{[a-zA-Z]+\\}", r"[A-Za-z0-9]+", re.escape(template.text)))


def test_labels_fit_the_numbers_of_their_problem() -> None:
    for row in (*_rows("train.jsonl"), *_rows("test.jsonl")):
        value = evaluate_expression(row["label"])
        assert value.denominator == 1
        assert value >= 0
        numbers = re.findall(r"[0-9]+", row["input"])
        assert sorted(numbers) == sorted(re.findall(r"[0-9]+", row["label"]))
        assert all(2 <= int(number) <= 180 for number in numbers)
        assert not re.search(r"[{}]|boxs", row["input"])


def test_training_and_test_share_no_template() -> None:
    assert not {t.text for t in TRAIN_TEMPLATES} & {t.text for t in TEST_TEMPLATES}
    for template in TEST_TEMPLATES:
        pattern = _pattern(template)
        assert any(pattern.fullmatch(row["input"]) for row in _rows("test.jsonl"))
        assert not any(pattern.fullmatch(row["input"]) for row in _rows("train.jsonl")), template


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])
def test_operations_are_balanced_and_operands_vary_in_order(name: str) -> None:
    rows = _rows(name)
    assert set(Counter(row["label"].split()[1] for row in rows).values()) == {len(rows) // 4}
    for operation in "-/":
        same = [row for row in rows if row["label"].split()[1] == operation]
        in_order = sum(re.findall(r"[0-9]+", row["input"]) == row["label"].split()[::2] for row in same)
        assert 0.3 * len(same) < in_order < 0.9 * len(same), (operation, in_order)


def test_request_for_too_many_rows_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("_THINGS", "_BOXES"):
        monkeypatch.setattr(word_problems, words, getattr(word_problems, words)[:1])
    monkeypatch.setattr(word_problems, "LARGEST", 2)
    with pytest.raises(ValueError, match="Request fewer rows"):
        word_problems.train_rows(30_000, 0)
