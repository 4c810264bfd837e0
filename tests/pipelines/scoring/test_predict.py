from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import ActorUnavailableError

from pipelines.config import EvaluationConfig
from pipelines.scoring.predict import _INPUT, Predictor, PredictorPool, Question, _batches
from pipelines.students.decoding import Family, GenerationRequest, Sampling, Student
from pipelines.students.decoding.label_scores import label_set
from tests.support.tiny_students import tiny_model, tiny_tokenizer

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
    """It takes a second to load, another for what it writes first, and at least a tenth for each batch after it."""

    def load(self, device: str) -> Student:
        time.sleep(1.0)
        student = super().load(device)
        write, pauses = student.write, iter((1.0,))

        def slowly(*given: Any, **named: Any) -> Any:
            time.sleep(next(pauses, 0.1))
            return write(*given, **named)

        student.write = slowly  # type: ignore[method-assign]
        return student


def _block(rows: dict[int, str], labels: tuple[str, ...] = ()) -> pa.Table:
    asked = [{"row": row, "input": text, "labels": list(labels)} for row, text in rows.items()]
    return pa.Table.from_pylist(asked, schema=_INPUT)


@pytest.mark.parametrize("family", ["encoder-decoder", "decoder-only"])
def test_a_block_is_answered_row_by_row_and_a_long_input_is_not(family: Family) -> None:
    settings = EvaluationConfig(max_new_tokens=6)
    block = _block(dict(enumerate(TEXTS, start=10)))
    found: list[dict[str, Any]] = Predictor(settings).answer(Question(Tiny(family)), block).to_pylist()
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


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[GenerationRequest]:
    """All that students are asked to write."""
    found: list[GenerationRequest] = []
    write = Student.write
    monkeypatch.setattr(Student, "write", lambda self, asked: found.extend(asked) or write(self, asked))  # type: ignore[func-returns-value]
    return found


def test_a_row_s_closed_set_reaches_its_student(orders: list[GenerationRequest]) -> None:
    """The confidence is then that which the student gives (tests/pipelines/students/decoding/test_label_scores.py)."""
    block = _block({1: TEXTS[0], 2: TEXTS[3]}, ("spam", "ham"))
    Predictor(EvaluationConfig(max_new_tokens=2)).answer(Question(Tiny("decoder-only")), block)
    closed = label_set(tiny_tokenizer("decoder-only"), "label", ("spam", "ham"))
    assert [order.labels for order in orders[1:]] == [closed] * 2, "the first is asked when the student is read"


def test_each_input_is_answered_once_for_each_draw() -> None:
    draws = tuple(Sampling(1.0, seed=5, draw=draw) for draw in range(3))
    asked, block = Question(Tiny("decoder-only"), draws=draws), _block({7: TEXTS[0], 8: TEXTS[2], 9: TEXTS[3]})
    found = Predictor(EvaluationConfig(max_new_tokens=6)).answer(asked, block).to_pylist()
    assert sorted((row["row"], row["draw"]) for row in found) == [(r, d) for r in (7, 8, 9) for d in range(3)]
    student = Tiny("decoder-only").load("cpu")
    for row, text in ((7, TEXTS[0]), (9, TEXTS[3])):
        alone = [student.answer([text], "label", 6, sampling=draw)[0].text for draw in draws]
        assert [r["text"] for r in found if r["row"] == row] == alone
    assert {row["too_long"] for row in found if row["row"] == 8} == {True}


def test_a_rationale_may_be_as_long_as_the_student_was_trained_to_write_it() -> None:
    actor, parts = Predictor(EvaluationConfig(max_new_tokens=3)), ("label", "rationale")
    found = {
        part: actor.answer(Question(Tiny("decoder-only"), part), _block({0: TEXTS[0]})).to_pylist()[0] for part in parts
    }
    assert found["label"]["output_tokens"] == 3
    assert found["rationale"]["output_tokens"] > 3


def test_the_time_is_that_of_answering_not_of_loading_nor_of_a_first_token() -> None:
    asked, block = Question(Slow("decoder-only")), _block({0: TEXTS[0], 1: TEXTS[3]})
    first, second = Predictor(EvaluationConfig(max_new_tokens=2)).answer(asked, block).to_pylist()
    assert 0.05 <= first["seconds"] == second["seconds"] < 0.5, (
        "half of the batch's 0.1 s at least, none of the 1 s of loading and of the first token"
    )


