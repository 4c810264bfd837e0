import pytest

from pipelines.tasks import Example, load_task, task_spec
from pipelines.tasks.parsing.conclusions import last_sentence, names

BASKET = Example("a", "Where does Anne keep her apples?", "in a basket", ("in a basket", "river", "keep quiet"))


@pytest.mark.parametrize(
    ("task", "rationale", "label", "leads", "states"),
    [
        ("arithmetic", "4 - 2 - 1 = 1.", "4 - 2 - 1", True, True), ("arithmetic", "4 - 2 = 2. 2 - 1 = 1", "4 - 2 - 1", True, True),
        ("arithmetic", "4 - 2 = 2.", "4 - 2 - 1", False, False), ("arithmetic", "4 - 2 - 1 = 1. But 2 + 3 = 5.", "4 - 2 - 1", False, True),
        ("arithmetic", "She has 4 apples left.", "4", False, False),  # nothing is computed; 4 is of the input
        ("arithmetic", "37 - 18 = 21.", "37 - 18", True, True),  # a slip; the expression is the label
        ("arithmetic", "2 buckets * 5 apples each = 10 apples (for 3 days)", "2 * 5", True, True),
        ("arithmetic", "She pays $1,000 \\div 4 = $250.", "1000 / 4", True, True),
        ("arithmetic", "That is 3 + (2 * 4) = 3 + 8 = 11.", "3 + 2 * 4", True, True),
        ("arithmetic", "There are (5 * 40 = 200) seats.", "5 * 40", True, True), ("arithmetic", "", "3", False, False),
        ("arithmetic", "She is left with 1 apple.", "4 - 3", False, True), ("arithmetic", "She gives 3 away.", "3", False, False),
        ("arithmetic", "1 + 2 = 3, then 4 - 3.", "3", False, True),
        ("grade-school-math", "48 / 2 = <<48/2=24>>24. So 48 + 24 = <<48+24=72>>72 apples.", "72", True, True),
        ("grade-school-math", "37 - 18 = 21.", "21", True, True), ("grade-school-math", "48 / 2 = <<48/2=24>>24.", "72", False, False),
        ("multiple-choice", "A river is wet. Of the above choices, only a basket holds apples.", "in a basket", True, True),
        ("multiple-choice", "A basket holds apples. Nothing else does.", "in a basket", False, True),
        ("multiple-choice", "Only baskets hold apples.", "in a basket", True, True), ("multiple-choice", "", "in a basket", False, False),
        ("multiple-choice", "Apples are basketball-sized.", "in a basket", False, False),
        ("nli", "It need not be so.", "neutral", None, False),  # shared labels need no conclusion
        ("nli", "It is neutral. It need not be so.", "neutral", None, True),
    ],
)  # fmt: skip
def test_a_rationale_leads_to_or_states_its_label(
    task: str, rationale: str, label: str, leads: bool | None, states: bool
) -> None:
    example = BASKET if task == "multiple-choice" else Example("a", "Anne has 4 apples and gives Peter 3.", None)
    reader = load_task(task_spec(task))
    assert (reader.leads_to(rationale, label, example), reader.states(rationale, label, example)) == (leads, states)


def test_last_sentence_and_named_words_are_found() -> None:
    assert last_sentence("One. Two!\n\nThree? \n") == "Three"
    assert names("He bought 3 red apples", "3 red apples")
    assert not names("He bought 4 red apples", "3 red apples")  # numbers have no inflection
    assert not names("to and fro", "up to")
