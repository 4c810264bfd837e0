import pytest

from pipelines.tasks import Answer, Example, load_task, task_spec
from pipelines.tasks.parsing.giveaways import informative_words

HURRY = Example(
    "q", "What do children in a hurry do?\n(a) sleep\n(b) run\n(c) rush around", None, ("sleep", "run", "rush around")
)
BUM = Example("q", "Where does the bum live?\n(a) bridge\n(b) bank", None, ("bridge", "bank"))
SUMS = Example("q", "Faye has 7 rows with 30 crayons.", None)
NLI = Example("q", "premise: Two children eat apples. hypothesis: Children eat fruit.", None)
MAIL = Example("q", "Where is my parcel?", None)
OPTIONS = {"classification": {"labels": ["refund", "delivery"]}}


@pytest.mark.parametrize(
    ("task", "example", "label", "rationale", "given_away"),
    [
        ("multiple-choice", HURRY, "run", "", True),
        ("multiple-choice", HURRY, "run", "The answer must be something that children do when they are in a hurry. Of the above choices, "
         "only run and rush around are things that children do when they are in a hurry.", True),
        ("multiple-choice", HURRY, "run", "Running makes the most sense for hurried children.", True),
        ("multiple-choice", HURRY, "run", "Running is the fastest way to move.", False),
        ("multiple-choice", BUM, "bridge", "The answer must be a place where a bum would live. Only bridges make sense.", True),
        ("arithmetic", SUMS, "30", "Faye has 30 crayons.", True),
        ("arithmetic", SUMS, "30", "Faye has thirty crayons.", True),
        ("arithmetic", SUMS, "7 * 30", "Faye has 210 crayons.", True),
        ("arithmetic", SUMS, "30", "Faye has 7 rows.", False),
        ("arithmetic", SUMS, "7 * 30", "7 * 30 = 210.", False),
        ("arithmetic", SUMS, "30 + 30", "30 crayons and 30 pencils.", False),
        ("arithmetic", SUMS, "60 - 30", "30 is what is left.", True),
        ("grade-school-math", SUMS, "1234", "Faye has $1,234.00.", True),
        ("grade-school-math", SUMS, "1", "1 crayon / 1 pencil.", False),
        ("grade-school-math", SUMS, "1", "\\(1 \\div 1\\) is it.", False),
        ("nli", NLI, "entailment", "The premise entails the hypothesis.", True),
        ("nli", NLI, "entailment", "It is neither neutral nor a contradiction.", True),
        ("nli", NLI, "entailment", "Apples are fruit, so who eats apples eats fruit.", False),
        ("classification", MAIL, "delivery", "The text is about delivery, not about a refund.", True),
        ("classification", MAIL, "delivery", "The customer asks where something is: parcel.", False),
    ],
)  # fmt: skip
def test_rationale_without_a_reason_gives_its_label_away(
    task: str, example: Example, label: str, rationale: str, given_away: bool
) -> None:
    found = load_task(task_spec(task, dict(OPTIONS.get(task, {})))).gives_away(Answer(label, rationale), example)
    assert found == given_away


def test_words_are_compared_without_endings() -> None:
    assert informative_words("Getting the mathematical places, angrily.", "get math place angry") == set()
    assert informative_words("He sat in a car with two cats", "carpet catalogue") == {"sat", "car", "two", "cat"}
