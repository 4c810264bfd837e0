import pytest

from pipelines.tasks import Example, load_task, task_spec
from pipelines.tasks.parsing.conclusions import last_sentence, names

BASKET = Example("a", "Where does Anne keep her apples?", "in a basket", ("in a basket", "river", "keep quiet"))


@pytest.mark.parametrize(
    ("rationale", "label", "leads"),
    [
        ("4 - 2 - 1 = 1.", "4 - 2 - 1", True),
        ("4 - 2 = 2. 2 - 1 = 1", "4 - 2 - 1", True),
        ("4 - 2 = 2.", "4 - 2 - 1", False),
        ("4 - 2 - 1 = 1. But 2 + 3 = 5.", "4 - 2 - 1", False),
        ("She has 4 apples left.", "4", False),  # nothing is computed
        ("37 - 18 = 21.", "37 - 18", True),  # a slip; the expression is the label
        ("2 buckets * 5 apples each = 10 apples (for 3 days)", "2 * 5", True),
        ("She pays $1,000 \\div 4 = $250.", "1000 / 4", True),
        ("That is 3 + (2 * 4) = 3 + 8 = 11.", "3 + 2 * 4", True),
        ("There are (5 * 40 = 200) seats.", "5 * 40", True),
        ("", "3", False),
    ],
)
def test_last_arithmetic_computation_leads_to_the_label(rationale: str, label: str, leads: bool) -> None:
    assert load_task(task_spec("arithmetic")).leads_to(rationale, label, Example("a", "?", None)) is leads


def test_stated_result_leads_to_a_number() -> None:
    task, example = load_task(task_spec("grade-school-math")), Example("a", "?", None)
    assert task.leads_to("48 / 2 = <<48/2=24>>24. So 48 + 24 = <<48+24=72>>72 apples.", "72", example)
    assert task.leads_to("37 - 18 = 21.", "21", example)
    assert not task.leads_to("48 / 2 = <<48/2=24>>24.", "72", example)


def test_numbers_of_the_input_do_not_state_the_label() -> None:
    task = load_task(task_spec("arithmetic"))
    example = Example("a", "Anne has 4 apples and gives Peter 3.", "4 - 3")
    assert task.states("She is left with 1 apple.", "4 - 3", example)
    assert not task.states("She gives 3 away.", "3", example)
    assert task.states("1 + 2 = 3, then 4 - 3.", "3", example)


@pytest.mark.parametrize(
    ("rationale", "leads", "states"),
    [
        ("A river is wet. Of the above choices, only a basket holds apples.", True, True),
        ("A basket holds apples. Nothing else does.", False, True), ("Only baskets hold apples.", True, True),
        ("Apples are basketball-sized.", False, False), ("", False, False),
    ],
)  # fmt: skip
def test_last_sentence_leads_to_a_choice(rationale: str, leads: bool, states: bool) -> None:
    task = load_task(task_spec("multiple-choice"))
    assert task.leads_to(rationale, "in a basket", BASKET) is leads
    assert task.states(rationale, "in a basket", BASKET) is states


def test_shared_labels_need_no_conclusion() -> None:
    task, example = load_task(task_spec("nli")), Example("a", "premise: ... hypothesis: ...", "neutral")
    assert task.leads_to("It need not be so.", "neutral", example) is None
    assert task.states("It is neutral. It need not be so.", "neutral", example)
    assert not task.states("It need not be so.", "neutral", example)


def test_last_sentence_and_named_words_are_found() -> None:
    assert last_sentence("One. Two!\n\nThree? \n") == "Three"
    assert names("He bought 3 red apples", "3 red apples")
    assert not names("He bought 4 red apples", "3 red apples")  # numbers have no inflection
    assert not names("to and fro", "up to")
