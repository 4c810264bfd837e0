from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import CorpusConfig
from pipelines.data.heldout import is_validation, validation_share
from pipelines.scoring.reference_systems import TeacherAnswer, TeacherAnswers, majority_label, teacher_answers
from pipelines.storage.store import Store
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, reject_row, write_labels

TESTED = CorpusConfig(train="t.jsonl", test="h.jsonl", validation=0.0)
SHARE = CorpusConfig(train="t.jsonl", validation=0.5)
ids = [f"r{i}" for i in range(200)]


def answers_of(corpus: CorpusConfig, folder: Path, *wanted: str) -> TeacherAnswers:
    examples = [Example(name, f"question {name}", "3") for name in wanted]
    return teacher_answers(Store(str(folder)), corpus, examples, Arithmetic())


def labels_of(corpus: CorpusConfig, folder: Path, *wanted: str) -> dict[str, str]:
    return {name: answer.label for name, answer in answers_of(corpus, folder, *wanted).by_id.items()}


def test_teacher_answers_the_test_set_from_heldout(tmp_path: Path) -> None:
    write_labels(
        tmp_path, [label_row("a", "1 + 1"), label_row("h1", "6")], [label_row("h1", "2 + 2"), label_row("h2", "9")]
    )
    # `h1` also stands among the training rows, with another answer, which must not be taken; `h3` was not answered.
    assert labels_of(TESTED, tmp_path, "h1", "h3") == {"h1": "2 + 2"}


def test_teacher_answers_a_validation_file_from_heldout(tmp_path: Path) -> None:
    # Both files number their rows: the training row `1` says nothing of the held-out one.
    write_labels(tmp_path, [label_row("1", "1 + 1"), label_row("2", "5")], [label_row("1", "7")])
    assert labels_of(CorpusConfig(train="t.jsonl", validation="v.jsonl"), tmp_path, "1", "2") == {"1": "7"}


def test_teacher_answers_validation_rows_from_the_labels(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "1 + 1"), label_row("b", "5"), label_row("c", "6")])
    assert labels_of(SHARE, tmp_path, "c", "a") == {"a": "1 + 1", "c": "6"}


def test_no_heldout_answers(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "1 + 1"), label_row("b", "2")])
    found = answers_of(TESTED, tmp_path, "a")
    assert (found, found.notes()) == (TeacherAnswers(), [])


def test_an_answer_to_another_input_is_none_to_an_example_with_the_same_id(tmp_path: Path) -> None:
    """Labels made with one test set, and an evaluation on another one that numbers its rows the same way."""
    rows = [label_row("1", "7", text="What is 3 and 4?"), label_row("2", "3"), label_row("other", "5", text="x")]
    write_labels(tmp_path, [label_row("a", "1")], rows)
    found = answers_of(TESTED, tmp_path, "1", "2", "3")
    assert (found.by_id.keys(), found.of_other_inputs) == ({"2"}, 1)
    assert found.notes() == ["1 of its answers have the id of an example and another input; they do not count"]


def test_what_a_filter_rejected_of_a_share_of_train_is_read_back(tmp_path: Path) -> None:
    rejects = [
        reject_row("wrong", "disagrees_with_gold", "She has 4 + 1. The answer is (4 + 1)."),
        reject_row("bare", "gives_label_away", "The answer is 3."),
        reject_row("long", "rationale_length", "So and so. The answer is 3."),
        reject_row("mute", "unparsable", "I do not know."),
        reject_row("cut", "truncated", "The"),
        reject_row("a", "duplicate", '{"id": "a"}'),
        reject_row("training", "disagrees_with_gold", "The answer is 9."),
    ]
    write_labels(tmp_path, [label_row("a", "3"), label_row("b", "3")], rejects=rejects)
    found = answers_of(SHARE, tmp_path, "a", "wrong", "bare", "long", "mute", "cut")
    assert {name: answer.label for name, answer in found.by_id.items()} == {
        "a": "3", "wrong": "4 + 1", "bare": "3", "long": "3",
    }  # fmt: skip
    assert found.by_id["wrong"] == TeacherAnswer("4 + 1", "She has 4 + 1.", None, None)
    assert (found.filtered, found.notes()) == (0, [])


