from __future__ import annotations

from typing import Any

from pipelines.evaluate.page import report_page
from pipelines.reports.format import percent, percents
from tests.support.page_reader import HOSTILE, Page, assert_needs_nothing_else, hostile
from tests.support.reports import report, without

NO_TEXTS = frozenset({"systems", "comparisons", "fingerprint", "family", "of"})  # names that are fixed


def test_hostile_texts_are_texts() -> None:
    wild: dict[str, Any] = hostile(report(), NO_TEXTS)
    wild["systems"][3]["note"] = HOSTILE
    html = report_page(wild)
    page, tame = Page(html), report()
    assert page.shape() == Page(report_page(tame)).shape()
    shown = HOSTILE.replace("\ud800", "?")
    error = tame["errors"][1]
    for expected in (tame["headline"], error["input"], "hypothesis is missing", "e-3", "vllm", "esnli"):
        assert expected + shown in page.text
    # Labels are cut in the matrix.
    assert short_of(f"entailment{shown}") in [cell for row in page.rows() for cell in row]
    assert f"{error['input']}{shown}" in [cell for row in page.rows() for cell in row]
    assert f"majority label: {shown}." in page.text
    assert_needs_nothing_else(html)


def short_of(label: str) -> str:
    """A label as it heads a row or a column."""
    return label[:59] + "…"


def test_every_number_of_a_plot_is_in_a_table() -> None:
    made = report()
    rows = Page(report_page(made)).rows()
    for system in made["systems"]:
        right = [f"{system['correct']} of 200", percent(system["accuracy"]), percents(system["interval"])]
        assert any(row[1:4] == right for row in rows)
    for tenth, one in enumerate(made["calibration"]["bins"]):
        expected = one and [
            f"{10 * tenth} to {10 * (tenth + 1)}%",
            str(one["count"]),
            percent(one["confidence"]),
            percent(one["accuracy"]),
        ]
        assert not one or expected in rows


def test_verdicts_follow_the_interval_as_those_of_a_comparison_do() -> None:
    rows = {row[0]: row for row in Page(report_page(report())).rows() if len(row) == 7}
    assert rows["untrained student"] == [
        "untrained student",
        "+28.5",
        "+20.5 to +36.5",
        "71",
        "14",
        "2e-09",
        "▲ better",
    ]
    assert rows["teacher"][-1] == "▼ worse"
    assert rows["majority label"][-2:] == ["0.081", "no difference is shown"]
    made = report()
    made["comparisons"][2] |= {"difference_interval": [0.001, 0.1]}
    made["comparisons"][1] |= {"difference_interval": [-0.3, 0.0], "p_value": 0.049}
    rows = {row[0]: row for row in Page(report_page(made)).rows() if len(row) == 7}
    assert rows["majority label"][-2:] == ["0.081", "▲ better"], "p is for information"
    assert rows["teacher"][-2:] == ["0.049", "no difference is shown"]


def test_what_is_told_besides() -> None:
    page = Page(report_page(report()))
    for expected in (
        "2 of the 200 scored examples are in the training data too (1 by the same input, 1 by nearly the same): e-3, e-4.",
        "1 held-out example has no gold label and is not scored: e-9.",
        "1 held-out row is unreadable for the task and not scored.",
        "1 held-out row has the id of an earlier one and is not scored: e-12.",
        "1 of the 200 scored examples is among those on which settings or weights were chosen (1 by the same input, 0 by nearly the "
        "same): e-5. That helps what was chosen.",
        "student: 1 input without answer is longer than it reads.",
        "The expected calibration error is 0.124",
        "Its confidence is the share of its samples that agree.",
        "5 samples at temperature 0.7, 88.3% agree",
        "+2.5 points (-3.1 to +7.9)",
        "no difference is shown, p = 0.487",
        "The student's rationales",
        "min_agreement 0.6, drop_giveaways on",
        "1 epoch, 65,536 tokens a batch",
    ):
        assert expected in page.text
    assert ["settings.training.precision", "bf16"] in page.rows()
    assert ["e-11", "hypothesis is missing"] in page.rows()
    assert ["contradiction", "40", "7", "6", "4", "57"] in page.rows()
    assert any(row[0] == "int8 (ctranslate2)" and row[-2:] == ["98.5%", "11.2 ms"] for row in page.rows())
    assert page.rows()[-1] == ["transformers", "5.19.0"]


