import pytest

from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from tests.support.parsed import parsed

TASK = load_task(task_spec("arithmetic"))
EXAMPLE = Example("a", "Anne has 4 apples.", None)


@pytest.mark.parametrize(("gold", "canonical"), [("( ( 4.0 - 2.0 ) - 1.0 )", "4 - 2 - 1"), (42, "42"), (3.5, "3.5")])
def test_gold_labels_are_canonical_expressions(gold: object, canonical: str) -> None:
    read = TASK.read({"id": "a", "input": " Anne has 4 apples.\nHow many? ", "gold": gold})
    assert read == Example("a", "Anne has 4 apples.\nHow many?", canonical)


@pytest.mark.parametrize(
    ("text", "label", "rationale"),
    [
        ("Anne has 4. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).", "4 - 2 - 1", "Anne has 4. 4 - 2 - 1 = 1."),
        ("A. The answer is (84 / 2).\n\nQ: There are 120.\nA: The answer is (120 / 3).", "84 / 2", "A."),
        ("A. The answer is (84 ÷ 2).", "84 / 2", "A."), ("A. The answer is \\(84 \\div 2 = 42\\).", "84 / 2", "A."),
        ("A. The answer is \\( \\frac{84}{2} \\).", "84 / 2", "A."),
        ("A.\n\nSo, the answer is:\n\\[ \\boxed{1,234} \\]", "1234", "A."),
        ("A. Therefore, the baker has \\(\\boxed{274}\\) grams.", "274", "A."), ("A. The answer is 7 + 5 = 12.", "7 + 5", "A."),
        ("A. The answer is (7 + 5 = 12).", "7 + 5", "A."), ("A. The answer is x = 12.", "12", "A."),
        ("A. The answer is 12 = 7 + 5.", "7 + 5", "A."), ("A. The answer is 42 apples.", "42", "A."),
        ("A. The answer is 84 points / 2 rounds = 42 points.", "84 / 2", "A."), ("A. The answer is (14 * $201).", "14 * 201", "A."),
        ("A. The answer is $84.50 per week.", "84.5", "A."), ("A. The answer is (16 * 17) * 4.", "16 * 17 * 4", "A."),
        ("A. The answer is (17 + (-18)).", "17 + (-18)", "A."), ("A. The answer is **84.0**.", "84", "A."),
        ("A. The answer is .5.", "0.5", "A."), ("A. The answer is: **.5 * 3** apples.", "0.5 * 3", "A."),
        ("A. The answer is `84 / 2`.", "84 / 2", "A."), ("A. The answer is (84 / 2). B. The answer is (9 + 9).", "84 / 2", "A."),
        ("A, so the answer is unclear. The answer is 3.", "3", "A, so the answer is unclear."),
        ("```python\nprint(84 / 2)\n```\nThe answer is 42", "42", "```python\nprint(84 / 2)\n```"),
        ("A. 4 of them.\n\\[ \\boxed{3} \\] The answer is (6", "3", "A. 4 of them."),
        ("A. So he has 16 - 7 = 9 pears.", "16 - 7", "A. So he has 16 - 7 = 9 pears."),
        ("A.\n\nThus, it is $12 × 3 = $36.\n\nQ: x?", "12 * 3", "A.\n\nThus, it is $12 × 3 = $36."), ("4 - 1", "4 - 1", ""),
        ("4 - 1 = 3.", "4 - 1", ""), ("#### 12", "12", ""),
        *((text, None, None) for text in (
         "There are 4 seats.", "The tree had 7 apples to begin with.", "5 apples",
         "A. So he has 16 - 7 = 9 pears",  # truncated
         "A. So he has 16 - 7 = 8 pears.", "A. So he has 16 - 7 = 9 pears and 3 figs.", "A. So 2 + 2 = 4 = 2 * 2.",
         "A. So he has 9 pears.", "A. So he has 9 = 9 pears.", "A. So he walks. He has 16 - 7 = 9 pears.",
         "The answer is (25 + x).", "The answer is (7x = 14).", "The answer is x.", "The answer is not 4.",
         "The answer is ((28 - 13) and (28 - 15)).", "The answer is 5 apples and 3 pears.", "The answer is (175, 5).",
         "The answer is ((491 - 21", "The answer is \\(\\boxed{49", "The answer is 4 / 0.", "The answer is 2**3.",
         "1+" * 200 + "1",  # its canonical text is too long
         "The answer is five.", "The answer is ٣.")),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_one_label_and_its_rationale_are_read(text: str, label: str | None, rationale: str | None) -> None:
    found = parsed(TASK, text, EXAMPLE)
    assert found == (label and Answer(label, rationale))


def test_scores_compare_values() -> None:
    assert TASK.same("1.0", "4 - 2 - 1", EXAMPLE)
    assert TASK.same("2 * 3", "3 * 2", EXAMPLE)
    assert not TASK.same("4 - 2", "4 - 2 - 1", EXAMPLE)
    assert TASK.value("10 / 4") == "2.5"
    for shot in TASK.shots:
        label = TASK.parse(shot.answer, EXAMPLE).label
        assert f"{label} = {TASK.value(label)}." in shot.answer
