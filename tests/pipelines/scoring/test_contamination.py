from pathlib import Path

import pytest

from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.scoring import contamination
from pipelines.scoring.contamination import Contamination, chosen_on_part, seen_in_training, trained_on_part
from pipelines.storage.store import Store
from pipelines.tasks import Example
from tests.support.artifacts import label_row, write_labels

SHELF = "A shelf in the library of the old town holds books, and a boy carries of them to the table near the window"


def labelled(tmp_path: Path, inputs: dict[str, str]) -> Store:
    write_labels(tmp_path / "labels", [{**label_row(i, "1"), "input": text} for i, text in inputs.items()])
    return Store(str(tmp_path / "labels"))


def test_equal_and_similar_inputs_are_contamination(tmp_path: Path) -> None:
    training = ["How many apples?", "How many  PEARS?", "other", SHELF, SHELF.replace("boy", "girl")]
    labels = labelled(tmp_path, {str(i): text for i, text in enumerate(training, start=1)})
    examples = [
        Example("1", "quite another", "1"),  # only the id is equal
        Example("near", SHELF.replace("window", "door"), "1"),
        Example("2", "how many pears?", "2"),
        Example("y", "How many apples ?", "3"),  # other words: `apples ?` has two
        Example("same", SHELF.upper(), "4"),  # also near to row 5
        Example("far", " ".join(reversed(SHELF.split())), "5"),
        Example("twin", SHELF.replace("window", "wall"), "1"),
    ]
    found = seen_in_training(labels, 0.0, examples)
    assert found == Contamination(same_id=("1", "2"), same_input=("2", "same"), near=("near", "y", "twin"))
    expected = {"count": 5, "ids": ["2", "same", "near", "y", "twin"], "by": {"id": 2, "input": 2, "near": 3}}
    assert trained_on_part(found, 7, "corpus.test").model_dump() == expected
    assert trained_on_part(Contamination((), ("a",), ("b",)), 2, "corpus.test").count == 2
    with pytest.raises(UserError, match=r"corpus.test: 2 of its 3 examples have the input of a training row: a, b"):
        trained_on_part(Contamination((), ("a", "b"), ()), 3, "corpus.test")


def test_the_early_check_compares_inputs_only() -> None:
    rows = [("r1", "How many  PEARS?"), ("2", SHELF)]
    examples = [Example("2", SHELF.replace("boy", "girl"), "1"), Example("b", "how many pears?", "2")]
    assert contamination.shared_with(rows, examples, with_near=False) == Contamination(("2",), ("b",), ())


def test_a_validation_split_is_not_training(tmp_path: Path) -> None:
    texts = {f"r{i}": f"question {i}" for i in range(40)}
    held_out = [i for i in texts if is_validation(i, 0.3)]
    twin = next(i for i in (f"twin{n}" for n in range(40)) if not is_validation(i, 0.3))
    texts[twin] = texts[held_out[2]]
    labels = labelled(tmp_path, texts)
    assert len(held_out) > 5
    examples = [Example(i, texts[i], "1") for i in held_out]
    assert seen_in_training(labels, 0.3, examples) == Contamination((), (held_out[2],), ())
    # Beside a test set too, the split is not trained on.
    test = [Example("x", texts[held_out[0]], "1"), Example("y", texts[twin], "1")]
    assert seen_in_training(labels, 0.3, test) == Contamination((), ("y",), ())
    assert seen_in_training(labels, 0.0, test) == Contamination((), ("x", "y"), ()), "without a split, all rows are"


def test_validation_examples_are_compared_the_same_way() -> None:
    validation = [Example("v1", SHELF, None), Example("v2", "How many pears?", "1"), Example("v3", "other", "1")]
    inputs = {"v3": "another", "same": "how many  pears?", "near": SHELF.replace("window", "door")}
    examples = [Example(name, text, "1") for name, text in inputs.items()]
    expected = {"count": 2, "ids": ["same", "near"], "by": {"id": 1, "input": 1, "near": 1}}
    assert chosen_on_part(validation, examples, "corpus.test").model_dump() == expected
    with pytest.raises(UserError, match=r"corpus.test: 1 of its 1 examples have the input of a validation .*chosen"):
        chosen_on_part(validation, examples[1:2], "corpus.test")
