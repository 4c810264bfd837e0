"""What labelling may use up: tokens, or money at the run file's price. Pure bookkeeping, for any engine.

Before a request is sent, what it can use at the most is reserved; afterwards the reservation gives way to what it did use. So the sum
of used and reserved never passes the budget, save where the estimate of a prompt's tokens was too low:

    budget 1,000 tokens   used 700   reserved 2 x 120   -> the next reservation of 120 raises BudgetExhaustedError

One meter counts one process. What committed rows used before it was made is given to it as `used`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import BudgetExhaustedError

_BYTES_PER_TOKEN = 3
"""Of UTF-8. English has 4 to 5, numbers and code about 3, Chinese 3 to 4: the estimate leans to the high side."""


@dataclass(frozen=True)
class Reservation:
    """What a request in flight can use at the most."""

    prompt_tokens: int
    output_tokens: int


class BudgetMeter:
    """Admits requests while the budget lasts. Once it has refused one it refuses all: the stage is stopping."""

    def __init__(self, budget: BudgetConfig, price: PriceConfig, used: tuple[int, int] = (0, 0)) -> None:
        """`used`: (prompt tokens, output tokens) that finished rows have used already."""
        self._budget, self._price = budget, price
        self._prompt, self._output = used
        self._reserved_prompt, self._reserved_output = 0, 0
        self._refusal: str | None = None

    @property
    def used(self) -> tuple[int, int]:
        """(prompt tokens, output tokens) used so far, those given to the constructor included, reservations not."""
        return self._prompt, self._output

    @property
    def reserved(self) -> tuple[int, int]:
        """(prompt tokens, output tokens) held for requests in flight."""
        return self._reserved_prompt, self._reserved_output

    def reserve(self, prompt_tokens: int, output_tokens: int) -> Reservation:
        """Hold what a request can use at the most. Raises BudgetExhaustedError where that could pass the budget."""
        self._refusal = self._refusal or self._exceeded_by(prompt_tokens, output_tokens)
        if self._refusal:
            raise BudgetExhaustedError(self._refusal)
        self._reserved_prompt += prompt_tokens
        self._reserved_output += output_tokens
        return Reservation(prompt_tokens, output_tokens)

    def settle(self, reservation: Reservation, prompt_tokens: int, output_tokens: int) -> None:
        """The request was answered and used this much."""
        self._reserved_prompt -= reservation.prompt_tokens
        self._reserved_output -= reservation.output_tokens
        self._prompt += prompt_tokens
        self._output += output_tokens

    def release(self, reservation: Reservation) -> None:
        """The request was refused and used nothing."""
        self.settle(reservation, 0, 0)

    def forfeit(self, reservation: Reservation) -> None:
        """Nobody knows what the request used (no answer came): it counts with all that was reserved."""
        self.settle(reservation, reservation.prompt_tokens, reservation.output_tokens)

    def _exceeded_by(self, prompt_tokens: int, output_tokens: int) -> str | None:
        """Why this much more does not fit, None where it does."""
        prompt = self._prompt + self._reserved_prompt + prompt_tokens
        output = self._output + self._reserved_output + output_tokens
        in_flight = self._reserved_prompt + self._reserved_output
        request = f"{in_flight:,} tokens are in flight, the next request can use {prompt_tokens + output_tokens:,}"
        if self._budget.tokens is not None and prompt + output > self._budget.tokens:
            return f"budget.tokens {self._budget.tokens:,}: {self._prompt + self._output:,} are used, {request}"
        if self._budget.money is not None and self._cost(prompt, output) > self._budget.money:
            spent = self._cost(self._prompt, self._output)
            return f"budget.money {self._budget.money:g}: {spent:.4f} is spent, {request}"
        return None

    def _cost(self, prompt_tokens: int, output_tokens: int) -> float:
        prompt, output = self._price.per_million_prompt_tokens, self._price.per_million_output_tokens
        return (prompt_tokens * (prompt or 0.0) + output_tokens * (output or 0.0)) / 1e6


def estimate_tokens(texts: Iterable[str]) -> int:
    """About how many tokens the texts have, without a tokenizer: UTF-8 bytes / 3, rounded up."""
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for text in texts) / _BYTES_PER_TOKEN)
