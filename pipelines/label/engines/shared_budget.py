"""`teacher.budget` over all engines of a run. Held by the health actor, for teachers that keep no account of their own.

A row reserves the most that it can use before it enters an engine, and settles what it used. While reservations of other rows stand in
the way it waits; the budget is used up once nothing is reserved and the next row does not fit. From then on all rows are refused, since
the stage is about to stop. GPU-hours are those of this run's engines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import TokensUsed
from pipelines.label.teachers.budget import BudgetMeter, Reserved

WAIT = "wait"
"""Answer to a row that may fit once other rows have settled."""


@dataclass
class SharedBudget:
    """Admits rows while the budget lasts."""

    budget: BudgetConfig
    price: PriceConfig
    used: TokensUsed
    """By earlier runs."""
    gpus: int
    """Of each engine."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Engine -> seconds since its start began."""
    refusal: str = ""
    """Why the budget is used up, once it is."""

    def __post_init__(self) -> None:
        self._meter = BudgetMeter(self.budget, self.price, self.used)

    @property
    def in_flight(self) -> bool:
        """True while rows are reserved."""
        return any(self._meter.reserved)

    def reserve(self, engine: str, engine_s: float, prompt_tokens: int, output_tokens: int) -> str:
        """Reserve a row. Returns an empty text, WAIT, or why the budget is used up."""
        self.seconds[engine] = engine_s
        limit, hours = self.budget.gpu_hours, self.gpus * sum(self.seconds.values()) / 3600
        if limit and hours >= limit:
            self.refusal = f"teacher.budget.gpu_hours {limit:g} is used up ({hours:.3f} GPU-hours)"
        if self.refusal:
            return self.refusal
        excess = self._meter.excess(prompt_tokens, output_tokens)
        if excess and self.in_flight:
            return WAIT
        self.refusal = excess or ""
        if not excess:
            self._meter.reserve(prompt_tokens, output_tokens)
        return self.refusal

    def settle(self, reserved: Reserved, used: tuple[int, int]) -> None:
        """Replace a row's reservation by what it used: (prompt tokens, output tokens)."""
        self._meter.settle(reserved, *used)
