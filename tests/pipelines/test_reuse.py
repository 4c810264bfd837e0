from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.reuse import Action, Attempt, decide
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import manifest_of, write_manifest
from pipelines.storage.store import Store

PARTS: dict[str, Any] = {"config": {}, "counts": {}, "timings_s": {}, "details": {}, "provenance": {}}
MINE, OTHER = ({"teacher": {"model": model, "seed": 0}} for model in ("b", "a"))
CHANGE = 'teacher.model: "a" -> "b"'


@pytest.mark.parametrize(
    ("finished", "begun", "replace", "action", "replaces"),
    [
        (None, None, False, Action.MAKE, False), (None, None, True, Action.MAKE, False),
        (None, MINE, False, Action.RESUME, False), (None, MINE, True, Action.RESUME, False),
        (None, OTHER, False, Action.REFUSE, False), (None, OTHER, True, Action.MAKE, True),
        (MINE, None, False, Action.REUSE, False), (MINE, OTHER, True, Action.REUSE, False),
        (OTHER, None, False, Action.REFUSE, False), (OTHER, MINE, True, Action.MAKE, True),
    ],
)  # fmt: skip
def test_decision_follows_from_manifest_and_attempt(
    tmp_path: Path, finished: Any, begun: Any, replace: bool, action: Action, replaces: bool
) -> None:
    store = Store(str(tmp_path / "labels"))
    if finished:
        write_manifest(store, manifest_of("labels", finished, **PARTS))
    attempt = Attempt(fingerprint(begun), begun) if begun else None
    found = decide(store, "labels", MINE, replace=replace, attempt=attempt)
    assert (found.action, found.replaces, found.manifest is not None) == (action, replaces, finished is not None)
    assert (found.reused is not None) == (action is Action.REUSE)
    assert (CHANGE in found.reason) == (action is Action.REFUSE or replaces)
    if action is Action.REFUSE:
        with pytest.raises(UserError, match=f"{CHANGE}.*`raystill label RUN --replace`"):
            found.check()
    else:
        found.check()


def test_finished_rows_may_be_retried(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_manifest(store, manifest_of("labels", MINE, **PARTS))
    found = decide(store, "labels", MINE, rows_to_retry=lambda manifest: 3)
    assert (found.action, found.rows_retried, found.reused) == (Action.RESUME, 3, None)
    assert found.manifest
