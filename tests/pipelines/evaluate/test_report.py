from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.evaluate import plots, report, report_markdown
from pipelines.scoring.system import System
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic

NUM = 40
EXAMPLES = [Example(f"e{i}", f"How many is {i} | 1?", "4 - 1") for i in range(NUM)]


def _system(name: str, num_right: int, num_unanswered: int = 0, **more: Any) -> System:
    """Right from the front, unanswered at the end."""
    labels = tuple(None if i >= NUM - num_unanswered else ("3" if i < num_right else "7") for i in range(NUM))
    right = tuple(i < num_right for i in range(NUM))
    return System(name, labels=labels, right=right, **more)


def _student(num_right: int, num_unanswered: int = 0, name: str = "student", **more: Any) -> System:
    system = _system(name, num_right, num_unanswered)
    texts = tuple("?" if label is None else label for label in system.labels)
    confidences = tuple(i / NUM for i in range(NUM))
    return System(
        name, system.labels, system.right, texts, confidences=confidences,
        seconds=1.5, answering_s=0.8, prompt_tokens=900, output_tokens=80, **more,
    )  # fmt: skip


def _report(student: System, others: list[System], **heldout: Any) -> dict[str, Any]:
    return {
        "format": 7,
        "run": "made",
        "task": {"name": "arithmetic", "version": "1"},
        "heldout": {
            "split": "test",
            "scored": NUM,
            "without_gold": {"count": 0, "ids": []},
            "unreadable": {"count": 0, "ids": [], "problems": []},
            "duplicates": {"count": 0, "ids": []},
            "trained_on": {"count": 0, "ids": [], "by": {"id": 0, "input": 0, "near": 0}},
            "chosen_on": None,
            **heldout,
        },
        "student": {"fingerprint": "f" * 64, "method": "finetune", "family": "decoder-only", "parameters": 57_000_000},
        "settings": {
            "labels": "gold",
            "filters": {"gold": "drop-disagreeing"},
            "training": {"epochs": 2, "tokens_per_batch": 1024},
        },
        "cost": {
            "teacher": dict.fromkeys(("prompt_tokens", "output_tokens", "gpu_hours", "money")),
            "training": {"seconds": 311.0, "gpu_hours": 0.0, "money": None},
            "answers": {"seconds_per_example": 0.02, "per_1000": None},
        },
        **report.results(EXAMPLES, student, others, 57_000_000, Arithmetic().key),
        "rationale": None,
        "weights": [],
        "votes": None,
        "baseline": None,
        "majority": None,
        "provenance": {"labels": {"fingerprint": "a"}},
        "versions": {"torch": "2.13.0"},
        "seconds": 3.0,
        "created": "2026-01-31T12:00:00+00:00",
    }


OTHERS = [
    _student(0, 40, "untrained"),
    _system("teacher", 30, 4),
    _system("majority", 2, note="`8`, the label of 2 of 9"),
]


def test_systems_and_comparisons() -> None:
    made = _report(_student(25, 3, too_long=2), OTHERS)
    by_name = {s["name"]: s for s in made["systems"]}
    assert list(by_name) == ["student", "untrained", "teacher", "majority"]
    student = by_name["student"]
    assert (student["correct"], student["total"], student["unanswered"], student["too_long"]) == (25, 40, 3, 2)
    assert student["accuracy"] == 0.625
    assert student["interval"] == pytest.approx([0.4703, 0.7577], abs=2e-3)
    assert by_name["untrained"]["unanswered"] == 40
    each = ("seconds_per_example", "prompt_tokens_per_example", "output_tokens_per_example")
    assert [student[key] for key in each] == [0.02, 22.5, 2.0]
    assert [by_name["teacher"][key] for key in each] == [None, None, None]
    versus = {c["student_vs"]: (c["better"], c["worse"]) for c in made["comparisons"]}
    assert versus == {"untrained": (25, 0), "teacher": (0, 5), "majority": (23, 0)}
    assert made["comparisons"][1]["p_value"] == pytest.approx(2 / 32)
    assert made["comparisons"][1]["difference"] == -5 / 40
    low, high = made["comparisons"][1]["difference_interval"]
    assert -0.3 < low < -5 / 40 < high < 0.05
    assert made["calibration"]["bins"][0] == {"count": 4, "confidence": pytest.approx(0.0375), "accuracy": 1.0}
    assert made["confusion"] == [
        {"gold": "4 - 1", "student": "4 - 1", "count": 25}, {"gold": "4 - 1", "student": "7", "count": 12},
        {"gold": "4 - 1", "student": None, "count": 3},
    ]  # fmt: skip
    json.dumps(made, allow_nan=False)


