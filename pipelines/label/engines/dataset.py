"""The labelling dataset on Ray Data: file ranges -> examples without a label -> blocks -> teacher actors -> outcomes.

Sizes. A block costs the driver 7 to 10 ms of a core, whatever its size, and stays open until its slowest row is answered. It has a quarter
of the engine's batch, at least 16 and at most 64 rows.

Latencies have a heavy tail (Pareto, shape 1.5). An open block then waits for n x mean / expected maximum of its n rows: 2.8 of 16, and 4.5
of 64. A replica is assigned 8 times the engine's batch, or 16 times if blocks have 64 rows. Of these 1.4 or 1.1 batches are unanswered, so
the engine's batch stays full. The engine itself has 1.25 batches.
"""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.config import READER_CPUS, RunConfig
from pipelines.config.base import ReplicasConfig
from pipelines.data.schema import EXAMPLE
from pipelines.data.shots import read_shots
from pipelines.errors import StageFailedError
from pipelines.label.engines.actor import TeacherActor, TeacherSetup
from pipelines.label.engines.placement import remove_groups, replica_arguments
from pipelines.label.engines.shared_budget import SharedBudget
from pipelines.label.reading import ExampleReader
from pipelines.label.scan import MAX_READERS
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.base import Access, TokensUsed
from pipelines.label.teachers.registry import teacher_class
from pipelines.tasks import load_task, task_spec

_MIN_ROWS_PER_BLOCK, _MAX_ROWS_PER_BLOCK = 16, 64
_ROWS_PER_INSTANT_BLOCK = 1024
_ASSIGNED_BATCHES = 8
_TOGETHER_S = 0.2
_TOGETHER_ROWS = 8192


@dataclass(frozen=True)
class InFlight:
    """What one replica is assigned at the same time."""

    rows_per_block: int
    blocks: int
    rows_in_engine: int


def in_flight(run: RunConfig) -> InFlight:
    """The sizes for this run's engine, by the rules of the module's docstring."""
    load = teacher_class(run.teacher.engine).load(run.teacher)
    if load is None:
        return InFlight(_ROWS_PER_INSTANT_BLOCK, 2, _ROWS_PER_INSTANT_BLOCK)
    rows = min(max(load.batch_rows // 4, _MIN_ROWS_PER_BLOCK), _MAX_ROWS_PER_BLOCK)
    assigned = _ASSIGNED_BATCHES * load.batch_rows * math.sqrt(rows / _MIN_ROWS_PER_BLOCK)
    return InFlight(rows, max(math.ceil(assigned / rows), 4), load.rows_in_engine)


def open_examples(reader: Any, tickets: Sequence[int]) -> Any:
    """A Ray Data dataset of the examples (schema.EXAMPLE) that have no outcome now.

    Args:
        reader: reference of a reading.ExampleReader.
        tickets: of its calls.
    """
    import ray
    from ray.data import TaskPoolStrategy

    items = [{"ticket": ticket} for ticket in tickets]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read,
        fn_args=(reader,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=READER_CPUS,
        compute=TaskPoolStrategy(_readers()),
    )


def _readers() -> int:
    """Readers at the same time. Each waits for the earlier ranges and keeps its process meanwhile, so a small machine has few."""
    import ray

    return min(max(int(ray.cluster_resources().get("CPU", 0)) // 4, 2), MAX_READERS)


def teacher_setup(run: RunConfig, used: TokensUsed, health: Any, keys: AnswerKeys) -> TeacherSetup:
    """What this run's teacher actors are made from. Also sets the budget that they share.

    Args:
        used: of the budget by earlier runs.
        health: handle of `health_actor`.
    """
    import ray

    teacher, spec = run.teacher, task_spec(run.task, run.task_options)
    access = Access(teacher_class(teacher.engine).key(teacher), used)
    ray.get(health.fund.remote(SharedBudget(teacher.budget, teacher.charged, used, teacher.gpus_per_replica)))
    shots = read_shots(teacher, load_task(spec))
    return TeacherSetup(run, spec, in_flight(run).rows_in_engine, shots, access, keys)


def outcomes(
    setup: TeacherSetup, replicas: ReplicasConfig, reader: Any, tickets: Sequence[int], health: Any
) -> Generator[pa.Table]:
    """Tables of outcomes (outcomes.OUTCOME) of the rows without one, as they arrive. A block whose rows the budget skips is empty.

    Args:
        replicas: of the teacher, for this dataset alone.
        reader: reference of a reading.ExampleReader.
        tickets: of its readers.
        health: handle of `health_actor`.
    """
    from ray.data import ActorPoolStrategy, DataContext

    from pipelines.runtime.compat.ray import drop_block_stats

    teacher, sizes = setup.run.teacher, in_flight(setup.run)
    group = f"raystill-teacher-{uuid.uuid4().hex}"
    context = copy.deepcopy(DataContext.get_current())
    # Ray delays calls whose results it sees no room for, and assumes this size for each until the first result is there.
    context.target_max_block_size = 4 << 20
    # A pool grows when all its places are taken. By Ray's own threshold nearly twice as many calls must wait as are running.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    drop_block_stats(context)
    with DataContext.current(context):
        examples = open_examples(reader, tickets).repartition(target_num_rows_per_block=sizes.rows_per_block)
        answered = examples.map_batches(
            TeacherActor,
            fn_constructor_args=(setup, health),
            batch_size=sizes.rows_per_block,  # one block; with GPUs Ray requires a number
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                min_size=replicas.min,
                max_size=replicas.max,
                max_tasks_in_flight_per_actor=sizes.blocks + 2,
                max_concurrent_calls_per_actor=sizes.blocks,
            ),
            **replica_arguments(teacher, group),
        )
        try:
            yield from answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        finally:
            if teacher.pipeline_parallel > 1:
                remove_groups(group)


def together(
    tables: Iterator[pa.Table], every_s: float = _TOGETHER_S, rows: int = _TOGETHER_ROWS
) -> Iterator[pa.Table]:
    """The rows of tables that arrive fast, as fewer tables. Counting and reporting take the driver as long for one row as for thousands.

    The first table comes at once. Rows that wait come before an error that ends the run.

    Args:
        every_s, rows: after so many seconds, or with so many rows, a table is passed on.
    """
    waiting: list[pa.Table] = []
    last = -math.inf
    try:
        for table in tables:
            waiting.append(table)
            if time.monotonic() - last >= every_s or sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting, last = [], time.monotonic()
    except (KeyboardInterrupt, StageFailedError):
        if waiting:
            yield pa.concat_tables(waiting)
        raise
    if waiting:
        yield pa.concat_tables(waiting)


def _read(batch: Any, shared: Any) -> Iterator[pa.Table]:
    """`batch`: one ticket. `shared`: the ExampleReader, or a reference to it."""
    import ray

    reader: ExampleReader = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
    yield EXAMPLE.empty_table()
    yield from reader.blocks(int(batch["ticket"][0]))
