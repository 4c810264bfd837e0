"""A student answers the same whatever batch it answers in, and says how sure it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.methods import Part, prompt_of
from pipelines.storage.store import MANIFEST
from pipelines.students.decoding import (
    Family,
    GenerationRequest,
    Sampling,
    Student,
    encode_prompt,
    encode_target,
    tokens_within,
)
from pipelines.students.decoding.sampling import Sampler
from tests.support.tiny_students import TEXTS, tiny_model, tiny_tokenizer, write_student

FAMILIES: list[Family] = ["encoder-decoder", "decoder-only"]
QUESTIONS = [" ".join([text] * (1 + i % 3)) for i, text in enumerate([*TEXTS, *(t[::-1] for t in TEXTS), "x", "4 + 1"])]


def student_of(family: Family, method: str = "step-by-step") -> Student:
    tokenizer = tiny_tokenizer(family)
    return Student(tiny_model(family, len(tokenizer)), tokenizer, method=method, max_input_tokens=64)


@pytest.fixture(scope="module", params=FAMILIES)
def student(request: pytest.FixtureRequest) -> Student:
    return student_of(request.param)


def test_batch_size_changes_no_answer(student: Student) -> None:
    alone = [student.answer([text], "label", 12)[0] for text in QUESTIONS]
    batched = student.answer(QUESTIONS, "label", 12)
    assert [a.text for a in alone] == [b.text for b in batched]
    assert [a.output_tokens for a in alone] == [b.output_tokens for b in batched]
    assert [a.prompt_tokens for a in alone] == [b.prompt_tokens for b in batched]
    assert [a.confidence for a in alone] == pytest.approx([b.confidence for b in batched], rel=1e-3)
    assert len({a.text for a in alone}) > len(QUESTIONS) // 2, "answers that hardly depend on the input show nothing"


def test_answers_follow_a_step_by_step_argmax(student: Student) -> None:
    """The reference: one forward pass per token over the unpadded sequence, without generate and without a cache."""
    for text, decoded in zip(QUESTIONS, student.answer(QUESTIONS, "label", 8), strict=True):
        ids, log_prob = reference(student, prompt_of("step-by-step", "label", text), 8)
        assert decoded.text == student.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert decoded.output_tokens == len(ids)
        assert decoded.confidence == pytest.approx(math.exp(log_prob), rel=1e-3)


def reference(student: Student, prompt: str, steps: int) -> tuple[list[int], float]:
    import torch

    ids = torch.tensor([encode_prompt(student.tokenizer, student.family, prompt)])
    written: list[int] = []
    log_prob = 0.0
    while len(written) < steps and (not written or written[-1] != student.tokenizer.eos_token_id):
        with torch.inference_mode():
            if student.family == "encoder-decoder":
                logits = student.model(input_ids=ids, decoder_input_ids=torch.tensor([[0, *written]])).logits
            else:
                logits = student.model(input_ids=torch.cat([ids, torch.tensor([written]).long()], dim=1)).logits
        token_log_probs = logits[0, -1].log_softmax(-1)
        written.append(int(token_log_probs.argmax()))
        log_prob += float(token_log_probs.max())
    return written, log_prob


def test_drawn_answers_follow_seed_and_text_and_not_the_batch(student: Student) -> None:
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
    assert [a.text for a in cold] == [b.text for b in greedy], "next to no temperature leaves the likeliest tokens"
    assert [a.confidence for a in cold] == pytest.approx([b.confidence for b in greedy], rel=1e-3)


def test_tokens_are_drawn_as_often_as_is_likely() -> None:
    import torch

    logits = torch.tensor([3.0, 2.5, 1.0, -torch.inf, 0.0])
    rows = 4000
    told: list[list[int | None]] = []
    chooser = Sampler([GenerationRequest(f"text {row}", 1, Sampling(0.5)) for row in range(rows)], -1, told.append)
    tokens = chooser(None, logits.repeat(rows, 1)).argmax(dim=-1)
    assert told == [tokens.tolist()]
    expected = (logits / 0.5).softmax(dim=-1)
    shares = tokens.bincount(minlength=5) / rows
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=4 * 0.5 / math.sqrt(rows))
    assert shares[3] == 0.0
    assert chooser.log_probs[0].tolist() == pytest.approx(logits.log_softmax(dim=-1)[tokens].tolist())


def test_top_p_keeps_the_likeliest_tokens_up_to_it() -> None:
    """0.5, 0.3, 0.15, 0.05: the first two reach 0.6, and are drawn 5 : 3."""
    import torch

    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    rows = 4000
    chooser = Sampler([GenerationRequest(f"text {row}", 1, Sampling(1.0, top_p=0.6)) for row in range(rows)], -1)
    shares = chooser(None, logits.repeat(rows, 1)).argmax(dim=-1).bincount(minlength=4) / rows
    assert shares.tolist() == pytest.approx([0.0, 0.625, 0.0, 0.375], abs=4 * 0.5 / math.sqrt(rows))
    likeliest = Sampler([GenerationRequest("a", 1, Sampling(1.0, top_p=1e-9))], -1)
    assert likeliest(None, logits[None]).argmax() == 1


def test_orders_of_one_batch_keep_their_own_lengths_and_chances(student: Student) -> None:
    orders = [
        GenerationRequest(text, 1 + row, Sampling(1.0, seed=5) if row % 2 else None)
        for row, text in enumerate(QUESTIONS)
    ]
    told: list[list[int | None]] = []
    batched = student.write(orders, told.append)
    for order, alone, written in zip(orders, [student.write([order])[0] for order in orders], batched, strict=True):
        assert written.ids == alone.ids
        assert written.finish_reason == ("stop" if written.ids[-1] == student.eos else "length")
        assert len(written.ids) <= order.max_new_tokens
    by_row = [tuple(step[row] for step in told if step[row] is not None) for row in range(len(orders))]
    assert by_row == [written.ids for written in batched]


def test_a_batch_ends_with_those_who_wait_for_it(student: Student) -> None:
    """Neither a row whose asker has gone nor one that has its own length holds up the others."""
    orders = [GenerationRequest(QUESTIONS[0], 3), GenerationRequest(QUESTIONS[1], 60)]
    assert [len(written.ids) for written in student.write(orders)] == [3, 60], "both would be written to their ends"
    told: list[list[int | None]] = []
    short, _ = student.write(orders, told.append, lambda row: row == 1 and len(told) >= 2)
    assert short.ids == student.write(orders[:1])[0].ids
    assert len(told) == 3
    told.clear()
    student.write(orders, told.append, lambda row: len(told) >= 2)
    assert len(told) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_confidence_counts_the_end_token(family: Family) -> None:
    import torch

    student = student_of(family)
    text, answer = "4 apples", "4 - 1"
    teach(student, text, answer)
    decoded = student.answer([text, TEXTS[0]], "label", 12)[0]
    target = encode_target(student.tokenizer, answer)
    assert decoded.text == answer
    assert decoded.output_tokens == len(target), "the end-of-sequence token is counted"
    prompt = encode_prompt(student.tokenizer, student.family, prompt_of("step-by-step", "label", text))
    with torch.inference_mode():
        logits = target_logits(student, prompt, target)
    log_probs = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
    assert decoded.confidence == pytest.approx(float(log_probs.sum().exp()), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_confidence_of_a_text_is_that_of_its_label(family: Family) -> None:
    import torch

    student = student_of(family, "rationale-then-label")
    text, answer = "4 apples", "so 4. The answer is 1."
    teach(student, text, answer, "text")
    assert student.max_target_tokens == 256
    decoded = student.answer([text, TEXTS[0]], "text", 2)[0]
    assert decoded.text == answer, "a text may be longer than a label"
    prompt = encode_prompt(student.tokenizer, student.family, text)
    target = encode_target(student.tokenizer, answer)
    first = tokens_within(target, len("so 4. The answer is"), student.tokenizer)
    assert student.tokenizer.decode(target[:first]).strip() == "so 4. The answer is"
    with torch.inference_mode():
        logits = target_logits(student, prompt, target)
    log_probs = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
    assert decoded.confidence == pytest.approx(float(log_probs[first:].sum().exp()), rel=1e-3)
    assert decoded.confidence > float(log_probs.sum().exp())


def target_logits(student: Student, prompt: list[int], target: list[int]) -> Any:
    """Logits that predict each target token, (len(target), vocabulary)."""
    import torch

    if student.family == "encoder-decoder":
        return student.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).logits[0]
    return student.model(input_ids=torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]


def teach(student: Student, text: str, answer: str, part: Part = "label") -> None:
    """A few steps of descent on one example: enough for the student to close its answer."""
    import torch

    prompt = encode_prompt(student.tokenizer, student.family, prompt_of(student.method, part, text))
    target = encode_target(student.tokenizer, answer)
    optimizer = torch.optim.Adam(student.model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(target_logits(student, prompt, target), torch.tensor(target))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def test_the_models_own_generation_settings_do_not_reach_the_answer(student: Student) -> None:
    before = student.answer(TEXTS, "rationale", 8)
    student.model.generation_config.do_sample = True
    student.model.generation_config.repetition_penalty = 5.0
    student.model.generation_config.temperature = 9.0
    assert student.answer(TEXTS, "rationale", 8) == before


def test_parts_of_the_answer(student: Student) -> None:
    assert student.answer([], "label", 4) == []
    assert student.answer(TEXTS, "label", 8) != student.answer(TEXTS, "rationale", 8)
    assert student.count_tokens(TEXTS[0], "label") == student.answer([TEXTS[0]], "label", 1)[0].prompt_tokens
    with pytest.raises(ValueError, match="finetune trains no rationale"):
        student_of(student.family, "finetune").answer(TEXTS, "rationale", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_student_answers_like_the_one_in_memory(tmp_path: Path, family: Family) -> None:
    loaded = Student.load(write_student(tmp_path / "student", family))
    assert (loaded.family, loaded.method, loaded.max_input_tokens) == (family, "step-by-step", 64)
    assert loaded.answer(TEXTS, "label", 8) == student_of(family).answer(TEXTS, "label", 8)


def test_a_student_is_loaded_from_a_uri(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    loaded = Student.load(folder.as_uri())
    assert loaded.answer(TEXTS, "label", 4) == Student.load(folder).answer(TEXTS, "label", 4)


def test_folders_that_are_no_student_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="raystill train RUN"):
        Student.load(tmp_path / "nothing")
    pickled = write_student(tmp_path / "pickled", "decoder-only")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        Student.load(pickled)
    weightless = write_student(tmp_path / "weightless", "decoder-only")
    (weightless / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"it has no model\.safetensors"):
        Student.load(weightless)
    torn = write_student(tmp_path / "torn", "decoder-only")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load"):
        Student.load(torn)
    partial = write_student(tmp_path / "partial", "decoder-only")
    weights = load_file(partial / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj"):
        Student.load(partial)
    damaged = write_student(tmp_path / "damaged", "decoder-only")
    (damaged / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match="not a manifest"):
        Student.load(damaged)


def test_code_in_a_student_folder_is_not_run(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "decoder-only")
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"it holds code \(evil\.py\), and no code of a student's is ever run"):
        Student.load(folder)
    (folder / "evil.py").unlink()
    with pytest.raises(UserError, match=r"its config\.json wants code"):
        Student.load(folder)
    assert not trace.exists()
