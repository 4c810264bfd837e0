from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pipelines.compare.page import comparison_page
from pipelines.compare.tables import comparison_table
from pipelines.reports.format import fraction, number, percent, percents, points
from pipelines.scoring.statistics import verdict
from tests.support.comparisons import METHODS, comparison
from tests.support.page_reader import HOSTILE, Page, assert_needs_nothing_else, hostile

NO_TEXTS = frozenset({"lines", "created"})  # of lines the names are fixed; their notes are looked at by themselves


def missing(report: dict[str, Any], why: str) -> dict[str, Any]:
    """The report without the last seed of the first group."""
    group = report["groups"][0]
    cell = group["cells"].pop()
    place = {key: group[key] for key in ("student", "method", "fraction")}
    report["missing"].append({**place, "seed": cell["seed"], "why": why})
    return report


def test_hostile_texts_are_texts() -> None:
    tame = missing(comparison(fractions=(0.5, 1.0)), "it broke off")
    wild = hostile(tame, NO_TEXTS)
    wild["lines"] = [
        {**line, "note": HOSTILE, "student": line["student"] and line["student"] + HOSTILE} for line in tame["lines"]
    ]
    html = comparison_page(wild)
    shown = HOSTILE.replace("\ud800", "?")
    assert Page(html).shape() == Page(comparison_page(tame)).shape()
    text = Page(html).text
    for expected in (
        tame["headline"],
        "it broke off",
        tame["students"][0]["name"],
        METHODS[2],
        "vllm",
        "2.13.0",
        "svamp",
    ):
        assert expected + shown in text
    assert_needs_nothing_else(html)


def test_every_number_of_a_plot_is_in_a_table() -> None:
    report = comparison()
    rows = [row[:5] for row in Page(comparison_page(report)).rows()]
    sizes = {student["name"]: number(student["parameters"]) for student in report["students"]}
    for group in report["groups"]:
        accuracy = [percent(group["accuracy"]), percents(group["interval"])]
        assert [group["method"], fraction(group["fraction"]), *accuracy, "3"] in rows
        if group["fraction"] == 1.0:
            assert [group["method"], group["student"], sizes[group["student"]], *accuracy] in rows
    for line in report["lines"]:
        assert any(percent(line["accuracy"]) in row and percents(line["interval"]) in row for row in rows)


def test_what_a_training_takes_stands_beside_its_accuracy_and_the_notes_on_top() -> None:
    report = comparison()
    page = Page(comparison_page(report))
    head = next(table[0] for table in page.tables if "optimizer steps (mean)" in table[0])
    assert head[-2:] == ["optimizer steps (mean)", "tokens trained on (mean)"]
    rows = page.rows()
    for group in report["groups"]:
        amounts = [number(group[key]) for key in ("train_examples", "steps", "tokens")]
        assert [
            group["method"],
            fraction(group["fraction"]),
            percent(group["accuracy"]),
            percents(group["interval"]),
            "3",
            *amounts,
        ] in rows
    assert page.text.index(report["notes"][0]) < page.text.index("How accurate")
    assert report["notes"][0] in " ".join(str(comparison_table(report).caption).split())


def test_what_was_learned_and_how_is_a_fact_and_all_of_it_an_origin() -> None:
    report = comparison()
    page = Page(comparison_page(report))
    learned = "finetune: gold; task-distillation: the teacher's; step-by-step: gold; rationale-then-label: gold"
    for said in (learned, "gold drop-disagreeing, min_agreement 0.4", "3 epochs, 16,384 tokens a batch"):
        assert said in page.text
    assert ["settings.training.precision", "bf16"] in page.rows()
    report["settings"]["filters"] = None
    assert "not known" in Page(comparison_page(report)).text


def test_the_intervals_are_named() -> None:
    text = " ".join(Page(comparison_page(comparison())).text.split())
    assert "that of an accuracy is Wilson's, and that of a difference is the paired one of Bonett and Price." in text
    assert "two crossed random effects, with Student's t at Satterthwaite's degrees of freedom." in text


