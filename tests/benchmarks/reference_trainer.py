"""Reference for training: step-by-step distillation with transformers' trainer, two forward passes a step, padded batches. Prints JSON.

Follows Hsieh et al. 2023: each example is tokenised twice, labels and rationales are padded to the longest of their batch, and the
loss is the weighted sum of both passes. bf16 is torch.autocast; the optimizer is fused. On a GPU it has data loading workers.

    python -m tests.benchmarks.reference_trainer MODEL ROWS.jsonl --batch 64 --steps 60     rows: {"input", "label", "rationale"}
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from tests.benchmarks.trained import LEARNING_RATE, SKIPPED_STEPS

PARTS = ("label", "rationale")
IGNORED = -100


def tokenised(row: dict[str, str], tokenizer: Any, seq2seq: bool) -> dict[str, dict[str, list[int]]]:
    """Prompt and target of both tasks. Decoder-only: one sequence without loss on the prompt."""
    found = {}
    for part in PARTS:
        prompt = tokenizer(f"[{part}] {row['input']}" + ("" if seq2seq else "\n"))["input_ids"]
        target = [*tokenizer(row[part], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids, labels = (prompt, target) if seq2seq else ([*prompt, *target], [IGNORED] * len(prompt) + target)
        found[part] = {"input_ids": ids, "labels": labels}
    return found


class Collator:
    """Pads each task's inputs and labels to the longest of the batch."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {part: self._batch([row[part] for row in rows]) for part in PARTS}

    def _batch(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._pad),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }


class TwoTasks(Seq2SeqTrainer):  # type: ignore[misc]
    """One forward pass for labels and one for rationales."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        label, rationale = (model(**inputs[part]) for part in PARTS)
        loss = 0.5 * label.loss + 0.5 * rationale.loss
        return (loss, {}) if return_outputs else loss


class Clock(TrainerCallback):  # type: ignore[misc]
    """Records the end time of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    options = parser.parse_args()
    config = AutoConfig.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(0)
    weights = list(Path(options.model).glob("*.safetensors"))
    model = kind.from_pretrained(options.model, dtype=torch.float32) if weights else kind.from_config(config)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    data = [tokenised(row, tokenizer, config.is_encoder_decoder) for row in rows]
    gpu, clock = torch.cuda.is_available(), Clock()
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder, per_device_train_batch_size=options.batch, max_steps=options.steps, report_to=[],
            learning_rate=LEARNING_RATE, bf16=options.precision == "bf16",
            optim="adamw_torch_fused", save_strategy="no", logging_steps=1,
            remove_unused_columns=False, dataloader_num_workers=4 if gpu else 0, disable_tqdm=True, use_cpu=not gpu, seed=0,
        )  # fmt: skip
        parts = {"train_dataset": data, "data_collator": Collator(pad), "callbacks": [clock]}
        trainer = TwoTasks(model=model, args=arguments, **parts)
        trainer.train()
    seconds = clock.ends[-1] - clock.ends[SKIPPED_STEPS - 1]
    timed = options.steps - SKIPPED_STEPS
    mean = sum(_real(row, config.is_encoder_decoder) for row in data) / len(data)
    print(json.dumps({
        "tokens_per_s": mean * options.batch * timed / seconds, "step_s": seconds / timed, "tokens_per_example": mean,
        "target_tokens_per_example": sum(_targets(row) for row in data) / len(data),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }))  # fmt: skip


def _real(row: dict[str, dict[str, list[int]]], seq2seq: bool) -> int:
    """Unpadded tokens of an example over both tasks."""
    return sum(len(row[p]["input_ids"]) + (len(row[p]["labels"]) if seq2seq else 0) for p in PARTS)


def _targets(row: dict[str, dict[str, list[int]]]) -> int:
    """Target tokens of an example over both tasks."""
    return sum(sum(token != IGNORED for token in row[part]["labels"]) for part in PARTS)


if __name__ == "__main__":
    main()
