from typing import Any

import pytest

from pipelines.evaluate.model import Report
from pipelines.evaluate.page import report_page
from pipelines.reports.format import percent, percents
from tests.support.page_reader import Page
from tests.support.reports import report, report_tree, without


def page_of(tree: dict[str, Any]) -> Page:
    return Page(report_page(Report.model_validate(tree)).replace("<dd>", "<dd> "))


def test_every_number_of_a_plot_is_in_a_table() -> None:
    made = report()
    rows = Page(report_page(made)).rows()
    for system in made.systems:
        right = [f"{system.correct} of 200", percent(system.accuracy), percents(system.interval)]
        assert any(row[1:4] == right for row in rows)
    for tenth, one in enumerate(made.calibration.bins):
        if one:
            span = f"{10 * tenth} to {10 * (tenth + 1)}%"
            assert [span, str(one.count), percent(one.confidence), percent(one.accuracy)] in rows


def test_the_interval_decides_the_verdict_and_not_p() -> None:
    tree = report_tree()
    tree["comparisons"][1] |= {"difference_interval": [-0.3, 0.0], "p_value": 0.049}
    tree["comparisons"][2] |= {"difference_interval": [0.001, 0.1]}
    rows = {row[0]: row[-5:] for row in page_of(tree).rows() if len(row) == 7}
    assert rows["untrained student"] == ["+20.5 to +36.5", "71", "14", "2e-09", "▲ better"]
    assert rows["teacher"][-2:] == ["0.049", "no difference shown"]
    assert rows["majority label"][-2:] == ["0.081", "▲ better"]


FACTS = (
    "student: 1 input is longer than max_input_tokens and unanswered.",
    "The expected calibration error is 0.124",
    "The confidence is the share of samples that agree.",
    "majority vote over 5 samples at temperature 0.7, 88.3% agree",
    "+2.5 points (-3.1 to +7.9)",
    "p = 0.487, no difference is shown",
    "Rationales of the student",
    "min_agreement 0.6, drop_giveaways on",
    "1 epoch, 65,536 tokens per batch",
    "Teacher tokens read 812,000",
    "Training cost 1.25",
    "Time per answer 45.5 ms",
)
ROWS = (
    ["settings.training.precision", "bf16"],
    ["transformers", "5.19.0"],
    ["contradiction", "40", "7", "6", "4", "57"],
)


def test_the_page_states_facts_and_limits() -> None:
    page = page_of(report_tree())
    text, rows = " ".join(page.text.split()), page.rows()
    assert ([fact for fact in FACTS if fact not in text], [row for row in ROWS if row not in rows]) == ([], [])
    assert any(row[0] == "int8 (ctranslate2)" and row[-2:] == ["98.5%", "11.2 ms"] for row in rows)
    assert "needs the teacher's answer" not in text


def test_absent_sections_and_unknown_costs_are_left_out() -> None:
    tree = without(without(report_tree(), "teacher"), "majority")
    tree |= {"confusion": None, "rationale": None, "weights": [], "votes": None, "baseline": None, "errors": []}
    tree["student"]["method"] = "rationale-as-input"
    tree["cost"]["teacher"] = dict.fromkeys(tree["cost"]["teacher"])
    tree["cost"]["answers"]["per_1000"] = tree["cost"]["training"]["money"] = None
    page = page_of(tree)
    assert "teacher" not in next(found["aria-label"] for tag, found in page.elements if tag == "svg")
    assert any(row[0] == "teacher" and set(row[1:]) == {"-"} for row in page.rows())
    text = " ".join(page.text.split())
    for present in ("There are none.", "The cost of the labels is unknown.", "needs the teacher's answer to every"):
        assert present in text
    for absent in ("Confusion", "Rationales", "earlier report", "majority vote", "None", "Cost of 1,000 answers"):
        assert absent not in text


def test_an_unpaired_earlier_report_shows_no_change() -> None:
    tree = report_tree()
    nothing = dict.fromkeys(("difference", "interval", "better", "worse", "p_value"))
    tree["baseline"] |= {"same_examples": False, **nothing, "note": "only 9 of its 90 examples have the same id"}
    text = page_of(tree).text
    assert "not paired: only 9 of its 90 examples have the same id." in text
    assert "59.0%" in text
    assert "only now right" not in text


@pytest.mark.parametrize("listed", [True, False])
def test_a_wide_confusion_is_a_list_and_its_note_is_shown(listed: bool) -> None:
    confusion = [{"gold": f"g{i}", "student": f"s{i}" if i else None, "count": i + 1} for i in range(20)]
    confusion[3]["gold"] = "long " * 1000
    tree = report_tree() | {"confusion": confusion if listed else None, "confusion_note": "A letter is a place."}
    tree["errors"][0]["input"] = "word " * 10_000
    page = page_of(tree)
    assert "A letter is a place." in page.text
    assert (["g0", "(no answer)", "1"] in page.rows()) == (["g19", "s19", "20"] in page.rows()) == listed
    assert sorted({len(cell) for row in page.rows() for cell in row if len(cell) > 200}) == [600], "long texts are cut"
