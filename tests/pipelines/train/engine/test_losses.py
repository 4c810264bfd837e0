import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.train.data.collate import NO_PART, TokenSequence, collate
from pipelines.train.loss_terms import TERMS, step_scales

torch = pytest.importorskip("torch")

from pipelines.train.engine import losses  # noqa: E402
from pipelines.train.engine.losses import StudentLoss, part_sums, soft_label_losses, token_divergences  # noqa: E402
from pipelines.train.engine.packed_attention import pack  # noqa: E402
from tests.support.reference_training import assert_same_gradients, loss_of, model_and_sequences, token_losses  # noqa: E402

KINDS = ["forward-kl", "reverse-kl", "jsd"]
FAMILIES = ["decoder-only", "encoder-decoder"]


def test_the_modules_example_is_true() -> None:
    parts = torch.tensor([0, 0, 1, 1, 1, 1, NO_PART])
    sums, counts = part_sums(torch.tensor([1.0, 3.0, 0.5, 0.5, 0.5, 0.5, 9.0]), parts)
    assert (sums.tolist(), counts.tolist()) == ([4.0, 2.0, 0.0], [2.0, 4.0, 0.0])
    scales = step_scales({"label": 0.5, "rationale": 0.5}, dict(zip(TERMS, counts.tolist(), strict=False)))
    assert sum(s * t for s, t in zip(scales, sums.tolist(), strict=False)) == pytest.approx(1.25)
    assert step_scales({"label": 0.75, "rationale": 0.25}, {"label": 4, "rationale": 10}) == [0.75 / 4, 0.025, 0, 0, 0]
    assert step_scales({"label": 1.0}, {"label": 4, "rationale": 10}) == [0.25, 0, 0, 0, 0]
    assert step_scales({"rationale": 1.0}, {"label": 4, "rationale": 0}) == [0, 0, 0, 0, 0], "a term without content"


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_log_probabilities_equal_torchs(width: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses._CHUNK_ELEMENTS, False, 150)  # chunks of three rows
    torch.manual_seed(0)
    logits = torch.randn(20, 50).to(getattr(torch, precision)).requires_grad_()
    ids, weights = torch.randint(0, 50, (20, width)), torch.rand(20, width)
    before = logits.detach().clone()
    found = losses._LogProbs.apply(logits, ids)
    (found * weights).sum().backward()
    gradient, logits.grad = logits.grad, None
    expected = torch.log_softmax(logits.float(), dim=1).gather(1, ids)
    (expected * weights).sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, logits.grad)
    torch.testing.assert_close(logits.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_label_losses_equal_torchs_kl(temperature: float) -> None:
    torch.manual_seed(1)
    sizes = [1, 3, 5, 2]
    scores = (10 * torch.randn(sum(sizes))).requires_grad_()
    teachers = [torch.softmax(2 * torch.randn(size), dim=0) for size in sizes]
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    shuffled = torch.randperm(sum(sizes))
    found = soft_label_losses(scores[shuffled], groups[shuffled], torch.cat(teachers)[shuffled], temperature)
    found.sum().backward()
    gradient, scores.grad = scores.grad, None

    def kl(student: Any, teacher: Any) -> Any:
        softened = torch.softmax(teacher.log() / temperature, dim=0)
        return torch.nn.functional.kl_div(torch.log_softmax(student / temperature, dim=0), softened, reduction="sum")

    expected = torch.stack([temperature**2 * kl(s, t) for s, t in zip(scores.split(sizes), teachers, strict=True)])
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, scores.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_token_divergences_count_the_rest_as_one_token(kind: str) -> None:
    torch.manual_seed(2)
    logits = (3 * torch.randn(7, 30)).requires_grad_()
    top, ids = torch.log_softmax(3 * torch.randn(7, 30), dim=1).topk(5, dim=1)
    found = token_divergences(torch.log_softmax(logits, dim=1).gather(1, ids), top, kind)
    found.sum().backward()
    gradient, logits.grad = logits.grad, None

    def with_rest(log_probabilities: Any) -> Any:
        known = log_probabilities.exp()
        return torch.cat([known, 1 - known.sum(dim=1, keepdim=True)], dim=1)

    p, q = with_rest(top), with_rest(torch.log_softmax(logits, dim=1).gather(1, ids))
    pairs = {"forward-kl": [(p, q)], "reverse-kl": [(q, p)], "jsd": [(p, (p + q) / 2), (q, (p + q) / 2)]}[kind]
    expected = sum((a * (a / b).log()).sum(dim=1) for a, b in pairs) / len(pairs)
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("teacher", [[0.0, -30.0], [0.0, -math.inf], [-math.inf, -0.1]])
def test_certain_teachers_give_finite_losses(kind: str, teacher: list[float]) -> None:
    student = torch.tensor([[-40.0, 0.0]], requires_grad=True)
    found = token_divergences(student, torch.tensor([teacher]), kind)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("packed", "recomputed"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_equals_single_sequences(family: Any, packed: bool, recomputed: bool, tmp_path: Path) -> None:
    model, sequences = model_and_sequences(family, tmp_path)
    reference = copy.deepcopy(model)
    assert not packed or pack(model)
    if recomputed:
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = collate(sequences, family=family, pad=0, start=0, packed=packed)
    counts = [float(sum(len(s.target) for s in sequences[part::2])) for part in (0, 1)]
    scales = step_scales({"label": 0.7, "rationale": 0.3}, {"label": counts[0], "rationale": counts[1]})
    loss, found = loss_of(StudentLoss(model), batch, scales)
    loss.backward()
    by_part = [torch.cat([token_losses(reference, s.prompt, s.target) for s in sequences[part::2]]) for part in (0, 1)]
    expected = 0.7 * by_part[0].mean() + 0.3 * by_part[1].mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert found[1].tolist() == [*counts, 0, 0, 0]
    sums = torch.stack([part.double().sum() for part in by_part])
    torch.testing.assert_close(found[0, :2], sums, rtol=1e-5, atol=1e-5)
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_soft_label_loss_equals_one_label_at_a_time(family: Any, tmp_path: Path) -> None:
    model, sequences = model_and_sequences(family, tmp_path)
    reference = copy.deepcopy(model)
    given = [(0.7, 0), (0.3, NO_PART), (0.5, 0), (0.4, NO_PART), (0.1, NO_PART), (1.0, 0)]
    groups = [[0, 1], [2, 3, 4], [5]]
    rows = [
        TokenSequence(s.prompt, s.target, part, example=next(g for g, m in enumerate(groups) if i in m), probability=p)
        for i, (s, (p, part)) in enumerate(zip(sequences, given, strict=True))
    ]
    batch = collate(rows, family=family, pad=0, start=0)
    loss, found = loss_of(StudentLoss(model, temperature=2.0), batch, [0.01, 0, 0, 0.5, 0])
    loss.backward()
    each = [token_losses(reference, s.prompt, s.target).sum() for s in sequences]
    soft = 0.0
    for members in groups:
        teacher = torch.softmax(torch.tensor([given[i][0] for i in members]).log() / 2, dim=0)
        student = torch.log_softmax(-torch.stack([each[i] for i in members]) / 2, dim=0)
        soft = soft + 4 * torch.nn.functional.kl_div(student, teacher, reduction="sum")
    expected = 0.01 * (each[0] + each[2] + each[5]) + 0.5 * soft
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert found[1].tolist() == [sum(len(sequences[i].target) for i in (0, 2, 5)), 0, 0, 3, 0]
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_token_kd_counts_positions_with_teacher_tokens(kind: str, tmp_path: Path) -> None:
    model, sequences = model_and_sequences("decoder-only", tmp_path)
    rows, rng = [], np.random.default_rng(3)
    for sequence in sequences[1:3]:
        known = len(sequence.target) - 1
        top_ids = np.stack([rng.permutation(20)[:4] for _ in range(known)])
        top = np.log(rng.dirichlet(np.ones(5), known)[:, :4]).astype(np.float32)
        rows.append(TokenSequence(sequence.prompt, sequence.target, 2, top_ids=top_ids, top_logprobs=top))
    batch = collate(rows, family="decoder-only", pad=0, start=None)
    loss, found = loss_of(StudentLoss(model, divergence=kind), batch, [0, 0, 0.3, 0, 0.7])
    known = sum(len(row.target) - 1 for row in rows)
    assert found[1].tolist() == [0, 0, known + 2, 0, known]
    expected = torch.zeros(())
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.target[:-1]]])
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0, len(row.prompt) - 1 :].float(), dim=1)
        expected = expected - 0.3 * log_probs.gather(1, torch.tensor(row.target)[:, None]).sum()
        student = log_probs[:-1].gather(1, torch.from_numpy(row.top_ids))
        expected = expected + 0.7 * token_divergences(student, torch.from_numpy(row.top_logprobs), kind).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_an_empty_loss_gives_every_weight_a_zero_gradient(tmp_path: Path) -> None:
    model, sequences = model_and_sequences("decoder-only", tmp_path)
    ids = torch.tensor([sequences[0].prompt])
    before = model(input_ids=ids).logits
    loss, found = loss_of(StudentLoss(model), collate([], family="decoder-only", pad=0, start=None), [0.5] * 5)
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert not found.any()
    torch.testing.assert_close(model(input_ids=ids).logits, before)  # outside of a loss the head projects all positions


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_is_that_of_greedy_decoding(family: Any, tmp_path: Path) -> None:
    model, sequences = model_and_sequences(family, tmp_path)
    written = []
    for sequence in sequences:
        greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        written.append(model.generate(torch.tensor([sequence.prompt]), **greedy)[0].tolist()[-4:])
    # Right, wrong in the last token, right, another part, and two that are wrong.
    targets = [written[0], [*written[1][:-1], 9 if written[1][-1] != 9 else 8], written[2], written[3], *([[7, 7]] * 2)]
    parts = [0, 0, 0, 1, 0, NO_PART]
    rows = [TokenSequence(s.prompt, t, p) for s, t, p in zip(sequences, targets, parts, strict=True)]
    module = StudentLoss(model, accuracy=True)
    batch = collate(rows, family=family, pad=0, start=0)
    assert loss_of(module.eval(), batch, [0.0] * 5)[1][:, 5].tolist() == [2, 4]
    assert loss_of(module.train(), batch, [0.0] * 5)[1].shape == (2, 5)
