from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from tests.support.recorded_teachers import score_teacher

TASK = load_task(task_spec("grade-school-math"))
EXAMPLE = Example("g", "How many?", None)


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        ("72", "72"),
        (72, "72"),
        (0.5, "0.5"),
        ("1,234.50", "1234.5"),
        ("-3", "-3"),
        ("48 + 24 = <<48+24=72>>72 clips.\n#### 72", "72"),
        (None, None),
    ],
)
def test_read(gold: Any, label: str | None) -> None:
    assert TASK.read({"id": "g", "question": "How many?", "gold": gold}) == Example("g", "How many?", label)


@pytest.mark.parametrize(
    "row",
    [{"gold": "many"}, {"gold": True}, {"gold": "9" * 10_000}, {"question": None}, {"question": ""}],
    ids=lambda row: str(row)[:30],
)
def test_bad_rows(row: Mapping[str, Any]) -> None:
    with pytest.raises(BadRowError):
        TASK.read({"id": "g", "question": "How many?", **row})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. The answer is 72.", "72"),
        ("A.\n#### 72", "72"),
        ("A. Therefore, the answer is \\(\\boxed{72}\\).", "72"),
        ("A. So we get \\[\\boxed{72 \\text{ clips}}\\]", "72"),
        ("A. The answer is $1,234.50.", "1234.5"),
        ("A. The answer is 72 clips in 2 months.", "72"),
        ("A. The answer is 48 + 24 = 72.", "72"),
        ("A. The answer is (48 + 24).", "72"),
        ("A. The answer is 25%.", "25"),
        ("A. The answer is \\frac{1}{2}.", "0.5"),
        ("A. The answer is 72.00", "72"),
        ("A. The answer is -3 degrees.", "-3"),
        ("A. **Answer: 72**\n\nQ: Next? The answer is 5.", "72"),
        ("72", "72"),
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
        "Peter has 72 apples.",
        "The answer is <number>.",
        "The answer is 77 bolts and 45 nuts.",
        "The answer is 2 or 3.",
        "The answer is 1 / 0.",
        "The answer is " + "9" * 25 + " * " + "9" * 25,  # longer than the numbers that are read
        "The answer is ٣.",
        "The answer is \\boxed{43",
        "The answer is " + "9" * 1_000_000,
        "The answer is " + "-" * 1_000_000,
        "\x00",
    ],
    ids=lambda text: text[:40],
)
def test_unparsable(text: str) -> None:
    with pytest.raises(UnparsableError) as error:
        TASK.parse(text, EXAMPLE)
    assert len(str(error.value)) < 200


def test_scores_compare_numbers() -> None:
    assert TASK.same("72.0", "72", EXAMPLE)
    assert not TASK.same("7", "72", EXAMPLE)
    assert not TASK.same("", "72", EXAMPLE)
    assert TASK.value("0.5") == "0.5"


def test_what_shots_and_renderings_say_is_read() -> None:
    for shot in TASK.shots:
        assert shot.answer.endswith(f"The answer is {TASK.parse(shot.answer, EXAMPLE).label}.")
    assert TASK.parse(TASK.render(Answer("3.5", "Because.")), EXAMPLE) == Answer("3.5", "Because.")


def test_a_real_teacher(test_data: Path) -> None:
    score = score_teacher(TASK, test_data / "gsm8k", "qwen2.5-coder-1.5b")
    assert score.examples == 7473
    assert score.right >= 0.5 * score.examples
