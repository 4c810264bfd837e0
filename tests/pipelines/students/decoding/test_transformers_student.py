import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pipelines.errors import UserError
from pipelines.methods import prompt_of
from pipelines.storage.store import MANIFEST
from pipelines.students.decoding import Family, GenerationRequest, Sampling, Student, encode_prompt
from pipelines.students.decoding.sampling import Sampler
from tests.support.taught_students import student_of
from tests.support.tiny_students import TEXTS, write_student

FAMILIES: list[Family] = ["encoder-decoder", "decoder-only"]
QUESTIONS = [" ".join([text] * (1 + i % 3)) for i, text in enumerate([*TEXTS, *(t[::-1] for t in TEXTS), "x", "4 + 1"])]


@pytest.fixture(scope="module", params=FAMILIES)
def student(request: pytest.FixtureRequest) -> Student:
    return student_of(request.param)


def test_greedy_answers_equal_a_step_by_step_argmax(student: Student) -> None:
    """Reference: one forward pass per token over the unpadded sequence, without generate() and without a cache."""
    batched = student.answer(QUESTIONS, "label", 8)
    assert len({one.text for one in batched}) > len(QUESTIONS) // 2, "the answers must depend on the input"
    for text, decoded in zip(QUESTIONS, batched, strict=True):
        prompt = prompt_of("step-by-step", "label", text)
        ids, log_prob = reference(student, prompt, 8)
        assert decoded.prompt_tokens == len(encode_prompt(student.tokenizer, student.family, prompt))
        assert decoded.text == student.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert (decoded.output_tokens, decoded.confidence) == (len(ids), pytest.approx(math.exp(log_prob), rel=1e-3))


def reference(student: Student, prompt: str, steps: int, written: tuple[int, ...] = ()) -> tuple[list[int], float]:
    import torch

    ids = torch.tensor([encode_prompt(student.tokenizer, student.family, prompt)])
    tokens, log_prob = [*written], 0.0
    while len(tokens) < len(written) + steps and (tokens == [*written] or tokens[-1] != student.tokenizer.eos_token_id):
        with torch.inference_mode():
            if student.family == "encoder-decoder":
                logits = student.model(input_ids=ids, decoder_input_ids=torch.tensor([[0, *tokens]])).logits
            else:
                logits = student.model(input_ids=torch.cat([ids, torch.tensor([tokens]).long()], dim=1)).logits
        token_log_probs = logits[0, -1].log_softmax(-1)
        tokens.append(int(token_log_probs.argmax()))
        log_prob += float(token_log_probs.max())
    return tokens[len(written) :], log_prob


def test_answers_continue_what_is_written(student: Student) -> None:
    """An end-of-sequence token in what is written ends nothing. Rows of one batch have written tokens of any number."""
    written = [(), (20, student.eos), (9, 5, student.eos), (7,), (8, student.eos)]
    requests = [GenerationRequest(text, 6 + i, written=written[i]) for i, text in enumerate(TEXTS)]
    steps: list[list[int | None]] = []
    outputs = student.write(requests, steps.append)
    for row, (request, output) in enumerate(zip(requests, outputs, strict=True)):
        ids, log_prob = reference(student, request.prompt, request.max_new_tokens, request.written)
        assert (list(output.ids), sum(output.log_probs)) == (ids, pytest.approx(log_prob, abs=1e-3))
        assert [step[row] for step in steps if step[row] is not None] == ids
    (first,) = student.write(requests[1:2], None, lambda row: True)
    assert first.ids == outputs[1].ids[:1]


def test_a_rationale_follows_its_label_and_the_end_token(student: Student) -> None:
    made = student_of(student.family, "label-then-rationale")
    labels = student_of(student.family, "finetune").answer(QUESTIONS, "label", 8)
    assert made.answer(QUESTIONS, "label", 8) == labels, "a label costs what it costs without rationales"
    for text, decoded in zip(QUESTIONS, made.answer(QUESTIONS, "rationale", 8), strict=True):
        label, _ = reference(made, text, 8)
        kept = label[:-1] if label[-1] == made.eos else label[:6]
        ids, _ = reference(made, text, 8 - len(kept) - 1, (*kept, made.eos))
        assert decoded.text == made.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_drawn_answers_follow_seed_and_text_not_the_batch(student: Student) -> None:
    draws = [Sampling(1.0, seed=3, draw=draw) for draw in (0, 1)]
    batched = [student.answer(QUESTIONS, "label", 8, sampling=draw) for draw in draws]
    alone = [student.answer([text], "label", 8, sampling=draws[0])[0] for text in QUESTIONS]
    assert [a.text for a in alone] == [b.text for b in batched[0]]
    assert [a.confidence for a in alone] == pytest.approx([b.confidence for b in batched[0]], rel=1e-3)
    greedy = student.answer(QUESTIONS, "label", 8)
    other = student.answer(QUESTIONS, "label", 8, sampling=Sampling(1.0, seed=4))
    for answers in (batched[1], greedy, other):
        assert sum(a.text == b.text for a, b in zip(batched[0], answers, strict=True)) < len(QUESTIONS) // 2
    cold = student.answer(QUESTIONS, "label", 8, sampling=Sampling(1e-4))
    assert [a.text for a in cold] == [b.text for b in greedy], "a temperature near 0 selects the likeliest tokens"
    assert [a.confidence for a in cold] == pytest.approx([b.confidence for b in greedy], rel=1e-3)


