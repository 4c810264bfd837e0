"""Tiny students as sources of a predictor, and a stand-in for Ray Data that loses batches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import EvaluationConfig
from pipelines.scoring import predict
from pipelines.scoring.predict import PredictRequest
from pipelines.scoring.predictor import Predictor, Query
from pipelines.students.decoding import Family, Student
from tests.support.tiny_students import tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Tiny:
    family: Family = "decoder-only"
    method: str = "step-by-step"
    schedules: bool = False

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
    name: str = ""
    loads: list[str] | None = None

    def load(self, device: str) -> Student:
        assert self.loads is not None
        self.loads.append(self.name)
        return super().load(device)


class Broken(Tiny):
    def load(self, device: str) -> Student:
        raise ValueError("first line\nno weights")


class FakeRayData:
    """Answers batches in this process. `deadly`: how often a batch is lost with its worker, by request and first row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadly: dict[tuple[int, int], int]) -> None:
        self.deadly, self.passes = deadly, list[list[tuple[int, int]]]()
        monkeypatch.setattr(predict, "_answers", self.answers)

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


def answer(
    queries: Sequence[Query], texts: Sequence[str], settings: EvaluationConfig, *, labels: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The answers of one predictor, which gets each query with the same inputs."""
    predictor = Predictor(queries, settings)
    requests = [PredictRequest("made", query, texts, [labels] * len(texts)) for query in queries]
    batches = predict._batches(requests, EvaluationConfig(batch_size=len(texts)))
    return [row for batch in batches for row in predictor(batch.table).to_pylist()]


def by_row(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: (row["row"], row["draw"]))
