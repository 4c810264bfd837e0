import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.evaluate.confusion import confusion
from pipelines.evaluate.page_figures import accuracy_png
from pipelines.evaluate.predictions import PREDICTION, predictions
from pipelines.evaluate.report import teacher_name
from pipelines.evaluate.report_markdown import markdown
from pipelines.evaluate.terminal_table import report_table
from pipelines.scoring.system import System
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.measured_reports import EXAMPLES, OTHERS, made, student, system
from tests.support.reports import report, report_tree


def test_systems_and_comparisons_of_a_report() -> None:
    found = made(student(25, 3, too_long=2))
    by_name = {s.name: s for s in found.systems}
    assert list(by_name) == ["student", "untrained", "teacher", "majority"]
    first = found.student_scores
    assert (first.correct, first.total, first.unanswered, first.too_long, first.accuracy) == (25, 40, 3, 2, 0.625)
    assert (first.interval, by_name["untrained"].unanswered) == (pytest.approx((0.4703, 0.7577), abs=2e-3), 40)
    names = ("seconds_per_example", "prompt_tokens_per_example", "output_tokens_per_example")
    assert [getattr(first, name) for name in names] == [0.02, 22.5, 2.0]
    assert [getattr(by_name["teacher"], name) for name in names] == [None] * 3
    pairs = {c.student_vs: (c.better, c.worse) for c in found.comparisons}
    assert pairs == {"untrained": (25, 0), "teacher": (0, 5), "majority": (23, 0)}
    teacher = found.comparisons[1]
    assert (teacher.p_value, teacher.difference) == (pytest.approx(2 / 32), -5 / 40)
    assert -0.3 < teacher.difference_interval[0] < -5 / 40 < teacher.difference_interval[1] < 0.05
    counts = [("4 - 1", "4 - 1", 25), ("4 - 1", "7", 12), ("4 - 1", None, 3)]
    assert [(c.gold, c.student, c.count) for c in found.confusion or []] == counts


def choices(i: int) -> tuple[str, ...]:
    return (f"right {i}", f"wrong {i}", f"right {i}", "last")


@pytest.mark.parametrize(
    ("examples", "labels", "expected", "note"),
    [
        # `4` and `8 / 2` are one label, spelled like a gold label; so are `9`, `7 + 2` and `10 - 1`.
        ([("8 / 2", ()), ("4", ()), ("4", ()), ("9", ())], ["4", "8 / 2", "7 + 2", "10 - 1"],
         [("4", "4", 2), ("4", "9", 1), ("9", "9", 1)], ""),
        ([(f"{i + 1} - {i}", ()) for i in range(30)], ["1"] * 30, [("1 - 0", "1 - 0", 30)], ""),
        ([(f"right {i}", choices(i)) for i in range(30)], [None, *["last"] * 4, *(f"right {i}" for i in range(5, 30))],
         [("(a)", "(a)", 25), ("(a)", "(d)", 4), ("(a)", None, 1)], "A letter is a place among the choices"),
        # Choices that all examples share are labels, also if they are shuffled.
        ([("8", ("8", "9") if i % 2 else ("9", "8")) for i in range(30)], ["9"] * 30, [("8", "9", 30)], ""),
    ],
)  # fmt: skip
def test_a_confusion_is_of_meanings_or_of_places(examples: Any, labels: Any, expected: Any, note: str) -> None:
    made = [Example(f"e{i}", "?", gold, options) for i, (gold, options) in enumerate(examples)]
    found, found_note = confusion(made, labels, str if note else Arithmetic().key)
    assert [(c.gold, c.student, c.count) for c in found or []] == expected
    assert (found_note[: len(note)], bool(found_note)) == (note, bool(note))


def test_too_many_labels_have_a_note_instead_of_a_confusion() -> None:
    found, note = confusion([Example(f"e{i}", "?", str(i)) for i in range(30)], ["1"] * 30, Arithmetic().key)
    assert (found, note) == (None, "Not shown: there are 30 different gold labels, and the limit is 20.")
    assert note in markdown(report(confusion=None, confusion_note=note))
    assert "## Confusion" not in markdown(report(confusion=None, confusion_note=""))


