"""Bookkeeping of `teacher.budget`: tokens, or money at the run file's price.

Before a request is sent, the most that it can use is reserved. Its answer replaces the reservation by what it used. The sum of both never
passes the budget, unless the estimate of a prompt's tokens was too low:

    budget 1,000 tokens   used 700   reserved 2 x 120   -> the next reservation of 120 raises BudgetExhaustedError

One meter counts one process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import NOTHING_USED, BudgetExhaustedError, TokensUsed

_BYTES_PER_TOKEN = 3
"""UTF-8 bytes. English has 4 to 5 per token, numbers and code about 3, Chinese 3 to 4: estimates are rather high."""


Reserved = tuple[int, int]
"""(prompt tokens, output tokens): the most that requests in flight can use."""


class BudgetMeter:
    """Admits requests while the budget lasts. After the first refusal it refuses all, since the stage is about to stop."""

    def __init__(self, budget: BudgetConfig, price: PriceConfig, used: TokensUsed = NOTHING_USED) -> None:
        """`used`: by earlier runs."""
        self._budget, self._price = budget, price
        self._prompt, self._output, self._cached = used
        self._reserved_prompt, self._reserved_output = 0, 0
        self._refusal: str | None = None

    @property
    def used(self) -> TokensUsed:
        """Of answered requests, and before."""
        return TokensUsed(self._prompt, self._output, self._cached)

    @property
    def reserved(self) -> Reserved:
        """By requests in flight."""
        return self._reserved_prompt, self._reserved_output

    def reserve(self, prompt_tokens: int, output_tokens: int) -> Reserved:
        """Reserve the most that a request can use. Raises BudgetExhaustedError if that could pass the budget."""
        self._refusal = self._refusal or self.excess(prompt_tokens, output_tokens)
        if self._refusal:
            raise BudgetExhaustedError(self._refusal)
        self._reserved_prompt += prompt_tokens
        self._reserved_output += output_tokens
        return prompt_tokens, output_tokens

    def settle(self, reservation: Reserved, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> None:
        """Replace a reservation by what the request used. `cached_tokens`: part of `prompt_tokens`."""
        self._reserved_prompt -= reservation[0]
        self._reserved_output -= reservation[1]
        self._prompt += prompt_tokens
        self._output += output_tokens
        self._cached += cached_tokens

    def release(self, reservation: Reserved) -> None:
        """The request was refused and used nothing."""
        self.settle(reservation, 0, 0)

    def forfeit(self, reservation: Reserved) -> None:
        """No answer came, so nobody knows what the request used: charge all of the reservation."""
        self.settle(reservation, *reservation)

    def stop(self) -> None:
        """Refuse all further requests: the run is interrupted."""
        self._refusal = "the run is interrupted"

    def excess(self, prompt_tokens: int, output_tokens: int) -> str | None:
        """Why this much more does not fit, None if it does."""
        prompt = self._prompt + self._reserved_prompt + prompt_tokens
        output = self._output + self._reserved_output + output_tokens
        if self._budget.tokens is not None and prompt + output > self._budget.tokens:
            return f"teacher.budget.tokens {self._budget.tokens:,} has no room for a row of up to {prompt_tokens + output_tokens:,} tokens"
        if self._budget.money is not None and self._cost(prompt, output) > self._budget.money:
            row = self._cost(prompt, output) - self._cost(prompt - prompt_tokens, output - output_tokens)
            return f"teacher.budget.money {self._budget.money:g} has no room for a row of up to {row:.4g}"
        return None

    def _cost(self, prompt_tokens: int, output_tokens: int) -> float:
        """Of cached tokens it is known only once a request is answered: a reservation has none."""
        prompt, output = self._price.per_million_prompt_tokens or 0.0, self._price.per_million_output_tokens or 0.0
        cached = self._price.per_million_cached_tokens
        saved = self._cached * (prompt - cached) if cached is not None else 0.0
        return (prompt_tokens * prompt + output_tokens * output - saved) / 1e6


def estimate_tokens(texts: Iterable[str]) -> int:
    """Approximate number of tokens, without a tokenizer: UTF-8 bytes / 3, rounded up."""
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for text in texts) / _BYTES_PER_TOKEN)