@pytest.mark.parametrize(
    ("probabilities", "sampling", "expected"),
    [
        # Squared and normalised at temperature 0.5.
        ([0.4, 0.3, 0.2, 0.0, 0.1], Sampling(0.5), [0.16 / 0.3, 0.3, 0.04 / 0.3, 0.0, 0.01 / 0.3]),
        # Of 0.5, 0.3, 0.15 and 0.05 the first two reach 0.6. They are drawn 5 : 3.
        ([0.15, 0.5, 0.05, 0.3], Sampling(1.0, top_p=0.6), [0.0, 0.625, 0.0, 0.375]),
        ([0.15, 0.5, 0.05, 0.3], Sampling(1.0, top_p=1e-9), [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_tokens_are_drawn_by_probability_and_top_p(probabilities: Any, sampling: Sampling, expected: Any) -> None:
    import torch

    logits, rows = torch.tensor(probabilities).log(), 4000
    steps: list[list[int | None]] = []
    sampler = Sampler([GenerationRequest(f"text {row}", 1, sampling) for row in range(rows)], -1, steps.append)
    tokens = sampler(None, logits.repeat(rows, 1)).argmax(dim=-1)
    assert steps == [tokens.tolist()]
    shares = (tokens.bincount(minlength=len(expected)) / rows).tolist()
    assert shares == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(rows))
    assert not any(share for share, wanted in zip(shares, expected, strict=True) if wanted == 0.0)
    assert sampler.log_probs[0].tolist() == pytest.approx(logits.log_softmax(dim=-1)[tokens].tolist())


def test_requests_of_a_batch_keep_their_limits_and_seeds(student: Student) -> None:
    drawn = Sampling(1.0, seed=5)
    requests = [GenerationRequest(text, 1 + i, drawn if i % 2 else None) for i, text in enumerate(QUESTIONS)]
    steps: list[list[int | None]] = []
    batched = student.write(requests, steps.append)
    for request, output in zip(requests, batched, strict=True):
        assert output.ids == student.write([request])[0].ids
        assert output.finish_reason == ("stop" if output.ids[-1] == student.eos else "length")
        assert len(output.ids) <= request.max_new_tokens
    by_row = [tuple(step[row] for step in steps if step[row] is not None) for row in range(len(requests))]
    assert by_row == [output.ids for output in batched]


def test_finished_and_cancelled_rows_end_a_batch(student: Student) -> None:
    requests = [GenerationRequest(QUESTIONS[0], 3), GenerationRequest(QUESTIONS[1], 60)]
    assert [len(output.ids) for output in student.write(requests)] == [3, 60], "neither row ends by itself"
    steps: list[list[int | None]] = []
    short, _ = student.write(requests, steps.append, lambda row: row == 1 and len(steps) >= 2)
    assert (short.ids, len(steps)) == (student.write(requests[:1])[0].ids, 3)
    steps.clear()
    student.write(requests, steps.append, lambda row: len(steps) >= 2)
    assert len(steps) == 2


def test_generation_settings_of_the_model_are_ignored(student: Student) -> None:
    before = student.answer(TEXTS, "rationale", 8)
    student.model.generation_config.update(do_sample=True, repetition_penalty=5.0, temperature=9.0)
    assert student.answer(TEXTS, "rationale", 8) == before


def test_each_part_has_its_own_answer(student: Student) -> None:
    assert student.answer([], "label", 4) == []
    assert student.answer(TEXTS, "label", 8) != student.answer(TEXTS, "rationale", 8)
    assert student.count_tokens(TEXTS[0], "label") == student.answer([TEXTS[0]], "label", 1)[0].prompt_tokens
    with pytest.raises(ValueError, match="finetune trains no rationale"):
        student_of(student.family, "finetune").answer(TEXTS, "rationale", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_student_answers_like_the_one_in_memory(tmp_path: Path, family: Family) -> None:
    folder = write_student(tmp_path / "student", family)
    for loaded in (Student.load(folder), Student.load(folder.as_uri())):
        assert (loaded.family, loaded.method, loaded.max_input_tokens) == (family, "step-by-step", 64)
        assert loaded.answer(TEXTS, "label", 8) == student_of(family).answer(TEXTS, "label", 8)


def _without_one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "raystill train RUN"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"it has no model\.safetensors"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9999), "cannot load"),
        (_without_one_weight, r"its weights lack model\.layers\.1\.mlp\.up_proj"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "not a manifest"),
    ],
)
def test_damaged_student_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = write_student(tmp_path / "student", "decoder-only")
    damage(folder)
    with pytest.raises(UserError, match=message):
        Student.load(folder)


def test_student_code_never_runs(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "decoder-only")
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"it holds code \(evil\.py\), and student code never runs"):
        Student.load(folder)
    (folder / "evil.py").unlink()
    with pytest.raises(UserError, match=r"its config\.json needs code"):
        Student.load(folder)
    assert not trace.exists()
