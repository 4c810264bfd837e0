"""Slow and obvious references: losses of one sequence at a time, and step-by-step training with plain torch in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.collate import MicroBatch, TokenSequence
from pipelines.train.data.token_table import Tokens
from tests.support.tiny_runs import make_model, make_tokenizer


def token_losses(model: Any, prompt: Any, target: Any) -> Any:
    """(T,) losses of one sequence's target tokens, by the model's own forward pass."""
    prompt, target = (torch.from_numpy(np.asarray(ids, dtype=np.int64)) for ids in (prompt, target))
    if model.config.is_encoder_decoder:
        logits = model(input_ids=prompt[None], labels=target[None]).logits[0]
    else:
        logits = model(input_ids=torch.cat([prompt, target])[None]).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")


def part_losses(model: Any, tokens: Tokens, examples: Any) -> tuple[Any, Any]:
    """Mean loss over all label tokens of the examples, and over all rationale tokens."""
    label, rationale = part_token_losses(model, tokens, examples)
    return label.mean(), rationale.mean()


def part_token_losses(model: Any, tokens: Tokens, examples: Any) -> tuple[Any, Any]:
    """The losses of all label tokens of the examples, and of all rationale tokens."""
    losses: tuple[list[Any], list[Any]] = ([], [])
    for sequence in map(tokens.sequence, tokens.lengths.of(np.asarray(examples))):
        losses[sequence.part].append(token_losses(model, sequence.prompt, sequence.target))
    return torch.cat(losses[0]), torch.cat(losses[1])


def reference_training(model: Any, tokens: Tokens, plan: BatchPlan, rates: list[float], *, clip: float, decay: float,
                       weight: float = 0.5) -> list[dict[str, float]]:  # fmt: skip
    """Train `model` in place for one step per rate. Returns losses and gradient norm of each step.

    Every token of a part has the same weight in every step: 1 / the tokens of that part in a mean step of the epoch.
    """
    in_epoch = [0, 0]
    for sequence in map(tokens.sequence, tokens.lengths.of(tokens.train)):
        in_epoch[sequence.part] += len(sequence.target)
    label_tokens, rationale_tokens = (count / plan.steps_per_epoch for count in in_epoch)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    history = []
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        label, rationale = part_token_losses(model, tokens, plan.step_examples(step))
        optimizer.zero_grad()
        ((1 - weight) * label.sum() / label_tokens + weight * rationale.sum() / rationale_tokens).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        history.append(
            {"label": label.mean().item(), "rationale": rationale.mean().item(), "gradient_norm": norm.item()}
        )
    return history


def model_and_sequences(family: str, folder: Path) -> tuple[Any, list[TokenSequence]]:
    """A tiny model, and six sequences of different lengths, labels and rationales in turn."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    model = kind.from_pretrained(make_model(family, folder / "model"), dtype=torch.float32)
    rng = np.random.default_rng(0)
    size = len(make_tokenizer())
    prompts = [rng.integers(2, size, n).tolist() for n in (3, 9, 5, 1, 12, 4)]
    targets = [[*rng.integers(2, size, n).tolist(), 1] for n in (1, 7, 2, 4, 1, 9)]
    return model, [TokenSequence(p, t, i % 2) for i, (p, t) in enumerate(zip(prompts, targets, strict=True))]


def loss_of(module: Any, batch: MicroBatch, scales: list[float]) -> Any:
    """What a StudentLoss returns for a micro-batch of numpy arrays."""
    return module(**batch.map(torch.from_numpy).arguments(), scales=torch.tensor(scales, dtype=torch.float32))


def assert_same_gradients(model: Any, reference: Any) -> None:
    """The gradients of all weights are equal but for rounding."""
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name, rtol=1e-4, atol=1e-5)
