"""Held-out inputs -> a student's answers, in batches on Ray. The trained and the untrained student take the same way.

In: the inputs, in the order of the examples. Out: one `Prediction` for each, or several that were drawn, in that order:

    Prediction(text="4 - 1", confidence=0.93, prompt_tokens=24, output_tokens=5, seconds=0.02, too_long=False)
"""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import pyarrow as pa

from pipelines.config import EvaluationConfig, StudentConfig
from pipelines.errors import StageFailedError, last_line
from pipelines.methods import METHODS, Part
from pipelines.runtime.cpus import usable_cpus
from pipelines.runtime.progress import Progress
from pipelines.storage.store import Store
from pipelines.students.decoding import Decoded, Sampling, Student

_INPUT = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),  # its closed set, as methods.written_labels gives it
    ]
)
_OUTPUT = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("too_long", pa.bool_(), nullable=False),
    ]
)

_RETRIES = 3
"""Of a batch whose actor ends, and of an actor's start: what ends whoever answers it would do so for ever."""


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one example. An input above the student's max_input_tokens is not answered: `too_long`."""

    text: str
    confidence: float
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Its share of the time that the worker took for its batch, which neither its start nor the loading of the model and its
    first token are part of."""
    too_long: bool


class Source(Protocol):
    """Where an actor gets its student from. Small: it travels to the actors, the weights do not."""

    def load(self, device: str) -> Student:
        """Make the student in this process."""
        ...


@dataclass(frozen=True)
class Trained:
    """The student of a finished student artifact."""

    folder: str
    """Path or URI."""

    def load(self, device: str) -> Student:
        """Read it."""
        return Student.load(self.folder, device=device)


@dataclass(frozen=True)
class Untrained:
    """The same student before any training."""

    student: StudentConfig
    seed: int
    max_input_tokens: int
    max_target_tokens: int
    tokenizer: str | None = None
    """Where the student's own tokenizer is (init.vocabulary); None: its model's."""

    def load(self, device: str) -> Student:
        """Initialise it as the training did."""
        from pipelines.students.init import initial_student

        own = nullcontext() if self.tokenizer is None else Store(self.tokenizer).local_copy()
        with own as folder:
            model, tokenizer = initial_student(self.student, self.seed, folder)
        return Student(
            model, tokenizer, method=self.student.method, device=device,
            max_input_tokens=self.max_input_tokens, max_target_tokens=self.max_target_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Who is asked, and for what. Small: it travels with every batch."""

    source: Source
    part: Part | None = None
    """None: the one that holds the label."""
    draws: Sequence[Sampling | None] = (None,)
    """Each input is answered once for each; None: greedily."""