def test_what_there_is_not_is_not_drawn() -> None:
    made = without(without(report(), "teacher"), "majority")
    made |= {"confusion": None, "rationale": None, "weights": [], "votes": None, "baseline": None, "errors": []}
    page = Page(report_page(made))
    plot = next(found["aria-label"] for tag, found in page.elements if tag == "svg")
    assert "teacher" not in plot
    assert any(row[0] == "teacher" and set(row[1:]) == {"-"} for row in page.rows())
    assert "It made none." in page.text
    for absent in ("What it takes for what", "rationales", "Against an earlier report", "by vote", "None"):
        assert absent not in page.text


def test_what_it_costs_is_told_as_far_as_it_is_known() -> None:
    made = report()
    text = _spaced(made)
    for expected in (
        "Tokens the teacher read 812,000", "Its GPU-hours 1.24", "Training time 15 min 12 s", "Cost of the training 1.25",
        "Time per answer 45.5 ms", "Cost of 1,000 answers 0.0316",
    ):  # fmt: skip
        assert expected in text
    assert "needs an answer of the teacher's" not in text
    made["student"]["method"] = "rationale-as-input"
    made["cost"]["teacher"] = dict.fromkeys(made["cost"]["teacher"])
    made["cost"]["answers"]["per_1000"] = made["cost"]["training"]["money"] = None
    text = _spaced(made)
    assert "What the teacher's answers took is not known." in text
    assert "The student needs an answer of the teacher's for every input, which is not in the cost" in text
    assert "Cost of 1,000 answers" not in text


def _spaced(made: dict[str, Any]) -> str:
    """The text of a report's page, on one line, with a space between a fact's name and its value."""
    return " ".join(Page(report_page(made).replace("<dd>", "<dd> ")).text.split())


def test_of_choices_the_confusion_is_of_places_and_where_there_is_none_it_is_said_why() -> None:
    made = report() | {"confusion_note": "A letter is a place."}
    assert "A letter is a place." in Page(report_page(made)).text
    made |= {"confusion": None, "confusion_note": "There are too many labels."}
    page = Page(report_page(made))
    assert "What it takes for what" in page.text
    assert "There are too many labels." in page.text


def test_an_earlier_report_on_other_examples_is_not_compared() -> None:
    made = report()
    nothing = dict.fromkeys(("difference", "interval", "better", "worse", "p_value"))
    made["baseline"] |= {"same_examples": False, **nothing, "note": "of its 90 examples only 9 have the same id"}
    text = Page(report_page(made)).text
    assert "not compared example by example: of its 90 examples only 9 have the same id." in text
    assert "59.0%" in text
    assert "Now ahead by" not in text


def test_a_wide_confusion_is_a_list() -> None:
    made = report()
    made["confusion"] = [{"gold": f"g{i}", "student": f"s{i}" if i else None, "count": i + 1} for i in range(20)]
    rows = Page(report_page(made)).rows()
    assert ["g0", "(no answer)", "1"] in rows
    assert ["g19", "s19", "20"] in rows
    made["confusion"][3]["gold"] = "long " * 1000
    assert max(len(cell) for row in Page(report_page(made)).rows() for cell in row) < 200


def test_long_texts_are_cut_and_the_same_report_gives_the_same_page() -> None:
    made = report()
    made["errors"][0]["input"] = "word " * 10_000
    made["confusion"][0] |= {"gold": "gold " * 1000, "student": "other " * 1000}
    html = report_page(made)
    assert len(html) < 100_000
    assert max(len(cell) for row in Page(html).rows() for cell in row) == 600
    assert html == report_page(made)
