"""`raystill plan`: what a run would do, found out without starting anything heavy: no Ray, no engine, no weights (but for --calibrate).

Token counts come from the teacher's own tokenizer where its folder is on this machine (or in the hub's cache), else from the length of
the text (4 characters a token), and the plan says which. Only the first 1,000 rows are rendered; the totals scale them up.
The arithmetic stands in estimate.py, the words in plan_text.py.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.planning.calibrate import labels_bytes
from cluster.planning.capacity import capacity
from cluster.planning.estimate import (
    CHARACTERS_PER_TOKEN,
    Throughput,
    by_labels,
    by_reference,
    histogram,
    label_estimate,
    share_at,
)
from cluster.planning.training_memory import student_shape, training_memory
from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_files, validation_share
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.reuse import existing
from pipelines.storage.manifest import read_manifest, without_credentials
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec

_RENDERED_ROWS = 1000


@dataclass
class _Corpus:
    """What one pass over the corpus finds."""

    rows: dict[str, int] = field(default_factory=lambda: {"train": 0, "heldout": 0, "unreadable": 0})
    first: list[Example] = field(default_factory=list)
    text_bytes: int = 0
    """Of the first examples: input, id and gold label."""


def make_plan(
    run: RunConfig, prompts: int, calibration: Throughput | None = None, deadline_s: float | None = None
) -> dict[str, Any]:
    """The plan as one tree: config, prompts, rows, tokens, throughput, stages, capacity (None without a deadline), exists.

    Raises:
        UserError: wrong input.
    """
    from pipelines.label.answers.prompts import PromptMaker, prompt_text, read_shots
    from pipelines.label.stage import check_label

    check_label(run)
    task = load_task(task_spec(run.task, run.task_options))
    corpus = _read_corpus(run, task)
    if not corpus.first:
        raise UserError("corpus.train", "no row of it can be read by the task", "Look at corpus.fields.")
    maker = PromptMaker(task, run.teacher, read_shots(run.teacher, task))
    texts = [prompt_text(maker.render(example)) for example in corpus.first]
    count, how = _counter(run.teacher.model)
    lengths = [count(text) for text in texts]
    mean = statistics.mean(lengths)
    asked = corpus.rows["train"] + corpus.rows["heldout"]
    exists = existing(run, task)
    throughput = calibration or _known_throughput(run, task)
    labels = exists["label"]
    remaining = labels["rows_retried"] if labels["reused"] else max(asked - labels["rows_finished"], 0)
    text_bytes = corpus.text_bytes / len(corpus.first)
    room = run.teacher.vllm.max_model_len - run.teacher.sampling.max_tokens
    stages = {
        "label": label_estimate(run, remaining, round(mean * remaining), text_bytes, throughput),
        "train": {
            **_train_estimate(run, corpus.rows["train"], reused=exists["train"]["reused"]),
            "memory": _train_memory(run),
        },
        "evaluate": _evaluate_estimate(run, corpus.rows["heldout"], reused=exists["evaluate"]["reused"]),
    }
    return {
        "config": without_credentials(run.model_dump()),
        "prompts": texts[:prompts],
        "rows": corpus.rows,
        "tokens": {
            "counted_with": how,
            "rows_counted": len(lengths),
            "prompt": {
                "mean": mean,
                "median": share_at(lengths, 0.5),
                "p95": share_at(lengths, 0.95),
                "max": max(lengths),
                "total": round(mean * asked),
            },
            "histogram": histogram(lengths),
            "too_long": sum(n > room for n in lengths) if run.teacher.engine == "vllm" else 0,
            "output_at_most": run.teacher.sampling.n * run.teacher.sampling.max_tokens * asked,
        },
        "throughput": dataclasses.asdict(throughput),
        "stages": stages,
        "capacity": None if deadline_s is None else capacity(run, stages, text_bytes, throughput, deadline_s),
        "exists": exists,
    }


def _read_corpus(run: RunConfig, task: Task) -> _Corpus:
    corpus = _Corpus()
    sources = {"train": corpus_files(run.corpus.train, "corpus.train"), "heldout": heldout_files(run.corpus) or []}
    for name, files in sources.items():
        for split in corpus_splits(files, "train", limit=run.corpus.limit):
            for row in read_split(split, task, run.corpus.fields):
                if row.example is None:
                    corpus.rows["unreadable"] += 1
                    continue
                corpus.rows[name] += 1
                if name == "train" and len(corpus.first) < _RENDERED_ROWS:
                    corpus.first.append(row.example)
                    text = row.example.input + row.example.id + (row.example.gold or "")
                    corpus.text_bytes += len(text.encode())
    return corpus


def _model_file(model: str | None, name: str) -> Path | None:
    """A file of a model that is on this machine: in its folder, or in the hub's cache. Nothing is fetched."""
    if not model:
        return None
    if Path(model).expanduser().is_dir():
        file = Path(model).expanduser() / name
        return file if file.is_file() else None
    if model.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    return Path(cached) if isinstance(cached, str) else None


