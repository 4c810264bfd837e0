from collections.abc import Mapping
from typing import Any

import pytest

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example

TASK = load_task(task_spec("nli"))
EXAMPLE = Example("n", "premise: P. hypothesis: H.", None)
ROW = {"id": "n", "premise": "A man\nsleeps.", "hypothesis": " A man runs. "}


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        ("entailment", "entailment"),
        ("Neutral", "neutral"),
        (0, "entailment"),
        (1, "neutral"),
        (2, "contradiction"),
        ("2", "contradiction"),
        ("e", "entailment"),
        ("c", "contradiction"),
        (None, None),
    ],
)
def test_read(gold: Any, label: str | None) -> None:
    example = TASK.read({**ROW, "gold": gold})
    assert example == Example("n", "premise: A man sleeps. hypothesis: A man runs.", label)


@pytest.mark.parametrize(
    "row",
    [
        {"gold": -1},
        {"gold": 3},
        {"gold": "-"},
        {"gold": "not entailment"},
        {"gold": True},
        {"premise": None},
        {"hypothesis": " "},
        {"premise": ["A man sleeps."]},
        {"premise": "a\x00b"},
        {"hypothesis": "x" * 100_001},
    ],
    ids=lambda row: str(row)[:30],
)
def test_bad_rows(row: Mapping[str, Any]) -> None:
    with pytest.raises(BadRowError):
        TASK.read({**ROW, **row})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. The answer is neutral.", "neutral"),
        ("A. The answer is (entailment).", "entailment"),
        ("A. So the answer is **Contradiction**.\n\nQ: premise", "contradiction"),
        ("A. **Answer:** it contradicts the premise", "contradiction"),
        ("A. The answer is that the hypothesis is entailed by the premise.", "entailment"),
        ("A. The answer is neutral, not entailment.", "neutral"),
        ("A. The answer is it is not possible to tell.", "neutral"),
        ("A. The answer is no.", "contradiction"),
        ("A. The answer is \\boxed{neutral}", "neutral"),
        ("neutral", "neutral"),
        ("Entailment.", "entailment"),
    ],
)
def test_parse(text: str, label: str) -> None:
    answer = TASK.parse(text, EXAMPLE)
    assert answer.label == label
    assert answer.rationale in ("A.", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is hard to say.",
        "Entailment would need more.",
        "The answer is entailment or neutral.",
        "The answer is perhaps not a contradiction.",
        "The answer is neutrality.",
        "entailment " * 100_000,
        "The answer is " + "e" * 1_000_000,
        "\x00",
    ],
    ids=lambda text: text[:40],
)
def test_unparsable(text: str) -> None:
    with pytest.raises(UnparsableError) as error:
        TASK.parse(text, EXAMPLE)
    assert len(str(error.value)) < 200


def test_labels_shots_and_rendering_agree() -> None:
    assert TASK.labels is not None
    assert sorted(TASK.parse(shot.answer, EXAMPLE).label for shot in TASK.shots) == sorted(TASK.labels)
    for label in TASK.labels:
        assert TASK.parse(TASK.render(Answer(label, "Because.")), EXAMPLE) == Answer(label, "Because.")
        assert TASK.same(label, label, EXAMPLE)
    assert not TASK.same("gibberish", "neutral", EXAMPLE)
