import random
import re

import pytest

from pipelines.errors import UnparsableError
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.tasks.parsing.label_patterns import MAX_WORDS

CHOICES = ("basket", "train station", "a", "either way", "not the river", "Basket", "U.S. mail. Really", "q.")
LABELS = ["not spam", "spam", "spam (other)", "größe", "a+b*c?"]
TASKS = [
    (load_task(task_spec("nli")), Example("a", "x", None)),
    (load_task(task_spec("multiple-choice")), Example("a", "x", None, CHOICES)),
    (load_task(task_spec("multiple-choice")), Example("a", "x", None, ("yes", "no"))),
    (load_task(task_spec("classification", {"labels": LABELS})), Example("a", "x", None)),
]
# Words with a meaning for parsers.
TRAPS = ["Answer", "is", "The", "the", "answer=", "=", "not", "(a)", "(z)", "b.", "entailment", "no", "contradiction.", "Q", "Q.", "spam",
         "to", "or", "either", "A)", "**", "$", "`", "{", "}", "answer=answer=", "option", "a", "-", "So", "so,", "correct", "!", "?",
         ">", "|", "(", ")", "\u00a0", "\u2028", "日本", "ſ", "İ", "basket", "river"]  # fmt: skip


def statements(task: Task, example: Example) -> list[tuple[str, str]]:
    """(statement, label) of each label."""
    if example.choices:
        return [(f"({chr(97 + i)}).", label) for i, label in enumerate(example.choices)]
    return [(f"{label}.", label) for label in task.labels or ()]


def sampled_answer(task: Task, example: Example, generator: random.Random) -> str:
    """A text that matches: traps and random characters as rationale, then one of the statements."""

    def word() -> str:
        if generator.random() < 0.67:
            return generator.choice(TRAPS)
        numbers = (generator.choice([generator.randint(33, 126), generator.randint(161, 0x2FFF)]) for _ in range(4))
        return re.sub(r"[:#<\\]", "x", "".join(map(chr, numbers)))

    def words() -> str:
        return " ".join(word() for _ in range(generator.randint(1, MAX_WORDS)))

    asides = ["was", "is,", "to", "=", "(a)"]
    mentions = "".join(f"answer {generator.choice(asides)} {words()} " for _ in range(generator.randint(0, 2)))
    begin, (statement, _) = generator.choice(["", " "]), generator.choice(statements(task, example))
    text = f"{begin}{words()} {mentions}answer is {statement}"
    assert re.fullmatch(task.answer_pattern(example) or "", text), text
    return text


@pytest.mark.parametrize(("task", "example"), TASKS, ids=lambda value: getattr(value, "name", ""))
def test_parser_reads_every_text_that_matches(task: Task, example: Example) -> None:
    generator = random.Random(0)
    for _ in range(1500):
        text = sampled_answer(task, example, generator)
        assert task.key(task.parse(text, example).label) in {task.key(label) for label in task.label_set(example)}, text
    for statement, label in statements(task, example):
        text = f" It must be so. The answer is {statement}"
        assert re.fullmatch(task.answer_pattern(example) or "", text)
        assert task.same(task.parse(text, example).label, label, example)


@pytest.mark.parametrize(
    "text",
    ["answer is neutral.", "It is so. The answer is maybe.", "It is so.\nThe answer is neutral.", "Q: a. The answer is neutral.",
     "It is so. The answer is neutral. Or not.", "so " * MAX_WORDS + "more. The answer is neutral.",
     "The answer is neutral. The answer is neutral.", "It is so. The answer is neutral"],
)  # fmt: skip
def test_other_texts_do_not_match(text: str) -> None:
    assert not re.fullmatch(TASKS[0][0].answer_pattern(TASKS[0][1]) or "", text)


@pytest.mark.parametrize(
    ("text", "stands", "label"),
    [
        ("It is neutral to me. The answer is Neutral.", "Neutral.", "neutral"),
        ("\n The answer: **contradiction**", "contradiction**", "contradiction"),
        ("One is neutral. Not entailment, so the answer is\n\n neutral", "neutral", "neutral"),
        ("It is so. So the answer is (B) river.", "B) river.", "river b"), ("The answer is b. A river.", "b. A river.", "river b"),
        ("Of the choices (a) is best, so the answer is (c).", "c).", "basket c"), ("The answer is the river.", "river.", "river river"),
        ("The answer is option (d).", "d).", "cloud d"),
    ],
)  # fmt: skip
def test_the_place_of_a_label_is_found(text: str, stands: str, label: str) -> None:
    """`label`: the label, and the spelling of a choice."""
    label, _, spelling = label.partition(" ")
    choices = ("basket", "river", "Basket", "cloud")
    task, example = (TASKS[1][0], Example("a", "x", None, choices)) if spelling else TASKS[0]
    place = task.label_place(text, example)
    assert (text[place.start :], place.label) == (stands, label)
    assert dict(place.spellings)[spelling or label] == label
    labels = {"basket", "river", "cloud"} if spelling else {"entailment", "neutral", "contradiction"}
    assert {name for _, name in place.spellings} == labels


def test_answer_in_other_words_has_no_place() -> None:
    task, example = TASKS[0]
    assert task.parse("It cannot be. The answer is no.", example).label == "contradiction"
    assert task.label_place("It cannot be. The answer is no.", example) is None
    with pytest.raises(UnparsableError):
        task.label_place("It cannot be", example)
    for free in (load_task(task_spec("arithmetic")), load_task(task_spec("classification", {"instruction": "Say."}))):
        assert (free.is_closed, free.label_set(example), free.answer_pattern(example)) == (False, (), None)
        assert free.label_place("It is 3. The answer is (3).", example) is None
