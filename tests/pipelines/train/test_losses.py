"""The loss against hand-worked numbers, and against a model's own forward pass one sequence at a time."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from pipelines.train.batches import collate
from tests.pipelines.train.tiny import make_model, make_tokenizer

torch = pytest.importorskip("torch")

from pipelines.train import losses  # noqa: E402
from pipelines.train.losses import StudentLoss, sums_by_part, to_tensors, token_weights  # noqa: E402
from tests.pipelines.train.reference import token_losses  # noqa: E402


def test_the_example_of_the_module():
    label, rationale = token_weights(0.5, 2, 4)
    assert label * (1.0 + 3.0) + rationale * (4 * 0.5) == pytest.approx(1.25)


def test_weights_of_parts():
    assert token_weights(0.25, 4, 10) == (0.75 / 4, 0.25 / 10)
    assert token_weights(0.0, 4, 0) == (0.25, 0.0)
    assert token_weights(1.0, 0, 4) == (0.0, 0.25)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_token_losses_are_cross_entropy(precision, monkeypatch):
    monkeypatch.setitem(losses._CHUNK_ELEMENTS, False, 150)  # chunks of three rows
    torch.manual_seed(0)
    logits = torch.randn(20, 50).to(getattr(torch, precision)).requires_grad_()
    targets, weights = torch.randint(0, 50, (20,)), torch.rand(20)
    before = logits.detach().clone()
    found = losses._TokenLosses.apply(logits, targets)
    (found * weights).sum().backward()
    gradient, logits.grad = logits.grad, None
    wanted = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    (wanted * weights).sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, logits.grad)
    torch.testing.assert_close(logits.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_one_padded_forward_equals_single_sequences(family, tmp_path):
    model, prompts, targets, parts = _sequences(family, tmp_path)
    reference = copy.deepcopy(model)
    batch = collate(prompts, targets, parts, family=family, pad=0, start=0)
    weights = token_weights(0.3, *(sum(len(t) for t, p in zip(targets, parts, strict=True) if p == q) for q in (0, 1)))
    loss, per_token = StudentLoss(model)(**to_tensors(batch, weights, "cpu"))
    loss.backward()

    by_part = [
        torch.cat([token_losses(reference, p, t) for p, t, q in zip(prompts, targets, parts, strict=True) if q == part])
        for part in (0, 1)
    ]
    wanted = 0.7 * by_part[0].mean() + 0.3 * by_part[1].mean()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    sums = sums_by_part(per_token, batch)
    assert sums[2:].tolist() == [len(by_part[0]), len(by_part[1])]
    torch.testing.assert_close(sums[:2], torch.stack([part.double().sum() for part in by_part]), rtol=1e-5, atol=1e-5)
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_micro_batches_sum_to_the_step(family, tmp_path):
    model, prompts, targets, parts = _sequences(family, tmp_path)
    module, weights = StudentLoss(model), (0.2, 0.1)

    def loss_of(rows):
        batch = collate(
            *([values[i] for i in rows] for values in (prompts, targets, parts)), family=family, pad=0, start=0
        )
        return module(**to_tensors(batch, weights, "cpu"))[0]

    whole = loss_of(range(len(prompts)))
    torch.testing.assert_close(loss_of([0, 2]) + loss_of([1]) + loss_of([3, 4, 5]), whole)
    assert loss_of([]).item() == 0.0


def test_a_loss_of_nothing_gives_every_weight_a_gradient_of_zero(tmp_path):
    model, *_ = _sequences("decoder-only", tmp_path)
    batch = collate([], [], [], family="decoder-only", pad=0, start=None)
    loss, per_token = StudentLoss(model)(**to_tensors(batch, (0.5, 0.5), "cpu"))
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert sums_by_part(per_token, batch).tolist() == [0, 0, 0, 0]


def test_the_head_is_whole_outside_of_a_loss(tmp_path):
    model, prompts, *_ = _sequences("decoder-only", tmp_path)
    ids = torch.tensor([prompts[0]])
    before = model(input_ids=ids).logits
    StudentLoss(model)
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def _sequences(family, folder):
    """A tiny model, and six sequences of both parts and of many lengths."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    model = kind.from_pretrained(make_model(family, folder / "model"), dtype=torch.float32)
    rng = np.random.default_rng(0)
    size = len(make_tokenizer())
    prompts = [rng.integers(2, size, n).tolist() for n in (3, 9, 5, 1, 12, 4)]
    targets = [[*rng.integers(2, size, n).tolist(), 1] for n in (1, 7, 2, 4, 1, 9)]
    return model, prompts, targets, [0, 1, 0, 1, 0, 1]
