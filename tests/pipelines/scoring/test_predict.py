"""Batches of a predictor, and what happens to batches that are lost. Real Ray: tests/integration/test_evaluate.py."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import EvaluationConfig
from pipelines.errors import StageFailedError
from pipelines.scoring import predict as module
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Predictor, Query
from pipelines.students.decoding import Family, GenerationRequest, Sampling, Student
from pipelines.students.decoding.label_scores import label_set
from tests.support.tiny_students import tiny_model, tiny_tokenizer

TEXTS = ["Tom has 9 pears.", "Anne has 4 apples and gives Peter 2.", "How many? " * 40, "7 books"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models gain nothing from threads, which wait for each other on a busy machine."""
    monkeypatch.setattr("pipelines.scoring.predictor.usable_cpus", lambda: 1)


@dataclass(frozen=True)
class Tiny:
    """A tiny student."""

    family: Family = "decoder-only"
    method: str = "step-by-step"

    def load(self, device: str) -> Student:
        tokenizer = tiny_tokenizer(self.family)
        model = tiny_model(self.family, len(tokenizer))
        return Student(model, tokenizer, method=self.method, max_input_tokens=64, device=device)


class Slow(Tiny):
    """Takes a second to load, another for its first text, and a tenth for each later batch."""

    def load(self, device: str) -> Student:
        time.sleep(1.0)
        student = super().load(device)
        write, pauses = student.write, iter((1.0,))

        def slowly(*given: Any, **named: Any) -> Any:
            time.sleep(next(pauses, 0.1))
            return write(*given, **named)

        student.write = slowly  # type: ignore[method-assign]
        return student


@dataclass(frozen=True)
class Counted(Tiny):
    """Records each load."""

    name: str = ""
    loads: list[str] | None = None

    def load(self, device: str) -> Student:
        assert self.loads is not None
        self.loads.append(self.name)
        return super().load(device)


class Broken(Tiny):
    """Cannot be loaded."""

    def load(self, device: str) -> Student:
        raise ValueError("first line\nno weights")


