"""Held-out inputs -> answers of students: one Ray Data dataset, with one pool of workers for all students of a stage.

    requests = [PredictRequest("student", Query(Trained(folder)), inputs), PredictRequest("untrained student", ..., inputs)]
    trained, untrained = predict(requests, run.evaluation)
    trained.answers[0] -> (Prediction(text="4 - 1", confidence=0.93, prompt_tokens=24, output_tokens=5, ...),)

Ray Data sends batches to workers that have started, restarts dead workers, and resizes the pool with the cluster. Two guarantees are
added here. Ray Data repeats a batch only on the worker that died, whose restart may wait long for resources: such batches are dropped
and answered by a new pool. An exception in a student ends the stage at once: it comes back as a row, since Ray Data would count it as
another dropped batch.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

from pipelines.config import EvaluationConfig
from pipelines.errors import StageFailedError, last_line
from pipelines.reports.format import plural
from pipelines.runtime.cpus import KEPT_MEMORY
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.terminal import say
from pipelines.scoring.predictor import BATCH, Predictor, Query
from pipelines.students.decoding import Sampling

_RETRIES = 3
"""Passes without any answer before the stage fails, and deaths of a worker within a pass. An input that kills every worker is not
repeated forever."""


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one input. An input longer than the student's max_input_tokens has no answer: `too_long`."""

    text: str
    confidence: float
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Its share of the worker's time for the batch, without the worker's start, loading the model and the first token."""
    too_long: bool
    in_set: bool | None = None
    """As in Decoded."""
    engine: str | None = None
    weights: str | None = None
    """Engine and weights that answered."""


@dataclass(frozen=True)
class PredictRequest:
    """Inputs for one student."""

    title: str
    """Names the student in progress and errors."""
    query: Query
    inputs: Sequence[str]
    label_sets: Sequence[tuple[str, ...]] | None = None
    """The closed label set of each input (methods.written_labels). None: free labels."""


@dataclass(frozen=True)
class Predictions:
    """The answers to one request."""

    answers: list[tuple[Prediction, ...]]
    """In the order of the inputs; per input one answer per draw."""
    seconds: float
    """Wall time from the last answer to the previous requests, or from the start, to the last answer to this one."""


def draws_of(settings: EvaluationConfig) -> tuple[Sampling | None, ...]:
    """The draws per input: one greedy answer, or `samples.n` sampled ones. In float32, batches and workers do not change them."""
    samples = settings.samples
    if samples.n == 1:
        return (None,)
    return tuple(Sampling(samples.temperature, samples.seed, draw) for draw in range(samples.n))


def predict(
    requests: Sequence[PredictRequest], settings: EvaluationConfig, live: ProgressFile | None = None
) -> list[Predictions]:
    """Answer all requests. Ray is running.

    Args:
        live: progress file of the stage.

    Raises:
        StageFailedError: a student cannot be loaded or fails on a batch, or workers die repeatedly.
    """
    import ray

    collected = _Collected(requests)
    batches = _batches(requests, settings)
    queries = [request.query for request in requests]
    if live:
        live.phase("starting workers")
    total = sum(len(request.inputs) for request in requests)
    with Progress("evaluate", total=total, unit="examples", file=live) as progress:
        idle_passes = 0
        while left := [batch for batch in batches if not collected.has(batch)]:
            if idle_passes == _RETRIES:
                raise collected.failure("each time, the workers died on the same inputs")
            if len(left) < len(batches) or idle_passes:
                what = f"{plural(len(left), 'batch', 'batches')} lost with their workers; another pool answers"
                say(f"evaluate: {what}")
            before = collected.answered
            try:
                with closing(_answers(left, queries, settings)) as tables:
                    for table in tables:
                        progress.advance(*collected.add(table))
            except ray.exceptions.RayError as error:
                # More deaths than one pass tolerates are no failure as long as batches are answered.
                if not isinstance(error, ray.exceptions.RayActorError) or collected.answered == before:
                    raise collected.failure(last_line(error)) from error
            idle_passes = idle_passes + 1 if collected.answered == before else 0
    return collected.predictions()


class _Collected:
    """The answers so far."""

    def __init__(self, requests: Sequence[PredictRequest]) -> None:
        self._requests = requests
        self._found: dict[tuple[int, int, int], Prediction] = {}
        """By request, row and draw."""
        self._began = time.monotonic()
        self._last_answer = [self._began] * len(requests)

    @property
    def answered(self) -> int:
        """Number of answers."""
        return len(self._found)

    def has(self, batch: _Batch) -> bool:
        """True if the batch is answered."""
        return (batch.request, batch.rows[0], 0) in self._found

    def add(self, table: pa.Table) -> tuple[int, str]:
        """Add the answers to a batch (rows of ANSWER). Returns how many inputs it has, and the title of its request.

        Raises:
            StageFailedError: the student raised.
        """
        for row in table.to_pylist():
            request, index, draw, error = (row.pop(key) for key in ("request", "row", "draw", "error"))
            if error is not None:
                raise self.failure(error, request)
            self._found[request, index, draw] = Prediction(**row)
        self._last_answer[request] = time.monotonic()
        return table.num_rows // len(self._requests[request].query.draws), self._requests[request].title

    def failure(self, reason: str, request: int | None = None) -> StageFailedError:
        """The error of a request; None: of the first that is not finished."""
        done = [sum(key[0] == i for key in self._found) // len(r.query.draws) for i, r in enumerate(self._requests)]
        if request is None:
            request = next(i for i, one in enumerate(self._requests) if done[i] < len(one.inputs))
        failed = self._requests[request]
        what = f"evaluate {failed.title}: failed after {done[request]:,} of {len(failed.inputs):,} examples"
        return StageFailedError(f"{what} ({reason}). Run the command again; labels and student are unchanged.")

    def predictions(self) -> list[Predictions]:
        """All answers, in the order of the inputs."""
        made, end = [], self._began
        for i, request in enumerate(self._requests):
            draws = range(len(request.query.draws))
            answers = [tuple(self._found[i, row, draw] for draw in draws) for row in range(len(request.inputs))]
            seconds = max(self._last_answer[i] - end, 0.0)
            end = max(self._last_answer[i], end)
            made.append(Predictions(answers, round(seconds, 3)))
        return made


def _inputs_per_batch(inputs: int, settings: EvaluationConfig) -> int:
    """One to eight times `batch_size`, and at least four batches per worker if there are that many.

    An engine that fills its free places at once stands half empty at each batch's end: the fewer ends, the better.
    """
    return min(max(math.ceil(inputs / (4 * settings.workers)), settings.batch_size), 8 * settings.batch_size)


@dataclass(frozen=True)
class _Batch:
    """Inputs of one request that are answered together."""

    request: int
    rows: list[int]
    """Indices of the inputs."""
    table: pa.Table
    """One row of BATCH."""


def _batches(requests: Sequence[PredictRequest], settings: EvaluationConfig) -> list[_Batch]:
    """Batches in the order of the requests. Within a request the longest inputs come first: little padding, early memory errors."""
    batches = []
    for number, request in enumerate(requests):
        source, batch_size = request.query.source, settings.batch_size
        if source.schedules:
            batch_size = _inputs_per_batch(len(request.inputs), settings)
        label_sets = request.label_sets or [()] * len(request.inputs)
        order = sorted(range(len(request.inputs)), key=lambda row: (-len(request.inputs[row]), row))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            row = {
                "request": number,
                "rows": rows,
                "inputs": [request.inputs[row] for row in rows],
                "label_sets": [list(label_sets[row]) for row in rows],
            }
            batches.append(_Batch(number, rows, pa.Table.from_pylist([row], schema=BATCH)))
    return batches


def _answers(
    batches: Sequence[_Batch], queries: Sequence[Query], settings: EvaluationConfig
) -> Generator[pa.Table, None, None]:
    """Tables of ANSWER in the order in which batches finish, without the batches of workers that died. Raises RayError."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = copy.deepcopy(DataContext.get_current())
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = _RETRIES * settings.workers
    # Full workers grow the pool. Ray's default needs nearly two batches per worker, of which a dead one would lose both.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    with DataContext.current(context), _without_tracebacks(), _named_workers(settings) as worker_options:
        # One block per batch, so that no worker waits for another's batch. With GPUs, Ray requires a batch size: one row, which is a batch.
        dataset = ray.data.from_arrow([batch.table for batch in batches])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RayDeprecationWarning)  # Ray 2.60 has no other way to set these options
            answered = dataset.map_batches(
                Predictor,
                fn_constructor_args=(queries, settings),
                batch_size=1,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ActorPoolStrategy(
                    min_size=1,
                    max_size=settings.workers,
                    initial_size=min(settings.workers, len(batches)),
                    max_tasks_in_flight_per_actor=1,
                ),
                num_cpus=1,
                num_gpus=settings.gpus_per_worker,
                ray_remote_args_fn=worker_options,
            )
        yield from answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextmanager
def _named_workers(settings: EvaluationConfig) -> Iterator[Callable[[], dict[str, object]]]:
    """Options of workers that end with the block.

    Ray Data drops its handles, but a worker whose restart waits for resources survives that, and would later hold a GPU for nobody.
    """
    import ray

    names: list[str] = []

    def options() -> dict[str, object]:
        names.append(f"predictor-{uuid.uuid4().hex}")
        environment = {} if settings.gpus_per_worker else {"runtime_env": {"env_vars": KEPT_MEMORY}}
        # Ray would repeat a batch on the worker that died, once that has restarted.
        return {"name": names[-1], "max_task_retries": 0, **environment}

    try:
        yield options
    finally:
        for name in names:
            with suppress(ValueError):  # it has ended
                ray.kill(ray.get_actor(name))


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Ray Data logs a traceback for each lost batch. They are shown only if its log is (`--verbose`)."""
    log = logging.getLogger("ray.data")
    level = log.level
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
