"""What exists of a run and would be reused, resumed, made or refused, with the reason."""

from __future__ import annotations

import json
from typing import Any

from pipelines.config import RunConfig
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task


def existing(run: RunConfig, task: Task) -> dict[str, dict[str, Any]]:
    """For each stage: {"state", "reused", "detail"}; label also "rows_finished" of an unfinished run of the same labels, and "rows_retried"
    of finished ones: those with `engine_error`."""
    from pipelines.label.output.counts import Counts
    from pipelines.label.reporting.progress_file import label_status
    from pipelines.label.stage import label_identity
    from pipelines.train.checks import train_identity

    output = Store(run.output)
    labels = output.child("labels")
    identity = label_identity(run)
    manifest = read_manifest(labels, "labels")
    found: dict[str, dict[str, Any]] = {"label": _state(manifest, identity) | {"rows_finished": 0, "rows_retried": 0}}
    if manifest is not None and found["label"]["reused"]:
        found["label"]["rows_retried"] = Counts.from_json(manifest.details["tally"]).engine_errors
    status = label_status(labels)
    if manifest is None and status.state in ("running", "interrupted"):
        found["label"] |= _begun(labels, identity, status.state, status.detail)
    student = read_manifest(output.child("student"), "student")
    same_labels = manifest is not None and found["label"]["reused"]
    found["train"] = _state(student, train_identity(run, task, manifest) if manifest and same_labels else None)
    if found["train"]["reused"] and found["label"]["rows_retried"]:
        found["train"] |= {"reused": False, "detail": "reused unless the rows that are tried again change the labels"}
    report = read_manifest(output.child("report"), "report")
    found["evaluate"] = _state(report, None)
    if report and not _asked_so(report, run):
        found["evaluate"]["detail"] = "of other settings of evaluation: made anew"
    elif report and student and found["train"]["reused"] and report.identity.get("student") == student.fingerprint:
        found["evaluate"] |= {"reused": True, "detail": "reused unless the held-out examples have changed"}
    elif report:
        found["evaluate"]["detail"] = "of another student: made anew"
    return found


def _asked_so(report: Manifest, run: RunConfig) -> bool:
    """Whether the report's students were asked as this run would."""
    from pipelines.scoring.identity import asking_identity

    answers, wanted = report.identity.get("answers", {}), asking_identity(run.evaluation)
    same = all(key in answers and answers[key] == value for key, value in wanted.items())
    return same and report.identity.get("weights") == run.evaluation.weights


def _state(manifest: Manifest | None, identity: dict[str, Any] | None) -> dict[str, Any]:
    if manifest is None:
        return {"state": "to be made", "reused": False, "detail": ""}
    reused = identity is not None and manifest.fingerprint == fingerprint(identity)
    detail = "reused" if reused else "made with other settings or inputs: refused without --replace"
    return {"state": f"finished {manifest.created}", "reused": reused, "detail": detail}


def _begun(labels: Store, identity: dict[str, Any], state: str, detail: dict[str, Any]) -> dict[str, Any]:
    rows = int(detail["rows"] if state == "interrupted" else detail["done"])
    begun = json.loads(labels.read("attempt.json")) if labels.exists("attempt.json") else {}
    if begun and begun["fingerprint"] != fingerprint(identity):
        return {"state": state, "detail": f"with other settings ({rows:,} rows): refused without --replace"}
    return {"state": state, "detail": f"{rows:,} rows are finished and are not asked again", "rows_finished": rows}
