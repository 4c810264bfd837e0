from typing import Any

import pytest

from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from tests.support.parsed import parsed

TASK = load_task(task_spec("nli"))
EXAMPLE = Example("n", "premise: P. hypothesis: H.", None)
ROW = {"id": "n", "premise": "A man\nsleeps.", "hypothesis": " A man runs. "}


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        ("entailment", "entailment"), ("Neutral", "neutral"), (0, "entailment"), (1, "neutral"), (2, "contradiction"),
        ("2", "contradiction"), (1.0, "neutral"), ("1.0", "neutral"), ("e", "entailment"), ("c", "contradiction"),
    ],
)  # fmt: skip
def test_gold_labels_have_several_codings(gold: Any, label: str) -> None:
    example = TASK.read({**ROW, "gold": gold})
    assert example == Example("n", "premise: A man sleeps. hypothesis: A man runs.", label)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. The answer is neutral.", "neutral"), ("A. The answer is (entailment).", "entailment"),
        ("A. So the answer is **Contradiction**.\n\nQ: premise", "contradiction"),
        ("A. **Answer:** it contradicts the premise", "contradiction"),
        ("A. The answer is that the hypothesis is entailed by the premise.", "entailment"),
        ("A. The answer is neutral, not entailment.", "neutral"), ("A. The answer is it is not possible to tell.", "neutral"),
        ("A. The answer is no.", "contradiction"), ("A. The answer is \\boxed{neutral}", "neutral"), ("neutral", "neutral"),
        ("Entailment.", "entailment"),
        *((text, None) for text in (
            "Entailment would need more.", "The answer is entailment or neutral.", "The answer is perhaps not a contradiction.",
            "The answer is that it isn't contradicted.", "The answer is non-contradiction.", "The answer is not clearly entailed.",
            "The answer is neutrality.", "The answer is neutral. Wait, the answer is entailment.", "entailment " * 100_000)),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_one_label_and_its_rationale_are_read(text: str, label: str | None) -> None:
    answer = parsed(TASK, text, EXAMPLE) or Answer(None, "")
    assert (answer.label, answer.rationale in ("A.", "")) == (label, True)
