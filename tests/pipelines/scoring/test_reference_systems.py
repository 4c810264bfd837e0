from pathlib import Path
from typing import Any

import pytest

from pipelines.config import CorpusConfig
from pipelines.data.heldout import is_validation
from pipelines.scoring.reference_systems import Majority, TeacherAnswer, TeacherAnswers, majority_label, teacher_answers
from pipelines.storage.store import Store
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, reject_row, write_labels

TESTED = CorpusConfig(train="t.jsonl", test="h.jsonl", validation=0.0)
FILE = CorpusConfig(train="t.jsonl", validation="v.jsonl")
SHARE = CorpusConfig(train="t.jsonl", validation=0.5)
TWO = [label_row("a", "3"), label_row("b", "3")]


def answers_of(corpus: CorpusConfig, folder: Path, *wanted: str) -> TeacherAnswers:
    examples = [Example(name, f"question {name}", "3") for name in wanted]
    return teacher_answers(Store(str(folder)), corpus, examples, Arithmetic())


def labels_of(found: TeacherAnswers) -> dict[str, str]:
    return {name: answer.label for name, answer in found.by_id.items()}


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        (TESTED, {"1": "7"}),  # training rows with the ids of held-out examples say nothing about these
        (FILE, {"1": "7"}),
        (SHARE, {"1": "1 + 1", "2": "5"}),
    ],
)
def test_answers_come_from_the_scored_rows(tmp_path: Path, corpus: CorpusConfig, expected: dict[str, str]) -> None:
    write_labels(tmp_path, [label_row("1", "1 + 1"), label_row("2", "5")], [label_row("1", "7"), label_row("h", "9")])
    found = answers_of(corpus, tmp_path, "1", "2")
    assert (labels_of(found), found.notes()) == (expected, [])


def test_an_answer_to_another_input_is_ignored(tmp_path: Path) -> None:
    """The labels may be of another test set that numbers its rows the same way."""
    rows = [label_row("1", "7", text="What is 3 and 4?"), label_row("2", "3"), label_row("other", "5", text="x")]
    write_labels(tmp_path, TWO, rows)
    found = answers_of(TESTED, tmp_path, "1", "2", "3")
    assert (found.by_id.keys(), found.of_other_inputs) == ({"2"}, 1)
    assert found.notes() == ["1 of its answers have the id of an example and another input; they are ignored"]


def test_answers_that_a_filter_rejected_are_recovered(tmp_path: Path) -> None:
    rejects = [
        reject_row("wrong", "disagrees_with_gold", "She has 4 + 1. The answer is (4 + 1)."),
        reject_row("bare", "gives_label_away", "The answer is 3."),
        reject_row("long", "rationale_length", "So and so. The answer is 3."),
        reject_row("mute", "unparsable", "I do not know."),
        reject_row("cut", "truncated", "The"),
        reject_row("a", "duplicate", '{"id": "a"}'),
        reject_row("training", "disagrees_with_gold", "The answer is 9."),
    ]
    write_labels(tmp_path, TWO, rejects=rejects)
    found = answers_of(SHARE, tmp_path, "a", "wrong", "bare", "long", "mute", "cut")
    assert labels_of(found) == {"a": "3", "wrong": "4 + 1", "bare": "3", "long": "3"}
    assert found.by_id["wrong"] == TeacherAnswer("4 + 1", "She has 4 + 1.", None, None)
    assert (found.filtered, found.notes()) == (0, [])


@pytest.mark.parametrize(
    ("samples", "reason", "output"),
    [
        (5, "low_agreement", "[1] The answer is 3.\n[2] The answer is 4."),
        (2, "tie", "[1] The answer is 3.\n[2] The answer is 4."),
        (1, "near_duplicate", '{"id": "lost", "input": "The answer is 3."}'),  # never sent to the teacher
    ],
)
def test_unrecoverable_answers_are_counted(tmp_path: Path, samples: int, reason: str, output: str) -> None:
    write_labels(tmp_path, TWO, rejects=[reject_row("lost", reason, output)], samples=samples)
    found = answers_of(SHARE, tmp_path, "a", "lost")
    assert (found.by_id.keys(), found.filtered) == ({"a"}, 1)
    assert found.notes()[0].startswith("filters of the labels rejected 1 of the held-out examples")
    assert answers_of(TESTED, tmp_path, "lost") == TeacherAnswers(), "held-out files are not filtered"


@pytest.mark.parametrize(
    ("spared", "hinted"),
    [(None, True), (0.3, True), (0.5, False), (0.6, False)],
    ids=["early labels: any row may have been answered again", "0.3", "0.5", "0.6"],
)
def test_answers_with_the_gold_label_as_hint_are_not_used(tmp_path: Path, spared: float | None, hinted: bool) -> None:
    identity = {} if spared is None else {"never_rationalised": spared}
    write_labels(tmp_path, TWO, [label_row("a", "4")], teacher={"filters": {"gold": "rationalise"}}, **identity)
    found = answers_of(SHARE, tmp_path, "a")
    assert (found.hinted, bool(found.by_id), bool(found.notes())) == (hinted, not hinted, hinted)
    assert answers_of(TESTED, tmp_path, "a").by_id["a"].label == "4", "held-out files are answered once"


def majority_of(folder: Path, golds: dict[str, Any], share: float = 0.0) -> Majority | None:
    write_labels(folder, [label_row(row_id, "0", gold) for row_id, gold in golds.items()])
    return majority_label(Store(str(folder)), share, Arithmetic())


@pytest.mark.parametrize(
    ("golds", "expected"),
    [
        # The value 3 has three spellings, and the text `2 + 2` occurs twice.
        (["2 + 2", "4 - 1", "2 + 2", "1 + 2", "3"], Majority("1 + 2", 3, 5, "gold")),
        (["7", "5", "7", "5", "6"], Majority("5", 2, 5, "gold")),  # a tie: the first key
        ([None, None], Majority("0", 2, 2, "teacher")),
    ],
)
def test_the_majority_counts_values(tmp_path: Path, golds: list[str | None], expected: Majority) -> None:
    assert majority_of(tmp_path, {f"r{i}": gold for i, gold in enumerate(golds)}) == expected


def test_the_majority_is_of_training_rows(tmp_path: Path) -> None:
    ids = [f"r{i}" for i in range(200)]
    validation = [i for i in ids if is_validation(i, 0.5)]
    # 9 is the most frequent label of all rows, and stands in validation rows.
    golds = {**dict.fromkeys(validation, "9"), **dict.fromkeys([i for i in ids if i not in validation][:6], "4")}
    assert majority_of(tmp_path, {**golds}, share=0.5) == Majority("4", 6, 6, "gold")
    every, nothing = (majority_label(Store(str(tmp_path)), share, Arithmetic()) for share in (0.0, 1.0))
    assert (every.label, nothing) == ("9", None)
