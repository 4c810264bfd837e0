"""What teacher actors share about their engines, so that it outlives each of them: deaths, the rows involved, and times.

A row that was in an engine when it died is a suspect and is answered alone the next time. After two deaths it becomes `engine_error`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.data.label_manifest import EngineUsage
from pipelines.label.engines.shared_budget import SharedBudget
from pipelines.label.output.spending import Spending
from pipelines.label.teachers.base import TokensUsed
from pipelines.label.teachers.budget import Reserved
from pipelines.runtime.nodes import on_this_node

RowKey = tuple[str, str]
"""(split, id)."""
MAX_STRIKES = 2
"""Engine deaths after which a row is given up."""
MAX_FAILED_STARTS = 8
"""Engines that may die in a row without answering a block."""


class StartState(NamedTuple):
    """What an engine that starts must know."""

    strikes: dict[RowKey, int]
    """Engine deaths per row."""
    failed_starts: int
    """Starts since a block was last answered, this one excluded."""
    engines: int
    """Engines of this run that have answered a block."""


class StopReasons(NamedTuple):
    """Why labelling stopped. Each is empty unless it applies."""

    unusable: str = ""
    """No engine can answer anything."""
    failed: str = ""
    """An actor ended with an error that it did not expect, or its engine did not start: the cause and the remedy."""
    budget: str = ""
    """Rows were skipped because the budget is used up."""
    interrupted: bool = False
    """The driver has been interrupted: no further request is sent."""


@dataclass
class _EngineTimes:
    start_s: float = 0.0
    up_s: float = 0.0
    busy_s: float = 0.0


@dataclass
class EngineHealth:
    """Held by one Ray actor, `health_actor`."""

    strikes: Counter[RowKey] = field(default_factory=Counter)
    failed_starts: int = 0
    deaths: int = 0
    engines: dict[str, _EngineTimes] = field(default_factory=dict)
    stop: StopReasons = field(default_factory=StopReasons)
    """Kept here, because Ray Data wraps the text of an actor's error in other texts."""
    first_ready: float | None = None
    budget: SharedBudget | None = None
    spending: Spending | None = None
    """Of teachers whose requests are paid."""

    def starting(self) -> StartState:
        """An engine is about to start."""
        self.failed_starts += 1
        return StartState(dict(self.strikes), self.failed_starts - 1, len(self.engines))

    def ready(self) -> None:
        """An engine is ready."""
        if self.first_ready is None:
            self.first_ready = time.monotonic()

    def fund(self, budget: SharedBudget) -> None:
        """Set what the run may use. Without it no row is refused."""
        self.budget = budget

    def reserve(self, engine: str, engine_s: float, prompt_tokens: int, output_tokens: int) -> str:
        """SharedBudget.reserve of one row."""
        return self.budget.reserve(engine, engine_s, prompt_tokens, output_tokens) if self.budget else ""

    def settle(self, reserved: Reserved, used: tuple[int, int]) -> None:
        """SharedBudget.settle of one row."""
        if self.budget:
            self.budget.settle(reserved, used)

    def spent(self, engine: str, used: TokensUsed, in_flight: Reserved) -> bool:
        """Spending.add. Returns True if the engine must send no further request."""
        if self.spending:
            self.spending.add(engine, used, in_flight)
        return self.stop.interrupted

    def interrupt(self) -> None:
        """The driver ends once the requests in flight are answered."""
        self.stop = self.stop._replace(interrupted=True)

    def in_flight(self) -> bool:
        """True while an engine has requests or rows that were admitted."""
        return any(account is not None and account.in_flight for account in (self.spending, self.budget))

    def report(self, engine: str, start_s: float, up_s: float, busy_s: float) -> None:
        """An engine has answered a block. Its times so far."""
        self.failed_starts = 0
        self.engines[engine] = _EngineTimes(start_s, up_s, busy_s)

    def died(self, rows: Iterable[RowKey]) -> None:
        """An engine died with these rows in it."""
        self.deaths += 1
        self.strikes.update(rows)

    def budget_exhausted(self, reason: str) -> None:
        """A row was skipped because the budget is used up."""
        self.stop = self.stop._replace(budget=reason)

    def unusable(self, reason: str) -> None:
        """An actor is about to raise TeacherUnusableError."""
        self.stop = self.stop._replace(unusable=reason)

    def failed(self, reason: str) -> None:
        """An actor is about to raise another error. The first one counts: later ones often follow from it."""
        self.stop = self.stop._replace(failed=self.stop.failed or reason)

    def stop_reasons(self) -> StopReasons:
        """Why labelling stopped, so far."""
        return self.stop

    def usage(self) -> EngineUsage:
        """The sums so far."""
        engines = self.engines.values()
        return EngineUsage(
            engines=len(engines),
            start_s=sum(e.start_s for e in engines),
            up_s=sum(e.up_s for e in engines),
            busy_s=sum(e.busy_s for e in engines),
            deaths=self.deaths,
            ready_for_s=None if self.first_ready is None else time.monotonic() - self.first_ready,
        )


def health_actor(spending: Spending | None = None) -> Any:
    """A Ray actor with an EngineHealth, on this node. It needs no CPU of its own."""
    import ray

    restarts = {"max_restarts": -1, "max_task_retries": -1}
    return ray.remote(num_cpus=0, scheduling_strategy=on_this_node(), **restarts)(EngineHealth).remote(
        spending=spending
    )
