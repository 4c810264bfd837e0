"""Finished labels in words, a fact on each line: for the summary of the command and for the dataset card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.data.label_distribution import LabelDistribution
from pipelines.data.label_manifest import LabelCost, LabelCounts, LabelDetails
from pipelines.reports.format import money, one_line
from pipelines.runtime.durations import duration
from pipelines.runtime.nodes import by_address

_BAR_CHARACTERS = 30
_NODES_SHOWN = 8


def result_lines(
    counts: LabelCounts, details: LabelDetails, timings_s: Mapping[str, float], distribution: LabelDistribution | None
) -> Iterator[str]:
    """Labels; rates, with the engine's start apart; agreement; cost. What was not measured has no line."""
    if gold := counts.gold.with_gold:
        agreeing = counts.gold.agreeing
        yield f"the teacher's label is gold in {agreeing:,} of {gold:,} ({agreeing / gold:.1%})"
    if distribution:
        yield from _distribution_lines(distribution)
    if details.stored.rows:
        cost = "" if details.stored.cost is None else f", worth {money(details.stored.cost)}"
        yield f"{details.stored.rows:,} rows took over stored answers{cost}: not paid again"
    rates = details.throughput
    if rates and rates.rows_per_s:
        yield (
            f"{rates.rows_per_s:,.1f} rows/s; tokens/s {rates.prompt_tokens_per_s:,.0f} in, {rates.output_tokens_per_s:,.0f} out; "
            f"engine start {duration(timings_s['engine_start'])}, apart"
        )
        if rates.engine_busy_share is not None:
            yield f"engines busy {rates.engine_busy_share:.1%} of the time, {rates.replicas:.1f} of them on average"
        if details.resumed_at_rows:
            yield f"(rates of the {rates.rows:,} rows of the last run)"
    yield from _node_lines(details.nodes)
    if details.agreement_histogram:
        yield from _agreement_lines(details.agreement_histogram)
    if details.gpu_hours is not None:
        yield f"{details.gpu_hours:.2f} GPU-hours"
    if details.cost:
        yield f"estimated cost {_cost_text(details.cost)}"


def _distribution_lines(found: LabelDistribution) -> Iterator[str]:
    """The most frequent labels on one line, and the warning."""
    yield f"labels: {found.text}"
    if found.warning:
        yield f"warning: {one_line(found.warning)}"


def _agreement_lines(bins: Sequence[int]) -> Iterator[str]:
    """Accepted rows by agreement, one bar for each tenth that has any."""
    yield "agreement of the samples:"
    for tenth, count in enumerate(bins):
        if count:
            bar = "█" * max(1, round(_BAR_CHARACTERS * count / max(bins)))
            yield f"  {tenth / 10:.1f} to {(tenth + 1) / 10:.1f}  {bar} {count:,}"


def _node_lines(rows: Mapping[str, int]) -> Iterator[str]:
    """Each node's share of the rows, the largest first, if there are several nodes."""
    rows = by_address(rows)
    if len(rows) > 1:
        most = sorted(rows.items(), key=lambda item: -item[1])[:_NODES_SHOWN]
        listed = ", ".join(f"{node} {count / sum(rows.values()):.1%}" for node, count in most)
        more = f", and {len(rows) - _NODES_SHOWN:,} more" if len(rows) > _NODES_SHOWN else ""
        yield f"rows by node: {listed}{more}"


def _cost_text(cost: LabelCost) -> str:
    """`0.30, of which 0.05 in this run: 0.12 million prompt tokens at 2.5`."""
    resumed = cost.this_run is not None and money(cost.this_run) != money(cost.amount)
    return f"{money(cost.amount)}{f', of which {money(cost.this_run or 0.0)} in this run' if resumed else ''}: {cost.basis}"