def test_a_confusion_is_of_meanings_and_what_is_right_is_on_its_diagonal() -> None:
    examples = [Example(f"e{i}", "?", gold) for i, gold in enumerate(["8 / 2", "4", "4", "9"])]
    student = System(
        "student", ("4", "8 / 2", "7 + 2", "10 - 1"), (True, True, False, True), ("",) * 4, confidences=(0.5,) * 4
    )
    found = report.results(examples, student, [], 1, Arithmetic().key)["confusion"]
    # `4` and `8 / 2` are one label, spelled as one of the gold labels is; so are `9`, `7 + 2` and `10 - 1`.
    assert found == [
        {"gold": "4", "student": "4", "count": 2},
        {"gold": "4", "student": "9", "count": 1},
        {"gold": "9", "student": "9", "count": 1},
    ]
    assert sum(cell["count"] for cell in found if cell["gold"] == cell["student"]) == sum(student.right)


def test_many_spellings_of_few_labels_are_few_labels() -> None:
    examples = [Example(f"e{i}", "?", f"{i + 1} - {i}") for i in range(30)]
    student = System("student", ("1",) * 30, (True,) * 30, ("1",) * 30, confidences=(0.5,) * 30)
    found = report.results(examples, student, [], 1, Arithmetic().key)["confusion"]
    assert found == [{"gold": "1 - 0", "student": "1 - 0", "count": 30}]


def test_a_confusion_of_choices_is_of_their_places() -> None:
    examples = [
        Example(f"e{i}", "?", f"right {i}", (f"right {i}", f"wrong {i}", f"right {i}", "last")) for i in range(30)
    ]
    labels = tuple(None if i == 0 else "last" if i < 5 else f"right {i}" for i in range(30))
    student = System("student", labels, (True,) * 30, ("",) * 30, confidences=(0.5,) * 30)
    found = report.results(examples, student, [], 1, lambda label: label)
    assert found["confusion"] == [
        {"gold": "(a)", "student": "(a)", "count": 25},
        {"gold": "(a)", "student": "(d)", "count": 4},
        {"gold": "(a)", "student": None, "count": 1},
    ]
    assert found["confusion_note"].startswith("A letter is a place among the choices of an example")


def test_a_confusion_of_choices_that_all_examples_have_is_of_labels() -> None:
    choices = [("yes", "no"), ("no", "yes")]  # shuffled: a place means nothing
    examples = [Example(f"e{i}", "?", "yes", choices[i % 2]) for i in range(30)]
    student = System("student", ("no",) * 30, (False,) * 30, ("",) * 30, confidences=(0.5,) * 30)
    found = report.results(examples, student, [], 1, lambda label: label)
    assert found["confusion"] == [{"gold": "yes", "student": "no", "count": 30}]
    assert found["confusion_note"] == ""


def test_where_there_is_no_confusion_it_is_said_why() -> None:
    examples = [Example(f"e{i}", "?", str(i)) for i in range(30)]
    student = System("student", ("1",) * 30, (False,) * 30, ("1",) * 30, confidences=(0.5,) * 30)
    made = _report(_student(25), OTHERS)
    made |= report.results(examples, student, [], 1, Arithmetic().key)
    said = "Not listed: there are 30 different gold labels, and a list is made of at most 20."
    assert (made["confusion"], made["confusion_note"]) == (None, said)
    assert said in report_markdown.markdown(made)
    made["confusion_note"] = ""
    assert "What the student answers" not in report_markdown.markdown(made)


