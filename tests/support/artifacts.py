"""Artifacts as the other stages leave them, made small: a corpus, labels and a student's manifest in a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.data.heldout import validation_identity
from pipelines.data.schema import LABEL, REJECT
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.manifest import Manifest, manifest_of, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic

TASK = {"name": "arithmetic", "version": Arithmetic.version, "options": {}, "source": None}


def make_run(folder: Path, model: str = "none", **sections: Any) -> RunConfig:
    """A run over `folder`/train.jsonl and test.jsonl, whose output is `folder`/out. Sections replace the ones here."""
    tree = {
        "name": "made",
        "output": str(folder / "out"),
        "task": "arithmetic",
        "corpus": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "teacher": {"engine": "replay", "outputs": str(folder / "outputs.jsonl")},
        "student": {"model": model},
        "evaluation": {"batch_size": 4, "max_new_tokens": 12},
    }
    return parse_run({**tree, **sections})


def write_corpus(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON Lines of {id, input, label}."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def label_row(row_id: str, label: str, gold: str | None = None, text: str = "") -> dict[str, Any]:
    """A row of schema.LABEL, to the input `text` or else `question ID`."""
    return {
        "id": row_id, "input": text or f"question {row_id}", "gold": gold, "label": label, "rationale": "because", "votes": 1,
        "agreement": 1.0, "soft_label": None, "prompt_tokens": 9, "output_tokens": 5, "finish_reason": "stop",
    }  # fmt: skip


def reject_row(row_id: str, reason: str, output: str) -> dict[str, Any]:
    return {"id": row_id, "reason": reason, "detail": "", "output": output}


def write_labels(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    heldout: Sequence[dict[str, Any]] = (),
    rejects: Sequence[dict[str, Any]] = (),
    samples: int = 1,
    **identity: Any,
) -> Manifest:
    """A finished labels artifact, its rows in two parts. `samples`: of the teacher, for each row."""
    half = len(rows) // 2
    parts = {
        "data/part-0.parquet": rows[:half],
        "data/part-1.parquet": rows[half:],
        "heldout/data/part-0.parquet": heldout,
        "rejects/part-0.parquet": rejects,
    }
    for name, part in parts.items():
        if part:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            schema = REJECT if name.startswith("rejects") else LABEL
            pq.write_table(pa.Table.from_pylist(list(part), schema=schema), folder / name)
    teacher = {"engine": "replay", "sampling": {"n": samples}}
    rows_of = {name: len(part) for name, part in parts.items() if part}
    details = {"content": "c0", "parts": rows_of, "prompt_version": "arithmetic/1/0", "teacher": teacher, "task": TASK}
    made = {"made": 1, **identity}
    counts: dict[str, Any] = {"read": len(rows) + len(rejects), "accepted": len(rows), "rejected": len(rejects)}
    counts["heldout"] = {"answered": len(heldout), "unanswered": 0}
    manifest = manifest_of("labels", made, config={}, counts=counts, timings_s={}, details=details, provenance={})
    write_manifest(Store(str(folder)), manifest)
    return manifest


def write_student_manifest(folder: Path, run: RunConfig, labels: Manifest, **details: Any) -> Manifest:
    """The manifest of a student trained on `labels` as `run` says; the folder may hold its weights."""
    start = {
        "student": {"model": model_fingerprint(run.student.model)},
        "training": run.training.model_dump(mode="json"),
        "corpus": {"validation": validation_identity(run.corpus)},
    }
    manifest = manifest_of(
        "student",
        {"made": 1, "details": details, **start},
        config=run.model_dump(mode="json"),
        counts={},
        timings_s={"tokenise": 1.0, "train": 20.0, "steps": 16.0},
        details={
            "method": run.student.method, "training": {"world_size": 2}, "family": "decoder-only", "task": TASK, "parameters": 123_456,
            "max_input_tokens": 64, "max_target_tokens": 16, **details,
        },
        provenance={"labels": {"fingerprint": labels.fingerprint, "teacher": {"engine": "replay"}}},
    )  # fmt: skip
    write_manifest(Store(str(folder)), manifest)
    return manifest
