"""The Ray Data actor around a teacher: a block of examples in, a block of outcomes out; many blocks are in flight at a time.

Each block's rows are asked concurrently, and the engine batches over all blocks in flight. A block waits for its slowest row, the
others do not: with blocks of 16 rows and 32 of them in flight, a straggler holds back 15 finished rows of 512.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.label.outcomes import OUTCOME, judge, refused
from pipelines.label.prompts import render_prompt
from pipelines.label.teachers.base import EngineDeadError, PromptRefusedError, Teacher
from pipelines.tasks import Example, Task, TaskSpec, load_task


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
    """Holds one teacher. Called by Ray Data with Arrow blocks of schema.EXAMPLE."""

    def __init__(self, run: RunConfig, spec: TaskSpec) -> None:
        self._run, self._task = run, load_task(spec)
        self._teacher: Teacher | None = None
        self._starting: asyncio.Lock | None = None

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Outcomes (outcomes.OUTCOME) of a block of examples, in the block's order."""
        teacher = await self._ready()
        rows = block.to_pylist()
        try:
            outcomes = await asyncio.gather(*(self._outcome(teacher, row) for row in rows))
        except EngineDeadError as error:
            # Raising would make Ray retry on this same actor, whose engine stays dead. Ending the process makes Ray start a fresh
            # actor and hand it these rows.
            print(f"teacher: the engine died ({error}); this actor ends", file=sys.stderr, flush=True)
            os._exit(1)
        return pa.Table.from_pylist(outcomes, schema=OUTCOME)

    async def _ready(self) -> Teacher:
        """The teacher, started by the first block: an asynchronous engine belongs to the loop that serves its calls."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._teacher is None:
                self._teacher = make_teacher(self._run, self._task)
        return self._teacher

    async def _outcome(self, teacher: Teacher, row: dict[str, Any]) -> dict[str, Any]:
        example = Example(row["id"], row["input"], row["gold"], tuple(row["choices"]))
        try:
            generation = await teacher.answer(render_prompt(self._task, example, self._run.teacher))
        except PromptRefusedError as refusal:
            return refused(row["split"], example, refusal)
        return judge(row["split"], example, generation, self._task, self._run.teacher.filters)
