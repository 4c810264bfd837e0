"""The stages in sequence: label, train, evaluate. The only module that calls several of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pipelines.config import RunConfig
from pipelines.reuse import Action, Decision
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store

Stage = Literal["label", "train", "evaluate"]
STAGES: tuple[Stage, ...] = ("label", "train", "evaluate")


def run_stage(run: RunConfig, stage: Stage, *, replace: bool = False) -> Manifest:
    """Make one stage's artifact, or reuse it. Ray is running."""
    if stage == "label":
        from pipelines.label.stage import label

        return label(run, replace=replace)
    if stage == "train":
        from pipelines.train.stage import train

        return train(run, replace=replace)
    from pipelines.evaluate.stage import evaluate

    return evaluate(run)


def decisions(run: RunConfig, stages: Sequence[Stage] = STAGES, *, replace: bool = False) -> dict[Stage, Decision]:
    """What each of the stages would do, in sequence. Starts nothing; reads OUTPUT and fingerprints the inputs.

    Without `label` the labels on disk count, and the corpus may be gone.

    Raises:
        UserError: a manifest is damaged, or an input cannot be read.
    """
    found: dict[Stage, Decision] = {}
    if "label" in stages:
        found["label"] = _label(run, replace=replace)
    if "train" in stages:
        found["train"] = _train(run, found.get("label"), replace=replace)
    if "evaluate" in stages:
        found["evaluate"] = _evaluate(run, found.get("train"))
    return found


def _label(run: RunConfig, *, replace: bool) -> Decision:
    from pipelines.label.reporting.progress_file import finished_rows
    from pipelines.label.stage import label_decision

    decision = label_decision(run, replace=replace)
    if decision.action is Action.RESUME and decision.manifest is None:
        return dataclasses.replace(decision, rows_finished=finished_rows(Store(run.output).child("labels")))
    return decision


def _train(run: RunConfig, label: Decision | None, *, replace: bool) -> Decision:
    from pipelines.train.stage import train_decision

    labels = label.manifest if label else read_manifest(Store(run.output).child("labels"), "labels")
    if labels is None or (label and label.action in (Action.MAKE, Action.REFUSE)):
        return Decision(Action.MAKE, "needs the labels first")
    decision = train_decision(run, labels, replace=replace)
    if label and label.rows_retried and decision.reused:
        return Decision(Action.MAKE, "reused unless the retried rows change the labels", decision.manifest)
    return decision


def _evaluate(run: RunConfig, train: Decision | None) -> Decision:
    from pipelines.evaluate.stage import evaluate_decision

    output = Store(run.output)
    student = train.reused if train else read_manifest(output.child("student"), "student")
    labels = read_manifest(output.child("labels"), "labels")
    if student is None or labels is None:
        return Decision(Action.MAKE, "needs the student first")
    return evaluate_decision(run, student, labels)