def test_markdown_tells_of_settings_and_costs() -> None:
    text = report_markdown.markdown(_report(_student(25), OTHERS))
    for line in (
        "- Training time: 5 min 11 s", "- Time per answer: 20 ms", "- labels learned: gold",
        "- filters of the labels: gold drop-disagreeing", "- training: 2 epochs, 1,024 tokens a batch",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "Tokens the teacher read" not in text, "a recording counts none"


def test_headline_of_a_win() -> None:
    said = _report(_student(25), OTHERS)["headline"]
    assert said.startswith("The student (57M parameters) is right on 62.5% (47.0 to 75.8%) of 40 held-out examples; ")
    assert "the majority label on 5.0% (the student is better, p = 2e-07)" in said
    assert "the untrained student on 0.0% (the student is better, p = 6e-08)" in said


def test_headline_of_a_loss_and_of_a_draw_says_so() -> None:
    said = _report(_student(2), [_student(1, name="untrained"), _system("majority", 20)])["headline"]
    assert "the majority label on 50.0% (the student is worse, p = 8e-06)" in said
    assert "the untrained student on 2.5% (no difference is shown, p = 1.000)" in said


def test_a_system_without_answers_is_named_and_not_compared() -> None:
    made = _report(
        _student(25), [OTHERS[0], System("teacher", note="the labels hold none"), System("majority", note="none")]
    )
    teacher = made["systems"][2]
    assert teacher["accuracy"] is teacher["correct"] is teacher["interval"] is teacher["unanswered"] is None
    assert [c["student_vs"] for c in made["comparisons"]] == ["untrained"]
    assert "majority" not in made["headline"]
    assert "| teacher | - | - | - | - | - | - | - | - |" in report_markdown.markdown(made)
    assert "- teacher: the labels hold none" in report_markdown.markdown(made)


def test_errors_are_the_most_confident_wrong_answers() -> None:
    made = _report(_student(10, 3), OTHERS)
    assert [e["id"] for e in made["errors"]] == [f"e{i}" for i in range(39, 19, -1)]
    first = {"id": "e39", "input": "How many is 39 | 1?", "gold": "4 - 1", "student": "?", "confidence": 0.975}
    assert made["errors"][0] == {**first, "teacher": None}
    assert made["errors"][-1]["teacher"] == "3"
    assert _report(_student(40), OTHERS)["errors"] == []


def test_markdown_is_readable_and_lists_what_is_not_scored() -> None:
    many = [f"bad{i}" for i in range(14)]
    heldout = {
        "without_gold": {"count": 3, "ids": ["x1", "x2"]},
        "unreadable": {"count": 14, "ids": many, "problems": [{"id": i, "problem": f"{i} has no label"} for i in many]},
        "duplicates": {"count": 12, "ids": [f"again{i}" for i in range(12)]},
        "trained_on": {"count": 1, "ids": ["e7"], "by": {"id": 6, "input": 0, "near": 1}},
        "chosen_on": {"count": 2, "ids": ["e8", "e9"], "by": {"id": 0, "input": 2, "near": 0}},
    }
    text = report_markdown.markdown(_report(_student(25, 3, too_long=2), OTHERS, **heldout))
    assert "| student | 25 of 40 | 62.5% | 47.0 to 75.8% | 3 |  |  |  |  |" in text
    assert "| teacher | 30 of 40 | 75.0% | 59.8 to 85.8% | 4 | -12.5 (-23.7 to -0.1) | 0 | 5 | 0.062 |" in text
    assert "| 0.9 to 1.0 | 4 | 93.8% | 0.0% |" in text
    assert "| 4 - 1 | (no answer) | 3 |" in text
    assert "not scored, without gold label: 3 (x1, x2, ...)" in text
    assert "rows that the task cannot read: 14 (bad0, bad1," in text
    assert "bad9, ...); bad0 has no label" in text
    assert "scored, although trained on: 1 (e7); with the input of a training row 0, nearly 1" in text
    assert "with the id of a training row, which alone says nothing: 6" in text
    assert "not scored, rows with the id of an earlier one: 12 (again0, again1," in text
    assert (
        "scored, although weights were chosen on: 2 (e8, e9); with the input of a validation example 2, nearly 0"
        in text
    )
    assert "student: 2 inputs are longer than it reads" in text
    assert "untrained student: 20 ms per example, 22.5 tokens read, 2.0 written" in text
    for unmeasured in ("## Rationales", "drawn at", "against the report"):
        assert unmeasured not in text
    assert "majority label: \\`8\\`, the label of 2 of 9" in text
    assert "How many is 39 \\| 1?" in text  # a bar in an input does not add a column
    columns = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| e")}
    assert columns == {7}


def test_markdown_tells_of_rationales_votes_and_an_earlier_report() -> None:
    made = _report(_student(25), OTHERS)
    made["rationale"] = {"of": "teacher", "examples": 36, "empty": 2, "leads_to_label": None, "states_gold": 0.5,
                         "repeats_input": 0.25, "words": {"p10": 6, "median": 13, "p90": 22}}  # fmt: skip
    made["votes"] = {"n": 5, "temperature": 0.7, "agreement": 0.883}
    made["baseline"] = {"run": "before", "created": "2026-01-24T09:00:00+00:00", "accuracy": 0.5, "total": 40, "same_examples": True,
                        "difference": 0.125, "interval": [0.02, 0.231], "better": 7, "worse": 2, "p_value": 0.02, "note": ""}  # fmt: skip
    text = report_markdown.markdown(made)
    assert "Of 36 of the teacher's rationales to the held-out examples 2 are empty." in text
    assert "lead to the label that their writer gave: the task cannot tell" in text
    assert "state the gold label: 50.0%" in text
    assert "5 answers drawn at temperature 0.7; 88.3% of them agree" in text
    assert (
        "against the report of before of 2026-01-24: +12.5 points (+2.0 to +23.1), only now right 7, only then 2, "
        "p = 0.020, the student is better" in text
    )
    made["baseline"] |= {
        "same_examples": False,
        "difference": None,
        "interval": None,
        "p_value": None,
        "note": "other inputs",
    }
    assert "50.0% of 40 there; not comparable, other inputs" in report_markdown.markdown(made)


def test_table_shows_every_system() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report_markdown.table(_report(_student(25), OTHERS)))
    text = console.export_text()
    for expected in ("student", "untrained student", "teacher", "majority label", "25 of 40", "47.0 to 75.8%", "2e-07"):
        assert expected in text


