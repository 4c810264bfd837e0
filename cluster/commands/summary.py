"""The end of a command: one JSON object for machines, one table for people. Both from the manifests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.commands.reject_examples import RejectExample, reject_examples
from pipelines.config import RunConfig
from pipelines.data.label_distribution import LabelDistribution, label_distribution
from pipelines.data.label_manifest import LabelCost, LabelCounts, LabelDetails, StoredAnswers, Throughput, Tokens
from pipelines.data.label_parts import LabelParts
from pipelines.errors import RaystillError
from pipelines.label.reporting.result_lines import result_lines
from pipelines.reports.format import one_line
from pipelines.runtime.durations import duration
from pipelines.storage.filesystems import join, shown
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.details import TrainingDetails


class StageSummary(BaseModel):
    """One stage that has just ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    artifact: str
    fingerprint: str
    seconds: float
    reused: bool
    """The artifact is older than the stage's start."""
    counts: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """What was done, in words."""
        yield ", ".join(f"{name} {count:,}" for name, count in self.counts.items() if isinstance(count, int))


class LabelSummary(StageSummary):
    """The label stage. A value that was not measured is None, and has no line."""

    tokens: Tokens
    stored: StoredAnswers
    nodes: dict[str, int]
    resumed_at_rows: int
    throughput: Throughput | None
    agreement_histogram: list[int] | None
    gpu_hours: float | None
    cost: LabelCost | None
    timings_s: dict[str, float]
    reject_examples: dict[str, RejectExample] = {}
    """By reason. Empty if the rejects or the corpus cannot be read."""
    distribution: LabelDistribution | None = None
    """None: free labels, or files that cannot be read."""

    def lines(self) -> Iterator[str]:
        """Counts and rejects, then result_lines."""
        counts = LabelCounts.model_validate(self.counts)
        yield f"{counts.read:,} read = {counts.accepted:,} accepted + {counts.rejected:,} rejected"
        for reason, count in sorted(counts.rejected_by_reason.items(), key=lambda item: -item[1]):
            yield f"  {reason} {count:,} ({count / counts.read:.1%}){_reject(self.reject_examples.get(reason))}"
        details = LabelDetails.model_validate(self.model_dump())
        yield from result_lines(counts, details, self.timings_s, self.distribution)


class TrainSummary(StageSummary):
    """The train stage."""

    training: TrainingDetails
    tensorboard: str

    def lines(self) -> Iterator[str]:
        """Sizes; held-out losses; rates and shares; peak memory; how to show the curves."""
        training = self.training
        nodes = len(set(training.nodes[-1])) if training.nodes else 1
        yield (
            f"{self.counts['train_examples']:,} examples, {training.steps:,} steps, "
            f"{training.world_size} workers{f' on {nodes} nodes' if nodes > 1 else ''}, ZeRO stage {training.zero_stage}"
        )
        losses = training.loss.validation
        for term in (term for term in losses.before if term in losses.after):
            yield f"held-out {term} loss {losses.before[term]:.3f} -> {losses.after[term]:.3f}"
        yield (
            f"{training.tokens_per_s:,.0f} tokens/s, {training.padding_share:.1%} padding, "
            f"{training.data_wait_share:.1%} of the time waiting for data"
        )
        yield f"peak memory {max(training.peak_memory_bytes_per_rank) / 2**30:.1f} GiB per worker"
        yield f"curves: tensorboard --logdir {self.tensorboard}"


def stage_summary(run: RunConfig, stage: str, manifest: Manifest, seconds: float) -> StageSummary:
    """The summary of a stage that has just ended after `seconds`."""
    began = (datetime.now(UTC) - timedelta(seconds=seconds)).replace(microsecond=0)  # the precision of `created`
    summary = StageSummary(
        stage=stage,
        artifact=shown(join(run.output, "compare" if manifest.type == "comparison" else manifest.type)),
        fingerprint=manifest.fingerprint,
        seconds=round(seconds, 1),
        reused=datetime.fromisoformat(manifest.created) < began,
        counts=manifest.counts,
    )
    if stage == "label":
        details = LabelDetails.model_validate(manifest.details)
        measured = details.model_dump(include=set(LabelSummary.model_fields))
        labels = Store(run.output).child("labels")
        return LabelSummary(
            **summary.model_dump(), **measured, timings_s=manifest.timings_s,
            distribution=_distribution(labels, details.parts), reject_examples=_reject_examples(run, labels, details),
        )  # fmt: skip
    if stage == "train":
        training = TrainingDetails.model_validate(manifest.details["training"])
        return TrainSummary(
            **summary.model_dump(), training=training, tensorboard=shown(join(run.output, "tensorboard"))
        )
    return summary


def print_summary(summaries: Sequence[StageSummary], *, as_json: bool, extra: Mapping[str, Any] | None = None) -> None:
    """Print the summaries on stdout. `extra`: more keys of the JSON object."""
    if as_json:
        content = {"stages": [summary.model_dump(mode="json") for summary in summaries], **(extra or {})}
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_lines=False, pad_edge=False)
    for column, style in (("stage", "bold"), ("time", ""), ("artifact", ""), ("result", "")):
        table.add_column(column, style=style, overflow="fold", justify="right" if column == "time" else "left")
    for summary in summaries:
        time = duration(summary.seconds) + (" (reused)" if summary.reused else "")
        table.add_row(summary.stage, time, summary.artifact, "\n".join(summary.lines()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _distribution(labels: Store, parts: Mapping[str, int]) -> LabelDistribution | None:
    import pyarrow as pa

    try:
        return label_distribution(labels, parts)
    except (OSError, pa.ArrowException):
        return None  # the next stage refuses damaged files by their name


def _reject_examples(run: RunConfig, labels: Store, details: LabelDetails) -> dict[str, RejectExample]:
    try:
        return reject_examples(run, LabelParts(labels, details.parts, details.files))
    except (RaystillError, OSError):
        return {}  # the examples are a help: the next stage refuses damaged files, the next labelling a changed corpus


def _reject(example: RejectExample | None) -> str:
    """`, such as tickets.csv, row 17: "Hello, my order ..."`."""
    if example is None:
        return ""
    where = example.place or f"id {one_line(example.id)}"
    return f", such as {where}: {(example.input or example.detail)!r}"