def test_a_block_of_long_inputs_only() -> None:
    found = Predictor(EvaluationConfig()).answer(Question(Tiny("decoder-only")), _block({3: TEXTS[2]})).to_pylist()
    assert [(row["row"], row["too_long"]) for row in found] == [(3, True)]


@dataclass(frozen=True)
class Noted(Tiny):
    """Each load of it is noted."""

    name: str
    loads: list[str]

    def load(self, device: str) -> Student:
        self.loads.append(self.name)
        return super().load(device)


def test_a_student_is_read_when_another_was_asked_before_it() -> None:
    actor, loads = Predictor(EvaluationConfig(max_new_tokens=2)), list[str]()
    one, other = Noted("decoder-only", "one", loads), Noted("encoder-decoder", "other", loads)
    for question in (Question(one), Question(one, "rationale"), Question(other), Question(one)):
        actor.answer(question, _block({0: TEXTS[0]}))
    assert loads == ["one", "other", "one"]


@dataclass(frozen=True)
class Texts(Tiny):
    """Its student writes whole texts."""

    def load(self, device: str) -> Student:
        student = super().load(device)
        student.method = "rationale-then-label"
        return student


def test_what_a_student_writes_when_it_is_read_is_one_token(orders: list[GenerationRequest]) -> None:
    Predictor(EvaluationConfig(max_new_tokens=2)).answer(Question(Texts("decoder-only")), _block({0: TEXTS[0]}))
    assert [order.max_new_tokens for order in orders] == [1, 256]


def test_batches_hold_every_row_once_longest_first() -> None:
    inputs = ["a" * length for length in (3, 9, 1, 9, 5)]
    tables = _batches(inputs, [(f"label {row}",) if row else () for row in range(5)], 2)
    assert tables[1].column("labels").to_pylist() == [["label 4"], []]
    assert [table.column("row").to_pylist() for table in tables] == [[1, 3], [4, 0], [2]]
    assert [table.column("input").to_pylist() for table in tables] == [["a" * 9, "a" * 9], ["a" * 5, "a" * 3], ["a"]]


class Reply(SimpleNamespace):
    """What is to come: `there` already or never, its `value` or error."""

    __hash__ = object.__hash__


class Cluster:
    """A stand-in of Ray with two actors. The second's process ends at its first batch, and there is no room for another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, Any]] = []
        self.actors = 0
        self.lost: set[int] = set()
        for name in ("remote", "wait", "get", "kill"):
            monkeypatch.setattr(f"ray.{name}", getattr(self, name))

    def remote(self, **_: object) -> Any:
        return lambda kind: SimpleNamespace(remote=self.start)

    def start(self, settings: object) -> Any:
        number, self.actors = self.actors, self.actors + 1
        start = SimpleNamespace(remote=lambda: Reply(there=number not in self.lost, value=None))
        return SimpleNamespace(
            __ray_ready__=start, answer=SimpleNamespace(remote=lambda question, batch: self.answer(number, batch))
        )

    def answer(self, number: int, batch: str) -> Any:
        self.asked.append((number, batch))
        if number == 1:
            self.lost.add(1)
            return Reply(there=True, value=ActorUnavailableError("its node is gone", None))
        return Reply(there=True, value=f"answers to {batch}")

    def wait(self, refs: Sequence[Any], num_returns: int) -> Any:
        there = [ref for ref in refs if ref.there]
        assert there, "it would wait for ever"
        return there[-num_returns:], []

    def get(self, ref: Any) -> Any:
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value

    def kill(self, actor: object) -> None:
        pass


def test_what_a_lost_worker_had_goes_to_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    with PredictorPool(EvaluationConfig(workers=2)) as answerers:
        found: list[Any] = list(answerers.answer(Question(Tiny("decoder-only")), ["a", "b", "c"]))  # type: ignore[list-item]
    assert sorted(found) == ["answers to a", "answers to b", "answers to c"]
    assert sum(number == 1 for number, _ in cluster.asked) == 1
