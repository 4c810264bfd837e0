"""The trained engine -> a Hugging Face folder that opens without any code of this project, and its model card.

Out, in OUTPUT/student: config.json, model.safetensors, tokenizer files, generation_config.json, deepspeed.json (the resolved
settings), training.jsonl (the losses by step) and README.md. The manifest is the stage's to write, last.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import FiltersConfig, RunConfig
from pipelines.methods import METHODS, with_rationale
from pipelines.storage.store import Store
from pipelines.train.engine.lora import merged
from pipelines.train.loss_terms import TERMS


def export_student(
    engine: Any, tokenizer: Any, store: Store, deepspeed: Mapping[str, Any], history: list[dict[str, float]],
    weights: Store | None = None,
) -> None:  # fmt: skip
    """Write the student from worker 0. Every worker calls it: weights that ZeRO has parted are gathered from all.

    The folder's earlier content is removed first. `weights`: what `write_weights` has written, in place of the engine's.
    """
    import torch
    from pyarrow.fs import copy_files

    state = full_state(engine) if weights is None else None
    if torch.distributed.get_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            if weights is None:
                assert state is not None, "worker 0 has the state"
                _save_model(engine, state, folder)
            else:
                copy_files(weights.root, folder, source_filesystem=weights.fs)
            tokenizer.save_pretrained(folder)
            Path(folder, "deepspeed.json").write_text(json.dumps(deepspeed, indent=2) + "\n", encoding="utf-8")
            lines = "".join(json.dumps(row) + "\n" for row in history)
            Path(folder, "training.jsonl").write_text(lines, encoding="utf-8")
            store.clear()
            store.put_folder(folder)
    torch.distributed.barrier()


def write_weights(engine: Any, store: Store) -> None:
    """Write the model as it is, without a tokenizer, from worker 0. Every worker calls it."""
    import torch

    state = full_state(engine)
    if state is not None:
        with tempfile.TemporaryDirectory() as folder:
            _save_model(engine, state, folder)
            store.clear()
            store.put_folder(folder)
    torch.distributed.barrier()


def _save_model(engine: Any, state: Mapping[str, Any], folder: str) -> None:
    model = engine.module.model
    model.save_pretrained(folder, state_dict=merged(model, state))


def full_state(engine: Any) -> dict[str, Any] | None:
    """The whole model's weights and buffers on worker 0's CPU, in the precision of the training; None on the others.

    Tensors that share their memory (tied embeddings) share it here too.
    """
    import deepspeed
    import torch

    model = engine.module.model
    keep = torch.distributed.get_rank() == 0
    gathered: dict[int, Any] = {}
    for parameter in model.parameters():
        # One at a time: a worker that holds its part of a large model need not have room for all of it.
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if keep:
                gathered[id(parameter)] = parameter.detach().to("cpu", copy=True)
    if not keep:
        return None
    names = model.state_dict(keep_vars=True)
    return {name: gathered.get(id(tensor), tensor.detach().cpu()) for name, tensor in names.items()}


def model_card(run: RunConfig, details: Mapping[str, Any], provenance: Mapping[str, Any], counts: Mapping[str, Any],
               versions: Mapping[str, str]) -> str:  # fmt: skip
    """README.md of a student: what it is, what it learned from, how the training went."""
    labels, training = provenance["labels"], details["training"]
    teacher = labels.get("teacher") or {}
    named = _base_name(teacher.get("model")) or teacher.get("engine") or "unknown"
    lines = [
        "---",
        "library_name: transformers",
        "tags: [raystill, distillation]",
        "---",
        f"# {run.name}",
        "",
        f"A student for the task `{details['task']['name']}` (version {details['task']['version']}), trained by Raystill with the "
        f"method `{details['method']}`.",
        "",
        "## What it is",
        f"- Started from `{_base_name(run.student.model)}` ({run.student.init.kind}{_layers(run)}), {details['family']}, "
        f"{details['parameters']:,} parameters.",
        f"- Reads up to {details['max_input_tokens']:,} tokens, writes up to {details['max_target_tokens']:,}.",
        _prompts(details),
        "",
        "## What it learned from",
        f"- Teacher: `{named}`, prompt version `{labels.get('prompt_version')}`. Labels of the label task: {_source(run)}.",
        f"- Labels artifact `{str(labels.get('fingerprint'))[:12]}`: {_labels_counts(labels.get('counts') or {})} "
        f"Filters: {_filters(labels.get('filters'))}.",
        f"- Trained on {counts['train_examples']:,} examples, {counts['tokens']:,} tokens over {run.training.epochs:g} epochs; "
        f"{counts['validation_examples']:,} examples held out; {counts['too_long']:,} left out as too long.",
        "",
        "## How the training went",
        f"- {training['steps']:,} steps on {training['world_size']} workers, ZeRO stage {training['zero_stage']}, "
        f"{training['precision']}, learning rate {run.training.learning_rate:g}, seed {run.training.seed}.",
        "",
        *_loss_table(training["loss"]),
        "",
        "## Made with",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "",
    ]
    return "\n".join(lines)


def _base_name(model: str | None) -> str | None:
    """A hub id as it is, a folder by its last name: where it lay is nobody's concern."""
    return Path(model).name if model and Path(model).expanduser().is_dir() else model


def _layers(run: RunConfig) -> str:
    return f", {run.student.init.layers}" if run.student.init.layers else ""


def _prompts(details: Mapping[str, Any]) -> str:
    ends = "" if details["family"] == "encoder-decoder" else " followed by a line break"
    method = METHODS[details["method"]]
    if method.prefixed:
        return f"- Reads `[label] <input>` for the label and `[rationale] <input>` for the rationale{ends}; decode greedily."
    if method.reads_rationale:
        return f"- Reads `{with_rationale('<input>', '<rationale>')}`{ends} and writes the label; decode greedily."
    what = "a rationale and the label, as a teacher does" if method.writes_rationales else "the label"
    return f"- Reads `<input>`{ends} and writes {what}; decode greedily."


def _source(run: RunConfig) -> str:
    sources = {
        "gold": "gold, from people",
        "label": "the teacher's",
        "either": "gold where there are any, else the teacher's",
    }
    return sources[run.student.label_column]


def _labels_counts(counts: Mapping[str, Any]) -> str:
    parts = [f"{counts[key]:,} {key}" for key in ("read", "accepted", "rejected") if isinstance(counts.get(key), int)]
    return ", ".join(parts) + "." if parts else "counts unknown."


def _filters(filters: Mapping[str, Any] | None) -> str:
    """Those that are set; labels made earlier may not say."""
    if filters is None:
        return "unknown"
    return ", ".join(f"{name} `{value}`" for name, value in FiltersConfig.chosen(filters).items()) or "none"


def _loss_table(loss: Mapping[str, Any]) -> list[str]:
    rows = [
        "| nats per token (soft: per example) | first step | last step | validation before | validation after |",
        "| --- | --- | --- | --- | --- |",
    ]
    before, after = loss["validation"]["before"], loss["validation"]["after"]
    for term in (name for name in TERMS if name in loss):
        values = (loss[term]["first"], loss[term]["last"], before.get(term), after.get(term))
        rows.append(f"| {term} | " + " | ".join("–" if v is None else f"{v:.4f}" for v in values) + " |")
    return rows
