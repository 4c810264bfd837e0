import io
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from pipelines.compare.model import ComparisonReport
from pipelines.compare.page import comparison_page
from pipelines.compare.terminal_table import comparison_table
from pipelines.reports.format import duration, fraction, number, percent, percents, points
from pipelines.scoring.statistics import verdict
from pipelines.scoring.verdicts import verdict_cell
from tests.support.comparisons import METHODS, comparison, comparison_tree
from tests.support.page_reader import Page

Tree = dict[str, Any]


def without_last_seed(tree: Tree, why: str) -> Tree:
    group = tree["groups"][0]
    place = {key: group[key] for key in ("student", "method", "fraction")}
    tree["missing"].append({**place, "seed": group["cells"].pop()["seed"], "why": why})
    return tree


def page_of(tree: Tree) -> Page:
    return Page(comparison_page(ComparisonReport.model_validate(tree)))


def caption_of(tree: Tree) -> str:
    return " ".join(str(comparison_table(ComparisonReport.model_validate(tree)).caption).split())


def test_every_number_is_in_a_table() -> None:
    report = comparison()
    rows = Page(comparison_page(report)).rows()
    for group in report.groups:
        accuracy = [percent(group.accuracy), percents(group.interval)]
        amounts = [number(value) for value in (group.train_examples, group.steps, group.tokens)]
        seconds = duration(fmean(cell.train_s for cell in group.cells))
        cost = ["0.5", "1.25"]  # in GPU-hours and money
        assert [group.method, fraction(group.fraction), *accuracy, "3", *amounts, seconds, *cost] in rows
        for cell in group.cells:
            head = [group.method, fraction(group.fraction), str(cell.seed), f"{cell.correct} of 200"]
            assert any(row[:4] == head and row[-1] == cell.fingerprint[:12] for row in rows)
    for line in report.lines:
        assert any(percent(line.accuracy) in row and percents(line.interval) in row for row in rows)
    for found in report.differences:
        head = [found.method, fraction(found.fraction), "finetune", points(found.difference)]
        assert any(row[:4] == head and row[5] == verdict_cell(found.shown).text for row in rows)


FACTS = (
    "finetune: gold; task-distillation: teacher's; step-by-step: gold; rationale-then-label: gold",
    "gold drop-disagreeing, min_agreement 0.4",
    "3 epochs, 16,384 tokens per batch",
    "an accuracy has Wilson's interval and a difference the paired one of Bonett and Price.",
    "two crossed random effects, with Student's t at Satterthwaite's degrees of freedom.",
    "There are 30 comparisons. The headline's verdict follows from its 95% interval.",
    "chosen on the validation split (60 examples) by the most right answers, with the same number of trials per method (2 trials; seed 0, "
    "100% of the labels). No held-out example was used.",
)


def test_the_page_states_settings_intervals_and_limits() -> None:
    tree = comparison_tree()
    page = page_of(tree)
    text = " ".join(page.text.split())
    assert [fact for fact in FACTS if fact not in text] == []
    assert page.text.index(tree["notes"][0]) < page.text.index("Accuracy by amount")
    assert ["settings.training.precision", "bf16"] in page.rows()
    assert ["step-by-step", "0.0001", "0.5", "18 of 60", "30.0%", "✓ chosen"] in page.rows()
    assert "failed" not in page.text
    assert tree["notes"][0] in caption_of(tree)


def plots_of(page: str) -> list[str]:
    return [found["aria-label"] for tag, found in Page(page).elements if tag == "svg" and found["class"] == "dark"]


def test_there_are_plots_per_student_and_a_size_plot_for_two() -> None:
    labels, names = plots_of(comparison_page(comparison())), ("SmolLM2-135M", "SmolLM2-360M")
    lines, gaps = [f"Line plot for {name}" for name in names], [f"Differences for {name}, in points" for name in names]
    assert [label.split(":")[0] for label in labels] == [*lines, "Line plot", *gaps]
    assert "teacher: 74.0%" in labels[0]
    page = comparison_page(comparison(students=names[:1]))
    line, gap = plots_of(page)
    assert "step-by-step against finetune +5.0 (+0.6 to +9.4), better" in " ".join(gap.split())
    assert (line.split(":")[0], "Accuracy by size" in page) == (lines[0], False)


def test_a_minimal_grid_without_teacher_prices_and_search() -> None:
    tree = comparison_tree(METHODS[:2], (1.0,), ("SmolLM2-135M",), (0,), teacher=None)
    cost = tree["cost"]
    tree |= {"search": None, "settings": tree["settings"] | {"filters": None}}
    cost["teacher"] = dict.fromkeys(cost["teacher"])
    cost["training"] = [{**one, "gpu_hours": None, "money": None} for one in cost["training"]]
    cost["answers"] = [{**one, "seconds_per_example": None, "per_1000": None} for one in cost["answers"]]
    for group in tree["groups"]:
        unknown = dict.fromkeys(("seconds_per_example", "prompt_tokens", "output_tokens"))
        group["cells"] = [cell | unknown for cell in group["cells"]]
    page = page_of(tree)
    parts = ("There is one comparison", "There was no search", "The cost of the labels is unknown.", "one seed")
    assert [part for part in parts if part not in page.text] == []
    assert ["teacher", "all", "-", "-", "-", "the labels hold no answers to the held-out examples"] in page.rows()
    cost_rows = next(table for table in page.tables if "training time" in table[0])
    assert cost_rows[0] == ["student", "method", "training time"]


