"""What paid requests have used: `labels/spent/NAME.json`, one file for each run of the stage.

Rows alone do not show it: an answer is paid before its row is committed, and a kill may lose it. The health actor writes the file within
half a second of an answer, and always before the answer's row reaches the driver. Requests in flight stand in it with the most that they
can use. A run that ends removes them; one that is killed leaves them, so the budget of the next run counts them in full.
"""

from __future__ import annotations

import uuid
from typing import Self

from pydantic import BaseModel, ValidationError

from pipelines.errors import UserError
from pipelines.label.teachers.base import NOTHING_USED, TokensUsed
from pipelines.label.teachers.budget import Reserved
from pipelines.storage.store import Store

FOLDER = "spent"


class RunSpending(BaseModel):
    """One file."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Part of `prompt_tokens`: those that an endpoint had in its cache."""
    in_flight_prompt_tokens: int = 0
    """At most, as the next. After the end of the run: of requests whose answer nobody has read."""
    in_flight_output_tokens: int = 0


class Spending:
    """The file of one run, in the process that writes it."""

    def __init__(self, store: Store, before: TokensUsed) -> None:
        """`before`: what earlier runs have used, and no other file has."""
        self._store, self._name = store, ""
        self._used, self._in_flight = before, dict[str, Reserved]()

    def add(self, engine: str, used: TokensUsed, in_flight: Reserved) -> None:
        """Record what an engine has used since its last report, and what its requests in flight can use. Durable when it returns."""
        if used == NOTHING_USED and self._in_flight.get(engine, (0, 0)) == in_flight:
            return
        self._used = plus(self._used, used)
        self._in_flight[engine] = in_flight
        self._write()

    @property
    def in_flight(self) -> bool:
        """True while an engine has requests in flight, by its last report."""
        return any(any(reserved) for reserved in self._in_flight.values())

    def _write(self) -> None:
        # Named here: a process that is restarted knows nothing of its file, and must not overwrite it.
        self._name = self._name or f"{FOLDER}/{uuid.uuid4().hex}.json"
        prompt, output = (sum(reserved[i] for reserved in self._in_flight.values()) for i in (0, 1))
        content = RunSpending(
            prompt_tokens=self._used.prompt,
            output_tokens=self._used.output,
            cached_tokens=self._used.cached,
            in_flight_prompt_tokens=prompt,
            in_flight_output_tokens=output,
        )
        self._store.write(self._name, content.model_dump_json().encode())


class AllSpending(BaseModel):
    """The sum of all files."""

    answered: TokensUsed = NOTHING_USED
    lost: TokensUsed = NOTHING_USED
    """Of requests in flight when their run ended, at most."""

    @property
    def used(self) -> TokensUsed:
        """What counts against a budget."""
        return plus(self.answered, self.lost)

    def missing(self, paid: TokensUsed) -> TokensUsed:
        """What committed rows have used beyond these files: rows of versions without them, and of batches."""
        if paid.prompt + paid.output <= self.answered.prompt + self.answered.output:
            return NOTHING_USED
        return TokensUsed(*(max(one - other, 0) for one, other in zip(paid, self.answered, strict=True)))

    @classmethod
    def read(cls, labels: Store) -> Self:
        """The files of a labels folder. Raises UserError if one is damaged."""
        answered, lost = NOTHING_USED, NOTHING_USED
        for name in labels.files(FOLDER, ".json"):
            try:
                found = RunSpending.model_validate_json(labels.read(name))
            except ValidationError as error:
                remedy = "Remove it. teacher.budget then counts nothing of that run but its finished rows."
                raise UserError(labels.shown(name), "not a record of used tokens", remedy) from error
            answered = plus(answered, TokensUsed(found.prompt_tokens, found.output_tokens, found.cached_tokens))
            lost = plus(lost, TokensUsed(found.in_flight_prompt_tokens, found.in_flight_output_tokens))
        return cls(answered=answered, lost=lost)


def plus(one: TokensUsed, other: TokensUsed) -> TokensUsed:
    """The sum."""
    return TokensUsed(*(a + b for a, b in zip(one, other, strict=True)))


def used_tokens(labels: Store, paid: TokensUsed) -> TokensUsed:
    """What all runs on a labels folder have used of its budget. `paid`: by committed rows."""
    found = AllSpending.read(labels)
    return plus(found.used, found.missing(paid))