@pytest.mark.parametrize(
    ("samples", "reason", "output"),
    [
        (5, "low_agreement", "[1] The answer is 3.\n[2] The answer is 4."),
        (2, "tie", "[1] The answer is 3.\n[2] The answer is 4."),
        (1, "near_duplicate", '{"id": "lost", "input": "The answer is 3."}'),  # it was never asked
    ],
)
def test_what_cannot_be_read_back_is_counted(tmp_path: Path, samples: int, reason: str, output: str) -> None:
    rows = [label_row("a", "3"), label_row("b", "3")]
    write_labels(tmp_path, rows, rejects=[reject_row("lost", reason, output)], samples=samples)
    found = answers_of(SHARE, tmp_path, "a", "lost")
    assert (found.by_id.keys(), found.filtered) == ({"a"}, 1)
    assert found.notes()[0].startswith("filters of the labels rejected 1 of the held-out examples")
    assert answers_of(TESTED, tmp_path, "lost") == TeacherAnswers(), "no filter holds for a file of held-out examples"


@pytest.mark.parametrize(
    ("identity", "hinted"),
    [
        ({}, True),  # labels from before: every row may have been asked again
        ({"never_rationalised": 0.3}, True),
        ({"never_rationalised": 0.5}, False),
        ({"never_rationalised": 0.6}, False),
    ],
)
def test_answers_that_knew_the_gold_label_are_none(tmp_path: Path, identity: dict[str, Any], hinted: bool) -> None:
    teacher = {"filters": {"gold": "rationalise"}}
    write_labels(
        tmp_path, [label_row("a", "3"), label_row("b", "3")], [label_row("a", "4")], teacher=teacher, **identity
    )
    found = answers_of(SHARE, tmp_path, "a")
    assert (found.hinted, bool(found.by_id), bool(found.notes())) == (hinted, not hinted, hinted)
    assert labels_of(TESTED, tmp_path, "a") == {"a": "4"}, "a held-out file is never asked again"


def test_majority_counts_by_what_the_task_scores(tmp_path: Path) -> None:
    # The value 3 occurs three times under three texts, the text `2 + 2` twice. The teacher's labels do not count.
    golds = ["2 + 2", "4 - 1", "2 + 2", "1 + 2", "3"]
    write_labels(tmp_path, [label_row(f"r{i}", "2 + 2", gold) for i, gold in enumerate(golds)])
    found = majority_label(Store(str(tmp_path)), 0.0, Arithmetic())
    assert found is not None
    assert (Arithmetic().key(found.label), found.count, found.rows, found.of) == (Arithmetic().key("3"), 3, 5, "gold")


def test_majority_tie_goes_to_the_first_key(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row(f"r{i}", "0", gold) for i, gold in enumerate(["7", "5", "7", "5", "6"])])
    found = majority_label(Store(str(tmp_path)), 0.0, Arithmetic())
    assert found is not None
    assert found.label == "5"


def test_majority_is_of_the_rows_that_are_trained_on(tmp_path: Path) -> None:
    validation = [i for i in ids if is_validation(i, 0.5)]
    training = [i for i in ids if i not in validation]
    # 9 is the most frequent label of all rows, but stands in validation rows.
    golds = {**dict.fromkeys(validation, "9"), **dict.fromkeys(training[:6], "4")}
    write_labels(tmp_path, [label_row(i, "0", gold) for i, gold in golds.items()])
    found = majority_label(Store(str(tmp_path)), 0.5, Arithmetic())
    assert found is not None
    assert (found.label, found.count, found.rows) == ("4", 6, 6)
    every = majority_label(Store(str(tmp_path)), validation_share("v.jsonl"), Arithmetic())
    assert every is not None
    assert every.label == "9", "where the validation examples are a file, all rows are trained on"


def test_majority_of_teacher_labels_where_there_is_no_gold(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "5"), label_row("b", "5"), label_row("c", "6")])
    found = majority_label(Store(str(tmp_path)), 0.0, Arithmetic())
    assert found is not None
    assert (found.label, found.of) == ("5", "teacher")


def test_no_majority_without_training_rows(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "5"), label_row("b", "5")])
    assert majority_label(Store(str(tmp_path)), 1.0, Arithmetic()) is None
