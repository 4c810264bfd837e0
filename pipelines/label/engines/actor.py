"""The Ray Data actor around a teacher: a block of examples in, a block of outcomes out; many blocks are in flight at a time.

Rows are asked concurrently, in the order in which their blocks came, up to a limit somewhat above the engine's batch; more are waiting
here. So a straggler keeps its block of 16 open, and nothing else: other blocks' rows take the engine's free places.

An engine that dies takes its actor with it, since a retry on the same actor would meet the same dead engine. Ray starts a fresh
actor and hands it the blocks that were not finished. The rows that were in the engine are suspects then (ledger.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import aiorwlock
import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.heldout import validation_share
from pipelines.label.answers.outcomes import judge, outcome_table, refused, second_attempt, wants_rationalising
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.engines.health import FRUITLESS_STARTS, STRIKES, RowKey
from pipelines.label.teachers.base import (
    BudgetExhaustedError,
    EngineDeadError,
    Generation,
    Prompt,
    PromptRefusedError,
    Teacher,
    TeacherUnusableError,
)
from pipelines.label.teachers.secret import Secret
from pipelines.runtime.nodes import node_name
from pipelines.tasks import Example, Shot, Task, TaskSpec, load_task

_REPORT_EVERY_S = 2.0


@dataclass(frozen=True)
class TeacherSetup:
    """What a teacher actor is made from."""

    run: RunConfig
    spec: TaskSpec
    rows_at_a_time: int
    """Rows in the engine at a time."""
    shots: tuple[Shot, ...] | None = None
    """Those of teacher.shots; None: the task's own."""
    key: Secret | None = None
    """openai: the endpoint's key. It travels as an argument: an actor's environment variables are written to Ray's logs."""
    used: tuple[int, int] = (0, 0)
    """openai: (prompt tokens, output tokens) that earlier runs used of the budget."""

    def teacher(self, task: Task) -> Teacher:
        """The run's teacher, made in this process."""
        config = self.run.teacher
        if config.engine == "echo":
            from pipelines.label.teachers.echo import EchoTeacher

            return EchoTeacher(config, task)
        if config.engine == "replay":
            from pipelines.label.teachers.replay import ReplayTeacher

            assert config.outputs is not None
            return ReplayTeacher(config.outputs)
        if config.engine == "openai":
            from pipelines.label.teachers.openai import OpenaiTeacher

            return OpenaiTeacher(config, task, key=self.key, used=self.used)
        from pipelines.label.teachers.vllm import VllmTeacher, cpu_environment

        if not config.gpus_per_replica:
            os.environ.update(cpu_environment(config))  # here: the driver's machine may be another one
        return VllmTeacher(config, task)

    def origin(self) -> dict[str, str | None]:
        """The columns of an outcome that tell where it was made, of this process' teacher."""
        dtype = None
        if self.run.teacher.engine == "vllm":
            from pipelines.label.teachers.vllm import engine_dtype

            dtype = engine_dtype(self.run.teacher)
        return {"node": node_name(), "dtype": dtype}


