from __future__ import annotations

from pathlib import Path

from pipelines.artifacts import Store
from pipelines.config import CorpusConfig
from pipelines.corpus import is_validation
from pipelines.evaluate.baselines import majority_label, teacher_answers
from pipelines.tasks.arithmetic import Arithmetic
from tests.pipelines.evaluate.made import label_row, write_labels

TESTED = CorpusConfig(train="t.jsonl", test="h.jsonl", validation=0.0)
ids = [f"r{i}" for i in range(200)]


def labels_of(corpus: CorpusConfig, folder: Path, *wanted: str) -> dict[str, str]:
    return {name: answer.label for name, answer in teacher_answers(Store(str(folder)), corpus, wanted).items()}


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
    found = labels_of(CorpusConfig(train="t.jsonl"), tmp_path, "c", "a")
    assert found == {"a": "1 + 1", "c": "6"}


def test_no_heldout_answers(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "1 + 1"), label_row("b", "2")])
    assert labels_of(TESTED, tmp_path, "a") == {}


def test_majority_counts_by_what_the_task_scores(tmp_path: Path) -> None:
    # The value 3 occurs three times under three texts, the text `2 + 2` twice. The teacher's labels do not count.
    golds = ["2 + 2", "4 - 1", "2 + 2", "1 + 2", "3"]
    write_labels(tmp_path, [label_row(f"r{i}", "2 + 2", gold) for i, gold in enumerate(golds)])
    found = majority_label(Store(str(tmp_path)), TESTED, Arithmetic(), set())
    assert found is not None
    assert (Arithmetic().key(found.label), found.count, found.rows, found.of) == (Arithmetic().key("3"), 3, 5, "gold")


def test_majority_tie_goes_to_the_first_key(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row(f"r{i}", "0", gold) for i, gold in enumerate(["7", "5", "7", "5", "6"])])
    found = majority_label(Store(str(tmp_path)), TESTED, Arithmetic(), set())
    assert found is not None
    assert found.label == "5"


def test_majority_leaves_out_validation_and_heldout_rows(tmp_path: Path) -> None:
    corpus = CorpusConfig(train="t.jsonl", validation=0.5)
    validation = [i for i in ids if is_validation(i, 0.5)]
    training = [i for i in ids if i not in validation]
    # 9 is the most frequent label of all rows, but stands in validation rows and in one that is held out.
    golds = {**dict.fromkeys(validation, "9"), **dict.fromkeys(training[:6], "4"), **dict.fromkeys(training[6:15], "9")}
    write_labels(tmp_path, [label_row(i, "0", gold) for i, gold in golds.items()])
    found = majority_label(Store(str(tmp_path)), corpus, Arithmetic(), set(training[6:15]))
    assert found is not None
    assert (found.label, found.count, found.rows) == ("4", 6, 6)


def test_majority_of_teacher_labels_where_there_is_no_gold(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "5"), label_row("b", "5"), label_row("c", "6")])
    found = majority_label(Store(str(tmp_path)), TESTED, Arithmetic(), set())
    assert found is not None
    assert (found.label, found.of) == ("5", "teacher")


def test_no_majority_without_training_rows(tmp_path: Path) -> None:
    write_labels(tmp_path, [label_row("a", "5"), label_row("b", "5")])
    assert majority_label(Store(str(tmp_path)), TESTED, Arithmetic(), {"a", "b"}) is None