@pytest.mark.parametrize(
    ("first", "others", "text"),
    [
        (25, OTHERS, "62.5% of 40 held-out examples; its teacher Qwen2.5 on 75.0%: the student is worse."),
        (38, OTHERS, "95.0% of 40 held-out examples; its teacher Qwen2.5 on 75.0%: the student is better."),
        (25, [OTHERS[0]], "62.5% of 40 held-out examples; the untrained student on 0.0%: the student is better."),
        (2, [*OTHERS[:2], system("majority", 20)],
            "5.0% of 40 held-out examples; the majority label on 50.0%: the student is worse."),
        (1, [student(1, name="untrained")],
            "2.5% of 40 held-out examples; the untrained student on 2.5%: no difference is shown."),
    ],
)  # fmt: skip
def test_the_headline_names_the_rival_and_its_verdict(first: int, others: list[System], text: str) -> None:
    found = made(student(first), others).headline
    assert found == f"A student of 57M parameters is right on {text}"
    assert len(found.split()) <= 25


def test_a_linked_teacher_has_the_name_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "SmolLM2").mkdir()
    (tmp_path / "teacher").symlink_to("SmolLM2")
    models = (str(tmp_path / "teacher"), f"{tmp_path / 'SmolLM2'}/", "Qwen/Qwen2.5-7B-Instruct", None)
    manifests = [Manifest.model_construct(config={"teacher": {"model": model}}) for model in models]
    assert [teacher_name(one) for one in manifests] == ["SmolLM2", "SmolLM2", "Qwen2.5-7B-Instruct", None]


def test_a_system_without_answers_is_listed_and_not_compared() -> None:
    found = made(student(25), [OTHERS[0], System("teacher", note="the labels have none"), System("majority")])
    teacher = found.systems[2]
    assert teacher.accuracy is teacher.correct is teacher.interval is teacher.unanswered is None
    assert [c.student_vs for c in found.comparisons] == ["untrained"]
    assert "majority" not in found.headline
    assert "| teacher | - | - | - |" in markdown(found)
    assert "- teacher: the labels have none." in markdown(found)


def test_errors_are_the_most_confident_wrong_answers() -> None:
    found = made(student(10, 3)).errors
    assert [e.id for e in found] == [f"e{i}" for i in range(39, 19, -1)]
    first = found[0]
    assert (first.input, first.gold, first.student) == ("How many is 39 | 1?", "4 - 1", "?")
    assert (first.confidence, first.teacher, found[-1].teacher, made(student(40)).errors) == (0.975, None, "3", [])


MARKDOWN = (
    "| student | 25 of 40 | 62.5% | 47.0 to 75.8% | 3 | 20 ms | 22.5 | 2.0 |",
    "| teacher | 30 of 40 | 75.0% | 59.8 to 85.8% | 4 | - | - | - |",
    "| teacher | -12.5 | -23.7 to -0.1 | 0 | 5 | 0.062 | ▼ worse |",
    "| 90 to 100% | 4 | 93.8% | 0.0% |",
    "| gold | 4 - 1 | 7 | (no answer) | all |",
    "|---|---:|---:|---:|---:|",
    "| 4 - 1 | 25 | 12 | 3 | 40 |",
    "- Not scored: 14 unreadable rows. First problem: bad0, bad0 has no label.",
    "- student: 2 inputs are longer than max_input_tokens and unanswered.",
    "- untrained student: 20 ms per example, 22.5 tokens read, 2.0 written",
    "- majority label: \\`8\\`, the label of 2 of 9.",
    "- Training time: 15 min 12 s",
    "- Label filters: min_agreement 0.6, drop_giveaways on",
    "- Training: 1 epoch, 65,536 tokens per batch",
)


def test_markdown_lists_systems_limits_and_settings() -> None:
    many = [{"id": f"bad{i}", "problem": f"bad{i} has no label"} for i in range(14)]
    unreadable = {"count": 14, "ids": [row["id"] for row in many], "problems": many}
    text = markdown(made(student(25, 3, too_long=2), heldout=report_tree()["heldout"] | {"unreadable": unreadable}))
    assert [line for line in MARKDOWN if line not in text.splitlines()] == []
    for unmeasured in ("## Rationales", "majority vote", "compared with"):
        assert unmeasured not in text
    assert "How many is 39 \\| 1?" in text, "a bar in an input adds no column"
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| e")} == {7}


