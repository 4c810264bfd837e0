import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.methods import METHODS, Part, prompt_of, written_labels
from pipelines.storage.store import CONTENT
from pipelines.students.decoding import Decoded, Family, GenerationRequest, LabelSet, Sampling, Student, encode_target
from pipelines.students.decoding import ctranslate2_student as ctranslate2_module
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.decoding.label_scores import label_set
from pipelines.students.decoding.tokens import encode_prompt, tokens_within
from pipelines.tasks import Example, Task
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.base import Answer
from pipelines.tasks.classification import Classification
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.nli import NaturalLanguageInference
from tests.support.taught_students import student_of, target_logits, teach_two
from tests.support.tiny_students import TEXTS, tiny_tokenizer, write_student

LABELS = ("spam", "spam not", "sport", "a trail")
MAIL = Classification({"labels": LABELS})
EXAMPLE = Example("e", "4 apples", None)
METHOD_OF: dict[Part, str] = {"label": "finetune", "text": "rationale-then-label"}
PARTS: list[Part] = ["label", "text"]
FAMILIES: list[Family] = ["encoder-decoder", "decoder-only"]
A, B, C, D, END = 10, 11, 12, 13, 1
SET = LabelSet(((A, B, END), (A, C, END), (D, END)))


def test_probability_is_a_product_over_continuing_tokens() -> None:
    assert SET.watched == (A, B, C, D)
    logs = [math.log(p) for p in (0.2, 0.1, 0.3, 0.05)]  # of A, B, C, D at each step
    found = SET.log_prob((A, C, END), lambda step: logs)
    assert found == pytest.approx(math.log(0.2 / 0.25 * 0.3 / 0.4))
    shifted = SET.log_prob((A, C, END), lambda step: [log + 7.0 * step for log in logs])
    assert shifted == pytest.approx(found), "scores need no normalisation"
    assert SET.log_prob((D, END), lambda step: [-math.inf] * 3 + logs[3:]) == 0.0
    assert LabelSet(((A, END),)).log_prob((A, END), unused) == 0.0


def unused(step: int) -> Sequence[float]:
    pytest.fail("no score is needed")


def test_other_texts_have_no_label_probability() -> None:
    for ids in ((A, B), (A, D, END), (B, A, B, END), (), (END,)):
        assert SET.log_prob(ids, unused) is None
    at_end = replace(SET, at_end=True)
    assert at_end.log_prob((B, D), unused) is None
    assert at_end.log_prob((C, C, A, B, END), lambda step: [0.0] * 4) == pytest.approx(math.log(1 / 4))
    labels, scores = LabelSet(((B, END), (A, B, END)), at_end=True), {1: [0.0, 0.0], 2: [0.0, 9.0]}
    longest = labels.log_prob((C, A, B, END), scores.__getitem__)
    assert longest == pytest.approx(math.log(1 / 2)), "the longest of several matching labels counts"


def test_written_labels_depend_on_method_and_task() -> None:
    choices = Example("c", "Where?\n(a) river\n(b) sea", None, ("river", "sea", "River."))
    for method in METHODS:
        is_text = method in ("rationale-then-label", "token-kd")
        of_pairs = written_labels(method, NaturalLanguageInference(), EXAMPLE)
        assert of_pairs[1] == ("It is so. The answer is neutral." if is_text else "neutral")
        stated = ("(a) river", "(b) sea") if method == "token-kd" else ("river", "sea")
        expected = tuple(f"It is so. So the answer is {s}." for s in stated) if is_text else stated
        assert written_labels(method, MultipleChoice(), choices) == expected
        assert written_labels(method, Arithmetic(), EXAMPLE) == written_labels(method, Classification(), EXAMPLE) == ()


def test_texts_of_token_kd_have_the_words_of_the_shots() -> None:
    tasks: list[Task] = [NaturalLanguageInference(), MultipleChoice()]
    for task in tasks:
        for shot in task.shots:
            example = task.shot_example(shot.question)
            read = task.parse(shot.answer, example)
            statement = shot.answer[shot.answer.index("answer is") :]
            assert task.shown(read, example).endswith(statement)
            label = written_labels("token-kd", task, example)[task.label_set(example).index(read.label)]
            assert label.endswith(statement)


