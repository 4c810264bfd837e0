from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import Store
from pipelines.config import CorpusConfig
from pipelines.corpus import is_validation
from pipelines.errors import UserError
from pipelines.evaluate.overlap import overlap_part, seen_in_training
from pipelines.tasks import Example
from tests.pipelines.evaluate.made import label_row, write_labels


def labelled(tmp_path: Path, inputs: dict[str, str]) -> Store:
    rows: list[dict[str, Any]] = [{**label_row(i, "1"), "input": text} for i, text in inputs.items()]
    write_labels(tmp_path / "labels", rows)
    return Store(str(tmp_path / "labels"))


def test_inputs_are_compared_and_ids_are_not(tmp_path: Path) -> None:
    labels = labelled(tmp_path, {"1": "How many apples?", "2": "How many  PEARS?", "3": "other"})
    examples = [
        Example("1", "quite another", "1"),
        Example("x", "how many pears?", "2"),
        Example("y", "How many apples ?", "3"),
    ]
    corpus = CorpusConfig(train="t.jsonl", test="u.jsonl")
    assert seen_in_training(labels, corpus, examples) == ["x"]


def test_a_validation_split_is_not_what_was_trained_on(tmp_path: Path) -> None:
    texts = {f"r{i}": f"question {i}" for i in range(40)}
    held_out = [i for i in texts if is_validation(i, 0.3)]
    twin = next(i for i in (f"twin{n}" for n in range(40)) if not is_validation(i, 0.3))
    texts[twin] = texts[held_out[2]]
    labels = labelled(tmp_path, texts)
    examples = [Example(i, texts[i], "1") for i in held_out]
    corpus = CorpusConfig(train="t.jsonl", validation=0.3)
    assert len(held_out) > 5
    assert seen_in_training(labels, corpus, examples) == [held_out[2]]


def test_a_test_set_that_was_trained_on_is_refused() -> None:
    assert overlap_part(["a"], 2, "corpus.test") == {"count": 1, "ids": ["a"]}
    with pytest.raises(UserError, match=r"corpus.test: 2 of its 3 examples have the input of a training row: a, b"):
        overlap_part(["a", "b"], 3, "corpus.test")
