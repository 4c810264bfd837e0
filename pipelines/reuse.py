"""Whether a stage reuses, resumes, makes or refuses its artifact: one rule for the stages and for the commands that ask before them.

An artifact is finished if its manifest exists. It belongs to a run if its fingerprint is that of the identity that the stage computes for
the run. Stages pass their identity in; `pipelines.run.decisions` applies the rule to the stages of a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import ArtifactType, Manifest, read_manifest
from pipelines.storage.store import Store

_STAGE = {"labels": "label", "student": "train", "report": "evaluate"}
"""The stages with --replace, by the artifact that they make."""
_VALUE_CHARACTERS = 60


class Action(StrEnum):
    """What a stage does."""

    REUSE = "reuse"
    """The artifact is finished and belongs to the run."""
    RESUME = "resume"
    """Unfinished work belongs to the run, or a finished artifact is damaged or has rows to retry."""
    MAKE = "make"
    REFUSE = "refuse"
    """The folder holds an artifact of other settings, and --replace is not set."""


@dataclass(frozen=True)
class Attempt:
    """Unfinished work in a folder, and what it was begun for."""

    fingerprint: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What a stage does, and why."""

    action: Action
    reason: str
    manifest: Manifest | None = None
    """The finished artifact in the folder, also if it is not reused."""
    replaces: bool = False
    """MAKE: the folder holds another artifact, to be removed first."""
    refusal: UserError | None = None
    """REFUSE: the error to raise."""
    rows_finished: int = 0
    """RESUME of labels: rows that are kept."""
    rows_retried: int = 0
    """RESUME of finished labels: rows with `engine_error`."""

    @property
    def reused(self) -> Manifest | None:
        """The artifact if the action is REUSE."""
        return self.manifest if self.action is Action.REUSE else None

    def check(self) -> None:
        """Raise the refusal, if any."""
        if self.refusal is not None:
            raise self.refusal


def decide(
    store: Store, kind: ArtifactType, identity: Mapping[str, Any], *, replace: bool = False, attempt: Attempt | None = None,
    rows_to_retry: Callable[[Manifest], int] = lambda manifest: 0, damage: Callable[[Manifest], str | None] = lambda manifest: None,
) -> Decision:  # fmt: skip
    """Decide on the artifact in `store`, which the stage would make with this identity.

    Args:
        replace: an artifact of another identity is replaced rather than refused.
        attempt: unfinished work in the folder.
        rows_to_retry: rows of a finished artifact that the stage asks for again.
        damage: what is wrong with the files of a finished artifact.

    Raises:
        UserError: the manifest is damaged, or of another type or schema version.
    """
    manifest, wanted = read_manifest(store, kind), fingerprint(identity)
    other: Mapping[str, Any]
    if manifest is not None:
        if manifest.fingerprint == wanted:
            if (reason := damage(manifest)) is not None:
                return Decision(Action.MAKE if replace else Action.RESUME, reason, manifest, replaces=replace)
            if retried := rows_to_retry(manifest):
                return Decision(Action.RESUME, f"{retried:,} rows are retried", manifest, rows_retried=retried)
            return Decision(Action.REUSE, "made with the same settings and inputs", manifest)
        found, other = "finished", manifest.identity
    elif attempt is not None:
        if attempt.fingerprint == wanted:
            return Decision(Action.RESUME, "begun with the same settings and inputs")
        found, other = "unfinished", attempt.identity
    else:
        return Decision(Action.MAKE, "nothing exists yet")
    reason = f"made with other settings ({changes(other, identity)})"
    if replace:
        return Decision(Action.MAKE, reason, manifest, replaces=True)
    rule = f"its {found} {kind} {'were' if kind == 'labels' else 'was'} {reason}"
    remedy = f"Set another output, or replace it: `raystill {_STAGE[kind]} RUN --replace`."
    if kind == "labels":
        remedy = (
            "Replace them: `raystill label RUN --replace` takes over the answers to unchanged prompts. "
            "Or set another output, and this one as labelling.reuse, which does the same and keeps both."
        )
    refusal = UserError(store.shown(), rule, remedy)
    return Decision(Action.REFUSE, reason, manifest, refusal=refusal)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The leaves that differ between two identities: `teacher.model: "a" -> "b", teacher.sampling.n: 1 -> 5`."""
    return ", ".join(_differences(old, json.loads(json.dumps(new))))


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`teacher.model: "a" -> "b"` for each leaf that differs between two identities, both as JSON reads them."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 3] + "..."
