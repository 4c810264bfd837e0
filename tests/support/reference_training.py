"""Slow and obvious: the step-by-step training with plain torch, one sequence at a time, in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.train.data.token_table import Tokens


def token_losses(model: Any, prompt: Any, target: Any) -> Any:
    """Losses of one sequence's target tokens, by the model's own forward pass. Shape (len(target),)."""
    prompt, target = (torch.from_numpy(np.asarray(ids, dtype=np.int64)) for ids in (prompt, target))
    if model.config.is_encoder_decoder:
        logits = model(input_ids=prompt[None], labels=target[None]).logits[0]
    else:
        logits = model(input_ids=torch.cat([prompt, target])[None]).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")


def part_losses(model: Any, tokens: Tokens, examples: Any) -> tuple[Any, Any]:
    """Mean loss over all label tokens of the examples, and over all rationale tokens."""
    losses: tuple[list[Any], list[Any]] = ([], [])
    for sequence in map(tokens.sequence, tokens.lengths.of(np.asarray(examples))):
        losses[sequence.part].append(token_losses(model, sequence.prompt, sequence.target))
    return torch.cat(losses[0]).mean(), torch.cat(losses[1]).mean()


def reference_training(model: Any, tokens: Tokens, plan: Any, rates: list[float], *, clip: float, decay: float,
                       weight: float = 0.5) -> list[dict[str, float]]:  # fmt: skip
    """Train `model` in place for as many steps as there are rates. Returns losses and gradient norm of each."""
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
        label, rationale = part_losses(model, tokens, plan.step_examples(step))
        optimizer.zero_grad()
        ((1 - weight) * label + weight * rationale).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        history.append({"label": label.item(), "rationale": rationale.item(), "gradient_norm": norm.item()})
    return history
