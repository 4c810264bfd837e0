"""Numbers as teachers write them: read right, or refused."""

import pytest

from pipelines.errors import UnparsableError
from pipelines.tasks import Example, load_task, task_spec
from pipelines.tasks.parsing.quantities import read_quantity
from tests.support.parsed import parsed

MATH, ARITHMETIC = load_task(task_spec("grade-school-math")), load_task(task_spec("arithmetic"))
EXAMPLE = Example("a", "How much?", None)


@pytest.mark.parametrize(
    ("stated", "value"),
    [
        ("$1,234.50 per year", "1234.5"), ("3 400", "3400"), ("$1.234,56", "1234.56"), ("1'234", "1234"), ("1,00,000", "100000"),
        ("1.234.567", "1234567"), ("1 million", "1000000"), ("1.5 million dollars", "1500000"), ("$5 billion", "5000000000"),
        ("12k", "12000"), ("12e3", "12000"), ("10^3", "1000"), ("10²", "100"), ("1.2 \\times 10^4", "12000"), ("2 1/2 cups", "2.5"),
        ("2½", "2.5"), ("5 m²", "5"), ("-5", "-5"), ("negative 5", "-5"), ("<1200>", "1200"), ("24 (12 + 12)", "24"),
        ("\\boxed{10}\\) meters after the 3rd turn", "10"), ("6 miles on the 13th day to finish", "6"), ("9 a.m", "9"),
        ("24 since 48/2 = 24", "24"), ("a total of 24", "24"), ("7 + 5 = 12 apples", "12"), ("about 36", "36"), ("5 (five)", "5"),
        ("6 weeks to drink 12 cups", "6"), ("x = 5", "5"), ("$2\\frac{1}{2}$ hours", "2.5"), ("25 ft^2", "25"), ("4! = 24", "24"),
    ],
)  # fmt: skip
def test_forms_of_numbers_are_read(stated: str, value: str) -> None:
    assert read_quantity(stated) == value


@pytest.mark.parametrize(
    "stated",
    ["4:30", "3:2", "5 feet 6 inches", "5'6\"", "7 minutes 30 seconds", "$24 and 50 cents", "12,5", "3 and a half", "2 dozen", "5-6",
     "5 to 6", "between 5 and 6", "5 or 6", "88, 44", "5 out of 20", "half of 12", "twice 6", "less than 5", "4h + 2", "10x + 120",
     "the cost after 3 days", "the savings during 2 years", "3 players and 12 cheerleaders", "3 boxes with 4 pens", "5M", "5 mil", "3rd",
     "9^99", "x^2", "50 more than last year", "5 apples per 2 days", "five", "<number>", "x", "3 million 400 thousand",
     ">5", "up to 5", "5+", "5 ± 1", "Room 12", "June 5", "10 times 5", "17 dollars and 3 cents",
     "10 (or 12 with Anne)", "2π", "84 divided by 2", "$50 in week 1 and $60 in week 2"],
)  # fmt: skip
def test_forms_with_two_meanings_are_refused(stated: str) -> None:
    with pytest.raises(UnparsableError):
        read_quantity(stated)


def test_the_question_decides_what_a_unit_means() -> None:
    assert read_quantity("2 dozen", "How many dozen eggs has she?") == "2"
    assert read_quantity("5 more than Anne", "How many more has Peter?") == "5"
    assert read_quantity("50 cents", "How many cents is that?") == "50"
    with pytest.raises(UnparsableError, match="states cents"):
        read_quantity("50 cents", "How many dollars are ten times 5 cents?")
    with pytest.raises(UnparsableError, match="the question asks for millions"):
        read_quantity("3 million", "How many million people live there?")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The bill is $36.", "36"), ("It is late. Therefore, the bill is <1200>.", "1200"), ("**Final Answer**\n24", "24"),
        ("A.\n\n### Answer\n\n24 apples", "24"), ("A.\n<answer>\n24\n</answer>", "24"), ("So she has 5.\n\n**5**", "5"),
        ("4 + 4 = 8. So she has 8 apples. I hope this helps!", "8"), ("$48+24=72$\n\nSo Anne sold **72** in all.", "72"),
        ("The cost after 5 weeks will be $100,000.", "100000"), ("The answer would be 24.", "24"), ("Ans: 24", "24"),
        ("The answer is 15. Let me double-check: 7 + 8 = 15. The answer is 15.", "15"),
        ("The tree is 48 inches tall when the boy is 36 inches tall.", "48"), ("She has 3 boxes with 4 pens each.", None),
        ("5 * 3 = 15.\nNext, we multiply by 2.", None), ("We divide both sides:\n\\[ V = 117.", None), ("A.\n\n5.", None),
        ("The answer is 12. Wait, that is wrong. The answer is 15.", None), ("Step 2:\n- The dinner cost $36.", None),
        ("In 2 years, he pays.", None), ("Half of the 30 boys left.", None),
        ("4 + 4 = 8.\n\nSo she has **8** apples. 🍎", "8"), ("To answer: take 4 from 10. The answer = 6", "6"),
        ("So the answer is 10? No, 2 are gone. The answer is 12.", "12"), ("There is not enough information. Anne has 3 boxes.", None),
        ("The hotel made a loss of $25.", "25"),
    ],
)  # fmt: skip
def test_conclusions_are_read_and_steps_are_not(text: str, label: str | None) -> None:
    assert getattr(parsed(MATH, text, EXAMPLE), "label", None) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is 3 400.", "3400"), ("The answer is $1.234,56.", "1234.56"), ("The answer is 1 million.", "1000000"),
        ("Jake has 16 - 7 = 9 pears.", "16 - 7"), ("**Final Answer**\n(24 - 3)", "24 - 3"), ("The answer is 4:30.", None),
        ("The answer is (20 / 4) for 3 boxes.", "20 / 4"), ("The answer is 10^3.", None), ("The answer is 5 feet 6 inches.", None),
        ("The answer is 12,5.", None), ("The answer is 3 apples and 4 pears.", None),
        *((f"The answer is {stated}.", None) for stated in (
            "(some - 18)", "(54 - (some - 28))", "(apples + 5)", "5 + some", "half of 84", "twenty-four (24)", "84 divided by 2",
            "10 - 4 = 6 and 6 - 2 = 4", "10 - 4 = 6, 6 - 2 = 4", "8 + 4 = 12 + 3 = 15")),
        ("The answer is negative 5.", "-5"), ("The answer is 12 apples/box × 3 boxes = 36 apples.", "12 * 3"),
        ("The answer is 700 (girls) + 142 (boys).", "700 + 142"), ("The answer is 12 t-shirts.", "12"),
        ("The answer is 84 / 2 = 42 apples in each of the 2 boxes.", "84 / 2"),
    ],
)  # fmt: skip
def test_arithmetic_shares_these_rules(text: str, label: str | None) -> None:
    assert getattr(parsed(ARITHMETIC, text, EXAMPLE), "label", None) == label
