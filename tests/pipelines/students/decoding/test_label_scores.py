"""The confidence of a label among the labels that there are: by hand, by brute force, and as each engine gives it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.methods import METHODS, Part, prompt_of, written_labels
from pipelines.students.decoding import (
    Decoded,
    Family,
    GenerationRequest,
    LabelSet,
    Sampling,
    Student,
    encode_prompt,
    encode_target,
)
from pipelines.students.decoding import ctranslate2_student as converted_module
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.decoding.label_scores import label_set
from pipelines.tasks import Example, Task
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.base import Answer
from pipelines.tasks.classification import Classification
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.nli import NaturalLanguageInference
from tests.pipelines.students.decoding.test_transformers_student import FAMILIES, student_of, target_logits
from tests.support.tiny_students import TEXTS, tiny_tokenizer, write_student

LABELS = ("spam", "spam not", "sport", "a trail")
MAIL = Classification({"labels": LABELS})
EXAMPLE = Example("e", "4 apples", None)
METHOD_OF: dict[Part, str] = {"label": "finetune", "text": "rationale-then-label"}
PARTS: list[Part] = ["label", "text"]
A, B, C, D, END = 10, 11, 12, 13, 1
SET = LabelSet(((A, B, END), (A, C, END), (D, END)))


def test_a_probability_is_a_product_over_the_tokens_that_go_on() -> None:
    assert SET.watched == (A, B, C, D)
    logs = [math.log(p) for p in (0.2, 0.1, 0.3, 0.05)]  # of A, B, C, D at each step
    found = SET.log_prob((A, C, END), lambda step: logs)
    assert found == pytest.approx(math.log(0.2 / 0.25 * 0.3 / 0.4))
    shifted = SET.log_prob((A, C, END), lambda step: [log + 7.0 * step for log in logs])
    assert shifted == pytest.approx(found), "scores need no normalising"
    impossible = SET.log_prob((D, END), lambda step: [-math.inf] * 3 + logs[3:])
    assert impossible == 0.0


def test_over_the_set_they_sum_to_one() -> None:
    chance = random.Random(3)
    scores = {length: [chance.gauss(0, 2) for _ in SET.watched] for length in range(3)}
    found = [SET.log_prob(ids, scores.__getitem__) for ids in SET.sequences]
    assert math.fsum(math.exp(one) for one in found if one is not None) == pytest.approx(1.0)
    assert LabelSet(((A, END),)).log_prob((A, END), lambda step: pytest.fail("nothing else is left")) == 0.0


def test_what_is_no_label_of_the_set_has_none() -> None:
    def asked(step: int) -> Sequence[float]:
        pytest.fail("no score is needed")

    for ids in ((A, B), (A, D, END), (B, A, B, END), (), (END,)):
        assert SET.log_prob(ids, asked) is None
    at_end = replace(SET, at_end=True)
    assert at_end.log_prob((B, D), asked) is None
    assert at_end.log_prob((C, C, A, B, END), lambda step: [0.0] * 4) == pytest.approx(math.log(1 / 4))


def test_of_labels_that_end_alike_the_longest_was_written() -> None:
    labels = LabelSet(((B, END), (A, B, END)), at_end=True)
    scores = {1: [0.0, 0.0], 2: [0.0, 9.0]}
    assert labels.log_prob((C, A, B, END), scores.__getitem__) == pytest.approx(math.log(1 / 2))


def test_labels_are_written_by_method_and_task() -> None:
    choices = Example("c", "Where?\n(a) river\n(b) sea", None, ("river", "sea", "River."))
    for method in METHODS:
        said = method in ("rationale-then-label", "token-kd")
        of_pairs, of_choices = (
            written_labels(method, NaturalLanguageInference(), EXAMPLE),
            written_labels(method, MultipleChoice(), choices),
        )
        assert of_pairs[1] == ("It is so. The answer is neutral." if said else "neutral")
        stated = ("(a) river", "(b) sea") if method == "token-kd" else ("river", "sea")
        assert of_choices == (tuple(f"It is so. So the answer is {s}." for s in stated) if said else stated)
        assert written_labels(method, Arithmetic(), EXAMPLE) == written_labels(method, Classification(), EXAMPLE) == ()


def test_a_student_of_a_teacher_s_text_has_the_words_of_the_shots() -> None:
    tasks: list[Task] = [NaturalLanguageInference(), MultipleChoice()]
    for task in tasks:
        for shot in task.shots:
            example = task.shot_example(shot.question)
            read = task.parse(shot.answer, example)
            statement = shot.answer[shot.answer.index("answer is") :]
            assert task.shown(read, example).endswith(statement)
            written = written_labels("token-kd", task, example)[task.label_set(example).index(read.label)]
            assert written.endswith(statement)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_set_is_what_students_are_trained_to_write(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    found = label_set(tokenizer, "label", LABELS)
    assert found == LabelSet(tuple(tuple(encode_target(tokenizer, label)) for label in LABELS))
    assert found.watched
    choices = Example("c", "What?", None, ("the answer is 4", "4", "trail (b)"))
    tasks: list[tuple[Task, Example]] = [
        (MAIL, EXAMPLE),
        (NaturalLanguageInference(), EXAMPLE),
        (MultipleChoice(), choices),
    ]
    for task, example in tasks:
        texts = label_set(tokenizer, "text", written_labels("rationale-then-label", task, example))
        assert texts is not None
        assert texts.at_end
        for label, sequence in zip(task.label_set(example), texts.sequences, strict=True):
            target = encode_target(tokenizer, task.render(Answer(label, "4 apples, so 2.")).strip())
            assert tuple(target[-len(sequence) :]) == sequence
            assert tokenizer.decode(sequence, skip_special_tokens=True).strip() == f"answer is {label}."
    assert label_set(tokenizer, "text", ("It is so: spam.", "It is so: ham.")) is None, "no `answer is`"
    assert label_set(tokenizer, "rationale", LABELS) is None
    assert label_set(tokenizer, "label", ()) is None


def torn(student: Student, part: Part, text: str, likely: str, other: str) -> None:
    """Teach the student two answers to a text, of which it then writes the first and is not sure."""
    import torch

    prompt = encode_prompt(student.tokenizer, student.family, prompt_of(student.method, part, text))
    # In larger steps it can lose what it had, and then no more steps bring it back: by the rounding of one CPU and not of another.
    optimizer = torch.optim.Adam(student.model.parameters(), lr=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models gain nothing by more, and lose much on a busy machine
    targets = [encode_target(student.tokenizer, answer) for answer in (likely, other)]
    for step in range(400):
        all_logits = [target_logits(student, prompt, target) for target in targets]
        # How many steps it takes differs between CPUs.
        probabilities = all_logits[0].detach().softmax(-1)[range(len(targets[0])), targets[0]]
        if step >= 40 and 0.6 < float(probabilities.min()) < 0.8:
            break
        for logits, target, share in zip(all_logits, targets, (0.7, 0.3), strict=True):
            # A sum, and no mean: the shares are those of the tokens in which the answers part, however long each answer is.
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum")
            (share * loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    else:
        pytest.fail(f"it has not learned {likely!r}")
    torch.set_num_threads(threads)


def said(part: Part, label: str) -> str:
    return label if part == "label" else MAIL.render(Answer(label, "so 4."))


def brute_force(student: Student, part: Part, label: str) -> tuple[float, float]:
    """(renormalised, plain) probability of a label, from a forward pass over all that stands before each of its tokens."""
    import torch

    prompt = encode_prompt(student.tokenizer, student.family, prompt_of(student.method, part, EXAMPLE.input))
    targets = [encode_target(student.tokenizer, said(part, other)) for other in LABELS]
    target = encode_target(student.tokenizer, said(part, label))
    with torch.inference_mode():
        log_probs = target_logits(student, prompt, target).log_softmax(-1).double()
    renormalised = plain = 0.0
    for step, token in enumerate(target):
        goes_on = sorted({other[step] for other in targets if other[:step] == target[:step]})
        renormalised += float(log_probs[step, token] - log_probs[step, goes_on].logsumexp(0))
        plain += float(log_probs[step, token])
    return math.exp(renormalised), math.exp(plain)


def answers(student: Student, part: Part, **more: Any) -> list[Decoded]:
    """To the text with its set, without one, and with another set, in one batch."""
    sets = [written_labels(METHOD_OF[part], task, EXAMPLE) for task in (MAIL, Arithmetic(), NaturalLanguageInference())]
    return student.answer([EXAMPLE.input] * 3, part, 24, labels=sets, **more)


def check(found: list[Decoded], reference: Student, part: Part) -> None:
    """Against `reference`, the student in transformers."""
    closed, free, other = found
    assert closed.text == free.text == other.text == said(part, "spam not")
    every = {label: brute_force(reference, part, label) for label in LABELS}
    assert math.fsum(renormalised for renormalised, _ in every.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(plain for _, plain in every.values()) < 0.999
    assert closed.confidence == pytest.approx(every["spam not"][0], abs=1e-5)
    assert 0.5 < closed.confidence < 0.9
    assert closed.confidence > free.confidence + 1e-4
    assert other.confidence == pytest.approx(free.confidence, abs=1e-5), "nothing of that set was written"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_gives_it_as_brute_force_does(family: Family, part: Part) -> None:
    student = student_of(family, METHOD_OF[part])
    torn(student, part, EXAMPLE.input, said(part, "spam not"), said(part, "spam"))
    check(answers(student, part), student, part)
    drawn = answers(student, part, sampling=Sampling(1e-4))
    assert drawn[0].confidence == pytest.approx(answers(student, part)[0].confidence, abs=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_so_does_the_converted_student(tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder", METHOD_OF[part])
    student = Student.load(folder)
    torn(student, part, EXAMPLE.input, said(part, "spam not"), said(part, "spam"))
    student.model.save_pretrained(folder)
    converted = Ctranslate2Student.open(folder)
    check(answers(converted, part), student, part)
    drawn = answers(converted, part, sampling=Sampling(1e-4))
    assert drawn[0].confidence == pytest.approx(answers(converted, part)[0].confidence, abs=1e-5)

    calls: list[tuple[int, bool]] = []
    translate = converted._translator.translate_batch

    class Counted:
        num_translators = 1

        def translate_batch(self, source: list[list[str]], **options: Any) -> Any:
            calls.append((len(source), options["return_logits_vocab"]))
            return translate(source, **options)

    monkeypatch.setattr(converted, "_translator", Counted())
    tokens = max(24, student.max_target_tokens) if part == "text" else 24
    monkeypatch.setattr(converted_module, "_LOGITS_BYTES", 2 * 4 * len(student.tokenizer) * tokens)
    sets = [written_labels(METHOD_OF[part], MAIL, EXAMPLE)] * 5
    many = converted.answer([EXAMPLE.input, *TEXTS[:4]], part, 24, labels=sets)
    assert calls == [(2, True), (2, True), (1, True)], "no more logits than there is room for"
    assert many[0].confidence == pytest.approx(brute_force(student, part, "spam not")[0], abs=1e-5)
    calls.clear()
    converted.answer(TEXTS, part, 24)
    assert calls == [(len(TEXTS), False)], "logits are kept for closed sets alone"


def test_rows_of_one_batch_have_sets_of_their_own() -> None:
    student = student_of("decoder-only", "finetune")
    torn(student, "label", EXAMPLE.input, "spam not", "spam")
    sets: list[tuple[str, ...]] = [("spam not", "spam"), ("spam not",), LABELS, (), ("a trail", "spam not", "sport")]
    together = student.answer([EXAMPLE.input] * len(sets), "label", 24, labels=sets)
    alone = [student.answer([EXAMPLE.input], "label", 24, labels=[one])[0] for one in sets]
    confidences = [answer.confidence for answer in together]
    assert confidences == pytest.approx([answer.confidence for answer in alone], abs=1e-5)
    pair, only, four, free, unlikely = confidences
    assert only == 1.0
    assert free < four <= pair < 0.9 < unlikely < 1.0
    cut = student.write([GenerationRequest(student.order(EXAMPLE.input, "label", 8).prompt, 1, None, SET)])
    assert cut[0].label_log_prob is None