def answer(
    queries: Sequence[Query], texts: Sequence[str], settings: EvaluationConfig, *, labels: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The answers of one predictor, which gets each query with the same inputs."""
    predictor = Predictor(queries, settings)
    requests = [PredictRequest("made", query, texts, [labels] * len(texts)) for query in queries]
    batches = module._batches(requests, len(texts))
    return [row for batch in batches for row in predictor(batch.table).to_pylist()]


def by_row(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: (row["row"], row["draw"]))


@pytest.mark.parametrize("family", ["encoder-decoder", "decoder-only"])
def test_batched_answers_equal_single_answers(family: Family) -> None:
    found = by_row(answer([Query(Tiny(family))], TEXTS, EvaluationConfig(max_new_tokens=6)))
    assert [row["too_long"] for row in found] == [False, False, True, False]
    assert (found[2]["text"], found[2]["output_tokens"]) == ("", 0)
    student = Tiny(family).load("cpu")
    for i in (0, 1, 3):
        alone = student.answer([TEXTS[i]], "label", 6)[0]
        assert found[i]["text"] == alone.text
        assert found[i]["confidence"] == pytest.approx(alone.confidence, rel=1e-3)
        assert (found[i]["prompt_tokens"], found[i]["output_tokens"]) == (alone.prompt_tokens, alone.output_tokens)
    assert len({found[i]["text"] for i in (0, 1, 3)}) == 3, "equal answers would hide an exchange"
    [only] = answer([Query(Tiny(family))], [TEXTS[2]], EvaluationConfig())
    assert only["too_long"], "a batch of long inputs only"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[GenerationRequest]:
    """All texts that students are asked for."""
    found: list[GenerationRequest] = []
    write = Student.write
    monkeypatch.setattr(Student, "write", lambda self, asked: found.extend(asked) or write(self, asked))  # type: ignore[func-returns-value]
    return found


def test_the_closed_label_set_reaches_the_student(written: list[GenerationRequest]) -> None:
    """What it does to the confidence: tests/pipelines/students/decoding/test_label_scores.py."""
    answer([Query(Tiny())], [TEXTS[0], TEXTS[3]], EvaluationConfig(max_new_tokens=2), labels=("spam", "ham"))
    closed = label_set(tiny_tokenizer("decoder-only"), "label", ("spam", "ham"))
    assert [request.labels for request in written[1:]] == [closed] * 2, "the first is the warm-up"


def test_each_input_is_answered_once_per_draw() -> None:
    draws = tuple(Sampling(1.0, seed=5, draw=draw) for draw in range(3))
    texts = [TEXTS[0], TEXTS[2], TEXTS[3]]
    found = by_row(answer([Query(Tiny(), draws=draws)], texts, EvaluationConfig(max_new_tokens=6)))
    assert [(row["row"], row["draw"]) for row in found] == [(r, d) for r in range(3) for d in range(3)]
    student = Tiny().load("cpu")
    for row, text in ((0, TEXTS[0]), (2, TEXTS[3])):
        alone = [student.answer([text], "label", 6, sampling=draw)[0].text for draw in draws]
        assert [r["text"] for r in found if r["row"] == row] == alone
    assert {row["too_long"] for row in found if row["row"] == 1} == {True}


def test_a_rationale_may_be_longer_than_a_label() -> None:
    queries = [Query(Tiny(), part) for part in ("label", "rationale")]  # type: ignore[arg-type]
    label, rationale = answer(queries, [TEXTS[0]], EvaluationConfig(max_new_tokens=3))
    assert label["output_tokens"] == 3
    assert rationale["output_tokens"] > 3


def test_time_excludes_loading_and_the_first_token() -> None:
    first, second = answer([Query(Slow())], [TEXTS[0], TEXTS[3]], EvaluationConfig(max_new_tokens=2))
    assert 0.05 <= first["seconds"] == second["seconds"] < 0.5, "half of 0.1 s at least, and not the 2 s before"


def test_a_student_is_loaded_once_until_another_is_asked() -> None:
    loads = list[str]()
    one, other = Counted(name="one", loads=loads), Counted("encoder-decoder", name="other", loads=loads)
    queries = [Query(one), Query(one, "rationale"), Query(other), Query(one)]
    answer(queries, [TEXTS[0]], EvaluationConfig(max_new_tokens=2))
    assert loads == ["one", "other", "one"]


def test_the_warm_up_writes_one_token(written: list[GenerationRequest]) -> None:
    answer([Query(Tiny(method="rationale-then-label"))], [TEXTS[0]], EvaluationConfig(max_new_tokens=2))
    assert [request.max_new_tokens for request in written] == [1, 256]


def test_an_exception_is_returned_as_a_row() -> None:
    [row] = answer([Query(Broken())], TEXTS, EvaluationConfig())
    assert row["error"] == "ValueError: no weights"
    assert row["row"] is None


def test_batches_hold_every_input_once_longest_first() -> None:
    inputs = ["a" * length for length in (3, 9, 1, 9, 5)]
    labels = [(f"label {row}",) if row else () for row in range(5)]
    requests = [PredictRequest("one", Query(Tiny()), inputs, labels), PredictRequest("two", Query(Tiny()), ["b"])]
    tables = [batch.table.to_pylist()[0] for batch in module._batches(requests, 2)]
    assert [(t["request"], t["rows"]) for t in tables] == [(0, [1, 3]), (0, [4, 0]), (0, [2]), (1, [0])]
    assert tables[1]["inputs"] == ["a" * 5, "a" * 3]
    assert tables[1]["label_sets"] == [["label 4"], []]


class FakeRayData:
    """Answers batches in this process. `deadly`: how often a batch is lost with its worker, by request and first row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadly: dict[tuple[int, int], int]) -> None:
        self.deadly, self.passes = deadly, list[list[tuple[int, int]]]()
        monkeypatch.setattr(module, "_answers", self.answers)

    def answers(
        self, batches: Sequence[Any], queries: Sequence[Query], settings: EvaluationConfig
    ) -> Iterator[pa.Table]:
        self.passes.append([(batch.request, batch.rows[0]) for batch in batches])
        predictor = Predictor(queries, settings)
        for batch in batches[::-1]:
            key = batch.request, batch.rows[0]
            if self.deadly.get(key, 0):
                self.deadly[key] -= 1
            else:
                yield predictor(batch.table)


SETTINGS = EvaluationConfig(batch_size=1, max_new_tokens=2)


def test_lost_batches_are_answered_by_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_data = FakeRayData(monkeypatch, {(0, 1): 3, (1, 3): 1})
    texts = [TEXTS[0], TEXTS[1], TEXTS[3], "more"]
    requests = [
        PredictRequest("one", Query(Tiny()), texts),
        PredictRequest("two", Query(Tiny("encoder-decoder")), texts),
    ]
    found = predict(requests, SETTINGS)
    assert ray_data.passes[1:] == [[(0, 1), (1, 3)], [(0, 1)], [(0, 1)]]
    for request, predictions in zip(requests, found, strict=True):
        student = request.query.source.load("cpu")
        assert [one.text for (one,) in predictions.answers] == [d.text for d in student.answer(texts, "label", 2)]
        assert predictions.seconds >= 0.0


def test_an_input_that_kills_every_worker_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_data = FakeRayData(monkeypatch, {(0, 0): 99})
    with pytest.raises(
        StageFailedError, match=r"evaluate student: failed after 1 of 2 examples \(each time, the workers died"
    ):
        predict([PredictRequest("student", Query(Tiny()), ["long", "s"])], SETTINGS)
    assert ray_data.passes == [[(0, 0), (0, 1)], [(0, 0)], [(0, 0)], [(0, 0)]]


def test_an_exception_ends_the_stage_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_data = FakeRayData(monkeypatch, {})
    with pytest.raises(
        StageFailedError, match=r"student: failed after 0 of 4 examples \(ValueError: no weights\)\. Run"
    ):
        predict([PredictRequest("student", Query(Broken()), TEXTS)], SETTINGS)
    assert len(ray_data.passes) == 1
