"""Several drivers for one corpus: `labelling.shards`.

    the command     holds the lock, the scan, the health of the engines and the commit records; commits what shards have written
    a shard         a Ray actor with a dataset and teacher actors of its own. It writes parts, and hands over their names, hashes and counts

A part of a shard counts once the command has committed it. Its name ends in a word that no other run has, so a shard that outlives its
command overwrites nothing. Ranges of the corpus are dealt to the shard that reads next (scan.py), so no shard waits for another one.
If a shard dies, the run ends. The next one removes its parts without a commit, and labels their rows.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.config.base import ReplicasConfig
from pipelines.data.reader import DataSplit
from pipelines.errors import UserError
from pipelines.label.early_stop import FirstRows, while_budget_lasts
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.engines.dataset import outcomes, together
from pipelines.label.output.retries import ToRetry
from pipelines.label.output.written import WrittenParts, take_retried, write_outcomes
from pipelines.label.teachers.base import TokensUsed
from pipelines.storage.store import Store

_AHEAD = 4
"""Results of a shard that wait for their commit."""
_WAIT_S = 0.5


@dataclass(frozen=True)
class ShardSetup:
    """What all shards of a run have in common."""

    store: Store
    teacher: TeacherSetup
    reader: Any
    """Reference of a reading.ExampleReader."""
    tickets: int
    """Of each shard."""
    health: Any
    used: TokensUsed
    """By earlier runs."""
    to_retry: dict[DataSplit, ToRetry]
    first_number: int
    """Of parts."""
    word: str
    """In the names of parts."""


class Shard:
    """Held by one Ray actor."""

    def __init__(self, setup: ShardSetup, index: int, replicas: ReplicasConfig) -> None:
        self._setup, self._index, self._replicas = setup, index, replicas
        self._to_retry = copy.deepcopy(setup.to_retry)  # Ray passes arrays that cannot be written to

    def label(self) -> Iterator[WrittenParts]:
        """What was written, some thousand rows at a time. Raises StageFailedError as the driver's loop does."""
        setup, run = self._setup, self._setup.teacher.run
        first_rows, number = FirstRows(run.labelling, run.teacher.sampling.max_tokens), setup.first_number
        tickets = range(self._index * setup.tickets, (self._index + 1) * setup.tickets)
        with closing(outcomes(setup.teacher, self._replicas, setup.reader, tickets, setup.health)) as tables:
            checked = _checked(together(while_budget_lasts(run, setup.used, setup.health, tables)), first_rows)
            for table in together(checked, run.labelling.commit_every_s, run.labelling.commit_rows):
                ending = f"{setup.word}{self._index}"
                retried = take_retried(table, self._to_retry)
                yield write_outcomes(setup.store, number, table, retried, ending=ending)
                number += 1


def _checked(tables: Iterator[pa.Table], first_rows: FirstRows) -> Iterator[pa.Table]:
    for table in tables:
        yield table  # also one that ends the run is committed
        first_rows.check(table)


def check_shards(run: RunConfig) -> None:
    """Raise UserError if a shard would be without a replica."""
    shards, least = run.labelling.shards, run.teacher.replicas.min
    if shards > 1 and shards > least:
        rule = f"must not be above teacher.replicas.min, which is {least}: each shard needs a replica"
        raise UserError(f"labelling.shards {shards}", rule, "Raise teacher.replicas.min, or lower it.")


def shares(replicas: ReplicasConfig, shards: int) -> list[ReplicasConfig]:
    """The replicas of each shard."""
    return [
        ReplicasConfig(
            min=replicas.min // shards + (index < replicas.min % shards),
            max=replicas.max // shards + (index < replicas.max % shards),
        )
        for index in range(shards)
    ]


class Shards:
    """The shards of a run, while they work."""

    def __init__(self, setup: ShardSetup, count: int) -> None:
        import ray

        actor = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0)(Shard)
        self._actors = [
            actor.remote(setup, index, replicas)
            for index, replicas in enumerate(shares(setup.teacher.run.teacher.replicas, count))
        ]
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        self._streams: list[Any] = [one.label.options(**options).remote() for one in self._actors]

    def results(self) -> Iterator[WrittenParts | None]:
        """What the shards have written, as it arrives. None at least every half a second. Raises the error of a shard."""
        import ray

        waiting = list(self._streams)
        while waiting:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=_WAIT_S, fetch_local=False)
            for stream in ready:
                try:
                    yield ray.get(next(stream))
                except StopIteration:
                    waiting.remove(stream)
            yield None

    def close(self) -> None:
        """End the actors, with their datasets."""
        import ray

        for one in self._actors:
            ray.kill(one)


def word() -> str:
    """For the names of one run's parts."""
    return uuid.uuid4().hex[:8]
