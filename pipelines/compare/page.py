"""A comparison as one HTML page that needs nothing else.

    store.write("report.html", comparison_page(report).encode())

In: report.json of `raystill compare`. Out: the headline; what is missing; accuracy against the share of the labels and against the
student's size; the differences to the baseline; how settings were chosen; what it costs; every cell; where it all comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.compare import page_tables
from pipelines.compare.page_figures import data_plots, size_plot
from pipelines.methods import rationale_readers
from pipelines.reports.format import fraction, plural
from pipelines.reports.provenance import heldout_notices, provenance_tables, unreadable_table
from pipelines.reports.render import render
from pipelines.reports.tables import Table, table, text_cell
from pipelines.scoring.costs import teacher_facts
from pipelines.scoring.rationales import told_of_read
from pipelines.scoring.settings import settings_facts


def comparison_page(report: Mapping[str, Any]) -> str:
    """The page. The same report gives the same text."""
    measured = bool(report["groups"])
    size = size_plot(report) if measured else None
    search = report["search"]
    return render(
        "compare/page.html.j2",
        report=report,
        facts=_facts(report),
        notices=_notices(report),
        missing=_missing(report),
        unreadable=unreadable_table(report["heldout"]),
        data_plots=data_plots(report) if measured else [],
        data_caption=_data_caption(report),
        accuracy=page_tables.accuracy_tables(report),
        size_plot=size,
        size=page_tables.size_tables(report) if size else [],
        differences=page_tables.difference_tables(report),
        by_chance=_by_chance(report["differences"]),
        search_said=_search_said(search, report["heldout"]["chosen_on"]) if search else "",
        search=page_tables.search_tables(report) if search else [],
        teacher=teacher_facts(report["cost"]["teacher"]),
        cost=page_tables.cost_tables(report) if measured else [],
        training=page_tables.training_tables(report),
        cells=page_tables.cell_tables(report),
        provenance=provenance_tables(
            {**report, "provenance": {"settings": report["settings"], **report["provenance"]}}
        ),
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the grid is of, its missing cells counted in."""
    task, heldout = report["task"], report["heldout"]
    places = [*report["groups"], *report["missing"]]
    seeds = {cell["seed"] for group in report["groups"] for cell in group["cells"]}
    return [
        ("Task", f"{task['name']}, version {task['version']}"),
        ("Held out", f"{heldout['scored']:,} examples of {heldout['split']}"),
        ("Methods", str(len({place["method"] for place in places}))),
        (
            "Shares of the labels",
            ", ".join(map(fraction, sorted({float(place["fraction"]) for place in places}))) or "none",
        ),
        ("Students", str(len({place["student"] for place in places}))),
        ("Seeds", str(len({*seeds, *(one["seed"] for one in report["missing"])}))),
        *settings_facts(report["settings"]),
    ]


def _notices(report: Mapping[str, Any]) -> list[str]:
    missing = len(report["missing"])
    present = sum(len(group["cells"]) for group in report["groups"])
    lines = [*report["notes"], *heldout_notices(report["heldout"])]
    if report["rationales_read"]:
        lines.append(f"{', '.join(rationale_readers())} {told_of_read(report['rationales_read'])}.")
    if missing:
        lines.insert(
            0,
            f"{missing:,} of {present + missing:,} trainings {'is' if missing == 1 else 'are'} missing. "
            f"The figures below are made without {'it' if missing == 1 else 'them'}: a mean is over the seeds that are there.",
        )
    return lines


def _missing(report: Mapping[str, Any]) -> Table | None:
    rows = [
        [m["student"], m["method"], fraction(m["fraction"]), str(m["seed"]), text_cell(m["why"])]
        for m in report["missing"]
    ]
    return table("What is missing, and why", ["student", "method", "labels", "seed", "why"], rows) if rows else None


def _data_caption(report: Mapping[str, Any]) -> str:
    counts = {len(group["cells"]) for group in report["groups"]}
    most = max(counts, default=0)
    seeds = (
        f"mean of {min(counts)} to {most} seeds"
        if len(counts) > 1
        else f"mean of {most} seeds"
        if most > 1
        else "one seed, of which alone the interval is"
    )
    return (
        f"Share of {report['heldout']['scored']:,} held-out examples that is answered right ({seeds}), with its 95% interval. "
        "Grey lines: what needs no training on these labels."
    )


def _by_chance(differences: Sequence[Mapping[str, Any]]) -> str:
    """What the number of comparisons means for a reader who looks for the one that stands out."""
    count = len(differences)
    if count == 0:
        return "There is nothing to compare: the baseline, or every other method, has no results."
    if count == 1:
        return "The interval is a 95% interval, and there is one comparison."
    expected = 0.05 * count
    often = f"about {expected:.1f}" if expected < 10 else f"about {expected:.0f}"
    return (
        f"Each interval is a 95% interval on its own, and there are {count:,} comparisons: if no method differed from the baseline, "
        f"{often} of them would leave out zero by chance alone."
    )


def _search_said(search: Mapping[str, Any], shared: Mapping[str, Any] | None) -> str:
    """`shared`: report.json's `chosen_on`."""
    trials = Counter((setting["student"], setting["method"]) for setting in search["settings"])
    same = len(set(trials.values())) <= 1
    failed = sum(bool(setting["why"]) for setting in search["settings"])
    left_out = f" {plural(failed, 'trial')} failed and could not be chosen." if failed else ""
    number_of = (
        "the same number of trials for every method" if same else "not the same number of trials for every method"
    )
    return (
        f"Learning rate and loss weight were chosen on the {search['split']} split only ({search['examples']:,} examples), "
        f"with {number_of} ({plural(search['trials'], 'trial')}; seed {search['seed']}, {fraction(search['fraction'])} of the labels). "
        f"{_had_part(shared['count'] if shared else 0)}{left_out}"
    )


def _had_part(count: int) -> str:
    if count:
        return f"{plural(count, 'held-out example is', 'held-out examples are')} in that split too, and helped what was chosen."
    return "The held-out examples had no part in it."
