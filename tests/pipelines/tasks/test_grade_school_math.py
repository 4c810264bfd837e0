from typing import Any

import pytest

from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from tests.support.parsed import parsed

TASK = load_task(task_spec("grade-school-math"))
EXAMPLE = Example("g", "How many?", None)


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        ("72", "72"), (72, "72"), (0.5, "0.5"), ("1,234.50", "1234.5"), ("-3", "-3"),
        ("48 + 24 = <<48+24=72>>72 clips.\n#### 72", "72"),
    ],
)  # fmt: skip
def test_gold_labels_are_numbers(gold: Any, label: str) -> None:
    assert TASK.read({"id": "g", "question": "How many?", "gold": gold}) == Example("g", "How many?", label)
    assert TASK.same("72.0", "72", EXAMPLE)
    assert not TASK.same("7", "72", EXAMPLE)
    assert TASK.value(label) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. The answer is 72.", "72"), ("A.\n#### 72", "72"), ("A. Therefore, the answer is \\(\\boxed{72}\\).", "72"),
        ("A. So we get \\[\\boxed{72 \\text{ clips}}\\]", "72"), ("A. The answer is $1,234.50.", "1234.5"),
        ("A. The answer is 72 clips in 2 months.", "72"), ("A. The answer is 48 + 24 = 72.", "72"),
        ("A. The answer is (48 + 24).", "72"), ("A. The answer is 25%.", "25"), ("A. The answer is \\frac{1}{2}.", "0.5"),
        ("A. The answer is 72.00", "72"), ("A. The answer is -3 degrees.", "-3"),
        ("A. **Answer: 72**\n\nQ: Next? The answer is 5.", "72"), ("72", "72"),
        *((text, None) for text in (
            "Peter has 72 apples", "Peter has 72 apples and 3 pears.", "He eats 5. We need to divide by 3.", "The answer is <number>.",
            "The answer is 77 bolts and 45 nuts.", "The answer is 2 or 3.", "The answer is 1 / 0.", "The answer is ٣.",
            "The answer is " + "9" * 25 + " * " + "9" * 25,  # longer than any number that is read
            "The answer is \\boxed{43")),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_one_number_and_its_rationale_are_read(text: str, label: str | None) -> None:
    answer = parsed(TASK, text, EXAMPLE) or Answer(None, "")
    assert (answer.label, answer.rationale in ("A.", "")) == (label, True)
