"""The manifest of a student, from the run, its labels and the result of the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.config import RunConfig
from pipelines.storage.manifest import Manifest, manifest_of
from pipelines.students.details import LabelsProvenance, StudentDetails, TaskDetails
from pipelines.tasks import load_task, task_spec
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.engine.job import TrainingResult


def student_manifest(
    run: RunConfig, identity: Mapping[str, object], details: StudentDetails, provenance: LabelsProvenance,
    counts: Mapping[str, int], timings_s: Mapping[str, float],
) -> Manifest:  # fmt: skip
    """The manifest in its form on disk."""
    return manifest_of(
        "student", identity, config=run.model_dump(mode="json"), counts=dict(counts), timings_s=dict(timings_s),
        details=details.model_dump(), provenance={"labels": provenance.model_dump()},
    )  # fmt: skip


def student_details(
    run: RunConfig, settings: TokenSettings, counts: TokenCounts, result: TrainingResult
) -> StudentDetails:
    """The manifest's `details`."""
    spec, training = task_spec(run.task, run.task_options), run.training
    task = load_task(spec)
    return StudentDetails(
        method=run.student.method,
        family=settings.family,
        task=TaskDetails(name=task.name, version=task.version, options=spec.options, source=spec.source),
        parameters=result.parameters,
        trained_parameters=result.trained_parameters,
        max_input_tokens=training.max_input_tokens,
        max_target_tokens=training.max_target_tokens,
        training=result.details.model_copy(update={"token_counts": dataclasses.asdict(counts)}),
    )


def student_counts(counts: TokenCounts, result: TrainingResult) -> dict[str, int]:
    """The manifest's `counts`."""
    return {
        "train_examples": counts.train,
        "validation_examples": counts.validation,
        "too_long": counts.too_long,
        "sequences_too_long": counts.sequences_too_long,
        "nothing_to_learn": counts.nothing_to_learn,
        "tokens": result.tokens,
    }


def labels_provenance(labels: Manifest) -> LabelsProvenance:
    """What a student's manifest repeats of its labels' manifest."""
    return LabelsProvenance(
        fingerprint=labels.fingerprint,
        prompt_version=labels.details.get("prompt_version"),
        teacher=labels.details.get("teacher"),
        filters=labels.identity.get("teacher", {}).get("filters"),
        counts=labels.counts,
        task=labels.details.get("task"),
    )
