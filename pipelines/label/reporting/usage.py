"""What labelling came to, in figures: throughput, busy share, agreement, cost. Pure arithmetic over what was counted and timed.

The stage puts into its manifest, from here and nowhere else,

    timings_s   {"scan": 1.2, "engine_start": 38.0, "label": 61.5}     engine_start: until the first engine was ready; label: without it
    details     label_details(...):
      throughput           {"rows": 800, "seconds": 61.5, "replicas": 1.0, "rows_per_s": 13.0, "prompt_tokens_per_s": ...,
                            "output_tokens_per_s": ..., "engine_busy_share": 0.97}      all replicas together, engine start excluded
      agreement_histogram  accepted rows by agreement in [0, 0.1), ... [0.9, 1]; null where n is 1
      cost                 {"amount": 3.1, "basis": "1.24 GPU-hours at 2.5", "rows": 800}; null where no price is given
      gpu_hours            1.24, engine start included; null on CPUs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.config import PriceConfig, TeacherConfig
from pipelines.label.output.counts import AGREEMENT_BINS, Counts


@dataclass(frozen=True)
class Work:
    """What answering took, in one run of the stage. Works of several runs over the same labels add up. Times in seconds."""

    rows: int = 0
    """Rows that the teacher was asked."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """Wall time from the first engine's readiness to the last outcome."""
    engine_start_s: float = 0.0
    """Wall time until the first engine was ready."""
    start_s: float = 0.0
    """Sum over engines: until it was ready."""
    up_s: float = 0.0
    """Sum over engines: from then to its end."""
    busy_s: float = 0.0
    """Sum over engines: of up_s, with at least one row in the engine."""

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def label_details(work: Work, tally: Counts, teacher: TeacherConfig) -> dict[str, Any]:
    """The parts of `manifest.details` that the module's docstring lists.

    Args:
        work: as far as it is known: where earlier runs finished rows and kept no record of their work, `throughput.rows` and
            `cost.rows` say how many rows the figures cover. Tokens are charged for all rows of the tally.
        tally: of all rows of the artifact, whichever run answered them.
        teacher: its prices, samples and GPUs.
    """
    gpu_hours = (work.start_s + work.up_s) * teacher.gpus_per_replica / 3600
    charged = cost(
        teacher.price, gpu_hours=gpu_hours, prompt_tokens=tally.prompt_tokens, output_tokens=tally.output_tokens
    )
    bins = [tally.agreements[str(tenth)] for tenth in range(AGREEMENT_BINS)]
    return {
        "throughput": throughput(work),
        "agreement_histogram": bins if teacher.sampling.n > 1 else None,
        "cost": charged | {"rows": work.rows} if charged else None,
        "gpu_hours": gpu_hours if teacher.gpus_per_replica else None,
    }


def throughput(work: Work) -> dict[str, Any]:
    """Rates of all replicas together; a rate is null where nothing was answered."""

    def per_s(amount: float) -> float | None:
        return amount / work.seconds if work.seconds > 0 else None

    return {
        "rows": work.rows,
        "seconds": work.seconds,
        "replicas": per_s(work.up_s),
        "rows_per_s": per_s(work.rows),
        "prompt_tokens_per_s": per_s(work.prompt_tokens),
        "output_tokens_per_s": per_s(work.output_tokens),
        "engine_busy_share": min(work.busy_s / work.up_s, 1.0) if work.up_s > 0 else None,
    }


def cost(price: PriceConfig, *, gpu_hours: float, prompt_tokens: float, output_tokens: float) -> dict[str, Any] | None:
    """{"amount", "basis"} in the currency of the prices; None where there is no price for it.

    GPUs of one's own are charged by the hour where that price is given; otherwise the tokens are charged.
    """
    if price.per_gpu_hour is not None and gpu_hours > 0:
        basis = f"{gpu_hours:.2f} GPU-hours at {price.per_gpu_hour:g}"
        return {"amount": gpu_hours * price.per_gpu_hour, "basis": basis}
    charged = [
        (kind, tokens, per_million)
        for kind, tokens, per_million in (
            ("prompt", prompt_tokens, price.per_million_prompt_tokens),
            ("output", output_tokens, price.per_million_output_tokens),
        )
        if per_million is not None
    ]
    if not charged:
        return None
    basis = " + ".join(f"{tokens / 1e6:.2f} million {kind} tokens at {each:g}" for kind, tokens, each in charged)
    return {"amount": sum(tokens / 1e6 * each for _, tokens, each in charged), "basis": basis}


def shares(accepted: int, rejected_by_reason: Mapping[str, int]) -> str:
    """What a progress line ends with: `96.4% accepted, 3.6% rejected (unparsable 2.1%)`, the most frequent reason named."""
    rejected = sum(rejected_by_reason.values())
    done = accepted + rejected
    if not done:
        return ""
    text = f"{accepted / done:.1%} accepted, {rejected / done:.1%} rejected"
    if rejected:
        reason = max(rejected_by_reason, key=lambda r: rejected_by_reason[r])
        text += f" ({reason} {rejected_by_reason[reason] / done:.1%})"
    return text