def _counter(model: str | None) -> tuple[Callable[[str], int], str]:
    file = _model_file(model, "tokenizer.json")
    if file is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return (
            lambda text: len(tokenizer.encode(text).ids)
        ), "the teacher's tokenizer, without marks of a chat template"
    return (lambda text: round(len(text) / CHARACTERS_PER_TOKEN)), "an estimate of 4 characters a token"


def _known_throughput(run: RunConfig, task: Task) -> Throughput:
    """From finished labels of the same teacher below OUTPUT, else scaled from a reference, else unknown."""
    from pipelines.label.stage import label_identity

    output = Store(run.output)
    manifest = read_manifest(output.child("labels"), "labels")
    if manifest:
        mine, theirs = label_identity(run)["teacher"], manifest.identity.get("teacher", {})
        gpus = manifest.config["teacher"]["gpus_per_replica"]
        same = all(mine[key] == theirs.get(key) for key in ("engine", "model", "outputs", "prompt", "sampling"))
        if same and gpus == run.teacher.gpus_per_replica:
            source = f"the labels of the same teacher in {output.shown()}, of {manifest.created}"
            known = by_labels(manifest.model_dump(), "labels", source, labels_bytes(output))
            if known:
                return known
    file = _model_file(run.teacher.model, "config.json") if run.teacher.engine == "vllm" else None
    config = json.loads(file.read_text(encoding="utf-8")) if file else None
    return by_reference(config, run.teacher, task.name)


def _train_estimate(run: RunConfig, rows: int, *, reused: bool) -> dict[str, Any]:
    """Scaled from a student with the same settings below OUTPUT; nothing else would be more than a guess."""
    if reused:
        return {"seconds": 0.0, "gpu_hours": 0.0, "source": "the student is reused"}
    manifest = read_manifest(Store(run.output).child("student"), "student")
    keys = ("workers", "gpus_per_worker", "tokens_per_batch", "precision", "zero_stage")
    if (
        manifest is None
        or manifest.config["student"] != run.student.model_dump(mode="json")
        or any(manifest.config["training"][key] != getattr(run.training, key) for key in keys)
    ):
        return {
            "seconds": None,
            "gpu_hours": None,
            "source": "unknown: no student with these settings was trained here",
        }
    share = validation_share(run.corpus.validation)
    before = manifest.counts["train_examples"] * manifest.config["training"]["epochs"]
    seconds = manifest.timings_s["train"] * rows * (1 - share) * run.training.epochs / before
    gpus = run.training.workers * run.training.gpus_per_worker
    source = f"the training of {manifest.created}, by examples x epochs, as if every row were accepted"
    return {"seconds": seconds, "gpu_hours": seconds * gpus / 3600 if gpus else None, "source": source}


def _train_memory(run: RunConfig) -> dict[str, Any] | None:
    """Bytes of one worker by kind, and the student's parameters; None where its config.json is not here or not understood."""
    file = _model_file(run.student.model, "config.json")
    shape = student_shape(json.loads(file.read_text(encoding="utf-8")), run.student) if file else None
    if shape is None:
        return None
    memory = training_memory(shape, run.training, run.student.lora)
    return {"parameters": shape.parameters, **dataclasses.asdict(memory), "total": memory.total}


def _evaluate_estimate(run: RunConfig, heldout: int, *, reused: bool) -> dict[str, Any]:
    """Scaled from a report below OUTPUT with the same student settings."""
    if reused:
        return {"seconds": 0.0, "gpu_hours": 0.0, "source": "the report is reused"}
    manifest = read_manifest(Store(run.output).child("report"), "report")
    same = manifest is not None and all(
        manifest.config[key] == getattr(run, key).model_dump(mode="json") for key in ("student", "evaluation")
    )
    if manifest is None or not same or not manifest.counts["scored"] or not heldout:
        return {
            "seconds": None,
            "gpu_hours": None,
            "source": "unknown: no student with these settings was evaluated here",
        }
    seconds = manifest.timings_s["total"] * heldout / manifest.counts["scored"]
    gpus = run.evaluation.workers * run.evaluation.gpus_per_worker
    source = f"the evaluation of {manifest.created}, by examples"
    return {"seconds": seconds, "gpu_hours": seconds * gpus / 3600 if gpus else None, "source": source}