def test_unreadable_rows_and_repeated_ids_are_listed() -> None:
    report = comparison()
    report["heldout"]["unreadable"] = {
        "count": 1,
        "ids": ["a-7"],
        "problems": [{"id": "a-7", "problem": "the gold label is none"}],
    }
    report["heldout"]["duplicates"] = {"count": 12, "ids": [f"a-{i}" for i in range(12)]}
    page = Page(comparison_page(report))
    assert ["a-7", "the gold label is none"] in page.rows()
    said = "12 held-out rows have the id of an earlier one and are not scored: a-0, a-1, a-2, a-3, a-4, a-5, a-6, a-7, a-8, a-9, ...."
    assert said in page.text
    assert said in " ".join(str(comparison_table(report).caption).split())


def test_every_cell_and_difference_is_in_a_table() -> None:
    report = comparison()
    page = Page(comparison_page(report))
    rows = page.rows()
    for group in report["groups"]:
        for cell in group["cells"]:
            head = [group["method"], fraction(group["fraction"]), str(cell["seed"]), f"{cell['correct']} of 200"]
            assert any(row[:4] == head and row[-1] == cell["fingerprint"][:12] for row in rows)
    for found in report["differences"]:
        head = [found["method"], fraction(found["fraction"]), points(found["difference"])]
        assert any(row[:3] == head and row[4].endswith(verdict(found["interval"])) for row in rows)
    assert "there are 30 comparisons" in page.text
    assert "about 1.5 of them would leave out zero by chance alone" in page.text


def test_the_panels_are_one_for_each_student_and_the_size_plot_needs_two() -> None:
    labels = [
        f["aria-label"]
        for tag, f in Page(comparison_page(comparison())).elements
        if tag == "svg" and f["class"] == "dark"
    ]
    assert [label.split(":")[0] for label in labels] == [
        "Line plot for SmolLM2-135M", "Line plot for SmolLM2-360M", "Line plot",
    ]  # fmt: skip
    assert "teacher: 74.0%" in labels[0]
    one = comparison_page(comparison(students=("SmolLM2-135M",)))
    assert one.count("<svg") == 2
    assert "at which size" not in one


def test_the_same_report_gives_the_same_page() -> None:
    assert comparison_page(comparison(fractions=(1.0,))) == comparison_page(comparison(fractions=(1.0,)))


def test_one_seed_one_fraction_one_student_no_teacher_no_prices_no_search() -> None:
    report = comparison(METHODS[:2], (1.0,), ("SmolLM2-135M",), (0,), teacher=None)
    report["search"] = None
    cost = report["cost"]
    cost["teacher"] = dict.fromkeys(cost["teacher"])
    cost["training"] = [{**one, "gpu_hours": None, "money": None} for one in cost["training"]]
    cost["answers"] = [{**one, "seconds_per_example": None, "per_1000": None} for one in cost["answers"]]
    for group in report["groups"]:
        unknown = dict.fromkeys(("seconds_per_example", "prompt_tokens", "output_tokens"))
        group["cells"] = [cell | unknown for cell in group["cells"]]
    page = Page(comparison_page(report))
    assert "there is one comparison" in page.text
    assert "There was no search" in page.text
    assert "What the teacher's answers took is not known." in page.text
    assert ["teacher", "all", "-", "-", "-", "the labels hold no answers to the held-out examples"] in page.rows()
    headers = {cell for table in page.tables for cell in table[0]}
    assert not {"cost of 1,000 answers", "training cost", "time per answer"} & headers
    assert "None" not in page.text


def test_what_is_missing_stands_on_top() -> None:
    report = missing(comparison(), "training broke off: out of memory")
    report["heldout"]["trained_on"] = {"count": 2, "ids": ["a-1", "a-2"], "by": {"id": 0, "input": 1, "near": 1}}
    page = Page(comparison_page(report))
    assert "1 of 120 trainings is missing." in page.text
    assert "are in the training data too (1 by the same input, 1 by nearly the same): a-1, a-2." in page.text
    assert page.text.index("1 of 120") < page.text.index("How accurate")
    assert ["SmolLM2-135M", "finetune", "12.5%", "2", "training broke off: out of memory"] in page.tables[0]
    assert "trainings are missing" not in comparison_page(comparison())


