"""The students of an endpoint, and which version of a name answers a request.

svamp@old=..., svamp@new=..., split {"svamp": {"new": 10}}: 10 in 100 requests for `svamp` go to `svamp@new`, the others to
`svamp@old`. Requests can also name `svamp@new` itself.
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
"""Student name -> version -> its share in percent. Versions that are not named share the rest equally."""
READ_AGAIN_S = 15
"""Seconds between two attempts to read the folder of an unavailable student."""


@dataclass(frozen=True)
class Registry:
    """The students of an endpoint."""

    cards: Sequence[StudentCard] = ()
    split: TrafficSplit = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Student id -> why its folder cannot be read, or no engine runs it. It keeps its name and its share; its requests get 503."""
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """By student id. Missing ones are loaded here, which runs the code of a student that ships its task."""
    starting: frozenset[str] = frozenset()
    """Ids of students whose application does not run yet. Other versions of their name get their share meanwhile."""
    _shares: Mapping[str, Mapping[str, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError if the split names an unknown student or version, or a task cannot be loaded."""
        tasks = {card.id: self.tasks[card.id] if card.id in self.tasks else load_task(card.task) for card in self.cards}
        object.__setattr__(self, "tasks", tasks)
        versions: dict[str, list[str]] = {}
        for student_id in self._student_ids:
            name, sign, version = student_id.partition("@")
            if sign:
                versions.setdefault(name, []).append(version)
        if unknown := set(self.split) - set(versions):
            known = ", ".join(versions) or "none"
            rule = f"no student of that name has versions (students with versions: {known})"
            raise UserError(f"split {', '.join(sorted(unknown))}", rule, "Name versions as NAME@VERSION=FOLDER.")
        shares = {name: shares_of(name, known, self.split.get(name, {})) for name, known in versions.items()}
        object.__setattr__(self, "_shares", shares)

    @property
    def _student_ids(self) -> list[str]:
        return [*(card.id for card in self.cards), *self.unavailable]

    @property
    def ids(self) -> list[str]:
        """Every name that a request may use."""
        names = [student_id.partition("@")[0] for student_id in self._student_ids]
        return list(dict.fromkeys([*names, *self._student_ids]))

    def select(self, name: str | None, chance: random.Random) -> StudentCard | None:
        """The student for a name: the one with this id, or one of the name's versions by their shares. None: the only student.

        Returns None if no name is given and there are several.

        Raises:
            KeyError: unknown name.
            UnavailableError: see `unavailable`.
        """
        names = {student_id.partition("@")[0] for student_id in self._student_ids}
        if name is None:
            if len(names) != 1:
                return None
            name = next(iter(names))
        if name not in self._student_ids:
            shares = self._shares_now(name)
            name = f"{name}@{chance.choices(list(shares), weights=list(shares.values()))[0]}"
        if name in self.unavailable:
            raise UnavailableError(name)
        return {card.id: card for card in self.cards}[name]

    def _shares_now(self, name: str) -> Mapping[str, float]:
        """Weights of the versions that run; the configured shares if none does."""
        shares = self._shares[name]
        running = {version: share for version, share in shares.items() if f"{name}@{version}" not in self.starting}
        if not running:
            return shares
        return running if any(running.values()) else dict.fromkeys(running, 1.0)

    def shares(self, name: str) -> Mapping[str, float]:
        """Version -> percent of the requests for a name; empty if it has no versions."""
        return self._shares.get(name, {})


def shares_of(name: str, versions: Sequence[str], named: Mapping[str, float]) -> dict[str, float]:
    """Version -> percent, for all versions; they sum to 100.

    Raises:
        UserError: an unknown version, a share below 0, or shares that cannot sum to 100.
    """
    key = f"split of {name}"
    if unknown := [version for version in named if version not in versions]:
        rule = f"unknown version {unknown[0]}; the versions are: {', '.join(versions)}"
        raise UserError(key, rule, "Name one of them, or give its folder: NAME@VERSION=FOLDER.")
    total = sum(named.values())
    if any(not 0.0 <= share <= 100.0 for share in named.values()) or total > 100.0:
        rule = f"the shares {dict(named)} sum to {total:g} percent"
        raise UserError(key, rule, "Give percentages from 0 to 100 that sum to at most 100.")
    others = [version for version in versions if version not in named]
    if not others and total != 100.0:
        rule = f"the shares of all its versions sum to {total:g} percent"
        raise UserError(key, rule, "Leave one version out, or make them sum to 100.")
    return {version: named.get(version, (100.0 - total) / max(len(others), 1)) for version in versions}