def test_markdown_has_the_optional_sections() -> None:
    quality = report_tree()["rationale"] | {"of": "teacher", "examples": 36, "empty": 2, "leads_to_label": None}
    text = markdown(report(rationale=quality))
    for part in (
        "## Rationales\n\n- Rationales of the teacher: 36\n- Empty: 2\n- Lead to the teacher's label: -\n- State the gold label: 58.2%",
        "- students: majority vote over 5 samples at temperature 0.7, 88.3% agree",
        "- compared with the report of esnli, 2026-01-24: +2.5 points (-3.1 to +7.9), only now right 19, only then right 14, p = 0.487, "
        "no difference is shown",
        "| int8 (ctranslate2) | 60.5% | 53.6 to 67.0% | -1.0 | -3.3 to +1.3 | 1 | 3 | 0.625 | 98.5% | 11.2 ms |",
    ):
        assert part in text
    nothing = dict.fromkeys(("difference", "interval", "better", "worse", "p_value"))
    unpaired = report_tree()["baseline"] | nothing | {"same_examples": False, "note": "other inputs"}
    assert "59.0% of 200 there; not paired: other inputs" in markdown(report(baseline=unpaired))


def test_hostile_texts_stay_text_in_the_terminal() -> None:
    problem = {"id": "[/b]", "problem": "the gold \x1b[2J[red]label\n[/i]"}
    heldout = report_tree()["heldout"] | {"unreadable": {"count": 1, "ids": ["[/b]"], "problems": [problem]}}
    note = "`[/b]`, the label of 2 of 9"
    found = made(student(25), [*OTHERS[:2], system("majority", 2, note=note)], heldout=heldout)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report_table(found))
    text = console.export_text()
    for part in ("untrained student", "25 of 40", "47.0 to 75.8%", "2e-07", f"majority label: {note}"):
        assert part in text
    assert "First problem: [/b], the gold [2J[red]label [/i]." in text
    assert "\x1b" not in markdown(found)


WILD = "<img src=x onerror=a()>&amp; ![p](http://x.invalid/p.png) `2*3*4` [l](y) \\| end"
TAME = "&lt;img src=x onerror=a()&gt;&amp;amp; !\\[p\\](http://x.invalid/p.png) \\`2\\*3\\*4\\` \\[l\\](y) \\\\\\| end"


def test_hostile_texts_stay_text_in_markdown() -> None:
    unreadable = {"count": 1, "ids": [WILD], "problems": [{"id": WILD, "problem": WILD}]}
    heldout = report_tree()["heldout"] | {"unreadable": unreadable, "duplicates": {"count": 1, "ids": [WILD]}}
    error = dict.fromkeys(("id", "input", "gold", "student", "teacher"), WILD) | {"confidence": 0.5}
    counts = [{"gold": WILD, "student": WILD, "count": 3}, {"gold": "a|b\nc", "student": None, "count": 3}]
    more = {"task": {"name": WILD, "version": "1"}, "provenance": {"labels": {"teacher": "a ``` b"}}}
    given = {
        "rows": 50,
        "labels": {WILD: 40},
        "distinct": 2,
        "warning": f"the teacher gave 40 of 50 rows the label {WILD}",
    }
    others = [*OTHERS[:2], system("majority", 2, note=WILD)]
    text = markdown(
        made(student(25), others, heldout=heldout, confusion=counts, errors=[error], teacher_labels=given, **more)
    )
    for part in (
        f" | {TAME} | {TAME} | {TAME} | {TAME} | 0.50 |",
        f"- majority label: {TAME}.",
        f"- Teacher's labels: {TAME} 40 (80%), and 1 more",
        f"- The teacher gave 40 of 50 rows the label {TAME}.",
        f"First problem: {TAME}, {TAME}.",
        f"- Task: {TAME}, version 1",
        "| labels.teacher | a \\`\\`\\` b |",
        "| a\\|b c | 0 | 0 | 3 | 3 |",
    ):
        assert part in text
    assert (WILD in text, "<img" in text) == (False, False)


def test_predictions_have_the_schema() -> None:
    first = student(25, 3)
    systems = {one.name: one for one in (first, OTHERS[0], System("teacher"), OTHERS[2])}
    found = pq.read_table(io.BytesIO(predictions(EXAMPLES, systems)))
    assert found.schema.equals(PREDICTION)
    rows = found.to_pylist()
    assert [r["id"] for r in rows] == [e.id for e in EXAMPLES]
    assert [r["student_right"] for r in rows] == list(first.right)
    assert (rows[39]["student_label"], rows[39]["student_text"]) == (None, "?")
    assert {r["teacher_right"] for r in rows} == {None}


def test_the_plot_shows_systems_with_an_accuracy() -> None:
    systems = (OTHERS, [OTHERS[0], System("teacher"), OTHERS[2]])
    full, fewer = (accuracy_png(made(student(25), others)) for others in systems)
    assert full.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(full[20:24], "big") > int.from_bytes(fewer[20:24], "big") > 0, "heights"