@pytest.mark.parametrize("family", FAMILIES)
def test_label_set_holds_the_training_targets(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    found = label_set(tokenizer, "label", LABELS)
    assert found == LabelSet(tuple(tuple(encode_target(tokenizer, label)) for label in LABELS))
    assert found.watched
    choices = Example("c", "What?", None, ("the answer is 4", "4", "trail (b)"))
    for task, example in ((MAIL, EXAMPLE), (NaturalLanguageInference(), EXAMPLE), (MultipleChoice(), choices)):
        texts = label_set(tokenizer, "text", written_labels("rationale-then-label", task, example))
        assert texts.at_end
        for label, sequence in zip(task.label_set(example), texts.sequences, strict=True):
            target = encode_target(tokenizer, task.render(Answer(label, "4 apples, so 2.")).strip())
            assert tuple(target[-len(sequence) :]) == sequence
            assert tokenizer.decode(sequence, skip_special_tokens=True).strip() == f"answer is {label}."
    assert label_set(tokenizer, "text", ("It is so: spam.", "It is so: ham.")) is None, "no `answer is`"
    assert label_set(tokenizer, "rationale", LABELS) is None
    assert label_set(tokenizer, "label", ()) is None


def answer_text(part: Part, label: str) -> str:
    return label if part == "label" else MAIL.render(Answer(label, "so 4."))


def brute_force(student: Student, part: Part, label: str) -> tuple[float, float]:
    """(renormalised, plain) probability of a label, from one forward pass over the whole target.

    The plain one covers all tokens of a label, and those after `answer is` of a text.
    """
    import torch

    prompt = encode_prompt(student.tokenizer, student.family, prompt_of(student.method, part, EXAMPLE.input))
    targets = [encode_target(student.tokenizer, answer_text(part, other)) for other in LABELS]
    target = encode_target(student.tokenizer, answer_text(part, label))
    first = tokens_within(target, len("so 4. The answer is"), student.tokenizer) if part == "text" else 0
    with torch.inference_mode():
        log_probs = target_logits(student, prompt, target).log_softmax(-1).double()
    renormalised = plain = 0.0
    for step, token in enumerate(target):
        continuing = sorted({other[step] for other in targets if other[:step] == target[:step]})
        renormalised += float(log_probs[step, token] - log_probs[step, continuing].logsumexp(0))
        plain += float(log_probs[step, token]) if step >= first else 0.0
    return math.exp(renormalised), math.exp(plain)


def answers(student: Student, part: Part, **more: Any) -> list[Decoded]:
    """One batch: the text with its label set, without a set, and with another set. A text may exceed the limit of a label."""
    sets = [written_labels(METHOD_OF[part], task, EXAMPLE) for task in (MAIL, Arithmetic(), NaturalLanguageInference())]
    return student.answer([EXAMPLE.input] * 3, part, 24 if part == "label" else 2, labels=sets, **more)


def check(found: list[Decoded], reference: Student, part: Part) -> None:
    """Compare with `reference`, the student in transformers."""
    closed, free, other = found
    assert closed.text == free.text == other.text == answer_text(part, "spam not")
    target = encode_target(reference.tokenizer, closed.text)
    assert closed.output_tokens == len(target), "the end-of-sequence token counts"
    by_label = {label: brute_force(reference, part, label) for label in LABELS}
    assert math.fsum(renormalised for renormalised, _ in by_label.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(plain for _, plain in by_label.values()) < 0.999
    assert closed.confidence == pytest.approx(by_label["spam not"][0], abs=1e-5)
    assert 0.5 < closed.confidence < 0.9
    assert free.confidence == pytest.approx(by_label["spam not"][1], abs=1e-5)
    assert closed.confidence > free.confidence + 1e-4
    assert other.confidence == pytest.approx(free.confidence, abs=1e-5), "no label of that set matches"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_student_confidence_equals_brute_force(family: Family, part: Part) -> None:
    student = student_of(family, METHOD_OF[part])
    teach_two(student, part, EXAMPLE.input, answer_text(part, "spam not"), answer_text(part, "spam"))
    check(answers(student, part), student, part)
    drawn = answers(student, part, sampling=Sampling(1e-4))
    assert drawn[0].confidence == pytest.approx(answers(student, part)[0].confidence, abs=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_converted_student_confidence_equals_brute_force(tmp_path: Path, part: Part, monkeypatch: Any) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder", METHOD_OF[part])
    student = Student.load(folder)
    teach_two(student, part, EXAMPLE.input, answer_text(part, "spam not"), answer_text(part, "spam"))
    student.model.save_pretrained(folder)
    (folder / CONTENT).unlink()
    converted = Ctranslate2Student.open(folder)
    check(answers(converted, part), student, part)
    drawn = answers(converted, part, sampling=Sampling(1e-4))
    assert drawn[0].confidence == pytest.approx(answers(converted, part)[0].confidence, abs=1e-5)
    counted = Mock(num_translators=1, translate_batch=Mock(side_effect=converted._translator.translate_batch))
    monkeypatch.setattr(converted, "_translator", counted)

    def calls() -> list[tuple[int, bool]]:
        made = counted.translate_batch.call_args_list
        return [(len(call.args[0]), call.kwargs["return_logits_vocab"]) for call in made]

    tokens = max(24, student.max_target_tokens) if part == "text" else 24
    monkeypatch.setattr(ctranslate2_module, "_LOGITS_BYTES", 2 * 4 * len(student.tokenizer) * tokens)
    sets = [written_labels(METHOD_OF[part], MAIL, EXAMPLE)] * 5
    many = converted.answer([EXAMPLE.input, *TEXTS[:4]], part, 24, labels=sets)
    assert calls() == [(2, True), (2, True), (1, True)], "the logits of a call fit the memory limit"
    assert many[0].confidence == pytest.approx(brute_force(student, part, "spam not")[0], abs=1e-5)
    counted.translate_batch.reset_mock()
    converted.answer(TEXTS, part, 24)
    assert calls() == [(len(TEXTS), False)], "only closed sets need logits"


def test_rows_of_a_batch_have_their_own_label_sets() -> None:
    student = student_of("decoder-only", "finetune")
    teach_two(student, "label", EXAMPLE.input, "spam not", "spam")
    sets: Any = [("spam not", "spam"), ("spam not",), LABELS, (), ("a trail", "spam not", "sport")]
    together = student.answer([EXAMPLE.input] * len(sets), "label", 24, labels=sets)
    alone = [student.answer([EXAMPLE.input], "label", 24, labels=[one])[0] for one in sets]
    pair, only, four, free, unlikely = confidences = [answer.confidence for answer in together]
    assert (confidences, only) == (pytest.approx([answer.confidence for answer in alone], abs=1e-5), 1.0)
    assert free < four <= pair < 0.9 < unlikely < 1.0
    cut = student.write([GenerationRequest(student.request(EXAMPLE.input, "label", 8).prompt, 1, None, SET)])
    assert cut[0].label_log_prob is None
