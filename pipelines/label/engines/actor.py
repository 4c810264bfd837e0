"""The Ray Data actor around a teacher: blocks of examples in, blocks of outcomes out, many blocks in flight.

Rows enter the engine in the order of their blocks, up to a limit somewhat above the engine's batch; the others wait here. A straggler
keeps only its own block open, while rows of other blocks take the free places.

A dead engine ends its actor, since a retry on the same actor would meet the same engine. Ray starts a fresh actor and gives it the
unfinished blocks. The rows that were in the engine are then suspects (health.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyarrow as pa

from pipelines.config import BudgetConfig, RunConfig
from pipelines.data.reader import DataSplit
from pipelines.label.answers.labeller import Labeller
from pipelines.label.answers.outcomes import Outcome, outcome_table, refused
from pipelines.label.engines.health import MAX_FAILED_STARTS, MAX_STRIKES, RowKey
from pipelines.label.engines.shared_budget import WAIT
from pipelines.label.engines.spending_report import SpendingReport
from pipelines.label.engines.start_failure import StartLog, start_failure
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.base import (
    Access,
    BudgetExhaustedError,
    EngineDeadError,
    Generation,
    Prompt,
    PromptRefusedError,
    Teacher,
    TeacherUnusableError,
)
from pipelines.label.teachers.budget import Reserved, estimate_tokens
from pipelines.label.teachers.registry import teacher_class
from pipelines.runtime.nodes import node_name
from pipelines.tasks import Example, Shot, TaskSpec, load_task
from pipelines.tasks.failures import described

_REPORT_EVERY_S = 2.0
_BUDGET_POLL_S = 0.1


@dataclass(frozen=True)
class TeacherSetup:
    """What a teacher actor is made from."""

    run: RunConfig
    spec: TaskSpec
    rows_in_engine: int
    """Rows that the engine is given at the same time."""
    shots: tuple[Shot, ...] | None = None
    """Those of teacher.shots; None: the task's own."""
    access: Access = field(default_factory=Access)
    keys: AnswerKeys = field(default_factory=AnswerKeys)

    @property
    def teacher(self) -> type[Teacher]:
        """The run's teacher."""
        return teacher_class(self.run.teacher.engine)


