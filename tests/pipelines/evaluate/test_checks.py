from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.evaluate.checks import check_apart
from tests.support.artifacts import make_run, write_corpus, write_labels


def run_of(folder: Path, shared: int, of: int = 5, **corpus: Any) -> RunConfig:
    """A run with `of` held-out examples, `shared` of them training rows in another spelling."""
    rows = [{"id": f"t{i}", "input": f"Question {i}", "label": "3"} for i in range(9)]
    write_corpus(folder / "train.jsonl", [*rows, {"id": "bad", "input": "Question 90", "label": "?"}])
    held = [{"id": f"h{i}", "input": f"question  {i if i < shared else 90 + i}", "label": "3"} for i in range(of)]
    write_corpus(folder / "test.jsonl", held)
    files = {"train": str(folder / "train.jsonl"), "validation": 0.0, "test": str(folder / "test.jsonl")}
    return make_run(folder, corpus={**files, **corpus})


def test_a_test_set_of_training_rows_is_refused(tmp_path: Path) -> None:
    check_apart(run_of(tmp_path, shared=2))
    rule = r"corpus\.test: 3 of its 5 examples have the input of a training row: h0, h1, h2 .*not in corpus\.train"
    run = run_of(tmp_path, shared=3)
    with pytest.raises(UserError, match=rule):
        check_apart(run)
    write_labels(Path(run.output) / "labels", [])
    check_apart(run)  # finished labels know the training rows: filters may have removed all shared ones


def test_only_readable_rows_outside_the_validation_share_count(tmp_path: Path) -> None:
    check_apart(run_of(tmp_path, shared=0, of=1))  # `question  90` is the input of an unreadable row
    assert sum(is_validation(f"t{i}", 0.9) for i in range(3)) > 0
    check_apart(run_of(tmp_path, shared=3, validation=0.9))


def test_a_validation_file_is_checked_if_it_is_scored(tmp_path: Path) -> None:
    file = str(tmp_path / "test.jsonl")
    with pytest.raises(UserError, match=r"corpus\.validation: 4 of its 5 examples"):
        check_apart(run_of(tmp_path, shared=4, validation=file, test=None))
    check_apart(run_of(tmp_path, shared=4, validation=0.5, test=None))


def test_heldout_files_without_gold_labels_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, shared=0)
    write_corpus(tmp_path / "test.jsonl", [{"id": "h", "input": "one"}])
    with pytest.raises(UserError, match=r"corpus\.test: none of its 1 rows has a gold label"):
        check_apart(run)
