"""What the teacher actors tell each other across their deaths: which rows were in an engine when it died, and how busy engines were.

A row that was in an engine when it died is a suspect: it is asked again alone. A row whose engines died twice becomes `engine_error`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.nodes import on_this_node

RowKey = tuple[str, str]
"""(split, id)."""
STRIKES = 2
"""Engine deaths after which a row is not asked any more."""
FRUITLESS_STARTS = 8
"""Engines of one run that may die in a row without answering a single block."""


@dataclass(frozen=True)
class Usage:
    """What the engines of a run have done, in seconds summed over them."""

    engines: int
    start_s: float
    up_s: float
    busy_s: float
    """Of `up_s`, with at least one row in the engine."""
    deaths: int
    ready_for_s: float | None
    """Since the run's first engine was ready; None where there was none."""


@dataclass
class _Engine:
    start_s: float = 0.0
    up_s: float = 0.0
    busy_s: float = 0.0


@dataclass
class EngineHealth:
    """Held by one Ray actor, `ledger_actor`."""

    strikes: Counter[RowKey] = field(default_factory=Counter)
    fruitless: int = 0
    """Engine starts since a block was last answered."""
    started: int = 0
    deaths: int = 0
    engines: dict[str, _Engine] = field(default_factory=dict)
    unusable: str = ""
    """Why no engine can answer anything. Ray Data hands on the text of an actor's error between other texts, so it is kept here."""
    budget: str = ""
    """Why rows were not asked, where the budget is used up."""
    first_ready: float | None = None

    def starting(self) -> tuple[dict[RowKey, int], int, int]:
        """An engine is about to start. (strikes by row, fruitless starts before this one, engines that ever started)."""
        self.fruitless += 1
        return dict(self.strikes), self.fruitless - 1, self.started

    def ready(self) -> None:
        """An engine is ready."""
        if self.first_ready is None:
            self.first_ready = time.monotonic()

    def report(self, engine: str, start_s: float, up_s: float, busy_s: float) -> None:
        """An engine has answered; its times so far."""
        self.started += engine not in self.engines
        self.fruitless = 0
        self.engines[engine] = _Engine(start_s, up_s, busy_s)

    def died(self, rows: Iterable[RowKey]) -> None:
        """An engine died with these rows in it."""
        self.deaths += 1
        self.strikes.update(rows)

    def spent(self, reason: str) -> None:
        """A row was not asked, since the budget is used up."""
        self.budget = reason

    def give_up(self, reason: str) -> None:
        """An actor is about to raise TeacherUnusableError."""
        self.unusable = reason

    def stopped(self) -> tuple[str, str]:
        """(why no engine can answer anything, why rows were not asked), each empty where that is not so."""
        return self.unusable, self.budget

    def usage(self) -> Usage:
        """The sums so far."""
        engines = self.engines.values()
        return Usage(
            len(engines),
            sum(e.start_s for e in engines),
            sum(e.up_s for e in engines),
            sum(e.busy_s for e in engines),
            self.deaths,
            None if self.first_ready is None else time.monotonic() - self.first_ready,
        )


def ledger_actor() -> Any:
    """A Ray actor that holds a Ledger; it needs no CPU of its own, and is lost with no node but this one."""
    import ray

    anew = {"max_restarts": -1, "max_task_retries": -1}
    return ray.remote(num_cpus=0, scheduling_strategy=on_this_node(), **anew)(EngineHealth).remote()