class TeacherActor:
    """Holds one teacher. Ray Data calls it with Arrow blocks of schema.EXAMPLE."""

    def __init__(self, setup: TeacherSetup, health: Any) -> None:
        """`health`: handle of `health_actor`."""
        self._setup, self._config, self._health = setup, setup.run.teacher, health
        self._task = load_task(setup.spec)
        self._labeller = Labeller(setup.run, self._task, setup.shots, setup.keys)
        self._teacher: Teacher | None = None
        self._spending: SpendingReport | None = None
        self._starting: asyncio.Lock | None = None
        self._strikes: dict[RowKey, int] = {}
        self._clock = EngineClock()
        self._preloading = threading.Thread(target=_preload, args=(setup.teacher,), daemon=True, name="preload")
        self._preloading.start()

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Outcomes (outcomes.OUTCOME) of a block of examples, in its order, without the rows that the budget skips."""
        rows = block.to_pylist()
        try:
            teacher = await self._ready(rows)
            assert self._spending is not None
            outcomes = await self._spending.unless_interrupted([self._outcome(teacher, row) for row in rows])
            await self._spending.report()
            self._clock.report(self._health)
            made = [outcome for outcome in outcomes if outcome is not None]
            for outcome in made:
                outcome.node, outcome.dtype = self._node, self._dtype
            return outcome_table(made)
        except TeacherUnusableError as error:
            await self._health.unusable.remote(str(error))
            raise
        except Exception as error:
            # Ray Data wraps the text of this error in its own; the driver reads it from the health actor.
            where = f"rows {rows[0]['id']} to {rows[-1]['id']}" if rows else "no rows"
            await self._health.failed.remote(f"{described(error)}, in the block with {where}")
            raise

    async def _ready(self, rows: Sequence[Mapping[str, Any]] = ()) -> Teacher:
        """The teacher. The first block starts it, since an asynchronous engine belongs to the loop that serves its calls."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._teacher is None:
                self._teacher = await self._start(rows)
        return self._teacher

    async def _start(self, rows: Sequence[Mapping[str, Any]]) -> Teacher:
        self._strikes, failed_starts, engines = await self._health.starting.remote()
        # Replicas that there is room for may start at the same time as this one. Further starts followed deaths.
        at_once = min(self._config.replicas.max, room_for_engines(self._config.gpus_per_replica))
        died = failed_starts - (at_once - 1)
        if died >= MAX_FAILED_STARTS:
            raise TeacherUnusableError(f"{died} engines in a row died before they had answered anything")
        self._places = asyncio.Semaphore(self._setup.rows_in_engine)
        import aiorwlock  # of the extra `label`: `raystill plan` reads this module without it

        self._suspects = aiorwlock.RWLock()
        began = time.monotonic()
        log = StartLog()
        await asyncio.to_thread(self._preloading.join)
        try:
            self._try_prompt(rows)
            teacher = self._setup.teacher.start(self._config, self._task, self._setup.access)
        except TeacherUnusableError:
            raise
        except Exception as error:
            cause = start_failure(error, log.written())
            if (
                not engines
            ):  # no engine of this run has ever worked: the setup is wrong, and another process would not help
                raise TeacherUnusableError(f"the teacher's engine did not start: {cause}") from error
            self._end(f"the engine did not start ({cause})")
        # After the start, which sets the threads of torch: `dtype` may load torch.
        self._node, self._dtype = node_name(), self._setup.teacher.dtype(self._config)
        self._clock.started(time.monotonic() - began)
        self._spending = SpendingReport(teacher, self._clock.name, self._health)
        await self._health.ready.remote()
        return teacher

    def _try_prompt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Render one prompt before weights are loaded. Raises TeacherUnusableError if the chat template refuses it."""
        for row in rows:
            try:
                prompt = self._labeller.prompts.render(_example(row))
            except Exception:  # noqa: BLE001 - this row becomes a reject later; another one serves as well
                continue
            self._setup.teacher.try_prompt(self._config, prompt)
            return

    async def _outcome(self, teacher: Teacher, row: Mapping[str, Any]) -> Outcome | None:
        """`row`: of schema.EXAMPLE."""
        split: DataSplit = row["split"]
        example = _example(row)
        strikes = self._strikes.get((split, example.id), 0)
        if strikes >= MAX_STRIKES:
            detail = f"{strikes} engines died while they had this row"
            return refused(split, example, PromptRefusedError("engine_error", detail))
        async with self._places:
            if not self._strikes:  # the lock scans its owners, which is too slow to do for every row
                return await self._label(teacher, example, split)
            # A suspect is alone in the engine: its death then concerns no other row.
            async with self._suspects.writer_lock if strikes else self._suspects.reader_lock:
                return await self._label(teacher, example, split)

    async def _label(self, teacher: Teacher, example: Example, split: DataSplit) -> Outcome | None:
        key = (split, example.id)
        return await self._labeller.label(split, example, lambda prompt: self._generate(teacher, prompt, key))

    async def _generate(self, teacher: Teacher, prompt: Prompt, key: RowKey) -> Generation | None:
        """The teacher's answer, None if the budget is used up."""
        with self._clock.holds(key):
            try:
                async with self._paid(teacher, prompt) as pay:
                    generation = await teacher.answer(prompt)
                    pay(generation)
                return generation
            except (PromptRefusedError, TeacherUnusableError):
                raise
            except BudgetExhaustedError as error:
                if self._spending is not None and self._spending.interrupted:
                    return None
                await self._health.budget_exhausted.remote(str(error))
                return None
            except EngineDeadError as error:
                import ray

                ray.get(self._health.died.remote(self._clock.rows), timeout=60.0)
                self._end(f"the engine died ({error})")
            except Exception as error:
                raise PromptRefusedError("engine_error", described(error)) from error

    @asynccontextmanager
    async def _paid(self, teacher: Teacher, prompt: Prompt) -> AsyncIterator[Callable[[Generation], None]]:
        """Reserve the most that a prompt can use, and settle what it used. Raises BudgetExhaustedError."""
        sampling = self._config.sampling
        used, reserved = [(0, 0)], (estimate_tokens([prompt.text]), sampling.n * sampling.max_tokens)
        metered = self._config.budget != BudgetConfig() and not teacher.meters_budget
        if metered:
            await self._reserve(reserved)
        try:
            yield lambda generation: used.__setitem__(0, (generation.prompt_tokens, generation.output_tokens))
        finally:
            if metered:
                self._health.settle.remote(reserved, used[0])

    async def _reserve(self, reserved: Reserved) -> None:
        patience = time.monotonic() + self._config.remote.timeout_s  # reservations of an engine that was killed stay
        while True:
            refusal = await self._health.reserve.remote(self._clock.name, self._clock.age_s, *reserved)
            if not refusal:
                return
            if refusal != WAIT or time.monotonic() > patience:
                raise BudgetExhaustedError(refusal if refusal != WAIT else "the rest of the budget is reserved")
            await asyncio.sleep(_BUDGET_POLL_S)

    def _end(self, reason: str) -> NoReturn:
        """End this process. Ray starts a fresh one."""
        print(f"teacher: {reason}; this actor ends", file=sys.stderr, flush=True)
        os._exit(1)


def _preload(teacher: type[Teacher]) -> None:
    with suppress(ImportError):  # `start` reports it
        teacher.preload()


def _example(row: Mapping[str, Any]) -> Example:
    """`row`: of schema.EXAMPLE."""
    return Example(row["id"], row["input"], row["gold"], tuple(row["choices"]))


def room_for_engines(gpus: int) -> int:
    """Actors with one CPU and this many GPUs that the cluster's present nodes have room for."""
    import ray

    resources = ray.cluster_resources()
    by_cpu = int(resources.get("CPU", 0))
    return min(by_cpu, int(resources.get("GPU", 0) // gpus)) if gpus else by_cpu


class EngineClock:
    """The rows in one engine, and the time during which it has had any."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.rows: set[RowKey] = set()
        self._start_s = self._busy_s = 0.0
        self._ready = self._busy_since = self._reported = 0.0

    def started(self, start_s: float) -> None:
        """The engine is ready after `start_s` seconds."""
        self._start_s, self._ready = start_s, time.monotonic()

    @contextmanager
    def holds(self, key: RowKey) -> Iterator[None]:
        """The row is in the engine during the block."""
        if not self.rows:
            self._busy_since = time.monotonic()
        self.rows.add(key)
        try:
            yield
        finally:
            self.rows.discard(key)
            if not self.rows:
                self._busy_s += time.monotonic() - self._busy_since

    @property
    def age_s(self) -> float:
        """Seconds since the engine's start began."""
        return self._start_s + time.monotonic() - self._ready

    def report(self, health: Any) -> None:
        """Send the times to the health actor, at most every two seconds while the engine is busy."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY_S or not self.rows:
            self._reported = now
            busy = self._busy_s + (now - self._busy_since if self.rows else 0.0)
            health.report.remote(self.name, self._start_s, now - self._ready, busy)
