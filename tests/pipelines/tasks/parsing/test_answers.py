import pytest

from pipelines.errors import UnparsableError
from pipelines.tasks.parsing.answers import Statement, first_answer, read_answer


def _word(statement: Statement) -> str:
    if statement.bare:
        raise UnparsableError("no statement")
    return statement.stated


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("4 - 1 = 3. The answer is 3.\n\nQ: There are 15 trees.\nA: 5", "4 - 1 = 3. The answer is 3."),
        ("The answer is 3. Q: There are", "The answer is 3."), ("The answer is 3.\r\n\r\nQuestion 2: There", "The answer is 3."),
        ("The answer is 3.<|im_end|>\n<|im_start|>user", "The answer is 3."),
        ("Q: again? The answer is 3.", "Q: again? The answer is 3."), ("The answer is \\(\\boxed{43", "The answer is \\("),
    ],
)  # fmt: skip
def test_text_after_the_answer_is_cut(text: str, rest: str) -> None:
    assert first_answer(text) == rest


@pytest.mark.parametrize(
    ("text", "stated", "rationale"),
    [
        ("4 - 1 = 3. The answer is 3.", "3", "4 - 1 = 3."), ("4 - 1 = 3, so the answer is 3.", "3", "4 - 1 = 3"),
        ("It must be c. Of these, the closest answer is c. So the answer is c.", "c", "It must be c."),
        ("Since 4 - 1 = 3, the answer is 3.", "3", "Since 4 - 1 = 3"), ("It is 3.\n\n**Answer:** 3", "3", "It is 3."),
        ("The final answer is: 3.5 m", "3.5 m", ""), ("The answer to the question is 3.", "3", ""),
        ("It is 3.\n#### 3", "3", "It is 3."), ("Hence we get \\[ \\boxed{3} \\]", "3", "Hence we get"),
        ("The answer is not 4. The answer is 3.", "3", "The answer is not 4."),
        ("The answer is 3. There are 5 more. The answer is 8.", "3", ""),
        ("The answer must be small. The answer is 3", "3", "The answer must be small."),
    ],
)  # fmt: skip
def test_statement_and_rationale_are_found(text: str, stated: str, rationale: str) -> None:
    assert read_answer(text, _word) == (stated, rationale)


def test_a_box_or_a_negation_may_be_the_statement() -> None:
    def number(statement: Statement) -> str:
        if "3" not in statement.stated:
            raise UnparsableError(statement.stated)
        return statement.stated

    assert read_answer("We get \\boxed{3}. The answer is (", number)[0] == "3"
    with pytest.raises(UnparsableError, match="twelve"):
        read_answer("We get \\boxed{4}. The answer is twelve.", number)
    for text in ("", " \n ", "I do not know.", "Let us\nthink.", "Q: 1 + 1?"):
        with pytest.raises(UnparsableError):
            read_answer(text, _word)
    assert read_answer("The answer is not spam.", _word, negations=True) == ("not spam", "")


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("It is late. So they left early.", "they left early"),
        ("It is late, therefore they left.", "they left"),
        ("It is late. So they left early", None),
        ("So it is late. They left.", None),
        ("It is late.\nThus, they left: all.", None),  # `all` is a separate sentence
    ],
)
def test_conclusion_is_a_statement_if_requested(text: str, stated: str | None) -> None:
    def concluding(statement: Statement) -> str:
        if not statement.concluding:
            raise UnparsableError("no")
        return statement.stated

    if stated is None:
        with pytest.raises(UnparsableError):
            read_answer(text, concluding, conclusions=True)
    else:
        assert read_answer(text, concluding, conclusions=True) == (stated, text)
    with pytest.raises(UnparsableError):
        read_answer(text, concluding)
