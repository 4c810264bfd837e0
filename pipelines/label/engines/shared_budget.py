"""`teacher.budget` over all engines of a run. Held by the health actor, for teachers that keep no account of their own.

A row reserves the most that it can use before it enters an engine, and settles what it used. While reservations of other rows stand in
the way it waits; the budget is used up once nothing is reserved and the next row does not fit. GPU-hours are those of this run's engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import TokensUsed
from pipelines.label.teachers.budget import BudgetMeter, Reservation

WAIT = "wait"
"""Answer to a row that may fit once other rows have settled."""


@dataclass(frozen=True)
class Funds:
    """What a run may use, and what earlier runs have used."""

    budget: BudgetConfig
    price: PriceConfig
    used: TokensUsed
    gpus: int
    """Of each engine."""


@dataclass
class SharedBudget:
    """Admits rows while the budget lasts."""

    funds: Funds
    seconds: dict[str, float] = field(default_factory=dict)
    """Engine -> seconds since its start began."""

    def __post_init__(self) -> None:
        self._meter = BudgetMeter(self.funds.budget, self.funds.price, self.funds.used)

    def reserve(self, engine: str, engine_s: float, prompt_tokens: int, output_tokens: int) -> str:
        """Reserve a row. Returns an empty text, WAIT, or why the budget is used up."""
        self.seconds[engine] = engine_s
        if spent := self.gpu_hours_spent(self.seconds):
            return spent
        excess = self._meter.excess(prompt_tokens, output_tokens)
        if not excess:
            self._meter.reserve(prompt_tokens, output_tokens)
            return ""
        return WAIT if any(self._meter.reserved) else excess

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace a row's reservation by what it used. Both: (prompt tokens, output tokens)."""
        self._meter.settle(Reservation(*reserved), *used)

    def gpu_hours_spent(self, seconds: Mapping[str, float]) -> str:
        """Why the GPU-hours are used up, empty if they are not. `seconds`: of each engine since its start began."""
        limit = self.funds.budget.gpu_hours
        hours = self.funds.gpus * sum(seconds.values()) / 3600
        return (
            f"teacher.budget.gpu_hours {limit:g} is used up ({hours:.3f} GPU-hours)" if limit and hours >= limit else ""
        )
