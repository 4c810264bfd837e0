"""A plan in words: config, prompts, a histogram of prompt lengths, and what each stage takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from cluster.planning.model import (
    NO_STUDENT,
    Capacity,
    ComparisonPlan,
    CorpusRows,
    Histogram,
    LabelBudget,
    LabelEstimate,
    Plan,
    ReplicaThroughput,
    ScoredRows,
    StageEstimate,
    TrainingSteps,
    TrainMemory,
)
from pipelines.reports.format import money, one_line
from pipelines.runtime.durations import duration
from pipelines.train.data.step_counts import few_steps

_BAR_CHARACTERS = 40
_LABELS_SHOWN = 6
_INDENT = " " * 12


def print_plan(plan: Plan, *, with_config: bool, as_json: bool) -> None:
    """Print the plan on stdout."""
    if as_json:
        print(plan.model_dump_json(indent=2))
        return
    if with_config:
        import yaml

        print(yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True))
    for number, prompt in enumerate(plan.prompts, 1):
        print(f"--- prompt {number}\n{prompt}\n")
    print("\n".join(plan_lines(plan)))


def _held_out(plan: Plan) -> str:
    """The rows of the test set, or the share of train that is scored instead of one."""
    share = plan.config["corpus"]["validation"]
    if plan.rows.heldout or not share or isinstance(share, str):
        return f"{plan.rows.heldout:,} held out"
    return f"about {share * plan.rows.train:,.0f} of them held out (corpus.validation {share:g})"


def plan_lines(plan: Plan) -> Iterator[str]:
    """Everything but config and prompts. Every estimate names its source."""
    rows, tokens, prompt = plan.rows, plan.tokens, plan.tokens.prompt
    unreadable = f", {rows.unreadable:,} unreadable for the task" if rows.unreadable else ""
    about = "about " if rows.sample else ""
    yield f"rows        {about}{rows.train:,} train, {_held_out(plan)}{unreadable}"
    if rows.sample:
        error = "not known" if rows.sample.error is None else f"{rows.sample.error:.1%}"
        yield f"{_INDENT}an estimate from a sample of {rows.sample.read:,} rows; its error is {error} (95% confidence)"
    if plan.corpus:
        yield from _corpus_lines(plan.corpus)
    if plan.scored:
        yield scored_line(plan.scored)
    yield (
        f"prompts     {prompt.mean:,.0f} tokens on average, {prompt.median:,} median, {prompt.p95:,} at the 95th percentile, "
        f"{prompt.max:,} at most, {prompt.total:,} in all"
    )
    which = f"{tokens.rows_counted:,} rows of the sample" if rows.sample else f"the first {tokens.rows_counted:,} rows"
    yield f"{_INDENT}counted with {tokens.counted_with}, over {which}"
    yield from histogram_lines(tokens.histogram)
    if tokens.too_long:
        yield f"{_INDENT}{tokens.too_long:,} of them leave no room for the answer: rejected as too_long"
    yield from _throughput_lines(plan.throughput)
    yield from _label_lines(plan.stages.label)
    has_student = plan.stages.train.source != NO_STUDENT
    if has_student:
        yield _stage_line("train", plan.stages.train)
        if plan.stages.train.steps:
            yield from steps_lines(plan.stages.train.steps)
        if plan.stages.train.memory:
            yield from _memory_lines(plan.stages.train.memory)
        if storage := plan.stages.train.storage_bytes:
            checkpoints = f"at most {size(storage.checkpoints)} of checkpoints until it is finished"
            yield f"{_INDENT}storage {size(storage.student)} of the student, {checkpoints}"
        yield _stage_line("evaluate", plan.stages.evaluate)
    else:
        yield f"student     {NO_STUDENT}"
    if plan.comparison:
        yield from comparison_lines(plan.comparison)
    if plan.capacity:
        yield from capacity_lines(plan.capacity)
    for stage, found in (
        ("label", plan.exists.label), ("train", plan.exists.train), ("evaluate", plan.exists.evaluate),
    ):  # fmt: skip
        if stage == "label" or has_student:
            yield f"exists      {stage}: {found.state}; {found.detail}"


def _corpus_lines(corpus: CorpusRows) -> Iterator[str]:
    """Gold labels and warnings."""
    if corpus.with_gold:
        common = ", ".join(
            f"{one_line(label)} {count:,}" for label, count in list(corpus.labels.items())[:_LABELS_SHOWN]
        )
        more = ", ..." if len(corpus.labels) > _LABELS_SHOWN else ""
        yield f"gold        {corpus.with_gold:,} of {corpus.checked:,} rows have a label: {common}{more}"
    else:
        yield f"gold        none of {corpus.checked:,} rows has a label"
    for warning in corpus.warnings:
        yield f"{_INDENT}warning: {one_line(warning)}"


def scored_line(scored: ScoredRows) -> str:
    """The held-out rows with gold, and what so many can show."""
    about = "" if scored.counted else "about "
    found = f"scored      {about}{scored.with_gold:,} of {scored.rows:,} held-out rows have a gold label"
    if scored.half_width is None:
        return f"{found}: nothing can be scored"
    return f"{found}: an accuracy is known to ±{100 * scored.half_width:.0f} points at worst (95%)"


def steps_lines(found: TrainingSteps) -> Iterator[str]:
    """The optimizer steps of the training, with a warning if they are few."""
    yield f"{_INDENT}{found.steps:,} optimizer steps; {found.source}"
    few = few_steps(found.steps)
    if few:
        yield f"{_INDENT}warning: {few}"


def comparison_lines(comparison: ComparisonPlan) -> Iterator[str]:
    """What `raystill compare` would train and could show."""
    yield f"compare     {comparison.trainings:,} trainings, {comparison.budget}"
    yield f"{_INDENT}{comparison.power}"


def _stage_line(stage: str, estimate: StageEstimate) -> str:
    if estimate.seconds is None:
        return f"{stage:11} {estimate.source}"
    gpus = "" if estimate.gpu_hours is None else f", {estimate.gpu_hours:.2f} GPU-hours"
    return f"{stage:11} {duration(estimate.seconds)}{gpus}; from {estimate.source}"


def _memory_lines(memory: TrainMemory) -> Iterator[str]:
    kinds = ("weights", "gradients", "optimizer", "activations", "attention", "logits")
    parts = ", ".join(f"{kind} {size(getattr(memory, kind))}" for kind in kinds if getattr(memory, kind))
    yield f"{_INDENT}about {size(memory.total)} of memory per worker ({parts})"
    yield f"{_INDENT}a rough estimate for {memory.parameters:,} parameters, from the student's config.json"


def histogram_lines(histogram: Histogram) -> Iterator[str]:
    """One bar per bin, in whole characters; a bin with any rows has at least one."""
    edges, counts = histogram.edges, histogram.counts
    names = [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in itertools.pairwise(edges)]
    for name, count in zip(names, counts, strict=True):
        bar = "█" * (max(1, round(_BAR_CHARACTERS * count / max(counts))) if count else 0)
        yield f"{_INDENT}{name:>{max(map(len, names))}}  {bar} {count:,}"


def _throughput_lines(found: ReplicaThroughput) -> Iterator[str]:
    rates = [
        f"{rate:,.1f} {name}"
        for rate, name in ((found.rows_per_s, "rows/s"), (found.output_tokens_per_s, "output tokens/s"))
        if rate is not None
    ]
    yield f"throughput  {', '.join(rates)} per replica" if rates else "throughput  unknown"
    yield f"{_INDENT}from {found.source}" if rates else f"{_INDENT}{found.source}"
    if found.reject_share is not None:
        yield f"{_INDENT}{found.reject_share:.1%} of those rows were rejected"


def _label_lines(label: LabelEstimate) -> Iterator[str]:
    if label.rows_stored:
        yield f"label       {label.rows_stored:,} rows take over stored answers"
    if not label.rows:
        yield "label       no rows are left for the teacher" if label.rows_stored else "label       no rows are left"
        return
    yield f"label       {label.rows:,} rows to label, {label.prompt_tokens:,} prompt tokens in all"
    per_row = f"{label.output_tokens_per_row:,.1f} per row, {label.output_assumption}"
    yield f"{_INDENT}{label.output_tokens:,} output tokens ({per_row})"
    if label.seconds is None:
        yield f"{_INDENT}time unknown with {_replicas(label.replicas)}"
    else:
        start = label.engine_start_s
        apart = "without the engine's start" if start is None else f"{duration(start)} of it engine start"
        yield f"{_INDENT}time {duration(label.seconds)} with {_replicas(label.replicas)}, {apart}"
    if label.gpu_hours is not None:
        yield f"{_INDENT}{label.gpu_hours:,.2f} GPU-hours"
    elif label.replica_hours is not None:
        yield f"{_INDENT}{label.replica_hours:,.2f} CPU-replica-hours"
    if label.cost:
        yield f"{_INDENT}cost {money(label.cost.amount)}: {label.cost.basis}"
    if label.budget:
        yield budget_line(label.budget, label.rows)
    storage = label.storage_bytes
    yield f"{_INDENT}storage {size(storage.labels)} of labels, {storage.labels_how}"
    yield f"{_INDENT}storage {size(storage.texts)} of texts, before compression"
    if storage.token_logprobs is not None:
        yield f"{_INDENT}storage {size(storage.token_logprobs)} of token_logprobs, before compression"


def budget_line(budget: LabelBudget, rows: int) -> str:
    """What the rows take of the budget, and how many fit: `budget      cost 0.42 of 0.30: about the first 7,100 of 10,000 rows ...`."""
    shown: dict[str, Callable[[float], str]] = {
        "money": money,
        "tokens": lambda count: f"{count:,.0f}",
        "gpu_hours": lambda hours: f"{hours:,.2f}",
    }
    amount = shown[budget.key]
    name = {"money": "cost", "tokens": "tokens", "gpu_hours": "GPU-hours"}[budget.key]
    used = f", of which {amount(budget.used)} are used" if budget.used else ""
    end = f"enough for all {rows:,} rows"
    if budget.rows < rows:
        end = f"about the first {budget.rows:,} of {rows:,} rows will be labelled; raise teacher.budget.{budget.key} for all"
    return f"budget      {name} {amount(budget.estimate)} of a budget of {amount(budget.limit)}{used}: {end}"


def capacity_lines(found: Capacity) -> Iterator[str]:
    """What the deadline takes, and what that rests on."""
    deadline, label, replicas = duration(found.deadline_s), found.label, found.replicas
    if label is None or replicas is None or label.seconds is None:
        yield f"deadline    {deadline}: no number of replicas: {found.problem}"
        return
    same = "the same GPU as the measured one" if found.gpus else "as many cores as the measured one"
    gpus = f", {found.gpus:,} GPUs" if found.gpus else ""
    yield f"deadline    {deadline}: {_replicas(replicas)}{gpus}; set teacher.replicas.max to {replicas}"
    hours = f", {label.gpu_hours:,.1f} GPU-hours" if label.gpu_hours is not None else ""
    price = f", cost {money(label.cost.amount)}" if label.cost else ""
    yield f"{_INDENT}labelling then takes {duration(label.seconds)}{hours}{price}"
    yield f"{_INDENT}assumes that rates of replicas add up, each with {same}"
    if found.rows_per_s and found.rows_per_s > found.driver_rows_per_s:
        known = f"one driver is known to keep up with {found.driver_rows_per_s:,.0f}"
        yield f"{_INDENT}that is {found.rows_per_s:,.0f} rows/s, and {known}: set labelling.shards"
    if found.other_s:
        yield f"{_INDENT}{duration(found.other_s)} of the deadline are for training and evaluation"
    if found.left_out:
        yield f"{_INDENT}not included, of unknown duration: {' and '.join(found.left_out)}"


def _replicas(count: int) -> str:
    return f"{count:,} replica{'s' * (count != 1)}"


def size(count: float) -> str:
    """Bytes as people write them: `170 kB`, `1.4 MB`, `23.0 GB`."""
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
