"""Which students there are, and which of a name's versions answers a request.

svamp@old=..., svamp@new=..., split {"svamp": {"new": 10}}: of the requests for `svamp`, 10 in 100 go to `svamp@new`, the others
to `svamp@old`. `svamp@new` can be asked by its own name too.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.errors import UserError
from pipelines.tasks.base import Task
from pipelines.tasks.registry import load_task
from serving.messages import UnavailableError
from serving.model_card import StudentCard

TrafficSplit = Mapping[str, Mapping[str, float]]
"""Student name -> version -> its share in percent. What is left goes to the versions that are not named, in equal parts."""
READ_AGAIN_S = 15
"""How often the folder of a student that is away is tried again."""


@dataclass(frozen=True)
class Registry:
    """The students of an endpoint."""

    cards: Sequence[StudentCard] = ()
    split: TrafficSplit = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    """Student id -> why its folder cannot be read. It keeps its name and its share: who asks for it is told to come back."""
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """By student id. Those that are not given are loaded here, which runs the code of a student that brings some along."""
    _shares: Mapping[str, Mapping[str, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError where the split names what is not there, or a student's task cannot be loaded."""
        loaded = {
            card.id: self.tasks[card.id] if card.id in self.tasks else load_task(card.task) for card in self.cards
        }
        object.__setattr__(self, "tasks", loaded)
        versions: dict[str, list[str]] = {}
        for student_id in self._students:
            name, sign, version = student_id.partition("@")
            if sign:
                versions.setdefault(name, []).append(version)
        if unknown := set(self.split) - set(versions):
            known = ", ".join(versions) or "none"
            rule = f"no student of that name has versions (those that have: {known})"
            raise UserError(f"split {', '.join(sorted(unknown))}", rule, "Name versions as NAME@VERSION=FOLDER.")
        shares = {name: shares_of(name, found, self.split.get(name, {})) for name, found in versions.items()}
        object.__setattr__(self, "_shares", shares)

    @property
    def _students(self) -> list[str]:
        """The id of each."""
        return [*(card.id for card in self.cards), *self.away]

    @property
    def ids(self) -> list[str]:
        """Every name that a request may use."""
        return list(dict.fromkeys([*(student_id.partition("@")[0] for student_id in self._students), *self._students]))

    def card(self, name: str | None, chance: random.Random) -> StudentCard | None:
        """The student for a name: by its id, or one of its versions by their shares. None: the only student.

        Returns None where no name was given and there are several.

        Raises:
            KeyError: there is no student of that name.
            AwayError: its folder cannot be read.
        """
        names = {student_id.partition("@")[0] for student_id in self._students}
        if name is None:
            if len(names) != 1:
                return None
            name = next(iter(names))
        if name not in self._students:
            shares = self._shares[name]
            name = f"{name}@{chance.choices(list(shares), weights=list(shares.values()))[0]}"
        if name in self.away:
            raise UnavailableError(name)
        return {card.id: card for card in self.cards}[name]

    def shares(self, name: str) -> Mapping[str, float]:
        """Version -> percent of the requests for a name; empty where it has no versions."""
        return self._shares.get(name, {})


def shares_of(name: str, versions: Sequence[str], named: Mapping[str, float]) -> dict[str, float]:
    """Version -> percent, of all versions; they sum up to 100.

    Raises:
        UserError: a version that is not there, a share below 0, or shares that cannot sum up to 100.
    """
    key = f"split of {name}"
    if unknown := [version for version in named if version not in versions]:
        rule = f"there is no version {unknown[0]}; there are: {', '.join(versions)}"
        raise UserError(key, rule, "Name one of them, or give its folder: NAME@VERSION=FOLDER.")
    total = sum(named.values())
    if any(not 0.0 <= share <= 100.0 for share in named.values()) or total > 100.0:
        raise UserError(key, f"the shares {dict(named)} are percents that sum up to {total:g}", "Stay within 100.")
    others = [version for version in versions if version not in named]
    if not others and total != 100.0:
        rule = f"the shares of all its versions sum up to {total:g}"
        raise UserError(key, rule, "Leave one version out, or let them sum up to 100.")
    return {version: named.get(version, (100.0 - total) / max(len(others), 1)) for version in versions}
