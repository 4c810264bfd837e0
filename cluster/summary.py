"""What a command says at its end: one JSON object for machines, one table for people. Both from the manifests."""

from __future__ import annotations

import json
import sys
from typing import Any

from pipelines.artifacts import Manifest
from pipelines.config import RunConfig


def stage_summary(run: RunConfig, stage: str, manifest: Manifest, seconds: float) -> dict[str, Any]:
    """The numbers of one stage. `reused` where nothing had to be done."""
    made = sum(manifest.timings_s.values())
    summary: dict[str, Any] = {
        "stage": stage,
        "artifact": f"{run.output.rstrip('/')}/{manifest.type}",
        "fingerprint": manifest.fingerprint,
        "seconds": round(seconds, 1),
        "reused": seconds < 0.5 * made,
        "counts": manifest.counts,
    }
    if stage == "label":
        summary["tokens"] = manifest.details["tokens"]
    if stage == "train":
        summary["training"] = manifest.details["training"]
    return summary


def describe(summary: dict[str, Any]) -> str:
    """One line for people."""
    counts = summary["counts"]
    if summary["stage"] == "label":
        gold, reasons = counts["gold"], counts["rejected_by_reason"]
        text = f"{counts['read']:,} read = {counts['accepted']:,} accepted + {counts['rejected']:,} rejected"
        if reasons:
            text += f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.items())})"
        if gold["with_gold"]:
            share = gold["agreeing"] / gold["with_gold"]
            text += f"; the teacher's label is gold in {gold['agreeing']:,} of {gold['with_gold']:,} ({share:.1%})"
        return text
    if summary["stage"] == "train":
        training = summary["training"]
        return (
            f"{counts['train_examples']:,} examples, {training['steps']:,} steps, {training['world_size']} workers, "
            f"ZeRO stage {training['zero_stage']}"
        )
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if isinstance(count, int))


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
