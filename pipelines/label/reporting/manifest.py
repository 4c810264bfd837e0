"""The manifest of labels, from what the writer holds and what the run took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.config import RunConfig
from pipelines.data.label_manifest import (
    EngineUsage,
    GoldCounts,
    HeldoutCounts,
    LabelCounts,
    LabelDetails,
    TaskVersion,
    TeacherUsed,
    Tokens,
)
from pipelines.data.reader import DataSplit
from pipelines.data.shots import read_shots
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.output.counts import Counts
from pipelines.label.output.recovery import LabelState
from pipelines.label.reporting.usage import Work, agreement_histogram, gpu_hours, label_cost, stored_answers, throughput
from pipelines.label.teachers.registry import teacher_class
from pipelines.runtime.nodes import by_address
from pipelines.storage.manifest import Manifest, manifest_of
from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint
from pipelines.tasks import load_task, task_spec


def label_manifest(
    run: RunConfig, identity: dict[str, Any], rows: Mapping[DataSplit, int], state: LabelState, work: Work, usage: EngineUsage, *,
    resumed_at_rows: int,
) -> Manifest:  # fmt: skip
    """The manifest of finished labels.

    Args:
        rows: of the corpus.
        work, usage: of this run alone.
        resumed_at_rows: rows that earlier runs had finished.
    """
    details = _details(run, state, work, usage)
    details.resumed_at_rows = resumed_at_rows
    return manifest_of(
        "labels",
        identity,
        config=run.model_dump(),
        counts=_counts(rows, state.counts).model_dump(),
        timings_s={"scan": work.scan_s, "engine_start": work.engine_start_s, "label": work.seconds},
        details=details.model_dump(),
        provenance={},
    )


def _counts(rows: Mapping[DataSplit, int], counts: Counts) -> LabelCounts:
    return LabelCounts(
        read=rows["train"],
        accepted=counts.accepted,
        rejected=counts.rejected.total(),
        rejected_by_reason=_sorted(+counts.rejected),
        heldout=HeldoutCounts(
            read=rows["heldout"],
            answered=counts.heldout_answered,
            unanswered=counts.heldout_rejected.total(),
            unanswered_by_reason=_sorted(+counts.heldout_rejected),
        ),
        gold=GoldCounts(with_gold=counts.with_gold, agreeing=counts.agreeing),
        notes=dict(counts.notes),
    )


def _details(run: RunConfig, state: LabelState, work: Work, usage: EngineUsage) -> LabelDetails:
    task, teacher, counts = load_task(task_spec(run.task, run.task_options)), run.teacher, state.counts
    return LabelDetails(
        content=f"{counts.content:016x}",
        heldout_content=f"{counts.heldout_content:016x}",
        prompt_version=PromptMaker(task, teacher, read_shots(teacher, task)).version,
        task=TaskVersion(name=task.name, version=task.version),
        teacher=TeacherUsed(
            engine=teacher.engine,
            model=teacher.model,
            revision=teacher_class(teacher.engine).revision(teacher),
            sampling=teacher.sampling,
        ),
        tokens=Tokens(prompt=counts.prompt_tokens, output=counts.output_tokens),
        cached_tokens=counts.cached_tokens,
        stored=stored_answers(counts, teacher),
        nodes=by_address(counts.nodes),
        dtypes=_sorted(counts.dtypes),
        parts=_sorted(state.parts),
        files=dict(sorted(state.files.items())),
        tally=counts.as_json(),
        tokenizer=tokenizer_fingerprint(teacher.model or "") if teacher.token_logprobs else None,
        engines=usage,
        throughput=throughput(work),
        agreement_histogram=agreement_histogram(counts, teacher),
        cost=label_cost(work, counts, teacher),
        gpu_hours=gpu_hours(work, teacher),
    )


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
