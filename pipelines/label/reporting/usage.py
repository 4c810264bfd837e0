"""Throughput and cost of labelling: pure arithmetic over counts and times. The manifest's fields are in data/label_manifest.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.config import PriceConfig, TeacherConfig
from pipelines.data.label_manifest import Cost, LabelCost, StoredAnswers, Throughput
from pipelines.label.output.counts import AGREEMENT_BINS, Counts
from pipelines.label.teachers.base import NOTHING_USED, TokensUsed


@dataclass(frozen=True)
class Work:
    """What one run of the stage took. Times in seconds."""

    rows: int = 0
    """Rows that the teacher answered."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """Wall time from the first engine's readiness to the last outcome."""
    engine_start_s: float = 0.0
    """Wall time until the first engine was ready."""
    scan_s: float = 0.0
    """Wall time until the whole corpus was read, while it was labelled. 0 if it was not read again."""
    start_s: float = 0.0
    """Summed over engines, as are the next two: from its start to its readiness."""
    up_s: float = 0.0
    """From its readiness to its end."""
    busy_s: float = 0.0
    """Part of up_s with at least one row in the engine."""
    paid: TokensUsed | None = None
    """Of answers that all runs on these labels paid for, also of those that were lost. None: those of the rows alone are known."""
    paid_before: TokensUsed = NOTHING_USED
    """Of earlier runs."""


def throughput(work: Work) -> Throughput:
    """Rates of all replicas together."""

    def per_s(amount: float) -> float | None:
        return amount / work.seconds if work.seconds > 0 else None

    return Throughput(
        rows=work.rows,
        seconds=work.seconds,
        replicas=per_s(work.up_s),
        rows_per_s=per_s(work.rows),
        prompt_tokens_per_s=per_s(work.prompt_tokens),
        output_tokens_per_s=per_s(work.output_tokens),
        engine_busy_share=min(work.busy_s / work.up_s, 1.0) if work.up_s > 0 else None,
    )


def gpu_hours(work: Work, teacher: TeacherConfig) -> float | None:
    """GPU-hours of all engines, their start included. None on CPUs."""
    return (work.start_s + work.up_s) * teacher.gpus_per_replica / 3600 if teacher.gpus_per_replica else None


def label_cost(work: Work, counts: Counts, teacher: TeacherConfig) -> LabelCost | None:
    """The cost of the labels, None without a price.

    Args:
        work: of this run; the result names its rows.
        counts: of all rows. Tokens of stored answers are not charged again.
    """
    hours = gpu_hours(work, teacher) or 0.0
    paid = counts.paid_tokens if work.paid is None else work.paid
    charged, before = teacher_cost(teacher, paid, gpu_hours=hours), teacher_cost(teacher, work.paid_before)
    if charged is None:
        return None
    by_tokens = work.paid is not None and not hours
    this_run = charged.amount - before.amount if by_tokens and before else None
    return LabelCost(amount=charged.amount, basis=charged.basis, rows=work.rows, this_run=this_run)


def stored_answers(counts: Counts, teacher: TeacherConfig) -> StoredAnswers:
    """What rows took over, and what it would have cost at the teacher's prices of tokens."""
    prompt, output = counts.stored_prompt_tokens, counts.stored_output_tokens
    found = teacher_cost(teacher, TokensUsed(prompt, output)) if counts.stored else None
    cost_of = found.amount if found else None
    return StoredAnswers(rows=counts.stored, prompt_tokens=prompt, output_tokens=output, cost=cost_of)


def agreement_histogram(counts: Counts, teacher: TeacherConfig) -> list[int] | None:
    """Accepted rows by tenth of agreement. None with one sample per example."""
    if teacher.sampling.n == 1:
        return None
    return [counts.agreements[str(tenth)] for tenth in range(AGREEMENT_BINS)]


def teacher_cost(teacher: TeacherConfig, used: TokensUsed, *, gpu_hours: float = 0.0) -> Cost | None:
    """`cost` at the teacher's prices, which are lower in batches."""
    charged = cost(teacher.charged, used, gpu_hours=gpu_hours)
    if charged and teacher.charged != teacher.price:
        charged.basis += f", in batches at {teacher.remote.batch_price:.0%} of teacher.price"
    return charged


def cost(price: PriceConfig, used: TokensUsed, *, gpu_hours: float = 0.0) -> Cost | None:
    """The cost by GPU-hours, if they have a price and there are any; else by tokens. None without a price."""
    if price.per_gpu_hour is not None and gpu_hours > 0:
        basis = f"{gpu_hours:.2f} GPU-hours at {price.per_gpu_hour:g}"
        return Cost(amount=gpu_hours * price.per_gpu_hour, basis=basis)
    cached = used.cached if price.per_million_cached_tokens is not None else 0
    charged = [
        (kind, tokens / 1e6, per_million)
        for kind, tokens, per_million in (
            ("prompt", used.prompt - cached, price.per_million_prompt_tokens),
            ("cached prompt", cached, price.per_million_cached_tokens if cached else None),
            ("output", used.output, price.per_million_output_tokens),
        )
        if per_million is not None
    ]
    if not charged:
        return None
    basis = " + ".join(f"{millions:.2f} million {kind} tokens at {each:g}" for kind, millions, each in charged)
    return Cost(amount=sum(millions * each for _, millions, each in charged), basis=basis)


def shares(accepted: int, rejected_by_reason: Mapping[str, int]) -> str:
    """The end of a progress line, with the most frequent reason: `96.4% accepted, 3.6% rejected (unparsable 2.1%)`."""
    rejected = sum(rejected_by_reason.values())
    done = accepted + rejected
    if not done:
        return ""
    text = f"{accepted / done:.1%} accepted, {rejected / done:.1%} rejected"
    if rejected:
        reason = max(rejected_by_reason, key=lambda r: rejected_by_reason[r])
        text += f" ({reason} {rejected_by_reason[reason] / done:.1%})"
    return text
