"""Ray Data actor that answers batches of held-out inputs with students.

In: rows of BATCH, one batch per row. Out: rows of ANSWER, one per input and draw. A batch that raises gives one row with `error`.
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.config import EvaluationConfig
from pipelines.errors import RaystillError, UserError, last_line
from pipelines.methods import METHODS, Part
from pipelines.runtime.cpus import usable_cpus
from pipelines.scoring.sources import Source
from pipelines.students.decoding import Decoded, Sampling, Student

BATCH = pa.schema(
    [
        pa.field("request", pa.int32(), nullable=False),  # index of the PredictRequest
        pa.field("rows", pa.list_(pa.int32()), nullable=False),  # (B,) indices of its inputs
        pa.field("inputs", pa.list_(pa.string()), nullable=False),  # (B,)
        pa.field("label_sets", pa.list_(pa.list_(pa.string())), nullable=False),  # (B,) from methods.written_labels
    ]
)
ANSWER = pa.schema(
    [
        pa.field("request", pa.int32(), nullable=False),
        pa.field("row", pa.int32()),  # null with `error`, like all that follow
        pa.field("draw", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("in_set", pa.bool_()),  # null without a closed label set
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("seconds", pa.float64()),
        pa.field("too_long", pa.bool_()),
        pa.field("engine", pa.string()),
        pa.field("weights", pa.string()),
        pa.field("error", pa.string()),
    ]
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """Which student answers, and how. Small: every worker gets it."""

    source: Source
    part: Part | None = None
    """Part of the answer to write. None: the part that holds the label."""
    draws: Sequence[Sampling | None] = (None,)
    """Each input is answered once per draw. None: greedily."""
    constrained: bool = False
    """True: inputs with a closed label set are answered with one of its labels."""
    ranked: bool = False
    """True: the inputs are whole prompts, and the answer is the likeliest label of the input's set."""


class Predictor:
    """Holds one student at a time and answers one batch at a time.

    Loads nothing when constructed. Ray Data counts and limits the deaths of a worker only while it answers a batch.
    """

    def __init__(self, queries: Sequence[Query], settings: EvaluationConfig) -> None:
        self._queries = queries
        self._settings = settings
        self._loaded: tuple[Source, Student] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer one row of BATCH."""
        [row] = batch.to_pylist()
        try:
            answers = self._answers(self._queries[row["request"]], row)
        except Exception as error:  # noqa: BLE001 the driver ends the stage; raised here, it would count as a lost worker
            _log.exception("prediction failed")
            reason = str(error) if isinstance(error, RaystillError) else f"{type(error).__name__}: {last_line(error)}"
            answers = [{"error": reason}]
        return pa.Table.from_pylist([{"request": row["request"], **answer} for answer in answers], schema=ANSWER)

    def _answers(self, query: Query, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers to a batch. Engines that do not schedule get `batch_size` inputs at a time."""
        student = self._student(query)
        found = _ranked(student, batch) if query.ranked else self._written(student, query, batch)
        return [{**answer, "engine": student.engine, "weights": student.weights} for answer in found]

    def _written(self, student: Student, query: Query, batch: dict[str, Any]) -> list[dict[str, Any]]:
        if query.constrained and not student.returns_scores:
            rule = "this version of vLLM cannot decode constrained"
            remedy = "Install vLLM 0.29, or set evaluation.engine: transformers."
            raise UserError("evaluation.constrained true", rule, remedy)
        part = query.part or METHODS[student.method].answer
        limit = self._settings.max_new_tokens
        if part == "rationale":  # as long as the student was trained to write, like a text of label and rationale
            limit = max(limit, student.max_target_tokens)
        inputs, rows = batch["inputs"], batch["rows"]
        fits = [i for i, text in enumerate(inputs) if student.count_tokens(text, part) <= student.max_input_tokens]
        texts, label_sets = [inputs[i] for i in fits], [tuple(batch["label_sets"][i]) for i in fits]
        size = max(len(fits), 1) if student.schedules else self._settings.batch_size
        found = []
        for draw, sampling in enumerate(query.draws):
            began, answers = time.perf_counter(), list[Decoded]()
            for start in range(0, len(fits), size):
                some = slice(start, start + size)
                answers += student.answer(
                    texts[some], part, limit, sampling=sampling, labels=label_sets[some], constrained=query.constrained,
                    max_label_tokens=self._settings.max_new_tokens,
                )  # fmt: skip
            seconds = (time.perf_counter() - began) / max(len(fits), 1)
            answered = dict(zip(fits, answers, strict=True))
            found += [{"row": row, "draw": draw, **_answer(answered.get(i), seconds)} for i, row in enumerate(rows)]
        return found

    def _student(self, query: Query) -> Student:
        """The student of the query. A student that was just loaded writes one token first, which no batch's time includes."""
        if self._loaded is None or self._loaded[0] != query.source:
            self._loaded = None  # the memory need not hold two students
            _free_memory()
            self._limit_threads()
            student = query.source.load("cuda" if self._settings.gpus_per_worker else "cpu")
            first = student.request("1", query.part or METHODS[student.method].answer, 1)
            student.write([replace(first, max_new_tokens=1)])  # a request for a text of both parts ignores the limit
            self._loaded = query.source, student
        return self._loaded[1]

    def _limit_threads(self) -> None:
        """Share the cores of a node among its workers. Ray alone gives an actor one OpenMP thread per logical CPU."""
        if not self._settings.gpus_per_worker:
            import torch

            torch.set_num_threads(max(1, usable_cpus() // self._settings.workers))


def _free_memory() -> None:
    """Free the last student's memory, and end its engine's process."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _ranked(student: Student, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The likeliest label of each set. Its confidence is its share of the probability of the set."""
    from pipelines.students.decoding.ranking import encode_context, rank_texts

    began, answered = time.perf_counter(), dict[int, Decoded]()
    lengths = [len(encode_context(student, prompt)) for prompt in batch["inputs"]]
    fits = [i for i, length in enumerate(lengths) if length <= student.max_input_tokens]
    sets = [batch["label_sets"][i] for i in fits]
    # ` river.` after `... The answer is`. With the full stop, a label that begins another one is not always likelier than that one.
    texts = [[f" {label}." for label in labels] for labels in sets]
    likelihoods = rank_texts(student, [batch["inputs"][i] for i in fits], texts)
    for i, labels, found in zip(fits, sets, likelihoods, strict=True):
        best = max(range(len(found)), key=found.__getitem__)
        confidence = 1.0 / math.fsum(math.exp(one - found[best]) for one in found)
        answered[i] = Decoded(labels[best], confidence, lengths[i], output_tokens=0, in_set=True)
    seconds = (time.perf_counter() - began) / max(len(fits), 1)
    return [{"row": row, "draw": 0, **_answer(answered.get(i), seconds)} for i, row in enumerate(batch["rows"])]


def _answer(decoded: Decoded | None, seconds: float) -> dict[str, Any]:
    if decoded is None:
        nothing = {"text": "", "confidence": 0.0, "in_set": None, "prompt_tokens": 0, "output_tokens": 0}
        return {**nothing, "seconds": 0.0, "too_long": True}
    return {**vars(decoded), "seconds": seconds, "too_long": False}