class TeacherActor:
    """Holds one teacher. Called by Ray Data with Arrow blocks of schema.EXAMPLE."""

    def __init__(self, setup: TeacherSetup, ledger: Any) -> None:
        self._setup, self._config, self._ledger = setup, setup.run.teacher, ledger
        self._task = load_task(setup.spec)
        self._prompts = PromptMaker(self._task, self._config, setup.shots)
        self._teacher: Teacher | None = None
        self._starting: asyncio.Lock | None = None
        self._strikes: dict[RowKey, int] = {}
        self._engine = _EngineClock()

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Outcomes (outcomes.OUTCOME) of a block of examples, in the block's order. Rows beyond the budget have none."""
        try:
            teacher = await self._ready()
            outcomes = await asyncio.gather(*(self._outcome(teacher, row) for row in block.to_pylist()))
        except TeacherUnusableError as error:
            await self._ledger.give_up.remote(str(error))
            raise
        self._engine.report(self._ledger)
        return outcome_table([row | self._origin for row in outcomes if row is not None])

    async def _ready(self) -> Teacher:
        """The teacher, started by the first block: an asynchronous engine belongs to the loop that serves its calls."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._teacher is None:
                self._teacher = await self._start()
        return self._teacher

    async def _start(self) -> Teacher:
        self._strikes, fruitless, started = await self._ledger.starting.remote()
        # All replicas that there is room for, but this one, may be starting at this moment; starts beyond those were of engines that died.
        at_once = min(self._config.replicas.max, room_for_engines(self._config.gpus_per_replica))
        died = fruitless - (at_once - 1)
        if died >= FRUITLESS_STARTS:
            raise TeacherUnusableError(f"{died} engines in a row died before they had answered anything")
        self._places = asyncio.Semaphore(self._setup.rows_at_a_time)
        self._company = aiorwlock.RWLock()
        began = time.monotonic()
        try:
            teacher = self._setup.teacher(self._task)
        except (RuntimeError, OSError) as error:
            if not started:
                raise  # No engine ever started in this run: it is set up wrongly, and a second try would not help.
            self._end(f"the engine did not start ({error})")
        # Not before: it loads torch, whose threads are what the teacher sets.
        self._origin = self._setup.origin()
        self._engine.started(time.monotonic() - began)
        await self._ledger.ready.remote()
        return teacher

    async def _outcome(self, teacher: Teacher, row: dict[str, Any]) -> dict[str, Any] | None:
        example = Example(row["id"], row["input"], row["gold"], tuple(row["choices"]))
        key = (row["split"], row["id"])
        strikes = self._strikes.get(key, 0)
        if strikes >= STRIKES:
            detail = f"{strikes} engines died while they had this row"
            return refused(row["split"], example, PromptRefusedError("engine_error", detail))
        async with self._places:
            if not self._strikes:  # the lock looks through its owners, which is too slow for every row
                return await self._ask(teacher, example, key)
            async with self._company.writer_lock if strikes else self._company.reader_lock:
                return await self._ask(teacher, example, key)

    async def _ask(self, teacher: Teacher, example: Example, key: RowKey) -> dict[str, Any] | None:
        (split, _), filters = key, self._config.filters
        try:
            generation = await self._generate(teacher, self._prompts.render(example), key)
        except PromptRefusedError as refusal:
            return refused(split, example, refusal)
        if generation is None:
            return None
        outcome = judge(split, example, generation, self._task, filters)
        validation = self._setup.run.corpus.validation
        if not wants_rationalising(outcome, filters, validation_share(validation)):
            return outcome
        try:
            again = await self._generate(teacher, self._prompts.render(example, hint=True), key)
        except PromptRefusedError:
            return outcome
        return second_attempt(split, example, outcome, again, self._task, filters) if again else None

    async def _generate(self, teacher: Teacher, prompt: Prompt, key: RowKey) -> Generation | None:
        """The teacher's answer, None where the budget is spent."""
        with self._engine.holds(key):
            try:
                return await teacher.answer(prompt)
            except BudgetExhaustedError as error:
                await self._ledger.spent.remote(str(error))
                return None
            except EngineDeadError as error:
                import ray

                ray.get(self._ledger.died.remote(self._engine.rows), timeout=60.0)
                self._end(f"the engine died ({error})")

    def _end(self, reason: str) -> NoReturn:
        """End this process, so that Ray starts a fresh one."""
        print(f"teacher: {reason}; this actor ends", file=sys.stderr, flush=True)
        os._exit(1)


def room_for_engines(gpus: int) -> int:
    """How many actors with so many GPUs each, and with a CPU, the nodes hold that the cluster has at this moment."""
    import ray

    there = ray.cluster_resources()
    by_cpu = int(there.get("CPU", 0))
    return min(by_cpu, int(there.get("GPU", 0) // gpus)) if gpus else by_cpu


class _EngineClock:
    """Which rows are in the engine, and for how long it has had any."""

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
        """A row is in the engine."""
        if not self.rows:
            self._busy_since = time.monotonic()
        self.rows.add(key)
        try:
            yield
        finally:
            self.rows.discard(key)
            if not self.rows:
                self._busy_s += time.monotonic() - self._busy_since

    def report(self, ledger: Any) -> None:
        """Tell the ledger, now and then."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY_S or not self.rows:
            self._reported = now
            busy = self._busy_s + (now - self._busy_since if self.rows else 0.0)
            ledger.report.remote(self.name, self._start_s, now - self._ready, busy)
