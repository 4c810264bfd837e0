import pytest

from pipelines.students.chat_prompt import KEY
from pipelines.students.decoding import Family, Student
from pipelines.students.decoding.ranking import rank_texts
from pipelines.students.decoding.tokens import encode_prompt, encode_texts
from tests.support.taught_students import student_of, target_logits

FAMILIES: list[Family] = ["encoder-decoder", "decoder-only"]
SHOTS = "Q: Tom has 9 pears.\nA: The answer is sea.\n\n"
QUESTIONS = ("How many apples has Anne?", "4 shelves")
PROMPTS = [*(f"{SHOTS}Q: {question}\nA: The answer is" for question in QUESTIONS), SHOTS, "4"]
TEXTS = [[" river.", " sea.", " the sea.", " ünïcode 河."], [" a", " b", " c", " d"], ["Q", "Qu"], [" - 2", "9"]]


def whole(student: Student, prompt: str, text: str) -> float:
    tokenizer = student.tokenizer
    if student.family == "encoder-decoder":
        before, target = tokenizer(prompt)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        both, alone = (tokenizer(some)["input_ids"] for some in (prompt + text, prompt))
        shared = len(alone) if both[: len(alone)] == alone else len(alone) - 1
        before, target = both[:shared], both[shared:]
    return likelihood(student, before, target)


def likelihood(student: Student, before: list[int], target: list[int]) -> float:
    log_probs = target_logits(student, before, target).log_softmax(-1)
    return sum(float(log_probs.detach()[step, token]) for step, token in enumerate(target))


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_equal_those_of_whole_forward_passes(family: Family) -> None:
    student = student_of(family)
    found = rank_texts(student, PROMPTS, TEXTS)
    for prompt, texts, likelihoods in zip(PROMPTS, TEXTS, found, strict=True):
        assert likelihoods == pytest.approx([whole(student, prompt, text) for text in texts], abs=1e-4)
    assert rank_texts(student, PROMPTS[:1], TEXTS[:1])[0] == pytest.approx(found[0], abs=1e-4), "alone as beside others"
    assert rank_texts(student, [], []) == []
    with pytest.raises(ValueError, match="no tokens"):
        rank_texts(student, ["Q"], [["a", ""]])


def test_answers_are_ranked_inside_a_chat_template(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of("decoder-only")
    monkeypatch.setitem(student.tokenizer.init_kwargs, KEY, ["Q: ", "\nA: "])
    prompt = encode_prompt(student.tokenizer, "decoder-only", QUESTIONS[0])
    turns = [encode_texts(student.tokenizer, [text], add_special_tokens=False)[0] for text in ("sea.", "river.")]
    expected = [likelihood(student, prompt, turn) for turn in turns]
    assert rank_texts(student, QUESTIONS[:1], [[" sea.", " river."]])[0] == pytest.approx(expected, abs=1e-4)
