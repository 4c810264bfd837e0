import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.methods import prompt_of, read_answer, written_labels
from pipelines.students.decoding import Family, GenerationOutput, Student, encode_prompt, encode_target
from pipelines.students.decoding.constrained import label_walk
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.decoding.label_scores import STATEMENT
from pipelines.students.decoding.requests import decoded
from pipelines.tasks import Example
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.nli import NaturalLanguageInference
from tests.support.taught_students import student_of, target_logits, teach_two
from tests.support.tiny_students import TEXTS, write_student

FAMILIES: list[Family] = ["encoder-decoder", "decoder-only"]
SETS: dict[str, tuple[str, ...]] = {
    "prefixes of one another": ("a", "ab", "abc", "abcd", "abd"),
    "characters": ("<b>", "a|b", '"', "\\n", "{{x}}", "[label]", "%s", "</s>", "<pad>"),
    "unicode": ("é", "ё", "河", "河川", "🙂", "e\u0301"),
    "spaces": (" a", "a", "a ", "  a", "a  b"),
    "one": ("only this",),
    "long": tuple("apples and pears " * count for count in (1, 2, 3)),
    "200": tuple(f"label {number} of {number % 7}" for number in range(200)),
    "digits": ("1", "11", "111"),
}


def greedy(student: Student, prompt: str, labels: Sequence[str]) -> tuple[str, float]:
    """The label at the end of the greedy path through the set, and the product of its renormalised probabilities."""
    import torch

    read = encode_prompt(student.tokenizer, student.family, prompt)
    targets = {tuple(encode_target(student.tokenizer, label)): label for label in reversed(labels)}
    path, log_prob = (), 0.0
    while path not in targets:
        following = sorted({target[len(path)] for target in targets if target[: len(path)] == path})
        with torch.inference_mode():
            logits = target_logits(student, read, [*path, 0])[len(path)].double()[following]
        best = int(logits.argmax())
        log_prob += float(logits[best] - logits.logsumexp(0))
        path = (*path, following[best])
    return targets[path], math.exp(log_prob)


def check(student: Student, reference: Student) -> None:
    sets = [*SETS.values(), (), *SETS.values()]
    texts = [TEXTS[row % len(TEXTS)] + "!" * (row // len(TEXTS)) for row in range(len(sets))]
    answers = student.answer(texts, "label", 6, labels=sets, constrained=True)
    assert answers[len(SETS)].in_set is None, "free labels stay free"
    for text, labels, answer in zip(texts, sets, answers, strict=True):
        if labels:
            label, confidence = greedy(reference, prompt_of(student.method, "label", text), labels)
            assert answer.in_set
            assert answer.text == label.strip(), labels
            assert answer.confidence == pytest.approx(confidence, rel=2e-3)
    free = student.answer(texts, "label", 6, labels=sets)
    assert sum(bool(answer.in_set) for answer in free) < 3, "a free answer of random weights is no label"


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_the_likeliest_path(family: Family) -> None:
    student = student_of(family)
    check(student, student)


def test_answers_follow_the_likeliest_path_in_ctranslate2(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    check(Ctranslate2Student.open(folder), Student.load(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_free_answer_that_is_a_label_stays(family: Family) -> None:
    student, text = student_of(family, "finetune"), TEXTS[:1]
    teach_two(student, "label", text[0], "neutral", "contradiction")
    for labels in (("entailment", "neutral", "contradiction"), ("neutral", "neutrality")):
        [free], [constrained] = (student.answer(text, "label", 24, labels=[labels], constrained=c) for c in (0, 1))
        assert (free, free.text, free.in_set) == (constrained, "neutral", True)
    [cut] = student.answer(text, "label", 1, labels=[("contradiction",)], constrained=True)
    assert (cut.text, cut.confidence) == ("contradiction", 1.0), "max_new_tokens does not shorten a label"


FREE = {
    "nothing": "",
    "another label": "4 - 1. So the answer is 9.",
    "no statement": "a b " * 30,
    "no label": "The answer is",
    "two statements": "The answer is 9. The answer is the sea.",
    "another question": "So it is.\n\nQ: 4\nA: So the answer is sea.",
}


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_ends_with_a_label(family: Family, free: str) -> None:
    student = student_of(family, "rationale-then-label")
    ids = tuple(encode_target(student.tokenizer, FREE[free]))[:64]
    for task, choices in ((NaturalLanguageInference(), ()), (MultipleChoice(), ("sea", "river bank"))):
        example = Example("e", TEXTS[0], None, choices)
        labels = written_labels(student.method, task, example)
        request: Any = student.request(TEXTS[0], "text", 8, labels=labels, constrained=True)
        scores = dict.fromkeys(range(99), [0.0] * len(request.watched)).__getitem__
        output = GenerationOutput(ids, (), 9, "stop", request.labels.log_prob(ids, scores))
        walk = label_walk(request, output, scores, student.tokenizer)
        student._finish([walk])
        answer = decoded("text", request, walk.output(output), student.tokenizer)
        read = read_answer(student.method, answer.text, task, example)
        assert read, answer.text
        assert (read.label in task.label_set(example), answer.text.count(STATEMENT)) == (True, 1)
        assert answer.text.startswith(FREE[free][:3])
        assert 0 < answer.confidence < 1
        again = replace(walk.output(output), label_log_prob=0.0)
        assert label_walk(request, again, scores, student.tokenizer) is None, "a text that ends with a label stays"


def test_a_label_with_unknown_characters_keeps_its_spelling() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "spam", "ham"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    student = student_of("decoder-only")
    limits: Any = {"method": "finetune", "max_input_tokens": 64, "max_target_tokens": 8}
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    student._configure(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special), "decoder-only", limits)
    one, two = student.answer(["spam"] * 2, "label", 4, labels=[("🙂",), ("🙂", "é", "ham")], constrained=True)
    assert (one.text, one.in_set) == ("🙂", True)
    assert two.text in ("🙂", "ham"), "of labels that are written alike, the first counts"