class Predictor:
    """The Ray actor: holds one student at a time, answers one block (_INPUT) at a time."""

    def __init__(self, settings: EvaluationConfig) -> None:
        import torch

        self._settings = settings
        if not settings.gpus_per_worker:
            # Ray allows an actor one OpenMP thread per logical CPU it asked for; the workers share all real cores.
            torch.set_num_threads(max(1, usable_cpus() // settings.workers))
        self._held: tuple[Source, Student] | None = None

    def answer(self, question: Question, block: pa.Table) -> pa.Table:
        """The answers to a block's inputs (_OUTPUT), as one padded batch for each draw."""
        student = self._student(question)
        part = question.part or METHODS[student.method].answer
        most = self._settings.max_new_tokens
        if part == "rationale":  # may be as long as the student was trained to write it, like a text of both
            most = max(most, student.max_target_tokens)
        asked = block.to_pylist()
        rows = {row["row"]: row["input"] for row in asked}
        sets = {row["row"]: tuple(row["labels"]) for row in asked}
        lengths = {row: student.count_tokens(text, part) for row, text in rows.items()}
        fits = [row for row, length in lengths.items() if length <= student.max_input_tokens]
        found = []
        for draw, sampling in enumerate(question.draws):
            began = time.perf_counter()
            answers = student.answer(
                [rows[row] for row in fits], part, most, sampling=sampling, labels=[sets[row] for row in fits]
            )
            seconds = (time.perf_counter() - began) / max(len(fits), 1)
            decoded = dict(zip(fits, answers, strict=True))
            found += [{"row": row, "draw": draw, **_answer(decoded.get(row), seconds)} for row in rows]
        return pa.Table.from_pylist(found, schema=_OUTPUT)

    def _student(self, question: Question) -> Student:
        """The one that is asked. What was read anew has written a token, so that no batch's time has what comes with the first one."""
        if self._held is None or self._held[0] != question.source:
            self._held = None  # memory need not hold both
            gc.collect()
            student = question.source.load("cuda" if self._settings.gpus_per_worker else "cpu")
            first = student.request("1", question.part or METHODS[student.method].answer, 1)
            student.write([replace(first, max_new_tokens=1)])  # a request for a whole text allows more
            self._held = question.source, student
        return self._held[1]


class PredictorPool:
    """`settings.workers` actors, for all that is asked while the block runs: what a process imports takes longer than a small student's
    answers.

        with Answerers(run.evaluation) as answerers:
            trained = predict(answerers.of(Trained(folder)), inputs, "evaluate student")
            untrained = predict(answerers.of(Untrained(run.student, 0, 512, 64)), inputs, "evaluate untrained student")

    They start when something is asked, and end with the block. Ray is running.
    """

    def __init__(self, settings: EvaluationConfig) -> None:
        self.settings = settings
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actors:
            import ray

            for actor in self._actors:
                ray.kill(actor)
            self._actors = []

    def of(self, source: Source) -> Respondent:
        """The source's student, as it is asked."""
        return Respondent(source, self)

    def answer(self, question: Question, batches: Sequence[pa.Table]) -> Iterator[pa.Table]:
        """The answers to each batch, as they come. Raises ray.exceptions.RayError."""
        import ray

        if not self._actors:
            # One whose node goes starts anew, where there is room for it, and reads its student again. What it had goes to who is free.
            kind = ray.remote(
                num_cpus=1, num_gpus=self.settings.gpus_per_worker, scheduling_strategy="SPREAD", max_restarts=-1
            )(Predictor)
            self._actors = [kind.remote(self.settings) for _ in range(self.settings.workers)]
        waiting, free, lost = deque(range(len(batches))), list[int](), Counter[str]()
        busy = dict[Any, tuple[int, int]]()  # the answer that is to come -> (actor, batch)
        # Asked is who is there: what another one starts on may be held by others for long.
        coming = {actor.__ray_ready__.remote(): number for number, actor in enumerate(self._actors)}
        while waiting or busy:
            while waiting and free:
                number, batch = free.pop(), waiting.popleft()
                busy[self._actors[number].answer.remote(question, batches[batch])] = number, batch
            (done,), _ = ray.wait([*busy, *(coming if waiting else ())], num_returns=1)
            number, asked = busy.pop(done) if done in busy else (coming.pop(done), None)
            what = f"actor {number}" if asked is None else f"batch {asked}"
            try:
                found = ray.get(done)
            except ray.exceptions.RayActorError:
                lost[what] += 1
                if lost[what] > _RETRIES:
                    raise
                if asked is not None:
                    waiting.appendleft(asked)
                coming[self._actors[number].__ray_ready__.remote()] = number
                continue
            free.append(number)
            if asked is not None:
                yield found


@dataclass(frozen=True)
class Respondent:
    """A student that is asked on these actors."""

    source: Source
    answerers: PredictorPool

    @property
    def settings(self) -> EvaluationConfig:
        """How it is asked."""
        return self.answerers.settings


def predict(
    respondent: Respondent, inputs: Sequence[str], title: str, part: Part | None = None,
    labels: Sequence[tuple[str, ...]] | None = None,
) -> list[Prediction]:  # fmt: skip
    """Answer all inputs greedily, `batch_size` of its settings at a time.

    Args:
        part: the part of the answer to write; None: the one that holds the label.
        labels: the closed set of each input, as methods.written_labels gives it.

    Raises:
        StageFailedError: an actor could not load the student or failed on a batch.
    """
    batches = _batches(inputs, labels or [()] * len(inputs), respondent.settings.batch_size)
    return [drawn for (drawn,) in _answers(respondent, batches, title, part)]


def sample(respondent: Respondent, inputs: Sequence[str], title: str) -> list[tuple[Prediction, ...]]:
    """Answer each input `samples.n` times, drawn at its temperature. Batches and workers change no answer (in float32).

    No closed sets: what counts as the confidence of several answers is how many of them agree.

    Raises:
        StageFailedError: as `predict`.
    """
    samples = respondent.settings.samples
    draws = [Sampling(samples.temperature, samples.seed, draw) for draw in range(samples.n)]
    batches = _batches(inputs, [()] * len(inputs), respondent.settings.batch_size)
    return _answers(respondent, batches, title, draws=draws)


def _answers(
    respondent: Respondent, batches: Sequence[pa.Table], title: str, part: Part | None = None,
    draws: Sequence[Sampling | None] = (None,),
) -> list[tuple[Prediction, ...]]:  # fmt: skip
    """The answers to each input, in the order of the rows' numbers, each in the order of the draws."""
    import ray

    count = sum(batch.num_rows for batch in batches)
    found: dict[tuple[int, int], Prediction] = {}
    try:
        with Progress(title, total=count, unit="examples") as progress:
            for block in respondent.answerers.answer(Question(respondent.source, part, draws), batches):
                for row in block.to_pylist():
                    where = row.pop("row"), row.pop("draw")
                    found[where] = Prediction(**row)
                progress.advance(block.num_rows // len(draws))
    except ray.exceptions.RayError as error:
        answered = len(found) // len(draws)
        rule = f"{title}: broke off after {answered:,} of {count:,} examples ({last_line(error)})"
        raise StageFailedError(f"{rule}. Run the command again; labels and student are untouched.") from error
    return [tuple(found[row, draw] for draw in range(len(draws))) for row in range(count)]


def _batches(inputs: Sequence[str], labels: Sequence[tuple[str, ...]], batch_size: int) -> list[pa.Table]:
    """One table a batch, longest inputs first: little padding, and what does not fit into memory shows at once."""
    order = sorted(range(len(inputs)), key=lambda row: (-len(inputs[row]), row))
    rows = [{"row": row, "input": inputs[row], "labels": list(labels[row])} for row in order]
    chunks = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return [pa.Table.from_pylist(chunk, schema=_INPUT) for chunk in chunks]


def _answer(decoded: Decoded | None, seconds: float) -> dict[str, Any]:
    if decoded is None:
        nothing = {"text": "", "confidence": 0.0, "prompt_tokens": 0, "output_tokens": 0}
        return {**nothing, "seconds": 0.0, "too_long": True}
    return {**vars(decoded), "seconds": seconds, "too_long": False}
