"""What a command says at its end: one JSON object for machines, one table for people. Both from the manifests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.config import RunConfig
from pipelines.runtime.durations import duration
from pipelines.storage.filesystems import join, shown
from pipelines.storage.manifest import Manifest

_LABEL_DETAILS = ("tokens", "nodes", "resumed_at_rows", "throughput", "agreement_histogram", "gpu_hours", "cost")
_BAR_CHARACTERS = 30
_NODES_SHOWN = 8


def stage_summary(run: RunConfig, stage: str, manifest: Manifest, seconds: float) -> dict[str, Any]:
    """The numbers of one stage that has just ended and took `seconds`. `reused` where nothing had to be done: the artifact is older."""
    began = (datetime.now(UTC) - timedelta(seconds=seconds)).replace(
        microsecond=0
    )  # as exactly as `created` is written
    summary: dict[str, Any] = {
        "stage": stage,
        "artifact": shown(join(run.output, "compare" if manifest.type == "comparison" else manifest.type)),
        "fingerprint": manifest.fingerprint,
        "seconds": round(seconds, 1),
        "reused": datetime.fromisoformat(manifest.created) < began,
        "counts": manifest.counts,
    }
    if stage == "label":
        summary |= {key: manifest.details.get(key) for key in _LABEL_DETAILS}
        summary["timings_s"] = manifest.timings_s
    if stage == "train":
        summary["training"] = manifest.details["training"]
        summary["tensorboard"] = shown(join(run.output, "tensorboard"))
    return summary


def describe(summary: dict[str, Any]) -> str:
    """What was done, for people; several lines where there is much to say."""
    counts = summary["counts"]
    if summary["stage"] == "label":
        return "\n".join(_label_lines(summary))
    if summary["stage"] == "train":
        return "\n".join(_train_lines(summary))
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if isinstance(count, int))


def _label_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Counts and rejects; rates, with the engine's start apart; agreement; cost. A figure that was not measured has no line."""
    counts, timings = summary["counts"], summary["timings_s"]
    gold = counts["gold"]
    yield f"{counts['read']:,} read = {counts['accepted']:,} accepted + {counts['rejected']:,} rejected"
    for reason, count in sorted(counts["rejected_by_reason"].items(), key=lambda item: -item[1]):
        yield f"  {reason} {count:,} ({count / counts['read']:.1%})"
    if gold["with_gold"]:
        share = gold["agreeing"] / gold["with_gold"]
        yield f"the teacher's label is gold in {gold['agreeing']:,} of {gold['with_gold']:,} ({share:.1%})"
    rates = summary["throughput"]
    if rates and rates["rows_per_s"]:
        yield (
            f"{rates['rows_per_s']:,.1f} rows/s; tokens/s {rates['prompt_tokens_per_s']:,.0f} in, "
            f"{rates['output_tokens_per_s']:,.0f} out; engine start {duration(timings['engine_start'])}, apart"
        )
        if rates["engine_busy_share"] is not None:
            yield f"engines busy {rates['engine_busy_share']:.1%} of the time, {rates['replicas']:.1f} of them on average"
        if summary["resumed_at_rows"]:
            yield f"(rates of the {rates['rows']:,} rows that the last run asked)"
    yield from _node_lines(summary["nodes"] or {})
    if summary["agreement_histogram"]:
        yield from agreement_lines(summary["agreement_histogram"])
    if summary["gpu_hours"] is not None:
        yield f"{summary['gpu_hours']:.2f} GPU-hours"
    if summary["cost"]:
        yield f"estimated cost {summary['cost']['amount']:,.2f}: {summary['cost']['basis']}"


def _node_lines(rows: dict[str, int]) -> Iterator[str]:
    """How the rows are shared among nodes, the most first; nothing where there is one."""
    if len(rows) > 1:
        most = sorted(rows.items(), key=lambda item: -item[1])[:_NODES_SHOWN]
        shown = ", ".join(f"{node} {count / sum(rows.values()):.1%}" for node, count in most)
        more = f", and {len(rows) - _NODES_SHOWN:,} more" if len(rows) > _NODES_SHOWN else ""
        yield f"rows by node: {shown}{more}"


def _train_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Sizes; held-out losses; rates and shares; the peak of memory; where the curves are."""
    counts, training = summary["counts"], summary["training"]
    yield (
        f"{counts['train_examples']:,} examples, {training['steps']:,} steps, {training['world_size']} workers{_on_nodes(training)}, "
        f"ZeRO stage {training['zero_stage']}"
    )
    validation = training["loss"]["validation"]
    for term in validation["before"]:
        if term in validation["after"]:
            yield f"held-out {term} loss {validation['before'][term]:.3f} -> {validation['after'][term]:.3f}"
    yield (
        f"{training['tokens_per_s']:,.0f} tokens/s, {training['padding_share']:.1%} padding, "
        f"{training['data_wait_share']:.1%} of the time waiting for data"
    )
    yield f"peak memory {max(training['peak_memory_bytes_per_rank']) / 2**30:.1f} GiB a worker"
    yield f"curves: tensorboard --logdir {summary['tensorboard']}"


def _on_nodes(training: dict[str, Any]) -> str:
    """Where the last attempt ran, if on several nodes."""
    nodes = len(set((training.get("nodes") or [[]])[-1]))
    return f" on {nodes} nodes" if nodes > 1 else ""


def agreement_lines(bins: Sequence[int]) -> Iterator[str]:
    """The accepted rows by agreement, a bar for each tenth that has any."""
    yield "agreement of the samples:"
    for tenth, count in enumerate(bins):
        if count:
            bar = "█" * max(1, round(_BAR_CHARACTERS * count / max(bins)))
            yield f"  {tenth / 10:.1f} to {(tenth + 1) / 10:.1f}  {bar} {count:,}"


def print_summary(summaries: list[dict[str, Any]], *, as_json: bool, extra: dict[str, Any] | None = None) -> None:
    """Print the summary on stdout."""
    if as_json:
        json.dump({"stages": summaries, **(extra or {})}, sys.stdout, ensure_ascii=False, indent=2)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_lines=False, pad_edge=False)
    for column, style in (("stage", "bold"), ("time", ""), ("artifact", ""), ("what", "")):
        table.add_column(column, style=style, overflow="fold", justify="right" if column == "time" else "left")
    for summary in summaries:
        time = f"{summary['seconds']:.0f} s" + (" (reused)" if summary["reused"] else "")
        table.add_row(summary["stage"], time, summary["artifact"], describe(summary))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
