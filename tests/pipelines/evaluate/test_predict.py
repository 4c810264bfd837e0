from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipelines.config import EvaluationConfig
from pipelines.decode import Family, Order, Sampling, Student
from pipelines.decode.closed import label_set
from pipelines.evaluate.predict import _INPUT, Answerer, Asked, _batches
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


class Slow(Tiny):
    """It takes a second to load and at least a tenth to answer a batch."""

    def load(self, device: str) -> Student:
        time.sleep(1.0)
        student = super().load(device)
        answer = student.answer

        def slowly(*given: Any, **named: Any) -> Any:
            time.sleep(0.1)
            return answer(*given, **named)

        student.answer = slowly  # type: ignore[method-assign]
        return student


def _block(rows: dict[int, str], labels: tuple[str, ...] = ()) -> pa.Table:
    asked = [{"row": row, "input": text, "labels": list(labels)} for row, text in rows.items()]
    return pa.Table.from_pylist(asked, schema=_INPUT)


@pytest.mark.parametrize("family", ["encoder-decoder", "decoder-only"])
def test_a_block_is_answered_row_by_row_and_a_long_input_is_not(family: Family) -> None:
    settings = EvaluationConfig(max_new_tokens=6)
    block = _block(dict(enumerate(TEXTS, start=10)))
    found: list[dict[str, Any]] = Answerer(settings).answer(Asked(Tiny(family)), block).to_pylist()
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


def test_a_row_s_closed_set_reaches_its_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The confidence is then that which the student gives (tests/pipelines/test_closed.py)."""
    orders: list[Order] = []
    write = Student.write
    monkeypatch.setattr(Student, "write", lambda self, asked: orders.extend(asked) or write(self, asked))  # type: ignore[func-returns-value]
    block = _block({1: TEXTS[0], 2: TEXTS[3]}, ("spam", "ham"))
    Answerer(EvaluationConfig(max_new_tokens=2)).answer(Asked(Tiny("decoder-only")), block)
    assert [order.labels for order in orders] == [
        label_set(tiny_tokenizer("decoder-only"), "label", ("spam", "ham"))
    ] * 2


def test_each_input_is_answered_once_for_each_draw() -> None:
    draws = tuple(Sampling(1.0, seed=5, draw=draw) for draw in range(3))
    asked, block = Asked(Tiny("decoder-only"), draws=draws), _block({7: TEXTS[0], 8: TEXTS[2], 9: TEXTS[3]})
    found = Answerer(EvaluationConfig(max_new_tokens=6)).answer(asked, block).to_pylist()
    assert sorted((row["row"], row["draw"]) for row in found) == [(r, d) for r in (7, 8, 9) for d in range(3)]
    student = Tiny("decoder-only").load("cpu")
    for row, text in ((7, TEXTS[0]), (9, TEXTS[3])):
        alone = [student.answer([text], "label", 6, sampling=draw)[0].text for draw in draws]
        assert [r["text"] for r in found if r["row"] == row] == alone
    assert {row["too_long"] for row in found if row["row"] == 8} == {True}


def test_a_rationale_may_be_as_long_as_the_student_was_trained_to_write_it() -> None:
    actor, parts = Answerer(EvaluationConfig(max_new_tokens=3)), ("label", "rationale")
    found = {
        part: actor.answer(Asked(Tiny("decoder-only"), part), _block({0: TEXTS[0]})).to_pylist()[0] for part in parts
    }
    assert found["label"]["output_tokens"] == 3
    assert found["rationale"]["output_tokens"] > 3


def test_the_time_is_that_of_answering_not_of_loading() -> None:
    asked, block = Asked(Slow("decoder-only")), _block({0: TEXTS[0], 1: TEXTS[3]})
    first, second = Answerer(EvaluationConfig(max_new_tokens=2)).answer(asked, block).to_pylist()
    assert 0.05 <= first["seconds"] == second["seconds"] < 1.0, (
        "half of the batch's 0.1 s at least, none of the 1 s of loading"
    )


def test_a_block_of_long_inputs_only() -> None:
    found = Answerer(EvaluationConfig()).answer(Asked(Tiny("decoder-only")), _block({3: TEXTS[2]})).to_pylist()
    assert [(row["row"], row["too_long"]) for row in found] == [(3, True)]


@dataclass(frozen=True)
class Noted(Tiny):
    """Each load of it is noted."""

    name: str
    loads: ClassVar[list[str]] = []

    def load(self, device: str) -> Student:
        self.loads.append(self.name)
        return super().load(device)


def test_a_student_is_read_when_another_was_asked_before_it() -> None:
    actor = Answerer(EvaluationConfig(max_new_tokens=2))
    one, other = ("decoder-only", "one"), ("encoder-decoder", "other")
    for asked in (Asked(Noted(*one)), Asked(Noted(*one), "rationale"), Asked(Noted(*other)), Asked(Noted(*one))):
        actor.answer(asked, _block({0: TEXTS[0]}))
    assert Noted.loads == ["one", "other", "one"]


def test_batches_hold_every_row_once_longest_first() -> None:
    inputs = ["a" * length for length in (3, 9, 1, 9, 5)]
    tables = _batches(inputs, [(f"label {row}",) if row else () for row in range(5)], 2)
    assert tables[1].column("labels").to_pylist() == [["label 4"], []]
    assert [table.column("row").to_pylist() for table in tables] == [[1, 3], [4, 0], [2]]
    assert [table.column("input").to_pylist() for table in tables] == [["a" * 9, "a" * 9], ["a" * 5, "a" * 3], ["a"]]
