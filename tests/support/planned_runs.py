"""A small run whose teacher has no weights: its run file, and artifacts that count as finished."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_examples
from pipelines.evaluate.stage import FILES, report_identity
from pipelines.label.identity import label_identity
from pipelines.label.output.commits import Commit
from pipelines.label.output.counts import Counts
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest, manifest_of, read_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec
from pipelines.train.identity import train_identity
from tests.support.corpora import shipped_rows, train_rows, write_jsonl

QWEN_7B: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip


def write_teacher(folder: Path) -> str:
    """A model folder without weights: its config.json, and a tokenizer that makes each word a token."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def write_run(folder: Path) -> str:
    """The run file of 50 readable and one unreadable training rows, 10 held-out ones, and a vLLM teacher on GPUs."""
    teacher = write_teacher(folder / "teacher")
    bad = [{"id": "bad", "input": None}]
    run = {
        "name": "small",
        "output": str(folder / "out"),
        "task": "arithmetic",
        "corpus": {
            "train": write_jsonl(folder / "train.jsonl", [*train_rows(50), *bad]),
            "test": write_jsonl(folder / "test.jsonl", shipped_rows("word_problems/test", 10)),
        },
        "teacher": {"engine": "vllm", "model": teacher, "gpus_per_replica": 1, "replicas": {"min": 1, "max": 2},
                    "sampling": {"max_tokens": 100}},
        "student": {"model": teacher},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return str(folder / "run.yaml")


def finish_labels(run: RunConfig, *, engine_errors: int = 0, **details: Any) -> Manifest:
    """Finished labels of this run, of 4,000 bytes."""
    store = Store(run.output).child("labels")
    parts = {"data/part-000000.parquet": 40, "rejects/part-000000.parquet": 11}
    for name in parts:
        store.write(name, b"x" * 4000)
    rejected = Counter(tie=11 - engine_errors, engine_error=engine_errors)
    counts = {"read": 51, "accepted": 40, "rejected": 11, "rejected_by_reason": dict(+rejected)}
    details = {"content": "0", "tally": Counts(accepted=40, rejected=rejected).as_json(), "parts": parts, **details}
    manifest = manifest_of("labels", label_identity(run), config=run.model_dump(), counts=counts, provenance={},
                           timings_s={"engine_start": 40.0}, details=details)  # fmt: skip
    write_manifest(store, manifest)
    return manifest


def begin_labels(run: RunConfig, accepted: int) -> None:
    store, identity = Store(run.output).child("labels"), label_identity(run)
    attempt = {"fingerprint": fingerprint(identity), "identity": identity}
    store.write("attempt.json", json.dumps(attempt).encode())
    store.write("commits/000000.json", Commit(tally=Counts(accepted=accepted).as_json()).model_dump_json().encode())


def finish_student(run: RunConfig) -> Manifest:
    """A finished student of this run and of the labels in its folder."""
    output = Store(run.output)
    labels = read_manifest(output.child("labels"), "labels")
    assert labels
    identity = train_identity(run, load_task(task_spec(run.task)), labels)
    manifest = manifest_of("student", identity, config=run.model_dump(mode="json"), counts={"train_examples": 90}, provenance={},
                           timings_s={"train": 18.0}, details={"training": {"steps": 30, "examples_seen": 270}})  # fmt: skip
    write_manifest(output.child("student"), manifest)
    return manifest


def finish_report(run: RunConfig) -> Manifest:
    """A finished report of this run and of the student and labels in its folder."""
    output, task = Store(run.output), load_task(task_spec(run.task))
    student, labels = read_manifest(output.child("student"), "student"), read_manifest(output.child("labels"), "labels")
    assert student
    assert labels
    identity = report_identity(run, task, student, labels, heldout_examples(run, task))
    counts = {"scored": 9, "unreadable": 0, "duplicates": 0}
    manifest = manifest_of("report", identity, config=run.model_dump(mode="json"), counts=counts, timings_s={"total": 9.0},
                           details={}, provenance={})  # fmt: skip
    for name in FILES:
        output.child("report").write(name, b"")
    write_manifest(output.child("report"), manifest)
    return manifest
