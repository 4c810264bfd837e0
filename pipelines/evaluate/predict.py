"""Held-out inputs -> a student's answers, in batches on Ray. The trained and the untrained student take the same way.

In: the inputs, in the order of the examples. Out: one `Prediction` for each, or several that were drawn, in that order:

    Prediction(text="4 - 1", confidence=0.93, prompt_tokens=24, output_tokens=5, seconds=0.02, too_long=False)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipelines.artifacts import Store
from pipelines.config import EvaluationConfig, StudentConfig
from pipelines.cpus import usable_cpus
from pipelines.decode import Decoded, Sampling, Student
from pipelines.errors import StageFailedError, last_line
from pipelines.methods import FORMATS, Part
from pipelines.progress import Progress

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


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one example. An input above the student's max_input_tokens is not answered: `too_long`."""

    text: str
    confidence: float
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Its share of the time that the worker took for its batch, which neither Ray's start nor the loading of the model is part of."""
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
        from pipelines.student_init import initial_student

        own = nullcontext() if self.tokenizer is None else Store(self.tokenizer).local_copy()
        with own as folder:
            model, tokenizer = initial_student(self.student, self.seed, folder)
        return Student(
            model, tokenizer, method=self.student.method, device=device,
            max_input_tokens=self.max_input_tokens, max_target_tokens=self.max_target_tokens,
        )  # fmt: skip


class Answerer:
    """The Ray Data actor: holds one student, answers one block (_INPUT) at a time, each input once for each of `draws`."""

    def __init__(
        self, source: Source, settings: EvaluationConfig, part: Part | None = None,
        draws: Sequence[Sampling | None] = (None,),
    ) -> None:  # fmt: skip
        import torch

        if not settings.gpus_per_worker:
            # Ray allows an actor one OpenMP thread per logical CPU it asked for; the workers share all real cores.
            torch.set_num_threads(max(1, usable_cpus() // settings.workers))
        self._student = source.load("cuda" if settings.gpus_per_worker else "cpu")
        self._part = part or FORMATS[self._student.method].answer
        self._max_new_tokens = settings.max_new_tokens
        if self._part == "rationale":  # may be as long as the student was trained to write it, like a text of both
            self._max_new_tokens = max(self._max_new_tokens, self._student.max_target_tokens)
        self._draws = draws

    def __call__(self, block: pa.Table) -> pa.Table:
        """The answers to a block's inputs, as one padded batch for each draw."""
        asked = block.to_pylist()
        rows = {row["row"]: row["input"] for row in asked}
        sets = {row["row"]: tuple(row["labels"]) for row in asked}
        lengths = {row: self._student.count_tokens(text, self._part) for row, text in rows.items()}
        fits = [row for row, length in lengths.items() if length <= self._student.max_input_tokens]
        found = []
        for draw, sampling in enumerate(self._draws):
            began = time.perf_counter()
            answers = self._student.answer(
                [rows[row] for row in fits], self._part, self._max_new_tokens, sampling=sampling,
                labels=[sets[row] for row in fits],
            )  # fmt: skip
            seconds = (time.perf_counter() - began) / max(len(fits), 1)
            decoded = dict(zip(fits, answers, strict=True))
            found += [{"row": row, "draw": draw, **_answer(decoded.get(row), seconds)} for row in rows]
        return pa.Table.from_pylist(found, schema=_OUTPUT)


def predict(
    source: Source, inputs: Sequence[str], settings: EvaluationConfig, title: str, part: Part | None = None,
    labels: Sequence[tuple[str, ...]] | None = None,
) -> list[Prediction]:  # fmt: skip
    """Answer all inputs greedily, `settings.batch_size` at a time on `settings.workers` actors.

    Args:
        part: the part of the answer to write; None: the one that holds the label.
        labels: the closed set of each input, as methods.written_labels gives it.

    Raises:
        StageFailedError: an actor could not load the student or failed on a batch.
    """
    batches = _batches(inputs, labels or [()] * len(inputs), settings.batch_size)
    return [drawn for (drawn,) in _answers(source, batches, settings, title, part, (None,))]


def sample(
    source: Source, inputs: Sequence[str], settings: EvaluationConfig, title: str
) -> list[tuple[Prediction, ...]]:
    """Answer each input `settings.samples.n` times, drawn at its temperature. Batches and workers change no answer (in float32).

    No closed sets: what counts as the confidence of several answers is how many of them agree.

    Raises:
        StageFailedError: as `predict`.
    """
    asked = settings.samples
    draws = [Sampling(asked.temperature, asked.seed, draw) for draw in range(asked.n)]
    batches = _batches(inputs, [()] * len(inputs), settings.batch_size)
    return _answers(source, batches, settings, title, None, draws)


def _answers(
    source: Source, batches: list[pa.Table], settings: EvaluationConfig, title: str, part: Part | None,
    draws: Sequence[Sampling | None],
) -> list[tuple[Prediction, ...]]:  # fmt: skip
    """The answers to each input, in the order of the rows' numbers, each in the order of `draws`."""
    import ray

    count = sum(batch.num_rows for batch in batches)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # Progress is the one line that a stage shows
    dataset = ray.data.from_arrow(batches).map_batches(
        Answerer,
        fn_constructor_args=(source, settings, part, draws),
        batch_size=settings.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=settings.workers),
        num_cpus=1,
        num_gpus=settings.gpus_per_worker,
    )
    found: dict[tuple[int, int], Prediction] = {}
    try:
        with Progress(title, total=count, unit="examples") as progress:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
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
