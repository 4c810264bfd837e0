"""A plan in words (cluster/planning/plan.py makes it): config, prompts, a histogram of prompt lengths, and what each stage takes."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from cluster.planning.estimate import in_words

_BAR_CHARACTERS = 40


def print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """The plan on stdout."""
    if as_json:
        json.dump(plan, sys.stdout, ensure_ascii=False, indent=2)
        print()
        return
    import yaml

    print(yaml.safe_dump(plan["config"], sort_keys=False, allow_unicode=True))
    for number, prompt in enumerate(plan["prompts"], 1):
        print(f"--- prompt {number}\n{prompt}\n")
    print("\n".join(plan_lines(plan)))


def plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    """Everything but config and prompts; every estimate with what it rests on."""
    rows, tokens, prompt = plan["rows"], plan["tokens"], plan["tokens"]["prompt"]
    unreadable = f", {rows['unreadable']:,} that the task cannot read" if rows["unreadable"] else ""
    yield f"rows        {rows['train']:,} train, {rows['heldout']:,} held out{unreadable}"
    yield (
        f"prompts     {prompt['mean']:,.0f} tokens on average, {prompt['median']:,} median, {prompt['p95']:,} at the 95th "
        f"percentile, {prompt['max']:,} at most, {prompt['total']:,} in all"
    )
    yield f"            counted with {tokens['counted_with']}, over the first {tokens['rows_counted']:,} rows"
    yield from histogram_lines(tokens["histogram"])
    if tokens["too_long"]:
        yield f"            {tokens['too_long']:,} of them leave no room for the answer: rejected as too_long"
    yield from _throughput_lines(plan["throughput"])
    yield from _label_lines(plan["stages"]["label"])
    for stage in ("train", "evaluate"):
        estimate = plan["stages"][stage]
        gpus = "" if estimate["gpu_hours"] is None else f", {estimate['gpu_hours']:.2f} GPU-hours"
        time = "" if estimate["seconds"] is None else f"{in_words(estimate['seconds'])}{gpus}; from "
        yield f"{stage:11} {time}{estimate['source']}"
        if estimate.get("memory"):
            yield from _memory_lines(estimate["memory"])
    if plan["capacity"]:
        yield from capacity_lines(plan["capacity"])
    for stage, found in plan["exists"].items():
        yield f"exists      {stage}: " + "; ".join(part for part in (found["state"], found["detail"]) if part)


def _memory_lines(memory: dict[str, int]) -> Iterator[str]:
    kinds = ("weights", "gradients", "optimizer", "activations", "logits")
    parts = ", ".join(f"{kind} {size(memory[kind])}" for kind in kinds)
    yield f"            about {size(memory['total'])} of memory a worker ({parts})"
    yield f"            a rough estimate for {memory['parameters']:,} parameters, from its config.json"


def histogram_lines(histogram: dict[str, list[int]]) -> Iterator[str]:
    """One bar for each bin, of whole characters; a bin with any rows has at least one."""
    edges, counts = histogram["edges"], histogram["counts"]
    names = [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in itertools.pairwise(edges)]
    for name, count in zip(names, counts, strict=True):
        bar = "█" * (max(1, round(_BAR_CHARACTERS * count / max(counts))) if count else 0)
        yield f"            {name:>{max(map(len, names))}}  {bar} {count:,}"


def _throughput_lines(throughput: dict[str, Any]) -> Iterator[str]:
    rates = [
        f"{throughput[key]:,.1f} {name}"
        for key, name in (("rows_per_s", "rows/s"), ("output_tokens_per_s", "output tokens/s"))
        if throughput[key] is not None
    ]
    yield f"throughput  {', '.join(rates)} per replica" if rates else "throughput  unknown"
    yield f"            from {throughput['source']}" if rates else f"            {throughput['source']}"
    if throughput["reject_share"] is not None:
        yield f"            {throughput['reject_share']:.1%} of those rows were rejected"


def _label_lines(label: dict[str, Any]) -> Iterator[str]:
    if not label["rows"]:
        yield "label       nothing to ask"
        return
    yield f"label       {label['rows']:,} rows to ask, {label['prompt_tokens']:,} prompt tokens in all"
    per_row = f"{label['output_tokens_per_row']:,.1f} a row, {label['output_assumption']}"
    yield f"            {label['output_tokens']:,} output tokens ({per_row})"
    start = label["engine_start_s"]
    apart = "engine start not included" if start is None else f"{in_words(start)} of it engine start"
    known = "" if label["seconds"] is None else f", {apart}"
    yield f"            time {in_words(label['seconds'])} with {label['replicas']} replica{'s' * (label['replicas'] > 1)}{known}"
    if label["gpu_hours"] is not None:
        yield f"            {label['gpu_hours']:,.2f} GPU-hours"
    elif label["replica_hours"] is not None:
        yield f"            {label['replica_hours']:,.2f} CPU-replica-hours"
    if label["cost"]:
        yield f"            cost {label['cost']['amount']:,.2f}: {label['cost']['basis']}"
    storage = label["storage_bytes"]
    yield f"            storage {size(storage['labels'])} of labels, {storage['labels_how']}"
    if storage["token_logprobs"] is not None:
        yield f"            storage {size(storage['token_logprobs'])} of token_logprobs, before compression"


def capacity_lines(found: dict[str, Any]) -> Iterator[str]:
    """What the deadline takes, and what that rests on."""
    deadline, label = in_words(found["deadline_s"]), found["label"]
    if found["problem"]:
        yield f"deadline    {deadline}: no number of replicas is given: {found['problem']}"
        return
    replicas, gpus = found["replicas"], found["gpus"]
    held = (
        f", {gpus:,} GPUs of the kind that the throughput is of"
        if gpus
        else ", each with the cores that the throughput is of"
    )
    yield f"deadline    {deadline}: {replicas:,} replica{'s' * (replicas > 1)}{held}; set teacher.replicas.max to {replicas}"
    hours = f", {label['gpu_hours']:,.1f} GPU-hours" if gpus else ""
    price = f", cost {label['cost']['amount']:,.2f}" if label["cost"] else ""
    yield f"            labelling then takes {in_words(label['seconds'])}{hours}{price}; replicas are taken to add up"
    if found["rows_per_s"] and found["rows_per_s"] > found["driver_rows_per_s"]:
        known = f"one driver is known to keep up with {found['driver_rows_per_s']:,}"
        yield f"            that is {found['rows_per_s']:,.0f} rows/s, and {known}: part the corpus into runs of their own"
    if found["other_s"]:
        yield f"            {in_words(found['other_s'])} of it are for training and evaluation"
    if found["left_out"]:
        yield f"            not in it, since nothing is known of it: {' and '.join(found['left_out'])}"


def size(count: float) -> str:
    """Bytes for people: `170 kB`, `1.4 MB`, `23.0 GB`."""
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