def test_hostile_texts_are_texts_in_the_terminal() -> None:
    unreadable = {
        "count": 1,
        "ids": ["[/b]"],
        "problems": [{"id": "[/b]", "problem": "the gold \x1b[2J[red]label\n[/i]"}],
    }
    note = "`[/b]`, the label of 2 of 9"
    made = _report(_student(25), [*OTHERS[:2], _system("majority", 2, note=note)], unreadable=unreadable)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report_markdown.table(made))
    text = console.export_text()
    assert f"majority label: {note}" in text
    assert "1 ([/b]); the gold [2J[red]label [/i]" in text
    assert "\x1b" not in report_markdown.markdown(made)


def test_a_label_is_one_cell_of_a_markdown_table() -> None:
    made = _report(_student(25), OTHERS)
    made["confusion"] = [{"gold": "a|b\nc", "student": None, "count": 3}]
    assert "| a\\|b c | (no answer) | 3 |" in report_markdown.markdown(made)


WILD = "<img src=x onerror=a()>&amp; ![p](http://x.invalid/p.png) `2*3*4` [l](y) \\| end"
TAME = "&lt;img src=x onerror=a()&gt;&amp;amp; !\\[p\\](http://x.invalid/p.png) \\`2\\*3\\*4\\` \\[l\\](y) \\\\\\| end"


def test_hostile_texts_are_texts_in_markdown() -> None:
    heldout = {
        "unreadable": {"count": 1, "ids": [WILD], "problems": [{"id": WILD, "problem": WILD}]},
        "duplicates": {"count": 1, "ids": [WILD]},
    }
    made = _report(_student(25), [*OTHERS[:2], _system("majority", 2, note=WILD)], **heldout)
    made["confusion"] = [{"gold": WILD, "student": WILD, "count": 3}]
    made["errors"][0] |= dict.fromkeys(("id", "input", "gold", "student", "teacher"), WILD)
    made["task"]["name"] = WILD
    made["provenance"] = {"labels": {"teacher": "a ``` b"}}
    text = report_markdown.markdown(made)
    assert f"| {TAME} | {TAME} | 3 |" in text
    assert f"| {TAME} | {TAME} | {TAME} | {TAME} | {TAME} |" in text
    assert f"- majority label: {TAME}" in text
    assert f"rows that the task cannot read: 1 ({TAME}); {TAME}" in text
    assert f"- task: {TAME}, version 1" in text
    assert '- labels: ```` {"teacher": "a ``` b"} ````' in text
    assert WILD not in text
    assert "<img" not in text


def test_predictions_have_the_schema() -> None:
    student = _student(25, 3)
    data = report.predictions(EXAMPLES, [student, OTHERS[0], System("teacher"), OTHERS[2]])
    found = pq.read_table(io.BytesIO(data))
    assert found.schema.equals(report.PREDICTION)
    rows = found.to_pylist()
    assert [r["id"] for r in rows] == [e.id for e in EXAMPLES]
    assert [r["student_right"] for r in rows] == list(student.right)
    assert rows[39]["student_label"] is None
    assert rows[39]["student_text"] == "?"
    assert {r["teacher_right"] for r in rows} == {None}


def test_plot_is_a_png_of_the_systems_that_have_an_accuracy() -> None:
    full = plots.accuracy_png(_report(_student(25), OTHERS), report.TITLES)
    fewer = plots.accuracy_png(_report(_student(25), [OTHERS[0], System("teacher"), OTHERS[2]]), report.TITLES)
    assert full.startswith(b"\x89PNG\r\n\x1a\n")
    assert _height(full) > _height(fewer) > 0


def _height(png: bytes) -> int:
    return int.from_bytes(png[20:24], "big")
