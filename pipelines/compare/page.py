"""report.html: a comparison as one self-contained HTML page."""

from __future__ import annotations

from collections import Counter

from pipelines.compare import page_tables
from pipelines.compare.difference_figure import difference_plots
from pipelines.compare.model import ComparisonReport, Search
from pipelines.compare.notices import notices
from pipelines.compare.page_figures import data_plots, gold_plots, size_plot
from pipelines.methods import rationale_readers
from pipelines.reports.format import fraction, plural
from pipelines.reports.provenance import provenance_tables
from pipelines.reports.render import render
from pipelines.reports.tables import Row, Table, table, text_cell
from pipelines.scoring.costs import teacher_facts
from pipelines.scoring.heldout_notices import unreadable_table
from pipelines.scoring.model import Overlap
from pipelines.scoring.settings import settings_facts

_DIFFERENCES = "Differences at the largest share of the labels, with 95% intervals; grey: no difference is shown."


def comparison_page(report: ComparisonReport) -> str:
    """The page. The same report gives the same text."""
    measured = bool(report.groups)
    size = size_plot(report) if measured else None
    data, gaps = data_plots(report) if measured else [], difference_plots(report)
    # One plot alone would leave half of the page empty.
    beside, below = (gaps, []) if len(data) == 1 else ([], gaps)
    search, settings = report.search, report.settings.model_dump()
    return render(
        "compare/page.html.j2",
        report=report,
        facts=_facts(report),
        notices=notices(report),
        missing=_missing(report),
        unreadable=unreadable_table(report.heldout),
        data_plots=[*data, *beside],
        data_caption=_data_caption(report, with_differences=bool(beside)),
        difference_plots=below,
        difference_caption=_DIFFERENCES,
        accuracy=page_tables.accuracy_tables(report),
        size_plot=size,
        gold_plots=gold_plots(report) if measured else [],
        differences=page_tables.difference_tables(report),
        arms=page_tables.arm_tables(report),
        by_chance=_by_chance(len(report.differences)),
        search_text=_search_text(search, report.heldout.chosen_on) if search else "",
        search=page_tables.search_tables(search) if search else [],
        teacher=teacher_facts(report.cost.teacher),
        cost=page_tables.cost_tables(report) if measured else [],
        readers=", ".join(rationale_readers()),
        cells=page_tables.cell_tables(report),
        provenance=provenance_tables({"settings": settings, **report.provenance}, report.versions),
    )


def _facts(report: ComparisonReport) -> list[tuple[str, str]]:
    """The grid, including missing cells."""
    task, heldout, settings = report.task, report.heldout, report.settings
    places = [*report.groups, *report.missing]
    seeds = {cell.seed for group in report.groups for cell in group.cells} | {cell.seed for cell in report.missing}
    return [
        ("Task", f"{task.name}, version {task.version}"),
        ("Held out", f"{heldout.scored:,} examples of {heldout.split}"),
        ("Methods", str(len({place.method for place in places}))),
        ("Shares of the labels", ", ".join(map(fraction, sorted({place.fraction for place in places}))) or "none"),
        ("Students", str(len({place.student for place in places}))),
        ("Seeds", str(len(seeds))),
        *([("Budget", report.budget)] if report.budget else []),
        *settings_facts(settings.labels, settings.filters, settings.training),
    ]


def _missing(report: ComparisonReport) -> Table | None:
    rows: list[Row] = [
        [m.student, m.title, fraction(m.fraction), str(m.seed), text_cell(m.why)] for m in report.missing
    ]
    return table("Missing trainings", ["student", "method", "labels", "seed", "reason"], rows) if rows else None


def _data_caption(report: ComparisonReport, *, with_differences: bool) -> str:
    counts = {len(group.cells) for group in report.groups}
    if not counts or max(counts) == 1:
        seeds = "one seed"
    else:
        seeds = f"mean of {max(counts)} seeds" if len(counts) == 1 else f"mean of {min(counts)} to {max(counts)} seeds"
    return (
        f"Accuracy on {report.heldout.scored:,} held-out examples ({seeds}) with 95% intervals. "
        "Grey lines: systems without training on these labels." + (f" {_DIFFERENCES}" if with_differences else "")
    )


def _by_chance(comparisons: int) -> str:
    """How verdicts take the number of comparisons into account."""
    if comparisons == 0:
        return "There is nothing to compare: the baseline, or every other method, has no results."
    if comparisons == 1:
        return "There is one comparison, with a 95% interval."
    return (
        f"There are {comparisons:,} comparisons. The headline's verdict follows from its 95% interval. The p-values of all others are "
        "corrected for their number by Holm's method, so that at most 5 of 100 grids without any difference have a false one among them."
    )


def _search_text(search: Search, shared: Overlap | None) -> str:
    """`shared`: report.json's `heldout.chosen_on`."""
    trials = Counter((trial.student, trial.method) for trial in search.settings)
    failed = sum(bool(trial.why) for trial in search.settings)
    even = "the same number" if len(set(trials.values())) <= 1 else "different numbers"
    used = "No held-out example was used."
    if shared and shared.count:
        used = f"{plural(shared.count, 'held-out example is', 'held-out examples are')} in that split too, which favours the choice."
    settings = "Learning rate and loss weight"
    if any(trial.steps for trial in search.settings):
        settings = "Common steps, learning rate and loss weight"
    most = plural(max(trials.values(), default=search.trials), "trial")
    return (
        f"{settings} were chosen on the {search.split} split ({search.examples:,} examples) by the most right answers, with {even} of "
        f"trials per method ({most}; seed {search.seed}, {fraction(search.fraction)} of the labels). {used}"
        + (f" {plural(failed, 'trial')} failed." if failed else "")
    )
