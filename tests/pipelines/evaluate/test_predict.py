from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import EvaluationConfig
from pipelines.decode import Family, Student
from pipelines.evaluate.predict import Answerer, _batches
from tests.serving.tiny import tiny_model, tiny_tokenizer

TEXTS = ["Tom has 9 pears.", "Anne has 4 apples and gives Peter 2.", "How many? " * 40, "7 books"]


@dataclass(frozen=True)
class Tiny:
    """A source of a tiny student."""

    family: Family

    def load(self, device: str) -> Student:
        tokenizer = tiny_tokenizer(self.family)
        model = tiny_model(self.family, len(tokenizer))
        return Student(model, tokenizer, method="step-by-step", max_input_tokens=64, device=device)


def _block(rows: dict[int, str]) -> pa.Table:
    return pa.Table.from_pylist([{"row": row, "input": text} for row, text in rows.items()])


@pytest.mark.parametrize("family", ["encoder-decoder", "decoder-only"])
def test_a_block_is_answered_row_by_row_and_a_long_input_is_not(family: Family) -> None:
    settings = EvaluationConfig(max_new_tokens=6)
    found: list[dict[str, Any]] = Answerer(Tiny(family), settings)(_block(dict(enumerate(TEXTS, start=10)))).to_pylist()
    assert [row["row"] for row in found] == [10, 11, 12, 13]
    assert [row["too_long"] for row in found] == [False, False, True, False]
    assert (found[2]["text"], found[2]["output_tokens"]) == ("", 0)
    student = Tiny(family).load("cpu")
    for i in (0, 1, 3):
        alone = student.answer([TEXTS[i]], "label", 6)[0]
        assert found[i]["text"] == alone.text
        assert found[i]["confidence"] == pytest.approx(alone.confidence, rel=1e-3)
        assert (found[i]["prompt_tokens"], found[i]["output_tokens"]) == (alone.prompt_tokens, alone.output_tokens)
    assert len({found[i]["text"] for i in (0, 1, 3)}) == 3, "the answers must differ for the test to see an exchange"


def test_a_block_of_long_inputs_only() -> None:
    found = Answerer(Tiny("decoder-only"), EvaluationConfig())(_block({3: TEXTS[2]})).to_pylist()
    assert [(row["row"], row["too_long"]) for row in found] == [(3, True)]


def test_batches_hold_every_row_once_longest_first() -> None:
    inputs = ["a" * length for length in (3, 9, 1, 9, 5)]
    tables = _batches(inputs, 2)
    assert [table.column("row").to_pylist() for table in tables] == [[1, 3], [4, 0], [2]]
    assert [table.column("input").to_pylist() for table in tables] == [["a" * 9, "a" * 9], ["a" * 5, "a" * 3], ["a"]]