@pytest.mark.parametrize("kept", [0, 1])
def test_a_page_of_a_grid_that_has_just_begun(kept: int) -> None:
    report = comparison()
    cells = [
        {**{key: g[key] for key in ("student", "method", "fraction")}, "seed": 0, "why": "no"} for g in report["groups"]
    ]
    report["groups"], report["differences"] = report["groups"][:kept], []
    report["students"], report["missing"] = report["students"][:kept], cells[kept:]
    report["cost"] |= {"training": [], "answers": []}
    html = comparison_page(report)
    facts = Page(html).text
    assert "Methods4" in "".join(facts.split()), "of the grid, not of what is there"
    assert "There is nothing to compare" in html
    assert html.count("<svg") == 2 * kept


def test_search_says_on_what_it_chose_and_whether_trials_were_even() -> None:
    report = comparison()
    said = (
        "chosen on the validation split only (60 examples), with the same number of trials for every method (2 trials;"
    )
    page = Page(comparison_page(report))
    assert said in page.text
    assert ["step-by-step", "0.0001", "0.5", "18 of 60", "30.0%", "✓ chosen"] in page.rows()
    assert "failed" not in page.text
    report["search"]["settings"].pop()
    assert "not the same number of trials for every method" in Page(comparison_page(report)).text


def test_a_search_on_some_of_what_is_scored_says_so() -> None:
    report = comparison()
    assert "The held-out examples had no part in it." in Page(comparison_page(report)).text
    report["heldout"]["chosen_on"] = {"count": 2, "ids": ["a-1", "a-2"], "by": {"id": 2, "input": 2, "near": 0}}
    text = Page(comparison_page(report)).text
    assert "2 held-out examples are in that split too, and helped what was chosen." in text
    assert (
        "are among those on which settings or weights were chosen (2 by the same input, 0 by nearly the same): a-1, a-2."
        in text
    )
    assert "had no part" not in text


def test_a_trial_that_failed_is_listed_with_its_reason() -> None:
    report = comparison()
    lost = {"correct": None, "total": None, "chosen": False, "why": "step 3 is not finite " + "x" * 2000}
    report["search"]["settings"][0] |= lost
    page = Page(comparison_page(report))
    row = next(row for row in page.rows() if row[-1].startswith("step 3 is not finite"))
    assert row[:-1] == ["finetune", "5e-05", "-", "-", "-", ""]
    assert len(row[-1]) == 600
    assert "The held-out examples had no part in it. 1 trial failed and could not be chosen." in page.text


def test_what_reads_the_teachers_rationales_is_told_with_what_they_betray() -> None:
    report = comparison(methods=("finetune", "step-by-step"))
    report["rationales_read"] = {"examples": 200, "without": 3, "states_gold": 0.582}
    report["cost"]["answers"][1] |= {"teacher_prompt_tokens": 290.14, "teacher_output_tokens": 46.0}
    page = Page(comparison_page(report))
    said = (
        "rationale-as-input reads the teacher's rationales, of which 58.2% state the gold label, which helps its accuracy; "
        "to 3 of 200 examples there is none."
    )
    assert said in page.text
    assert "needs an answer of the teacher's for every input" in page.text
    cost = next(table for table in page.tables if "teacher reads" in table[0])
    assert [row[cost[0].index("teacher reads")] for row in cost[1:]] == ["-", "290.1", "-", "-"]
    assert said in " ".join(str(comparison_table(report).caption).split())
    assert "rationale-as-input" not in comparison_page(comparison())


def test_long_reasons_are_cut_and_broken_into_lines() -> None:
    html = comparison_page(missing(comparison(), "why " * 5000))
    assert max(len(cell) for row in Page(html).rows() for cell in row) == 600
    assert '<td class="text">why why' in html


def test_table_for_the_terminal() -> None:
    report = missing(comparison(fractions=(0.25, 1.0)), "it broke off")
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(comparison_table(report))
    text = console.export_text()
    group = report["groups"][0]
    expected = (group["student"], "finetune", "25%", "2", percent(group["accuracy"]), percents(group["interval"]), "-")
    assert any(tuple(cell.strip() for cell in line.strip("│ ").split("│")) == expected for line in text.splitlines())
    found = report["differences"][-1]
    assert f"{points(found['difference'])} ({points(found['interval'][0])} to {points(found['interval'][1])})" in text
    assert "1 cell is missing" in text
    one = Console(width=140, record=True, file=io.StringIO())
    one.print(comparison_table(comparison(students=("SmolLM2-135M",))))
    assert "student" not in one.export_text()
