"""Batches of a predictor, and what happens to batches that are lost. Real Ray: tests/integration/test_evaluate.py."""

import logging
import math
import time
from dataclasses import asdict
from typing import Any

import pytest

from pipelines.config import EvaluationConfig
from pipelines.errors import StageFailedError
from pipelines.scoring import predict as module
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Predictor, Query
from pipelines.students.decoding import Family, GenerationRequest, Sampling, Student
from pipelines.students.decoding.label_scores import label_set
from pipelines.students.decoding.ranking import rank_texts
from tests.support.fake_predictors import Broken, Counted, FakeRayData, Slow, Tiny, answer, by_row
from tests.support.tiny_students import tiny_tokenizer

TEXTS = ["Tom has 9 pears.", "Anne has 4 apples and gives Peter 2.", "How many? " * 40, "7 books"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models gain nothing from threads, which wait for each other on a busy machine."""
    monkeypatch.setattr("pipelines.scoring.predictor.usable_cpus", lambda: 1)


@pytest.mark.parametrize("family", ["encoder-decoder", "decoder-only"])
def test_batched_answers_equal_single_answers(family: Family) -> None:
    queries = [Query(Tiny(family)), Query(Tiny(family), "rationale")]
    both = answer(queries, TEXTS, EvaluationConfig(max_new_tokens=6))
    found, rationales = by_row(both[:4]), by_row(both[4:])
    assert [row["too_long"] for row in found] == [False, False, True, False]
    assert (found[2]["text"], found[2]["output_tokens"]) == ("", 0)
    assert rationales[0]["output_tokens"] > 6 >= found[0]["output_tokens"], "a rationale may be longer"
    student = Tiny(family).load("cpu")
    for i in (0, 1, 3):
        alone = student.answer([TEXTS[i]], "label", 6)[0]
        assert {key: found[i][key] for key in ("text", "prompt_tokens", "output_tokens")}.items() <= asdict(
            alone
        ).items()
        assert found[i]["confidence"] == pytest.approx(alone.confidence, rel=1e-3)
    assert len({found[i]["text"] for i in (0, 1, 3)}) == 3, "equal answers would hide an exchange"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[GenerationRequest]]:
    """The generation requests of students, batch by batch. The first is the warm-up."""
    found, write = list[Any](), Student.write
    monkeypatch.setattr(Student, "write", lambda self, requests: found.append(requests) or write(self, requests))
    return found


def test_the_closed_label_set_reaches_the_student(written: Any) -> None:
    """What it does to the confidence: tests/pipelines/students/decoding/test_label_scores.py."""
    answer([Query(Tiny())], [TEXTS[0], TEXTS[3]], EvaluationConfig(max_new_tokens=2), labels=("spam", "ham"))
    closed = label_set(tiny_tokenizer("decoder-only"), "label", ("spam", "ham"))
    assert [request.labels for batch in written[1:] for request in batch] == [closed] * 2


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


def test_a_constrained_query_answers_with_labels() -> None:
    settings, labels = EvaluationConfig(max_new_tokens=4), ("spam", "ham")
    queries = [[Query(Tiny(), constrained=constrained)] for constrained in (False, True)]
    free, constrained = (by_row(answer(query, TEXTS, settings, labels=labels)) for query in queries)
    assert [row["in_set"] for row in free] == [False, False, None, False], "the third is too long"
    assert [row["in_set"] for row in constrained] == [True, True, None, True]
    assert {row["text"] for row in constrained} <= {"spam", "ham", ""}
    assert {(row["engine"], row["weights"]) for row in constrained} == {("transformers", "float32")}


def test_an_engine_without_scores_cannot_be_constrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Student, "returns_scores", False)
    [row] = answer([Query(Tiny(), constrained=True)], TEXTS[:1], EvaluationConfig(), labels=("spam", "ham"))
    assert row["error"].startswith("evaluation.constrained true: this version of vLLM")


def test_a_ranking_query_answers_with_the_likeliest_label() -> None:
    query = Query(Tiny(), ranked=True)
    found = by_row(answer([query], TEXTS, EvaluationConfig(), labels=("spam", "spam not", "ham")))
    likelihoods = rank_texts(Tiny().load("cpu"), [TEXTS[0]], [[" spam.", " spam not.", " ham."]])[0]
    assert found[0]["text"] == ("spam", "spam not", "ham")[likelihoods.index(max(likelihoods))]
    total = sum(math.exp(one) for one in likelihoods)
    assert found[0]["confidence"] == pytest.approx(math.exp(max(likelihoods)) / total, rel=1e-4)
    assert [row["too_long"] for row in found] == [False, False, True, False]


def test_time_excludes_loading_and_the_first_token() -> None:
    first, second = answer([Query(Slow())], [TEXTS[0], TEXTS[3]], EvaluationConfig(max_new_tokens=2))
    assert 0.05 <= first["seconds"] == second["seconds"] < 0.5, "half of 0.1 s at least, and not the 2 s before"


def test_a_student_is_loaded_once_until_another_is_asked() -> None:
    loads = list[str]()
    one, other = Counted(name="one", loads=loads), Counted("encoder-decoder", name="other", loads=loads)
    queries = [Query(one), Query(one, "rationale"), Query(other), Query(one)]
    answer(queries, [TEXTS[0]], EvaluationConfig(max_new_tokens=2))
    assert loads == ["one", "other", "one"]


def test_an_exception_is_returned_as_a_row() -> None:
    [row] = answer([Query(Broken())], TEXTS, EvaluationConfig())
    assert row["error"] == "ValueError: no weights"
    assert row["row"] is None


def test_batches_hold_every_input_once_longest_first() -> None:
    inputs = ["a" * length for length in (3, 9, 1, 9, 5)]
    labels = [(f"label {row}",) if row else () for row in range(5)]
    requests = [PredictRequest("one", Query(Tiny()), inputs, labels), PredictRequest("two", Query(Tiny()), ["b"])]
    tables = [batch.table.to_pylist()[0] for batch in module._batches(requests, EvaluationConfig(batch_size=2))]
    assert [(t["request"], t["rows"]) for t in tables] == [(0, [1, 3]), (0, [4, 0]), (0, [2]), (1, [0])]
    assert (tables[1]["inputs"], tables[1]["label_sets"]) == (["a" * 5, "a" * 3], [["label 4"], []])


@pytest.mark.parametrize(("inputs", "workers", "rows"), [(8, 1, 2), (40, 1, 10), (40, 2, 5), (400, 1, 16)])
def test_many_inputs_come_in_batches_of_several(inputs: int, workers: int, rows: int) -> None:
    for schedules, expected in ((True, rows), (False, 2)):
        request = PredictRequest("one", Query(Tiny(schedules=schedules)), ["a"] * inputs)
        batches = module._batches([request], EvaluationConfig(batch_size=2, workers=workers))
        assert {len(batch.rows) for batch in batches} == {expected}


@pytest.mark.parametrize(("schedules", "sizes"), [(False, [2, 1]), (True, [3])])
def test_engines_that_schedule_get_all_at_once(schedules: Any, sizes: Any, written: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(Student, "schedules", schedules)
    queries = [Query(Tiny(method="rationale-then-label"))]
    [batch] = module._batches([PredictRequest("one", queries[0], ["a", "b", "c"])], EvaluationConfig(batch_size=3))
    Predictor(queries, EvaluationConfig(batch_size=2, max_new_tokens=2))(batch.table)
    assert [len(batch) for batch in written] == [1, *sizes]
    [warm_up], [first, *_], *_ = written
    assert (warm_up.max_new_tokens, first.max_new_tokens) == (1, 256), "a text takes more than a label"
    [only] = answer(queries, [TEXTS[2]], EvaluationConfig())
    assert only["too_long"], "a batch of long inputs only"


@pytest.mark.parametrize(("level", "shown"), [(logging.WARNING, False), (logging.INFO, True)])
def test_lost_batches_have_tracebacks_only_if_ray_logs(level: int, shown: bool, caplog: Any) -> None:
    log = logging.getLogger("ray.data")
    with caplog.at_level(level, "ray.data"):
        with module._without_tracebacks():
            assert log.isEnabledFor(logging.ERROR) is shown
        assert log.level == level


SETTINGS = EvaluationConfig(batch_size=1, max_new_tokens=2)


def test_lost_batches_are_answered_by_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_data = FakeRayData(monkeypatch, {(0, 1): 3, (1, 3): 1})
    texts = [TEXTS[0], TEXTS[1], TEXTS[3], "more"]
    families: tuple[Family, ...] = ("decoder-only", "encoder-decoder")
    requests = [PredictRequest(family, Query(Tiny(family)), texts) for family in families]
    began = time.monotonic()
    found = predict(requests, SETTINGS)
    assert 0.0 < sum(predictions.seconds for predictions in found) < time.monotonic() - began + 0.01
    assert ray_data.passes[1:] == [[(0, 1), (1, 3)], [(0, 1)], [(0, 1)]]
    for request, predictions in zip(requests, found, strict=True):
        student = request.query.source.load("cpu")
        assert [one.text for (one,) in predictions.answers] == [d.text for d in student.answer(texts, "label", 2)]


@pytest.mark.parametrize(
    ("source", "dies", "rule", "passes"),
    [
        (Tiny(), 99, r"1 of 2 examples \(each time, the workers died", [[(0, 0), (0, 1)], [(0, 0)], [(0, 0)], [(0, 0)]]),
        (Broken(), 0, r"0 of 2 examples \(ValueError: no weights\)\. Run", [[(0, 0), (0, 1)]]),  # at once
    ],
)  # fmt: skip
def test_a_deadly_input_fails_the_stage(monkeypatch: Any, source: Tiny, dies: int, rule: str, passes: Any) -> None:
    ray_data = FakeRayData(monkeypatch, {(0, 0): dies})
    with pytest.raises(StageFailedError, match=f"evaluate student: failed after {rule}"):
        predict([PredictRequest("student", Query(source), ["long", "s"])], SETTINGS)
    assert ray_data.passes == passes
