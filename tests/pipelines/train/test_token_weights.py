"""A target token has the same weight in the loss whatever the length of its example and the examples beside it."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipelines.storage.store import Store
from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.micro_batching import COSTS
from pipelines.train.data.token_table import SCHEMA, Tokens, write_tokens
from pipelines.train.engine.worker import mean_counts
from pipelines.train.loss_terms import step_scales

torch = pytest.importorskip("torch")
Ints = npt.NDArray[np.int64]


def tokens_of(prompts: Ints, targets: list[list[int]], folder: Path) -> Tokens:
    """A token table with one label sequence for each prompt length."""
    fixed = {"validation": False, "dropped": None, "part": 0, "tail": 0, "turn": -1, "probability": None,
             "top_ids": [], "top_logprobs": [], "top_positions": 0}  # fmt: skip
    rows = [
        {"id": f"{i:05d}", "prompt": [0] * n, "target": target, **fixed}
        for i, (n, target) in enumerate(zip(prompts.tolist(), targets, strict=True))
    ]
    write_tokens([pa.Table.from_pylist(rows, schema=SCHEMA)], Store(str(folder)), "decoder-only", grouped=False)
    return Tokens(Store(str(folder)), folder)


def plan_of(tokens: Tokens, **budget: Any) -> BatchPlan:
    return BatchPlan(
        tokens.lengths, tokens.train, family="decoder-only", workers=1, tokens_per_batch=16384, tokens_per_micro_batch=8192,
        seed=0, cost=COSTS[False], **budget,
    )  # fmt: skip


def log_normal(count: int) -> Ints:
    lengths = np.exp(np.random.default_rng(0).normal(4.6, 0.9, count)).astype(np.int64)
    return np.clip(lengths, 4, 2000)


@pytest.mark.parametrize("corpus", ["log-normal", "cqa", "gsm8k"])
def test_long_and_short_examples_weigh_the_same(corpus: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Steps of similar lengths, each divided by its own count, give ratios of 14.9, 1.2 and 2.6 instead of 1."""
    if corpus == "log-normal":
        prompts, targets = log_normal(3000), [[5, 5, 5]] * 3000
    else:
        file = request.getfixturevalue("test_data") / corpus / "train.jsonl"
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, 3000)]
        prompts = np.array([len(str(row["question"]).split()) + len(row.get("choices", "")) for row in rows])
        targets = [[5] * (1 + len(str(row["label"]).split())) for row in rows]
    tokens = tokens_of(prompts, targets, tmp_path)
    plan = plan_of(tokens, epochs=2)
    [scale, *_] = step_scales({"label": 1.0}, mean_counts(tokens, plan))
    weight = np.zeros(len(prompts))
    for step in range(plan.steps):
        weight[plan.step_examples(step)] += scale
    by_length = np.argsort(tokens.lengths.per_example, kind="stable")
    tenth = len(prompts) // 10
    assert weight.min() > 0
    assert 0.95 < weight[by_length[-tenth:]].mean() / weight[by_length[:tenth]].mean() < 1.05
    # So that a step's own mean, which is shown, and the optimised sum hardly differ.
    counts = [sum(len(targets[e]) for e in plan.step_examples(step)) for step in range(plan.steps)]
    assert np.std(counts) / np.mean(counts) < 0.1


def test_a_classifier_learns_the_true_shares_of_its_labels(tmp_path: Path) -> None:
    """Three biases, trained with the plan, the scales, Adam and clipping. Long texts mostly have label 0."""
    rng, prompts = np.random.default_rng(0), log_normal(2000)
    is_long = rng.random(2000) < np.argsort(np.argsort(prompts)) / 2000
    labels = np.where(is_long, rng.choice([0, 0, 0, 1, 2], 2000), rng.choice([1, 1, 2, 2, 0], 2000))
    tokens = tokens_of(prompts, [[int(label)] for label in labels], tmp_path)
    plan = plan_of(tokens, steps=400)
    [scale, *_] = step_scales({"label": 1.0}, mean_counts(tokens, plan))
    biases = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.AdamW([biases], weight_decay=0.0)
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / plan.steps)
        loss = scale * -torch.log_softmax(biases, 0)[labels[plan.step_examples(step)]].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([biases], 1.0)
        optimizer.step()
    learned, truth = torch.softmax(biases, 0).detach().numpy(), np.bincount(labels) / 2000
    assert learned == pytest.approx(truth, abs=0.01)
