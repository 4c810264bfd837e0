import pytest

from pipelines.config import FiltersConfig
from pipelines.data.schema import REJECT_REASONS
from pipelines.label.answers.consensus import Consensus, find_consensus
from pipelines.label.answers.filters import mentions_hint, refuse
from pipelines.tasks import Answer, Example, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))
EXAMPLE = Example("a", "Anne has 4 apples and gives Peter 1.", "4 - 1")


def consensus(*answers: tuple[str, str]) -> Consensus:
    return find_consensus([Answer(label, rationale) for label, rationale in answers], TASK)  # type: ignore[return-value]


def reason(found: Consensus, example: Example = EXAMPLE, *, hinted: bool = False, **filters: object) -> str | None:
    refusal = refuse(found, example, TASK, FiltersConfig(**filters), hinted=hinted)  # type: ignore[arg-type]
    if refusal is not None:
        assert len(refusal.detail) < 200
    return refusal.reason if refusal else None


def test_filters_apply_in_the_order_of_the_schema() -> None:
    # From answer to answer one filter less applies.
    filters = {"min_agreement": 0.9, "gold": "drop-disagreeing", "min_rationale_words": 9, "drop_giveaways": True}
    nine, eight, three = ("9", "It is 9."), ("8", "It is 8."), ("3", "It is 3.")
    found = [
        reason(consensus(*answers), **filters) for answers in ([nine, eight], [nine, nine, eight], [nine], [three])
    ]
    filters["min_rationale_words"] = 0
    found += [reason(consensus(answer), **filters) for answer in (three, ("3", "4 - 1 = 3."))]
    assert found == [*REJECT_REASONS[REJECT_REASONS.index("tie") :], None]


@pytest.mark.parametrize(
    ("rationale", "least", "most", "refused"),
    [
        ("4 - 1 = 3.", 5, 5, False), ("4 - 1 = 3.", 6, None, True), ("4 - 1 = 3.", 0, 4, True), ("", 0, None, False),
        ("", 1, None, True), ("  4 -\n\n1 ", 3, 3, False),
    ],
)  # fmt: skip
def test_rationale_length_is_counted_in_words(rationale: str, least: int, most: int | None, refused: bool) -> None:
    found = reason(consensus(("3", rationale)), min_rationale_words=least, max_rationale_words=most)
    assert found == ("rationale_length" if refused else None)


@pytest.mark.parametrize("gold", ["drop-disagreeing", "rationalise"])
def test_disagreement_with_gold_is_by_value(gold: str) -> None:
    assert reason(consensus(("9", "")), gold=gold) == "disagrees_with_gold"
    assert reason(consensus(("3", "")), gold=gold) is None
    assert reason(consensus(("9", "")), gold="keep") is None
    assert reason(consensus(("9", "")), Example("a", "", None), gold=gold) is None


@pytest.mark.parametrize(
    ("rationale", "speaks"),
    [
        ("As the hint says, 4 - 1 = 3.", True),
        ("Hint: 4 - 1 = 3.", True),
        ("We know that the answer equals 3, and 4 - 1 = 3.", True),
        ("Given the correct answer, 4 - 1 = 3.", True),
        ("4 - 1 = 3, which is the given answer.", True),
        ("The answer was already given as 3, 4 - 1.", True),
        ("The answer must be a place. Given the answer choices, only a lake is wet.", False),
        ("Anne is given 4 apples. 4 - 1 = 3 gives the answer.", False),
        ("We take 3 as the final answer.", False),
    ],
)
def test_a_rationale_may_not_mention_the_hint(rationale: str, speaks: bool) -> None:
    assert mentions_hint(rationale, EXAMPLE) == speaks
    found = consensus(("3", f"{rationale} 4 - 1 = 3."))
    assert reason(found, hinted=True, drop_giveaways=True) == ("gives_label_away" if speaks else None)
    assert reason(found, hinted=True) is None
    assert reason(found, drop_giveaways=True) is None  # no hint was shown
    tea = Example("a", "The tea has a hint of lemon. How many cups does Anne drink?", "3")
    assert not mentions_hint("A hint of lemon is in 3 cups.", tea), "a phrase of the input"
