"""Trainings that have begun in a run's folder: OUTPUT/training/<start of the fingerprint>/identity.json says with which settings.

A training of other settings has another folder, so that none overwrites another. Each stays until its own student is finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.reuse import Action, Decision, changes
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.store import Store

_IDENTITY = "identity.json"
_NAME_CHARACTERS = 12


def training_folder(output: Store, identity: Mapping[str, Any]) -> Store:
    """The folder of the training with this identity."""
    return output.child(f"training/{fingerprint(identity)[:_NAME_CHARACTERS]}")


def record_begin(output: Store, identity: Mapping[str, Any]) -> None:
    """Write the training's identity into its folder."""
    training_folder(output, identity).write(_IDENTITY, json.dumps(identity).encode())


def others_begun(output: Store, identity: Mapping[str, Any]) -> list[str]:
    """For each unfinished training of other settings: its folder, and which settings differ."""
    own = training_folder(output, identity)
    found = []
    for name in output.files("training", f"/{_IDENTITY}"):
        folder = output.child(name.removesuffix(f"/{_IDENTITY}"))
        if folder.root != own.root:
            found.append(f"{folder.shown()} ({_differences(folder, identity)})")
    return found


def _differences(folder: Store, identity: Mapping[str, Any]) -> str:
    try:
        return changes(json.loads(folder.read(_IDENTITY)), identity)
    except ValueError:  # not JSON, or not UTF-8
        return f"unknown ones, its {_IDENTITY} is damaged"


def notices(decision: Decision, output: Store, identity: Mapping[str, Any]) -> Iterator[str]:
    """What a training that begins leaves behind, for the user."""
    if decision.manifest is not None and not decision.reused:
        student = output.child("student").shown()
        yield f"{student} was {decision.reason}. It stays until the new student is exported, which replaces it"
    if decision.action is Action.MAKE:
        for other in others_begun(output, identity):
            yield f"an unfinished training of other settings stays in {other}. This one begins at step 0; the old settings resume the other"