def test_missing_cells_stand_on_top() -> None:
    page = page_of(without_last_seed(comparison_tree(), "out of memory " * 500))
    assert "1 of 120 trainings is missing. Means are over the others." in page.text
    assert page.text.index("1 of 120") < page.text.index("Accuracy by amount")
    assert page.tables[0][1][:4] == ["SmolLM2-135M", "finetune", "12.5%", "2"]
    assert len(page.tables[0][1][4]) == 600, "long reasons are cut"
    assert "are missing" not in comparison_page(comparison())


@pytest.mark.parametrize("kept", [0, 1])
def test_a_grid_that_has_just_begun_has_a_page(kept: int) -> None:
    tree = comparison_tree()
    keys = ("student", "method", "fraction")
    cells = [{**{key: g[key] for key in keys}, "seed": 0, "why": "no"} for g in tree["groups"]]
    tree |= {"groups": tree["groups"][:kept], "students": tree["students"][:kept], "missing": cells[kept:]}
    tree |= {"differences": [], "cost": tree["cost"] | {"training": [], "answers": []}}
    html = comparison_page(ComparisonReport.model_validate(tree))
    assert "Methods4" in "".join(Page(html).text.split()), "missing cells count"
    assert "There is nothing to compare" in html
    assert html.count("<svg") == 2 * kept


def test_an_uneven_search_on_scored_examples_is_described() -> None:
    tree = comparison_tree()
    tree["search"]["settings"].pop()
    tree["heldout"]["chosen_on"] = {"count": 2, "ids": ["a-1", "a-2"], "by": {"id": 2, "input": 2, "near": 0}}
    lost = {"correct": None, "total": None, "chosen": False, "why": "step 3 is not finite " + "x" * 2000}
    tree["search"]["settings"][0] |= lost
    page = page_of(tree)
    assert "with different numbers of trials per method" in page.text
    assert "2 held-out examples are in that split too, which favours the choice. 1 trial failed." in page.text
    assert "(2 by equal input, 0 by similar input: a-1, a-2) are also in the data on which weights" in page.text
    row = next(row for row in page.rows() if row[-1].startswith("step 3 is not finite"))
    assert (row[:-1], len(row[-1])) == (["finetune", "5e-05", "-", "-", "-", ""], 600)


def test_reading_rationales_is_noted_with_its_cost() -> None:
    assert "rationale-as-input" not in comparison_page(comparison())
    tree = comparison_tree(methods=("finetune", "step-by-step"))
    tree["rationales_read"] = {"examples": 200, "without": 3, "states_gold": 0.582}
    tree["cost"]["answers"][1] |= {"teacher_prompt_tokens": 290.14, "teacher_output_tokens": 46.0}
    page = page_of(tree)
    note = "rationale-as-input reads the teacher's rationales, and 58.2% of them state the gold label, which helps its accuracy; 3 of 200"
    assert note in page.text
    assert note in caption_of(tree)
    assert "rationale-as-input needs the teacher's answer to every input" in page.text
    cost = next(table for table in page.tables if "teacher reads" in table[0])
    assert [row[cost[0].index("teacher reads")] for row in cost[1:]] == ["-", "290.1", "-", "-"]


def test_a_report_of_0_1_opens() -> None:
    file = Path(__file__).parents[2] / "integration/artifacts_0_1/comparison_finished/out/compare/report.json"
    report = ComparisonReport.model_validate_json(file.read_bytes())
    assert report.equal is None
    assert [one.shown for one in report.differences] == [verdict(one.interval) for one in report.differences]
    assert report.headline[:40] in comparison_page(report)
    assert comparison_table(report).row_count == len(report.groups)


def test_the_terminal_table_has_a_line_per_group() -> None:
    report = ComparisonReport.model_validate(without_last_seed(comparison_tree(fractions=(0.25, 1.0)), "it broke off"))
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(comparison_table(report))
    text, group, found = console.export_text(), report.groups[0], report.differences[-1]
    accuracy = (percent(group.accuracy), percents(group.interval))
    expected = (group.student, "finetune", "25%", "2", number(group.steps), *accuracy, "-", "-")
    assert any(tuple(cell.strip() for cell in line.strip("│ ").split("│")) == expected for line in text.splitlines())
    assert f"{points(found.difference)} ({points(found.interval[0])} to {points(found.interval[1])})" in text
    assert "1 of 48 trainings is missing" in text
    console.print(comparison_table(comparison(students=("SmolLM2-135M",))))
    assert "student" not in console.export_text()
