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
from typing import Any, NoReturn

import aiorwlock
import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.label.ledger import FRUITLESS_STARTS, STRIKES, RowKey
from pipelines.label.outcomes import judge, outcome_table, refused
from pipelines.label.prompts import render_prompt
from pipelines.label.teachers.base import EngineDeadError, PromptRefusedError, Teacher, TeacherUnusableError
from pipelines.tasks import Example, Task, TaskSpec, load_task

_REPORT_EVERY_S = 2.0


def make_teacher(run: RunConfig, task: Task) -> Teacher:
    """The run's teacher, made in this process."""
    if run.teacher.engine == "echo":
        from pipelines.label.teachers.echo import EchoTeacher

        return EchoTeacher(run.teacher, task)
    if run.teacher.engine == "replay":
        from pipelines.label.teachers.replay import ReplayTeacher

        assert run.teacher.outputs is not None
        return ReplayTeacher(run.teacher.outputs)
    from pipelines.label.teachers.vllm import VllmTeacher

    return VllmTeacher(run.teacher, task)


class TeacherActor:
    """Holds one teacher. Called by Ray Data with Arrow blocks of schema.EXAMPLE. `rows_at_a_time`: rows in the engine at a time."""

    def __init__(self, run: RunConfig, spec: TaskSpec, ledger: Any, rows_at_a_time: int) -> None:
        self._run, self._task, self._ledger = run, load_task(spec), ledger
        self._rows_at_a_time = rows_at_a_time
        self._teacher: Teacher | None = None
        self._starting: asyncio.Lock | None = None
        self._strikes: dict[RowKey, int] = {}
        self._engine = _EngineClock()

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Outcomes (outcomes.OUTCOME) of a block of examples, in the block's order."""
        teacher = await self._ready()
        rows = block.to_pylist()
        outcomes = await asyncio.gather(*(self._outcome(teacher, row) for row in rows))
        self._engine.report(self._ledger)
        return outcome_table(outcomes)

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
        if fruitless >= FRUITLESS_STARTS:
            raise TeacherUnusableError(f"{fruitless} engines in a row died before they had answered anything")
        self._places = asyncio.Semaphore(self._rows_at_a_time)
        self._company = aiorwlock.RWLock()
        began = time.monotonic()
        try:
            teacher = make_teacher(self._run, self._task)
        except (RuntimeError, OSError) as error:
            if not started:
                raise  # No engine ever started in this run: it is set up wrongly, and a second try would not help.
            self._end(f"the engine did not start ({error})")
        self._engine.started(time.monotonic() - began)
        self._ledger.ready.remote()
        return teacher

    async def _outcome(self, teacher: Teacher, row: dict[str, Any]) -> dict[str, Any]:
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

    async def _ask(self, teacher: Teacher, example: Example, key: RowKey) -> dict[str, Any]:
        split, _ = key
        with self._engine.holds(key):
            try:
                generation = await teacher.answer(render_prompt(self._task, example, self._run.teacher))
            except PromptRefusedError as refusal:
                return refused(split, example, refusal)
            except EngineDeadError as error:
                import ray

                ray.get(self._ledger.died.remote(self._engine.rows), timeout=60.0)
                self._end(f"the engine died ({error})")
        return judge(split, example, generation, self._task, self._run.teacher.filters)

    def _end(self, reason: str) -> NoReturn:
        """End this process, so that Ray starts a fresh one."""
        print(f"teacher: {reason}; this actor ends", file=sys.stderr, flush=True)
        os._exit(1)


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
